"""What a declared latent attention layer does, as far as it is known, and what a layer of this kind gives.

In float64, keys and values of every head made of the latents, whatever a call absorbs: in exact arithmetic the two are
one.  Each step may be exchanged, in every call or in some: an engine that expands the latent in prefill and absorbs
its up-projections in decoding has two paths, and a fault mostly sits in one of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.layer_diagnosis.reading import Case

Numbers = NDArray[np.float64]

CALLS: Mapping[str, Callable[[int, int], bool]] = MappingProxyType(
    {
        "every call": lambda begin, count: True,
        "later calls": lambda begin, count: begin > 0,
        "the first call": lambda begin, count: begin == 0,
        "calls of one token": lambda begin, count: count == 1,
        "calls of several tokens": lambda begin, count: count > 1,
        "later calls of one token": lambda begin, count: begin > 0 and count == 1,
        "later calls of several tokens": lambda begin, count: begin > 0 and count > 1,
    }
)
"""Which calls take a path, told by how many tokens came before and how many come."""

SCALES: Mapping[str, Callable[[Any, float], float]] = MappingProxyType(
    {
        "1 / sqrt(r + Dr)": lambda w, _: (w.rank + w.rope_width) ** -0.5,
        "1 / sqrt(r)": lambda w, _: w.rank**-0.5,
        "1 / sqrt(Dn)": lambda w, _: w.nope_width**-0.5,
        "1 / sqrt(Dr)": lambda w, _: w.rope_width**-0.5,
        "1 / sqrt(Dv)": lambda w, _: w.value_width**-0.5,
        "1 / sqrt(Dn + Dr)": lambda w, _: w.width**-0.5,
        "mscale / sqrt(Dn + Dr)": lambda w, scale: math.sqrt(abs(scale)) * w.width**-0.25,
        "1": lambda w, _: 1.0,
    }
)
"""Scales that latent layers were seen to have, from the weights and the declared scale, mscale² / sqrt(Dn + Dr)."""

HEADS: Mapping[str, Callable[[int, int], NDArray[np.int64]]] = MappingProxyType(
    {
        "h + 1": lambda heads, width: np.roll(_columns(heads, width), -1, 0),
        "h - 1": lambda heads, width: np.roll(_columns(heads, width), 1, 0),
        "0": lambda heads, width: np.repeat(_columns(heads, width)[:1], heads, 0),
        "Hq - 1 - h": lambda heads, width: _columns(heads, width)[::-1],
        "features first": lambda heads, width: np.arange(heads * width).reshape(width, heads).T,
    }
)
"""Columns ``[Hq, width]`` of an up-projection that a head reads, where not its own."""

_RIGHT: Mapping[str, Any] = MappingProxyType({"factor": 1.0, "turned": "qk"})
"""What a field says of the other calls, where not nothing."""

Some = tuple[str, str]
"""What is done otherwise, and in which of `CALLS`."""


@dataclass(frozen=True)
class LatentReading:
    """A latent layer: what it should be, and where it differs; the defaults differ nowhere.

    Attributes
    ----------
    layer
        What it should be: `kvattn.variants.compressed.latent.Absorbed`, or ``Expanded``.
    scale, factor
        Name in `SCALES`; a number on the declared scale, and in which calls.
    scores
        What the scores are made of: ``"latent"`` or ``"rope"`` alone.
    key_heads, value_heads
        Names in `HEADS`, for W_uk and W_uv.
    turned
        Which of q, k turn, in place of ``"qk"``; a key turns in the call that brings it.
    norm, made, kept
        The norm of the latent: ``"none"`` or ``"no weights"``; in what a call reads, in the tokens that a call brings
        from then on, in the tokens that a call brings as later ones read them.
    part_places, part_given, part_sight, places, pads
        As in `kvattn.testing.layer_diagnosis.reading.Reading`.

    Examples
    --------
    >>> from kvattn.variants.compressed.latent import Absorbed
    >>> from kvattn.variants.compressed.latent_projections import LatentProjections
    >>> one = np.ones((1, 1))
    >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0)
    >>> LatentReading(Absorbed(w)).predict(w, Case(np.array([[[1.0], [3.0]]])))
    array([[[1.],
            [1.]]])
    """

    layer: Any
    scale: Some = ("", "every call")
    factor: tuple[float, str] = (1.0, "every call")
    scores: Some = ("", "every call")
    key_heads: Some = ("", "every call")
    value_heads: Some = ("", "every call")
    turned: Some = ("qk", "every call")
    norm: Some = ("", "every call")
    made: Some = ("", "every call")
    kept: Some = ("", "every call")
    places: str = "given"
    part_places: str = "go on"
    part_given: bool = True
    part_sight: str = "past and causal"
    pads: str = "hidden"

    def predict(self, weights: Any, case: Case) -> Numbers:
        """Return what such a layer gives, ``[B, T, M]``; rows of padding mean nothing.

        Examples
        --------
        >>> from kvattn.variants.compressed.latent import Absorbed
        >>> from kvattn.variants.compressed.latent_projections import LatentProjections
        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0)
        >>> LatentReading(Absorbed(w), norm=("none", "later calls")).predict(
        ...     w, Case(np.full((1, 2, 1), 5.0), cuts=(1,))
        ... )
        array([[[1.],
                [5.]]])
        """
        parts, begin = [], 0
        held: list[_Tokens] = []
        for end in (*case.cuts, case.x.shape[1]):
            held.append(self._tokens(weights, case, begin, end))
            parts.append(self._part(weights, case, held))
            begin = end
        return np.concatenate(parts, 1)

    def positions(self, case: Case, begin: int, end: int) -> NDArray[np.int64]:
        """Return the positions ``[B, T]`` that rows ``begin .. end - 1`` of a case stand at.

        >>> LatentReading(None, part_places="restart").positions(Case(np.zeros((1, 3, 1))), 1, 3)
        array([[0, 1]])
        """
        batch, length = case.x.shape[:2]
        whole = case.positions
        if whole is None or self.places == "rows":
            whole = np.arange(length) + np.zeros((batch, 1), np.int64)
            if case.valid is not None:
                whole = np.maximum(np.cumsum(case.valid, 1) - 1, 0)
        part = whole[:, begin:end]
        kept = case.positions is not None and not self.part_given
        if begin == 0 or kept or self.part_places == "go on":
            return part
        steps = np.arange(end - begin) + np.zeros_like(part)
        return {"restart": steps, "one more": part + 1, "one less": part - 1}[self.part_places]

    def bound(self, weights: Any, case: Case, roundoff: float) -> float:
        """Return how far a right layer in arithmetic of a unit roundoff may be from `predict`, anywhere.

        As `kvattn.testing.layer_diagnosis.reading.bound`: sums walk at random.  Whatever is absorbed into what, a score
        is a product of query, up-projection and latent: what both orders round is added up.

        Examples
        --------
        >>> from kvattn.variants.compressed.latent import Absorbed
        >>> from kvattn.variants.compressed.latent_projections import LatentProjections
        >>> one = np.ones((1, 1))
        >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)
        >>> 0 < LatentReading(Absorbed(w)).bound(w, Case(np.ones((1, 2, 1))), 2.0**-53) < 1e-13
        True
        """
        w, u, length = weights, roundoff, case.x.shape[1]
        x = np.asarray(case.x, np.float64)

        def walk(n: int) -> float:
            return 4 * u * math.sqrt(n)

        def times(rows: Numbers, errors: Numbers, matrix: Any) -> tuple[Numbers, Numbers]:
            wide = np.asarray(matrix, np.float64)
            own = (walk(len(wide)) + u) * np.sqrt(rows**2 @ wide**2)
            return rows @ wide, own + np.sqrt(errors**2 @ wide**2)

        def normed(rows: Numbers, errors: Numbers, weight: Any) -> tuple[Numbers, Numbers]:
            g, n = np.asarray(weight, np.float64), rows.shape[-1]
            size = np.sqrt(np.mean(rows**2, -1, keepdims=True) + w.eps)
            far = np.linalg.norm(errors, axis=-1, keepdims=True) / (math.sqrt(n) * size)
            out = rows / size * g
            return out, np.abs(g) * errors / size + np.abs(out) * (far + walk(n) / math.sqrt(n) + 6 * u)

        none = np.zeros_like(x)
        latent, far = normed(*times(x, none, w.kv_down), w.kv_norm)
        source = (x, none)
        if w.query_down is not None:
            source = normed(*times(x, none, w.query_down), w.query_norm)
        q, q_far = times(*source, w.query)
        rope, rope_far = times(x, none, w.key_rope)
        turned = 0.0
        if self.layer.rotation is not None:
            most = length if case.positions is None else int(np.abs(case.positions).max(initial=length))
            turns = [abs(f) * (abs(math.log(abs(f))) + 5) for f in self.layer.rotation.frequencies if f]
            turned = u * (most * max(turns, default=0.0) + 8)

        def heads(rows: Numbers, width: int) -> Numbers:
            return rows.reshape(*rows.shape[:2], w.heads, width).swapaxes(1, 2)

        def met(left: Numbers, right: Numbers) -> Numbers:
            """Products of two sides whose errors, or sizes, meet at random."""
            return np.asarray(np.sqrt(left**2 @ (right**2).swapaxes(-1, -2)))

        q, q_far = heads(q, w.width), heads(q_far, w.width)
        (nope, rope_q), (nope_far, rope_q_far) = ((a[..., : w.nope_width], a[..., w.nope_width :]) for a in (q, q_far))
        k, k_far = (heads(part, w.nope_width) for part in times(latent, far, w.key_up))
        c, r, r_far = latent[:, None], rope[:, None], rope_far[:, None]
        up = np.asarray(w.key_up, np.float64).reshape(w.rank, w.heads, w.nope_width).transpose(1, 2, 0)
        over = (walk(w.nope_width) + u) * np.sqrt(nope**2 @ up**2)
        scores = met(nope_far, k) + met(nope, k_far) + met(over, c) + (walk(w.rank) + 4 * u) * met(nope @ up, c)
        scores += met(rope_q_far, r) + met(rope_q, r_far) + (walk(w.width) + 6 * u) * (met(nope, k) + met(rope_q, r))
        sizes = np.linalg.norm(rope_q, axis=-1)[..., None] * np.linalg.norm(r, axis=-1)[..., None, :]
        largest = abs(self._scale(w)) * float((scores + 2 * turned * sizes).max(initial=0.0))
        values, values_far = times(latent, far, w.value_up)
        most = float(np.abs(values).max(initial=0.0))
        raised = (walk(w.rank) + 4 * u) * float(
            np.sqrt(latent**2 @ np.asarray(w.value_up, np.float64) ** 2).max(initial=0.0)
        )
        mixed = most * (math.expm1(min(2 * largest, 30.0)) + walk(length) + 8 * u)
        mixed += float(values_far.max(initial=0.0)) + raised
        output = np.asarray(w.output, np.float64)
        column = float(np.sqrt((output**2).sum(0)).max())
        return column * (4 * mixed + (walk(len(output)) + 2 * u) * most) + 1e-300

    def _scale(self, w: Any) -> float:
        return float(w.width**-0.5 if self.layer.scale is None else self.layer.scale)

    def _in(self, name: str, begin: int, count: int) -> Any:
        """What a field says of a call; its first where it says nothing of it."""
        value, calls = getattr(self, name)
        return value if CALLS[calls](begin, count) else _RIGHT.get(name, "")

    def _tokens(self, w: Any, case: Case, begin: int, end: int) -> "_Tokens":
        x = np.asarray(case.x[:, begin:end], np.float64)
        at = self.positions(case, begin, end)
        rope = x @ np.asarray(w.key_rope, np.float64)
        if self.layer.rotation is not None and "k" in self._in("turned", begin, end - begin):
            rope = np.asarray(self.layer.rotation.rotate(rope, at), np.float64)
        valid = np.ones(x.shape[:2], np.bool_) if case.valid is None else case.valid[:, begin:end]
        return _Tokens(begin, end, at, x @ np.asarray(w.kv_down, np.float64), rope, valid)

    def _part(self, w: Any, case: Case, held: "list[_Tokens]") -> Numbers:
        now = held[-1]
        begin, count = now.begin, now.end - now.begin
        x = np.asarray(case.x[:, begin : now.end], np.float64)
        c = np.concatenate([_normed(t.latent, w.kv_norm, w.eps, self._norm(t, now)) for t in held], 1)
        k_rope = np.concatenate([t.rope for t in held], 1)
        source = x
        if w.query_down is not None:
            source = _normed(x @ np.asarray(w.query_down, np.float64), w.query_norm, w.eps, "")
        q = (source @ np.asarray(w.query, np.float64)).reshape(*x.shape[:2], w.heads, w.width).swapaxes(1, 2)
        q_nope, q_rope = q[..., : w.nope_width], q[..., w.nope_width :]
        if self.layer.rotation is not None and "q" in self._in("turned", begin, count):
            q_rope = np.asarray(self.layer.rotation.rotate(q_rope, now.at[:, None]), np.float64)
        made = self._in("scores", begin, count)
        scores: Numbers = np.zeros((len(x), w.heads, count, c.shape[1]))
        if made != "rope":
            scores += q_nope @ _raised(c, w.key_up, w.heads, self._in("key_heads", begin, count)).swapaxes(2, 3)
        if made != "latent":
            scores += q_rope @ k_rope[:, None].swapaxes(2, 3)
        rule = self._in("scale", begin, count)
        scale = SCALES[rule](w, self._scale(w)) if rule else self._scale(w)
        scores = scores * (scale * self._in("factor", begin, count))
        if self.layer.softcap is not None:
            scores = self.layer.softcap * np.tanh(scores / self.layer.softcap)
        keep = self._keep(begin, now.end)[None, None]
        if self.pads == "hidden":
            keep = keep & np.concatenate([t.valid for t in held], 1)[:, None, None]
        scores = np.where(keep, scores, -np.inf)
        top = scores.max(-1, keepdims=True)
        grown = np.where(keep, np.exp(scores - np.where(np.isneginf(top), 0, top)), 0)
        total = grown.sum(-1, keepdims=True)
        values = _raised(c, w.value_up, w.heads, self._in("value_heads", begin, count))
        mixed = (grown / np.where(total == 0, 1, total)) @ values
        return np.asarray(mixed.swapaxes(1, 2).reshape(*x.shape[:2], -1) @ np.asarray(w.output, np.float64))

    def _norm(self, token: "_Tokens", now: "_Tokens") -> str:
        """How the latents of a call are normed where another, or the same, reads them."""
        count = token.end - token.begin
        found = self._in("norm", now.begin, now.end - now.begin) or self._in("made", token.begin, count)
        return str(found or ("" if token is now else self._in("kept", token.begin, count)))

    def _keep(self, begin: int, end: int) -> NDArray[np.bool_]:
        i, j = np.arange(begin, end)[:, None], np.arange(end)
        causal = self.layer.mask is not None
        if begin and self.part_sight != "past and causal":
            return {"row numbers": j <= i - begin, "all": j < end + 0 * i, "itself": (j >= begin) & (j <= i)}[
                self.part_sight
            ]
        return np.asarray(j <= i) if causal else np.ones((end - begin, end), np.bool_)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """What one call brought: latents before their norm, rope keys, positions."""

    begin: int
    end: int
    at: NDArray[np.int64]
    latent: Numbers
    rope: Numbers
    valid: NDArray[np.bool_]


def _columns(heads: int, width: int) -> NDArray[np.int64]:
    return np.arange(heads * width).reshape(heads, width)


def _raised(c: Numbers, matrix: Any, heads: int, rule: str) -> Numbers:
    """Latents ``[B, S, r]`` through an up-projection, ``[B, Hq, S, width]``."""
    wide = np.asarray(matrix, np.float64)
    width = wide.shape[1] // heads
    columns = HEADS[rule](heads, width) if rule else _columns(heads, width)
    return np.asarray((c @ wide[:, columns.ravel()]).reshape(*c.shape[:2], heads, width).swapaxes(1, 2))


def _normed(rows: Numbers, weight: Any, eps: float, rule: str) -> Numbers:
    if rule == "none":
        return rows
    out = rows / np.sqrt(np.mean(rows**2, -1, keepdims=True) + eps)
    return np.asarray(out if rule == "no weights" else out * np.asarray(weight, np.float64))
