"""Bias: an array added to the scores, looked up by row number or by position.

    s'[b, h, q, k]  =  s[b, h, q, k] + array[b, h, row(q), row(k)]

Shapes: ``array`` is ``[T, S]`` or ``[B, H, T, S]``; B, H, T or S may be 1 and then serves all.
Without positions a position is a row number; with them the row that stands there answers, as in
`kvattn.masks.explicit`.  The entry is rounded once to the dtype of the scores.  An entry of -inf
hides its pair; a boolean array is refused, because it is a mask.

Cost: an addition and an array read per score.
Source: T5 (Raffel et al. 2020, arXiv 1910.10683) §2.1 for a bias in place of position embeddings.

Where libraries differ: torch SDPA takes one ``attn_mask`` that is a bias or, if boolean, a mask.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.counting import Tally
from kvattn.errors import DtypeError
from kvattn.masks._table import Table
from kvattn.typing import Array, Place


@dataclass(frozen=True, init=False, repr=False)
class Bias:
    """An additive array as a mod; the array is copied.

    Parameters
    ----------
    array
        ``[T, S]`` or ``[B|1, Hq|1, T, S]``, real.
    q_positions, k_positions
        Positions of its rows and columns, each once; None: position i is row i.

    Raises
    ------
    DtypeError
        When the array is not of real floating numbers.
    ShapeError
        When a shape does not fit; later, when asked for a sequence or a head that it does not have.
    PositionError
        When a position repeats; later, when asked for one that it does not have.

    Examples
    --------
    >>> import numpy as np
    >>> bias = Bias(np.array([[0.5, 1.5]]), k_positions=[3, 7])
    >>> bias
    Bias(<float64 [1, 1, 1, 2]>, k_positions=<2>)
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[9]]]), np.array([[[7, 3]]])
    >>> bias(np.zeros((1, 1, 2)), Place(0, heads, None, q, k))
    array([[[1.5, 0.5]]])
    """

    table: Table = field()

    def __init__(self, array: Any, q_positions: Any = None, k_positions: Any = None) -> None:
        given = np.asarray(array)
        if given.dtype.kind == "V" and given.dtype.fields is None and given.dtype.itemsize <= 2:
            given = given.astype(np.float64)  # bfloat16 and float8 of ml_dtypes
        if given.dtype.kind != "f":
            hint = "; a boolean array is a mask" if given.dtype == np.bool_ else ""
            raise DtypeError(f"array must be floating-point, got {given.dtype}{hint}")
        object.__setattr__(self, "table", Table.of("array", given, q_positions, k_positions))

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the bias of their place, in their own dtype."""
        bias = self.table(place.batch, place.heads, place.q_positions, place.k_positions)
        bent: Array = np.add(scores, bias.astype(scores.dtype, copy=False))
        return bent

    def cost(self, *, pairs: int, width: int) -> Tally:
        """One addition for each score.

        >>> import numpy as np
        >>> Bias(np.zeros((2, 2))).cost(pairs=4, width=8)
        Tally(arithmetic=4)
        """
        return Tally(arithmetic=pairs)

    def __repr__(self) -> str:
        return f"Bias({self.table})"
