"""Attention with a fault in its manners: state, memory, layout, batch mates, tails of tiles.

Each class is a callable of the contract's form around `Planted`, with the few keywords that its fault needs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.testing.planted.attention import Planted
from kvattn.typing import Array, Visible

_RIGHT = Planted(returns_lse=False)


@dataclass
class Remembers:
    """Keeps an array of the first call of each shape, and uses it in later ones.

    >>> one, two = np.ones((1, 1, 1, 1)), 2 * np.ones((1, 1, 1, 1))
    >>> f = Remembers("v")
    >>> [float(f(one, one, x).sum()) for x in (one, two)]
    [1.0, 1.0]
    """

    which: str
    kept: dict[Any, Array] = field(default_factory=dict)

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, with what was kept."""
        arrays = {"q": q, "k": k, "v": v}
        old = self.kept.setdefault(arrays[self.which].shape, arrays[self.which].copy())
        arrays[self.which] = old.astype(v.dtype)
        return _right(**arrays, causal=causal)


@dataclass
class Keeps:
    """Keeps an option of the first call of each shape, and uses it in later ones.

    >>> one = np.ones((1, 1, 1, 2))
    >>> f = Keeps("mask")
    >>> [float(f(one, one, one, mask=np.full((1, 1, 1, 1), seen)).max()) for seen in (True, False)]
    [1.0, 1.0]
    """

    which: str
    kept: dict[Any, Any] = field(default_factory=dict)

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        causal: bool = False,
        window: int | None = None,
        bias: Array | None = None,
        mask: Visible | None = None,
    ) -> Array:
        """Attend, with what was kept."""
        options: dict[str, Any] = {"causal": causal, "window": window, "bias": bias, "mask": mask}
        if self.which == "causal" or options[self.which] is not None:
            options[self.which] = self.kept.setdefault((q.shape[:3], k.shape[2]), options[self.which])
        return _right(q, k, v, **options)


@dataclass
class Drifts:
    """Every call leaves something behind that the next one adds.

    >>> one = np.ones((1, 1, 1, 1))
    >>> f = Drifts(0.5)
    >>> [float(f(one, one, one).sum()) for _ in range(2)]
    [1.0, 1.5]
    """

    step: float
    calls: int = 0

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, and drift."""
        out = _right(q, k, v, causal=causal) * v.dtype.type(1 + self.step * self.calls)
        self.calls += 1
        return np.asarray(out, v.dtype)


@dataclass(frozen=True)
class MasksLate:
    """Sets weights of later keys to 0 after the softmax, so that a row sums to less than 1.

    >>> q = k = v = np.ones((1, 1, 2, 1))
    >>> MasksLate()(q, k, v, causal=True).ravel()
    array([0.5, 1. ])
    """

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend to all keys, and drop those after the query."""
        group = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        if causal:
            weights = weights * np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2])
        return np.asarray(weights @ v, v.dtype)


@dataclass(frozen=True)
class OwnSink:
    """Has a sink of its own in every call; the log-sum-exp counts it or not.

    >>> one = np.zeros((1, 1, 1, 1))
    >>> float(OwnSink(0.0)(one, one, one + 1)[0].sum())
    0.5
    """

    logit: float | tuple[float, ...]
    in_lse: bool = True

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> tuple[Array, Array]:
        """Attend beside the sink."""
        sinks = np.resize(np.asarray(self.logit, q.dtype), q.shape[1])
        out, lse = Planted()(q, k, v, causal=causal, sinks=sinks)
        return out, lse if self.in_lse else Planted()(q, k, v, causal=causal)[1]


