"""A stack of attention layers with residual connections, and one cache for all of them.

    x ← x + layer_l(norm_l(x)),      l = 0, 1, …

Layers may differ: windows in most and the whole context in every sixth, two rotary bases, no rotation in some, sinks
in others.  Whatever has the verbs is a layer, so a stack can hold a stack.  There is no feed-forward part and no
final norm: this is the attention half of a model.

Shapes: ``x [B, T, M]`` in and out; ``lse`` is the last layer's.
Cached per token: what the layers cache, in `kvattn.caches.layered.Layered`, one part for each; so a stack of five
layers that keep a window of W and one that keeps everything holds ``5·W + S`` rows for S tokens, not ``6·S``.
Cost: the layers' costs, M additions per token and layer, and an RMSNorm where there are weights for it.

Source: Vaswani et al. 2017 (1706.03762) §3.1; the norm in front: Xiong et al. 2020 (2002.04745);
interleaved: Gemma 2 (2408.00118) §2, Gemma 3 (2503.19786) §2.
Where libraries differ: Gemma-2 norms in front and behind, OLMo-2 behind alone, Cohere with LayerNorm and its
feed-forward part beside the attention instead of behind it.  Which layers are local differs by family: see the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kvattn import ops
from kvattn.arguments import integer, real, shown
from kvattn.axes import sizes
from kvattn.caches.layered import Layered
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.typing import Array, Attended, Positions
from kvattn.variants.dense.query_key_norm import weights_of


class Layer(Protocol):
    """Anything with the verbs of a variant, from hidden states to hidden states."""

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on whole matrices."""

    def start(self, batch: int = 1) -> Any:
        """The empty cache."""

    def step(self, cache: Any, x: Array) -> tuple[Attended, Any]:
        """Attend with new tokens."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts."""


def read_norms(norm: Any, count: int) -> Array | None:
    """Weights ``[L, M]`` of a norm in front of each of ``count`` layers, read-only, or None.

    >>> read_norms(np.ones((2, 5)), 3)
    Traceback (most recent call last):
    kvattn.errors.ShapeError: norm must have shape [3, M], got (2, 5)
    """
    if norm is None:
        return None
    held = weights_of("norm", norm, 2)
    sizes(("norm", held, f"{count} M"))
    return held


def normed(x: Array, norm: Array | None, number: int, eps: float) -> Array:
    """``x`` behind the norm of a layer, or as it is where there are no weights.

    >>> normed(np.array([[[3.0, -3.0]]]), np.array([[1.0, 2.0]]), 0, eps=0.0)
    array([[[ 1., -2.]]])
    """
    if norm is None:
        return x
    if norm.shape[1] != x.shape[-1]:
        raise ShapeError(f"norm must have shape [L, M] with M={x.shape[-1]}, got {norm.shape}")
    if norm.dtype != x.dtype:
        raise DtypeError(f"norm must have the dtype of x, {x.dtype}, got {norm.dtype}")
    return ops.rms_norm(x, norm[number], eps)


def norm_cost(norm: Array | None, rows: int, hidden: int) -> Tally:
    """What a norm in front of a layer and the residual connection around it count for so many tokens.

    >>> norm_cost(None, 3, 4), norm_cost(np.ones((1, 4)), 3, 4)
    (Tally(arithmetic=12), Tally(arithmetic=66, transcendental=3))
    """
    added = Tally(arithmetic=rows * hidden)
    return added if norm is None else added + Tally(arithmetic=rows * (4 * hidden + 2), transcendental=rows)


