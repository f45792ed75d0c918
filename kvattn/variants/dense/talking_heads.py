"""Talking-heads attention: heads mix their logits before the softmax and their weights after it.

    s'_h = Σ_g P_hg s_g,      w_h = Σ_g R_hg softmax(mask(s'_g))

Shapes: P and R ``[Hq, Hq]``, rows the heads that come out; scores and weights ``[Hq, T, S]``.
Cached per token: as grouped attention.  Cost: ``4 · Hq`` FLOPs per pair besides the softmax.
Logits are mixed before they are masked, so a hidden key cannot reach another head through them; a key that the
mask hides from some heads only is mixed by the others.  lse is that of the mixed logits, before R.

Source: Shazeer et al. 2020 (2003.02436), with as many heads for logits and weights as for keys.
Where libraries differ: the paper's matrices are ``[in, out]``; x-transformers adds the mixed logits to the unmixed
ones, I + P; there and in the paper the weights of a hidden key are 0 before R mixes them, as here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.core.weights import Softmax, Weights, check_kept, kept, softmax
from kvattn.counting import Tally
from kvattn.typing import Array, Place, Visible


@dataclass(frozen=True, eq=False)
class TalkingHeads:
    """Talking-heads weights, for `kvattn.variants.dense.weighed.Weighed`.

    Parameters
    ----------
    logits, weights
        P and R, ``[Hq, Hq]``, copied; of the dtype of the layer's matrices.

    Raises
    ------
    ShapeError, DtypeError
        Matrices that are not square and alike, or do not fit the layer.

    Examples
    --------
    >>> swap = TalkingHeads([[0.0, 1.0], [1.0, 0.0]], np.eye(2))
    >>> swap.definition(np.log([[[3.0, 1.0]], [[1.0, 1.0]]]), np.ones((2, 1, 2), bool), None).weights
    array([[[0.5 , 0.5 ]],
    <BLANKLINE>
           [[0.75, 0.25]]])
    """

    logits: Array
    weights: Array

    def __post_init__(self) -> None:
        for name in ("logits", "weights"):
            object.__setattr__(self, name, kept(name, getattr(self, name), f"{len(self.logits)} {len(self.logits)}"))

    def check(self, *, heads: int, width: int, dtype: "np.dtype[Any]") -> None:
        """Refuse matrices of another layer's head count or dtype.

        >>> TalkingHeads(np.eye(2), np.eye(2)).check(heads=3, width=1, dtype=np.dtype(float))
        Traceback (most recent call last):
        kvattn.errors.ShapeError: logits must have shape [3, 3], got (2, 2)
        """
        for name in ("logits", "weights"):
            check_kept(name, getattr(self, name), f"{heads} {heads}", dtype)

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """As it is written.

        >>> TalkingHeads(np.eye(1), np.eye(1)).definition(np.zeros((1, 1, 1)), np.ones((1, 1, 1), bool), None).weights
        array([[[1.]]])
        """
        talked = np.einsum("hg,gts->hts", self.logits, scores)
        parts, lse = Softmax().definition(talked, seen, place)
        return Weights(np.einsum("hg,gts->hts", self.weights, parts), lse)

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same, adding one head after the other.

        >>> TalkingHeads(np.eye(1), np.eye(1)).weigh(np.zeros((1, 1, 256)), np.arange(256) < 1, None).weights[0, 0, :2]
        array([1., 0.])
        """
        parts, lse = softmax(_mixed(self.logits, scores), seen)
        return Weights(_mixed(self.weights, parts), lse)

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """Two products over heads and a softmax.

        >>> TalkingHeads(np.eye(3), np.eye(3)).cost(pairs=10, rows=2, width=4).matmul == 2 * 2 * 3 * 10
        True
        """
        return Tally(matmul=4 * len(self.logits) * pairs) + Softmax().cost(pairs=pairs, rows=rows, width=width)


def _mixed(matrix: Array, parts: Array) -> Array:
    """``Σ_g matrix[h, g] parts[g]`` elementwise."""
    total = np.zeros_like(parts)
    for g in range(len(parts)):
        total += matrix[:, g, None, None] * parts[g]
    return total
