"""Sub-layer normalisation (SubLN): the mix of all heads is normed before it leaves the layer.

    y = RMSNorm(concat_h(o_h)) W_o,    RMSNorm(a) = a / sqrt(mean(a²) + ε) · w

The norm is a `kvattn.typing.Finish`: ``Grouped(…, finish=(SubNorm(w),))``.

Shapes: mix ``[B, Hq, T, Dv]``, weight ``[Hq·Dv]``, head by head.
Cached per token: nothing of its own.
Cost: `kvattn.ops.rms_norm` for each token.

Source: Wang et al. 2022 (2210.06423) §2.2, with LayerNorm; with RMSNorm in BitNet b1.58 (2504.12285) §2.
Where libraries differ: in the norm; transformers' BitNet takes the mean square over all heads at once and in
float32, Differential Transformer (2410.05258) over each pair of heads, Gated DeltaNet over each head.
"""

from dataclasses import dataclass

from kvattn import ops
from kvattn.arguments import real
from kvattn.counting import Tally
from kvattn.errors import DtypeError, ShapeError
from kvattn.typing import Array, Positions
from kvattn.variants.dense.projections import join, split
from kvattn.variants.dense.query_key_norm import weights_of


@dataclass(frozen=True, eq=False)
class SubNorm:
    """RMSNorm of a token's whole mix.

    Parameters
    ----------
    weight
        ``[Hq·Dv]``.
    eps
        ε, added to the mean square.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        A weight of another rank or dtype, ε below 0; on use, a weight that does not fit the heads.

    Examples
    --------
    >>> import numpy as np
    >>> norm, mixed = SubNorm(np.array([1.0, 10.0]), eps=0.0), np.array([[[[1.0]], [[7.0]]]])
    >>> norm.finish(mixed, np.zeros((1, 1, 1)), np.zeros((1, 1), int)).ravel()
    array([ 0.2, 14. ])
    """

    weight: Array
    eps: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", weights_of("weight", self.weight, 1))
        object.__setattr__(self, "eps", real("eps", self.eps, least=0.0))

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        """The normed mix ``[B, Hq, T, Dv]``; neither the layer's input nor positions matter.

        >>> import numpy as np
        >>> SubNorm(np.ones(2), eps=0.0).finish(
        ...     np.full((1, 2, 1, 1), 7.0), np.zeros((1, 1, 1)), np.zeros((1, 1))
        ... ).ravel()
        array([1., 1.])
        """
        heads, width = mixed.shape[1], mixed.shape[3]
        if self.weight.shape != (heads * width,):
            raise ShapeError(f"weight must have shape [Hq·Dv] = ({heads * width},), got {self.weight.shape}")
        if self.weight.dtype != mixed.dtype:
            raise DtypeError(f"weight must have the dtype of the mix, {mixed.dtype}, got {self.weight.dtype}")
        return split(ops.rms_norm(join(mixed), self.weight, self.eps), heads)

    def finish_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `finish` counts.

        >>> import numpy as np
        >>> SubNorm(np.ones(8)).finish_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=102, transcendental=3)
        """
        return Tally(arithmetic=tokens * (4 * heads * width + 2), transcendental=tokens)
