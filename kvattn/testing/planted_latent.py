"""One latent attention layer in plain NumPy with two paths, into which known faults can be planted.

As engines write it: a first call expands latents to keys and values of every head; a later call moves the
up-projections to the queries and to the mix and attends to the latents.  Written apart from
`kvattn.variants.compressed.latent` and from `kvattn.testing.layer_diagnosis`: a loop over sequences, heads and queries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.positions.rotary import Rotary
from kvattn.typing import Array
from kvattn.variants.compressed.latent import Absorbed
from kvattn.variants.compressed.latent_projections import LatentProjections


def declared(
    heads: int = 3,
    sizes: tuple[int, int, int, int, int] = (5, 4, 7, 16, 10),
    *,
    scale: float | None = None,
    low_rank: int = 0,
    seed: int = 7,
) -> Absorbed:
    """Return what a planted layer should be: drawn weights of sizes ``(Dn, Dr, Dv, r, M)``, rope parts turned.

    >>> declared().projections.rank
    16
    """
    nope, rope, value, rank, hidden = sizes
    r = np.random.default_rng(seed)

    def drawn(*shape: int) -> Array:
        return np.asarray(r.standard_normal(shape) / shape[0] ** 0.5)

    source = low_rank or hidden
    weights = LatentProjections(
        kv_down=drawn(hidden, rank),
        kv_norm=r.uniform(0.5, 2, rank),
        key_rope=drawn(hidden, rope),
        key_up=drawn(rank, heads * nope),
        value_up=drawn(rank, heads * value),
        query=2 * drawn(source, heads * (nope + rope)),
        output=drawn(heads * value, hidden),
        heads=heads,
        query_down=drawn(hidden, low_rank) if low_rank else None,
        query_norm=r.uniform(0.5, 2, low_rank) if low_rank else None,
    )
    return Absorbed(weights, rotation=Rotary.of(rope, layout="adjacent"), scale=scale)


def rms(x: Array, w: Array, eps: float) -> Array:
    """Divide by the root mean square of the last axis, times weights.

    >>> rms(np.array([3.0, 4.0]), np.ones(2), 0.0).round(3)
    array([0.849, 1.131])
    """
    return np.asarray(x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * w)


@dataclass
class PlantedLatent:
    """A callable ``layer(x, *, positions, valid, cache)`` with planted faults.

    Attributes
    ----------
    latent
        What it should be, and its weights.
    first, later
        What the path of a first call and of a later one does otherwise: ``scale``, of the weights; ``key_head`` and
        ``value_head``, of h and Hq; ``parts``, what scores are made of, ``"both"``, ``"latent"`` or ``"rope"``;
        ``norm``, of latents, weights and ε; ``turns``, which of q and k.
    several
        A later call of several tokens takes the path of a first one.
    caches_raw
        A first call keeps latents that are not normed; a later call reads what is kept as it is.
    norms_read
        Latents are kept as they are, and normed by the call that reads them.
    part
        Positions of a later call, made of those that are right.
    sees
        Whether a later query at row i sees row j, rows counted over all tokens, for a call that begins at a row.
    pads
        Whether padding is hidden.

    Examples
    --------
    >>> out, cache = PlantedLatent(declared())(np.ones((1, 2, 10)))
    >>> out.shape, cache[0].shape
    ((1, 2, 10), (1, 2, 16))
    """

    latent: Any
    first: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, Any] = field(default_factory=dict)
    several: bool = False
    caches_raw: bool = False
    norms_read: bool = False
    part: Callable[[Any, int], Any] = field(default_factory=lambda: lambda right, begin: right)
    sees: Callable[[int, int, int], bool] = field(default_factory=lambda: lambda i, j, begin: j <= i)
    pads: bool = True

    def __post_init__(self) -> None:
        self.later = dict(self.later)  # another one than ``first``, so that a path is told by which it is

    def __call__(self, x: Array, *, positions: Any = None, valid: Any = None, cache: Any = None) -> tuple[Array, Any]:
        """Attend and remember ``(latents, rope keys, valid)``."""
        w, rotation = self.latent.projections, self.latent.rotation
        batch, new, _ = x.shape
        begin = 0 if cache is None else cache[0].shape[1]
        path = self.first if begin == 0 or (self.several and new > 1) else self.later
        held = np.ones((batch, new), np.bool_) if valid is None else valid
        before = 0 if cache is None else cache[2].sum(1, keepdims=True)
        at = np.maximum(np.cumsum(held, 1) - 1 + before, 0) if positions is None else positions
        at = self.part(at, begin) if begin else at
        norm, turns = path.get("norm", rms), path.get("turns", "qk")
        raw, rope = x @ w.kv_down, x @ w.key_rope
        c = raw if self.norms_read else norm(raw, w.kv_norm, w.eps)
        rope = rotation.rotate(rope, at) if rotation is not None and "k" in turns else rope
        source = x if w.query_down is None else rms(x @ w.query_down, w.query_norm, w.eps)
        q = (source @ w.query).reshape(batch, new, w.heads, w.width)
        q_nope, q_rope = q[..., : w.nope_width], q[..., w.nope_width :]
        if rotation is not None and "q" in turns:
            q_rope = rotation.rotate(q_rope.swapaxes(1, 2), at[:, None]).swapaxes(1, 2)
        kept = raw if self.caches_raw and begin == 0 else c
        if cache is not None:
            c, kept = np.concatenate([cache[0], c], 1), np.concatenate([cache[0], kept], 1)
            rope, held = np.concatenate([cache[1], rope], 1), np.concatenate([cache[2], held], 1)
        seen = norm(c, w.kv_norm, w.eps) if self.norms_read else c
        out = np.zeros((batch, new, w.heads * w.value_width))
        for b, h, t in np.ndindex(batch, w.heads, new):
            i = begin + t
            rows = [j for j in range(begin + new) if self._sees(i, j, begin) and (held[b, j] or not self.pads)]
            if rows:
                own = slice(h * w.value_width, (h + 1) * w.value_width)
                out[b, t, own] = self._row(path, h, q_nope[b, t, h], q_rope[b, t, h], seen[b, rows], rope[b, rows])
        return (out @ w.output).astype(x.dtype), (kept, rope, held)

    def _sees(self, i: int, j: int, begin: int) -> bool:
        return self.sees(i, j, begin) if begin else j <= i

    def _row(self, path: Mapping[str, Any], h: int, nope: Array, rope: Array, c: Array, k_rope: Array) -> Array:
        """One head's mix for one query."""
        w, parts = self.latent.projections, path.get("parts", "both")
        plain = w.width**-0.5 if self.latent.scale is None else self.latent.scale
        scale = path["scale"](w) if "scale" in path else plain
        g_k, g_v = (path.get(name, lambda h, n: h)(h, w.heads) for name in ("key_head", "value_head"))
        up_k = w.key_up[:, g_k * w.nope_width : (g_k + 1) * w.nope_width]
        up_v = w.value_up[:, g_v * w.value_width : (g_v + 1) * w.value_width]
        absorbs = path is self.later
        latent = c @ (up_k @ nope) if absorbs else (c @ up_k) @ nope
        scores = scale * ((parts != "rope") * latent + (parts != "latent") * (k_rope @ rope))
        weight = np.exp(scores - scores.max())
        weight = weight / weight.sum()
        return np.asarray((weight @ c) @ up_v if absorbs else weight @ (c @ up_v))