@dataclass(frozen=True)
class Turns:
    """Transposes a square mask or bias.

    >>> one, seen = np.ones((1, 1, 2, 1)), np.array([[True, True], [False, True]])[None, None]
    >>> float(np.abs(Turns("mask")(one, one, one, mask=seen) - 1).max())
    0.0
    """

    which: str

    def __call__(
        self, q: Array, k: Array, v: Array, *, bias: Array | None = None, mask: Visible | None = None
    ) -> Array:
        """Attend, with rows for columns."""
        options: dict[str, Any] = {"bias": bias, "mask": mask}
        given = options[self.which]
        if given is not None and given.shape[-1] == given.shape[-2]:
            options[self.which] = given.swapaxes(-1, -2)
        return _right(q, k, v, **options)


@dataclass(frozen=True)
class Axis:
    """Takes the softmax over another axis of the scores ``[B, H, T, S]``.

    >>> one = np.ones((1, 1, 2, 1))
    >>> Axis(2)(one, one, one).ravel()
    array([1., 1.])
    """

    axis: int

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        """Attend with weights that sum to 1 over that axis."""
        group = q.shape[1] // k.shape[1]
        k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
        scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max(self.axis, keepdims=True))
        return np.asarray(weights / weights.sum(self.axis, keepdims=True) @ v, v.dtype)


class Viewed:
    """Swaps heads and tokens of some arrays by a reshape, where a transpose was due.

    >>> x = np.arange(4.0).reshape(1, 2, 2, 1)
    >>> Viewed("out")(x, x, x).shape
    (1, 2, 2, 1)
    """

    def __init__(self, *of: str, back: bool = False) -> None:
        self.of, self.back = of, back

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, with a view."""
        arrays = {n: self._view(x) if n in self.of else x for n, x in zip("qkv", (q, k, v), strict=True)}
        out = _right(**arrays, causal=causal)
        return self._view(out) if "out" in self.of else out

    def _view(self, x: Array) -> Array:
        b, h, t, d = x.shape
        if self.back:
            return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(b, h, t, d)
        return np.asarray(np.ascontiguousarray(x).reshape(b, t, h, d).swapaxes(1, 2))


@dataclass
class OneBuffer:
    """Returns the same memory from every call of a shape.

    >>> one = np.ones((1, 1, 1, 1))
    >>> f = OneBuffer()
    >>> f(one, one, one) is f(one, one, one)
    True
    """

    buffers: dict[Any, Array] = field(default_factory=dict)

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend into the buffer."""
        out = _right(q, k, v, causal=causal)
        buffer = self.buffers.setdefault((out.shape, out.dtype), out.copy())
        buffer[...] = out
        return buffer


@dataclass(frozen=True)
class Scribbles:
    """Scales an input in place.

    >>> q = np.ones((1, 1, 1, 4))
    >>> _ = Scribbles("q")(q, q.copy(), q.copy())
    >>> float(q[0, 0, 0, 0])
    0.5
    """

    which: str

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, and leave an input changed."""
        out = _right(q, k, v, causal=causal)
        {"q": q, "k": k, "v": v}[self.which][...] *= q.shape[3] ** -0.5
        return out


@dataclass(frozen=True)
class Unwritten:
    """Leaves some rows of its output as they were allocated: ``"last"``, ``"empty"``, ``"tail"`` (beyond 32).

    >>> one = np.ones((1, 1, 2, 1))
    >>> Unwritten("last")(one, one, one).shape
    (1, 1, 2, 1)
    """

    rows: str

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False, mask: Visible | None = None) -> Array:
        """Attend into an empty array."""
        right = _right(q, k, v, causal=causal, mask=mask)
        out = np.empty_like(right)
        t, count = q.shape[2], k.shape[2]
        keep = (
            np.ones((*q.shape[:3], count), np.bool_) if mask is None else np.broadcast_to(mask, (*q.shape[:3], count))
        )
        if causal:
            keep = keep & (np.arange(count) <= np.arange(t)[:, None] + count - t)
        write = {
            "last": np.broadcast_to(np.arange(t) < max(t - 1, 1), keep.shape[:3]),
            "empty": keep.any(-1),
            "tail": np.broadcast_to(np.arange(t) < (min(t, 32)), keep.shape[:3]),
        }[self.rows]
        out[write] = right[write]
        return out


@dataclass(frozen=True)
class Trembles:
    """Multiplies the output by a number that is drawn anew in each call.

    >>> one = np.ones((1, 1, 1, 1))
    >>> bool(Trembles(0.1)(one, one, one) == Trembles(0.1)(one, one, one))
    False
    """

    size: float

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, and tremble."""
        out = _right(q, k, v, causal=causal)
        return np.asarray(out * (1 + self.size * np.random.default_rng().standard_normal(out.shape)), v.dtype)


