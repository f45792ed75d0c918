"""Output gates: the mix of each head is multiplied by a gate that the layer's input opens.

    o ← o ⊙ g(x W_g),      g = sigmoid or softplus

A head can then pass nothing on, which a softmax alone cannot; the paper finds no attention sinks in gated models.
Both gates are a `kvattn.typing.Finish`: they stand between the mix and W_o.

Shapes: ``x [B, T, M]``, mix ``[B, Hq, T, Dv]``; with ``W_g [M, Hq·Dv]`` each feature has its gate, with
``W_g [M, Hq]`` each head.
Cached per token: nothing; the gate is that of the query's token.
Cost of T tokens: ``2·T·M·columns`` FLOPs, sigmoid or softplus of each, and ``T·Hq·Dv`` products.

Source: Qiu et al. 2025 (2505.06708) §2.2, the gate behind the attention ("G1").
Where libraries differ: sigmoid for each feature in Qwen3-Next, AFMoE and MiniMax's linear layers, sigmoid for each
head in Step-3.5, softplus for each head in Laguna.  Qwen3-Next stores query and gate of a head side by side in one
matrix, which `parted` takes apart; read as ``[all queries ; all gates]`` it would still have a fitting shape.  The
gate reads the layer's input; x-transformers has one that reads the mix as well (``output_gate``).
"""

from dataclasses import dataclass

import numpy as np

from kvattn import ops
from kvattn.arguments import integer
from kvattn.counting import Tally, charge
from kvattn.errors import DtypeError, ShapeError
from kvattn.typing import Array, Positions
from kvattn.variants.dense.projections import split
from kvattn.variants.dense.query_key_norm import weights_of


def parted(fused: Array, heads: int) -> tuple[Array, Array]:
    """``W_q`` and ``W_g``, both ``[M, H·D]``, out of a matrix whose columns are query and gate, head by head.

    Raises
    ------
    ShapeError
        When the columns are not two equal parts for each head.

    Examples
    --------
    >>> parted(np.arange(8.0)[None], heads=2)
    (array([[0., 1., 4., 5.]]), array([[2., 3., 6., 7.]]))
    """
    matrix, count = weights_of("fused", fused, 2), integer("heads", heads, 1)
    if matrix.shape[1] % (2 * count):
        raise ShapeError(f"fused must have shape [M, H·2·D] with H={count}, got {matrix.shape}")
    pairs = matrix.reshape(len(matrix), count, 2, -1)
    return pairs[:, :, 0].reshape(len(matrix), -1), pairs[:, :, 1].reshape(len(matrix), -1)


@dataclass(frozen=True, eq=False)
class SigmoidGate:
    """A gate between 0 and 1.

    Parameters
    ----------
    weight
        ``[M, Hq·Dv]`` for each feature, or ``[M, Hq]`` for each head.

    Raises
    ------
    ShapeError, DtypeError
        Weights of another rank or dtype; on use, weights that do not fit x and the heads.

    Examples
    --------
    >>> gate = SigmoidGate(np.array([[0.0, 100.0]]))
    >>> gate.finish(np.full((1, 2, 1, 1), 6.0), np.ones((1, 1, 1)), np.zeros((1, 1), int)).ravel()
    array([3., 6.])
    """

    weight: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", weights_of("weight", self.weight, 2))

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        """``mixed [B, Hq, T, Dv]`` times the sigmoid of the gate's logits; positions do not matter.

        >>> SigmoidGate(np.zeros((1, 1))).finish(np.ones((1, 1, 1, 2)), np.ones((1, 1, 1)), np.zeros((1, 1), int))
        array([[[[0.5, 0.5]]]])
        """
        logits = _logits(self.weight, mixed, x)
        charge(Tally(arithmetic=mixed.size))
        return np.asarray(mixed * ops.sigmoid(logits))

    def finish_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `finish` counts.

        >>> SigmoidGate(np.zeros((5, 2))).finish_cost(tokens=3, heads=2, width=4).transcendental
        6
        """
        count = tokens * self.weight.shape[1]
        opened = Tally(transcendental=count, arithmetic=2 * count + tokens * heads * width)
        return ops.contract_cost(tokens, self.weight.shape, self.weight.itemsize) + opened


@dataclass(frozen=True, eq=False)
class SoftplusGate:
    """A gate from 0 upwards: it can also make a head louder.

    Parameters are those of `SigmoidGate`.

    Examples
    --------
    >>> gate = SoftplusGate(np.array([[100.0]]))
    >>> gate.finish(np.full((1, 1, 1, 2), 6.0), np.ones((1, 1, 1)), np.zeros((1, 1), int))
    array([[[[600., 600.]]]])
    """

    weight: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", weights_of("weight", self.weight, 2))

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        """``mixed [B, Hq, T, Dv]`` times the softplus of the gate's logits; positions do not matter.

        >>> gate = SoftplusGate(np.zeros((1, 1)))
        >>> gate.finish(np.ones((1, 1, 1, 1)), np.ones((1, 1, 1)), np.zeros((1, 1), int)).round(6)
        array([[[[0.693147]]]])
        """
        logits = _logits(self.weight, mixed, x)
        charge(Tally(arithmetic=mixed.size))
        return np.asarray(mixed * ops.softplus(logits))

    def finish_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `finish` counts.

        >>> SoftplusGate(np.zeros((5, 2))).finish_cost(tokens=3, heads=2, width=4).transcendental
        12
        """
        count = tokens * self.weight.shape[1]
        opened = Tally(transcendental=2 * count, arithmetic=2 * count + tokens * heads * width)
        return ops.contract_cost(tokens, self.weight.shape, self.weight.itemsize) + opened


def _logits(weight: Array, mixed: Array, x: Array) -> Array:
    """``x W_g`` as ``[B, Hq, T, Dv]``, or ``[B, Hq, T, 1]`` with a gate for each head."""
    heads, width = mixed.shape[1], mixed.shape[3]
    if weight.shape not in ((x.shape[2], heads * width), (x.shape[2], heads)):
        raise ShapeError(
            f"weight must have shape [M, Hq·Dv] or [M, Hq] with M={x.shape[2]}, Hq={heads}, Dv={width}, "
            f"got {weight.shape}"
        )
    if weight.dtype != x.dtype:
        raise DtypeError(f"weight must have the dtype of x, {x.dtype}, got {weight.dtype}")
    return split(ops.contract(x, weight, weights=True), heads)