@dataclass(frozen=True, eq=False)
class Layers:
    """A stack of layers.

    Parameters
    ----------
    layers
        At least one, first to last, all of one width M.
    hidden
        M, for `cost`: no other field tells it.
    norm
        ``[L, M]``, weights of the RMSNorm in front of each layer, or None for none.
    eps
        Added to the mean square there.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        No layer, something without the verbs, or norms that do not fit.

    Examples
    --------
    >>> from kvattn.variants.dense.grouped import Grouped
    >>> from kvattn.variants.dense.projections import Projections
    >>> one = np.ones((1, 1))
    >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
    >>> stack = Layers((layer, layer), hidden=1)
    >>> attended, cache = stack.step(stack.start(), np.array([[[1.0]]]))
    >>> attended.out, len(cache.parts), cache.length
    (array([[[4.]]]), 2, 1)
    """

    layers: Sequence[Layer]
    hidden: int
    norm: Array | None = None
    eps: float = 1e-6

    def __post_init__(self) -> None:
        held = self.layers
        wanted = isinstance(held, (tuple, list)) and len(held) > 0
        if not wanted or any(isinstance(layer, type) or not hasattr(layer, "step") for layer in held):
            raise ArgumentError(f"layers must be a sequence of at least one layer, got {shown(held)}")
        object.__setattr__(self, "layers", tuple(held))
        object.__setattr__(self, "hidden", integer("hidden", self.hidden, 1))
        object.__setattr__(self, "norm", read_norms(self.norm, len(held)))
        object.__setattr__(self, "eps", real("eps", self.eps, least=0.0))

    @property
    def page(self) -> int:
        """Tokens in the largest page of any layer.

        >>> from kvattn.variants.dense.grouped import Grouped
        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> Layers((Grouped(w, page=4), Grouped(w, page=16)), hidden=1).page
        16
        """
        return max(int(getattr(layer, "page", 1)) for layer in self.layers)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """One layer's definition after the other.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.definition`.

        >>> from kvattn.variants.dense.grouped import Grouped
        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> Layers((layer,) * 3, hidden=1).definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[8.]]])
        """
        lse = np.empty(0, x.dtype)
        for number, layer in enumerate(self.layers):
            before = x
            if self.norm is not None:
                size = np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + self.eps)
                before = x / size * self.norm[number]
            out, lse = layer.definition(before, positions)
            x = x + out
        return Attended(x, lse)

    def start(self, batch: int = 1) -> Layered:
        """The empty caches for ``batch`` sequences.

        >>> from kvattn.variants.dense.grouped import Grouped
        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> Layers((Grouped(Projections(one, one, one, one, heads=1, kv_heads=1)),), hidden=1).start(2)
        Layered(parts=(Paged(KeyValue, page=256, lengths=(0, 0)),))
        """
        return Layered(tuple(layer.start(batch) for layer in self.layers))

    def step(self, cache: Layered, x: Array) -> tuple[Attended, Layered]:
        """Attend with any number of new tokens through every layer, and remember them in every layer, or in none.

        >>> from kvattn.variants.dense.grouped import Grouped
        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> stack = Layers((Grouped(Projections(one, one, one, one, heads=1, kv_heads=1)),) * 2, hidden=1)
        >>> stack.step(stack.start(), np.ones((1, 3, 1)))[1].lengths
        (3,)
        """
        if len(cache.parts) != len(self.layers):
            raise ArgumentError(f"cache must have a part for each of {len(self.layers)} layers, got {len(cache.parts)}")
        lse, parts = np.empty(0, x.dtype), []
        for number, (layer, part) in enumerate(zip(self.layers, cache.parts, strict=True)):
            (out, lse), later = layer.step(part, normed(x, self.norm, number, self.eps))
            charge(Tally(arithmetic=out.size))
            x = x + out
            parts.append(later)
        return Attended(x, lse), Layered(tuple(parts))

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for caches that nobody else has extended.

        >>> from kvattn.variants.dense.grouped import Grouped
        >>> from kvattn.variants.dense.projections import Projections
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> Layers((layer,) * 3, hidden=1).cost(past=9, new=1).pairs_computed == 3 * layer.cost(
        ...     past=9, new=1
        ... ).pairs_computed
        True
        """
        around = norm_cost(self.norm, batch * new, self.hidden)
        return sum((around + layer.cost(past=past, new=new, batch=batch) for layer in self.layers), Tally())
