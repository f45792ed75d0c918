"""Softcap: scores squeezed smoothly into (-cap, cap).

    s'  =  cap · tanh(s / cap)

Shapes: any, elementwise.  It stands between scale and bias: for scores far below the cap it changes
nothing, for large ones it saturates.  Cost: a tanh, a division and a product per score.

Source: Gemma 2 (arXiv 2408.00118) §2; Bello et al. 2016 (1611.09940) §A.1 for the idea.

Where libraries differ: ONNX before 1.22 capped after the mask, which gives masked keys a weight;
some engines cap before scaling, which is another function.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import real
from kvattn.counting import Tally
from kvattn.typing import Array, Place


def softcap(scores: Array, cap: float) -> Array:
    """Squeeze scores into (-cap, cap), in their own dtype.

    Parameters
    ----------
    scores
        Scaled scores, any shape.
    cap
        > 0, a plain float.

    Returns
    -------
    array
        Same shape and dtype.

    Raises
    ------
    ArgumentError
        When cap is not a finite number above 0.

    Examples
    --------
    >>> import numpy as np
    >>> softcap(np.array([0.0, 1e6]), 50.0)
    array([ 0., 50.])
    """
    limit = real("cap", cap, above=0.0)
    squeezed = np.asarray(scores / limit, order="C")
    np.tanh(squeezed, out=squeezed)
    squeezed *= limit
    return squeezed


@dataclass(frozen=True)
class Softcap:
    """`softcap` as a mod, for a place of its own among others.

    >>> import numpy as np
    >>> at = np.zeros((1, 1, 1), np.int64)
    >>> Softcap(50.0)(np.array([[[1e6]]]), Place(0, at, None, at, at))
    array([[[50.]]])
    """

    cap: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "cap", real("cap", self.cap, above=0.0))

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores squeezed, whatever their place."""
        return softcap(scores, self.cap)

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A division, a tanh and a product for each score.

        >>> Softcap(50.0).cost(pairs=4, width=8)
        Tally(arithmetic=8, transcendental=4)
        """
        return Tally(arithmetic=2 * pairs, transcendental=pairs)
