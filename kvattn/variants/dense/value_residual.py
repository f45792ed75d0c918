"""Value residual: in every layer but the first, values are mixed with the first layer's values of the same tokens.

    v_l ← λ_l · v_l + μ_l · v_0,      l = 1, 2, …

Deep layers otherwise forget what the token itself said; attention is left as it is.

Shapes: ``x [B, T, M]`` in and out, as `kvattn.variants.dense.layers`; values ``[B, Hkv, T, Dv]``, alike in all layers.
Cached per token: what the layers cache, with the mixed values; the first layer's values of the *new* tokens are all
that a step needs of them, so no layer reads another's cache.
Cost: as `kvattn.variants.dense.layers`, and ``3·Hkv·Dv`` FLOPs per token and layer but the first.

Source: Zhou et al. 2024 (2410.17897), ResFormer; with λ = 0, μ = 1 it is the paper's SVFormer, in which one cache of
values would do for all layers.
Where libraries differ: x-transformers takes half of each unless it learns a weight for each token and head; RWKV-7
learns a weight for each feature, from x.  Here the two are numbers, learned or not, for each layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import real, reals, shown
from kvattn.arrays import positions as read_positions
from kvattn.caches.layered import Layered
from kvattn.caches.rows import KeyValue
from kvattn.core import streaming
from kvattn.core.definition import definition
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError
from kvattn.typing import Array, Attended, Positions
from kvattn.variants.dense import around
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.layers import norm_cost, normed, read_norms
from kvattn.variants.dense.projections import check_hidden


@dataclass(frozen=True, eq=False)
class ValueResidual:
    """A stack of grouped layers whose values lean on the first layer's.

    Parameters
    ----------
    layers
        Two or more, of one width M and with values of one shape.
    weights
        ``(λ, μ)`` for each layer but the first: the share of its own values and of the first layer's.
    norm, eps
        As in `kvattn.variants.dense.layers.Layers`.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        Layers that differ where they must not, or weights for another number of them.

    Examples
    --------
    >>> from kvattn.variants.dense.projections import Projections
    >>> one = np.ones((1, 1))
    >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
    >>> stack = ValueResidual((layer, layer), weights=((0.5, 10.0),))
    >>> stack.step(stack.start(), np.array([[[1.0]]]))[0].out  # 2 + 0.5 · 2 + 10 · 1
    array([[[13.]]])
    """

    layers: Sequence[Grouped]
    weights: Sequence[tuple[float, float]]
    norm: Array | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        held = self.layers
        if not isinstance(held, (tuple, list)) or len(held) < 2 or not all(isinstance(x, Grouped) for x in held):
            raise ArgumentError(f"layers must be a sequence of two or more grouped layers, got {shown(held)}")
        object.__setattr__(self, "layers", tuple(held))
        alike = [(w.hidden, w.kv_heads, w.value_width, str(w.dtype)) for w in (layer.projections for layer in held)]
        if len(set(alike)) > 1:
            raise ArgumentError(f"layers must agree in M, Hkv, Dv and dtype, got {alike}")
        pairs = tuple(reals(f"weights[{n}]", pair) for n, pair in enumerate(self.weights))
        if len(pairs) != len(held) - 1 or any(len(pair) != 2 for pair in pairs):
            raise ArgumentError(f"weights must be a pair for each of {len(held) - 1} layers, got {pairs}")
        object.__setattr__(self, "weights", pairs)
        object.__setattr__(self, "norm", read_norms(self.norm, len(held)))
        object.__setattr__(self, "eps", real("eps", self.eps, least=0.0))

    @property
    def page(self) -> int:
        """Tokens in the largest page of any layer.

        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> ValueResidual((layer, layer), ((0.5, 0.5),)).page
        256
        """
        return max(layer.page for layer in self.layers)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """Whole matrices, one layer after the other.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.definition`.

        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> ValueResidual((layer, layer), ((0.0, 1.0),)).definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[3.]]])
        """
        hidden, dtype = self.layers[0].projections.hidden, self.layers[0].projections.dtype
        x = check_hidden("x", x, None, hidden, dtype)
        at = read_positions("positions", positions, x.shape[0], x.shape[1])
        lse, first = np.empty(0, dtype), np.empty(0, dtype)
        for number, layer in enumerate(self.layers):
            before = x
            if self.norm is not None:
                size = np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + self.eps)
                before = x / size * self.norm[number]
            heads = around.whole_heads(layer, before, at)
            if number:
                own, other = self.weights[number - 1]
                heads = heads._replace(v=own * heads.v + other * first)
            else:
                first = heads.v
            same: dict[str, Any] = {"q_positions": at, "k_positions": at, **around.arguments(layer)}
            mixed, lse = definition(heads.q, heads.k, heads.v, **same)
            x = x + around.whole_output(layer, heads, mixed)
        return Attended(x, lse)

    def start(self, batch: int = 1) -> Layered:
        """The empty caches for ``batch`` sequences.

        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> len(ValueResidual((layer, layer), ((0.5, 0.5),)).start().parts)
        2
        """
        return Layered(tuple(layer.start(batch) for layer in self.layers))

    def step(self, cache: Layered, x: Array) -> tuple[Attended, Layered]:
        """Attend with any number of new tokens through every layer.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.step`.

        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> stack = ValueResidual((layer, layer), ((0.5, 0.5),))
        >>> stack.step(stack.start(), np.ones((1, 3, 1)))[1].length
        3
        """
        if len(cache.parts) != len(self.layers):
            raise ArgumentError(f"cache must have a part for each of {len(self.layers)} layers, got {len(cache.parts)}")
        hidden, dtype = self.layers[0].projections.hidden, self.layers[0].projections.dtype
        x = check_hidden("x", x, cache.batch, hidden, dtype)
        lse, first, parts = np.empty(0, dtype), np.empty(0, dtype), []
        for number, (layer, part) in enumerate(zip(self.layers, cache.parts, strict=True)):
            heads = around.new_heads(layer, part, normed(x, self.norm, number, self.eps))
            if number:
                own, other = self.weights[number - 1]
                charge(Tally(arithmetic=3 * heads.v.size))
                heads = heads._replace(v=own * heads.v + other * first)
            else:
                first = heads.v
            later = part.append(KeyValue(heads.k, heads.v), positions=heads.positions)
            blocks = [later.blocks(b) for b in range(later.batch)]
            wide = heads.v.shape[3]
            mixed, lse = streaming.attend(heads.q, heads.positions, blocks, value_width=wide, **around.arguments(layer))
            charge(Tally(arithmetic=x.size))
            x = x + around.new_output(layer, heads, mixed)
            parts.append(later)
        return Attended(x, lse), Layered(tuple(parts))

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for caches that nobody else has extended.

        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> stack = ValueResidual((layer, layer), ((0.5, 0.5),))
        >>> stack.cost(past=9, new=1).matmul == 2 * layer.cost(past=9, new=1).matmul
        True
        """
        rows, w = batch * new, self.layers[0].projections
        mixing = Tally(arithmetic=3 * rows * w.kv_heads * w.value_width * (len(self.layers) - 1))
        around = norm_cost(self.norm, rows, w.hidden)
        return sum((around + layer.cost(past=past, new=new, batch=batch) for layer in self.layers), mixing)