@dataclass(frozen=True)
class RawMemory:
    """Reads an input by its memory, as if it were C-contiguous.

    >>> x = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> float(np.abs(RawMemory("v")(x, x, np.asfortranarray(x)) - _RIGHT(x, x, x)).max()) > 0
    True
    """

    which: str

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend to what lies in memory."""
        arrays = {"q": q, "k": k, "v": v}
        x = arrays[self.which]
        if x.size and not x.flags.c_contiguous:
            root = x if x.base is None else np.asarray(x.base)
            arrays[self.which] = np.resize(root.ravel(order="K"), x.shape).astype(x.dtype)
        return _right(**arrays, causal=causal)


@dataclass(frozen=True)
class Mates:
    """Lets the sequences of a batch share something: ``"maximum"``, ``"values"``, ``"nan"``.

    >>> one = np.ones((1, 1, 1, 1))
    >>> Mates("values")(one, one, one).shape
    (1, 1, 1, 1)
    """

    what: str

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, with a leak between sequences."""
        if self.what == "values" and len(v) > 1:
            v = 0.75 * v + 0.25 * np.roll(v, 1, 0)
        out = _right(q, k, v.astype(q.dtype), causal=causal)
        if self.what == "nan" and np.isnan(q).any():
            out = np.full_like(out, np.nan)
        if self.what == "maximum" and len(q) > 1:  # one maximum for the batch: scores far below it underflow
            group = q.shape[1] // k.shape[1]
            scores = np.einsum("bhtd,bhsd->bhts", q, np.repeat(k, group, 1)) / np.sqrt(q.shape[3])
            with np.errstate(over="ignore", invalid="ignore"):
                dead = scores.max((1, 2, 3)) < np.nanmax(scores) - 745
            out[dead] = 0
        return out


@dataclass(frozen=True)
class Tails:
    """Wrong at the end of a tile: drops the last key, repeats it, leaves rows as they were, or drops channels.

    >>> one = np.ones((1, 1, 1, 1))
    >>> Tails("keys", 16, 1)(one, one, one).shape
    (1, 1, 1, 1)
    """

    axis: str
    tile: int
    rest: int
    repeats: bool = False

    def __call__(self, q: Array, k: Array, v: Array, *, causal: bool = False) -> Array:
        """Attend, and lose what is left over."""
        size = {"keys": k.shape[2], "queries": q.shape[2], "channels": q.shape[3]}[self.axis]
        if size < max(self.rest, 2) or size % self.tile != self.rest:
            return _right(q, k, v, causal=causal)
        if self.axis == "queries":
            out = _right(q, k, v, causal=causal)
            out[:, :, -1] = out[:, :, -2]
            return out
        if self.axis == "channels":
            cut = q.copy()
            cut[..., -1] = 0
            return _right(cut, k, v, causal=causal)
        keep = np.ones((*q.shape[:3], size), np.bool_)
        if not self.repeats:
            keep[..., -1] = False
            return _right(q, k, v, causal=causal, mask=keep)
        bias = np.zeros(keep.shape, q.dtype)
        bias[..., -1] = np.log(2)
        return _right(q, k, v, causal=causal, bias=bias)


def _right(q: Array, k: Array, v: Array, **options: Any) -> Array:
    return np.asarray(_RIGHT(q, k, v, **options))
