"""One attention in plain NumPy into which known faults can be planted, to see a check name them.

Written apart from `kvattn.core`, as most people would write it: scores, cap, bias, mask, softmax, mix.
What it computes stands in short formulas (`FORMULAS`); replacing one plants one fault, and what the
replacement says is what a finding's parameters are compared with.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from functools import cache
import math
from types import CodeType, MappingProxyType
from typing import Any, Literal

import numpy as np

from kvattn.testing.formats import FORMATS
from kvattn.typing import Array, Visible

FORMULAS: Mapping[str, str] = MappingProxyType(
    {
        "at": "t + n - T",
        "key at": "s",
        "causal": "j <= i",
        "window": "i - j < w",
        "ahead": "j - i <= a",
        "chunk": "i // c == j // c",
        "prefix": "before | (j < p)",
        "lengths": "s < n",
        "starts": "s >= b",
        "segments": "own == owner",
        "parents": "tree",
        "page": "table[s // P]",
        "slot": "s % P",
        "slopes": "paper(H)",
        "penalty": "-m * abs(at - j)",
        "hidden": "where(keep, x, -inf)",
        "top": "x.max(-1, keepdims=True)",
        "sinks": "exp(z - top)",
        "gate": "1.0",
        "lse": "l",
        "part": "exp(l - most)",
        "k_scale": "x * f",
        "v_scale": "x * f",
        "biased": "x + bias",
        "dropped": "training",
    }
)
"""What is computed, as Python: places, who sees whom, pages, penalties, denominator, log-sum-exp, merge."""


@dataclass(frozen=True, repr=False)
class Planted:
    """A callable of the contract's form (`kvattn.testing.targets`) with planted faults.

    Attributes
    ----------
    anchor
        Corner of the causal triangle: ``"bottom_right"`` (the contract's), ``"top_left"``.
    shift
        Positions added to every query before it is compared with the keys.
    extra_keys
        Keys that a window shows beyond W.
    head_map
        Key/value head of query head h, as Python.
    scale
        Default scale, as Python over the sizes B, Hq, Hkv, T, S, D, Dv.
    cap
        Capped score, as Python over the score s, the raw product x, the scale a and the cap c.
    cap_last
        Cap after the mask.
    mask_reads
        ``"may see"`` (the contract's), ``"blocked"``, ``"added"`` (0 or 1 added to the scores), ``"length"``.
    ignore
        Keywords that are accepted and ignored.
    lost
        Keyword and the condition under which it is ignored, as Python over the keywords and sizes.
    formulas
        Rows of `FORMULAS` to replace.
    rounded
        Stage (``"q, k"``, ``"v"``, ``"products"``, ``"scores"``, ``"shifted"``, ``"exp"``, ``"total"``,
        ``"probabilities"``, ``"out"``) and the number format that it is rounded to.
    guard_values
        Keep values that nobody sees out of the product, so that NaN there does not leak.
    empty
        Row without a visible key: ``"zero"`` (the contract's), ``"nan"``, ``"mean"``.
    log_base
        Base of the log-sum-exp.
    sink_factor, sink_count
        Factor on the sink logits, and how often each enters the denominator.
    sink_in
        Parts of a split call that count the sinks: ``"last"``, ``"each"``, ``"none"``.
    bias_factor
        Factor on the bias.
    bias_place
        ``"last"`` (the contract's), ``"before cap"``, ``"before scale"``.
    returns_lse
        Whether ``(out, lse)`` is returned.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 2, 2))
    >>> Planted(returns_lse=False)(q, k, np.eye(2)[None, None], causal=True)[0, 0]
    array([[1. , 0. ],
           [0.5, 0.5]])
    >>> Planted(formulas={"causal": "j <= i + 1"}, returns_lse=False)(q, k, np.eye(2)[None, None], causal=True)[0, 0]
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """

    anchor: Literal["bottom_right", "top_left"] = "bottom_right"
    shift: int = 0
    extra_keys: int = 0
    head_map: str = "h // (Hq // Hkv)"
    scale: str = "1 / sqrt(D)"
    cap: str = "c * tanh(s / c)"
    cap_last: bool = False
    mask_reads: Literal["may see", "blocked", "added", "length"] = "may see"
    ignore: tuple[str, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)
    formulas: Mapping[str, str] = field(default_factory=dict)
    rounded: Mapping[str, str] = field(default_factory=dict)
    guard_values: bool = True
    empty: Literal["zero", "nan", "mean"] = "zero"
    log_base: float = math.e
    sink_factor: float = 1.0
    sink_count: int = 1
    sink_in: Literal["last", "each", "none"] = "last"
    bias_factor: float = 1.0
    bias_place: Literal["last", "before cap", "before scale"] = "last"
    returns_lse: bool = True

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
        bias: Array | None = None,
        mask: Visible | None = None,
        ahead: int | None = None,
        chunk: int | None = None,
        prefix: Array | None = None,
        lengths: Array | None = None,
        starts: Array | None = None,
        segments: Array | None = None,
        parents: Array | None = None,
        q_positions: Array | None = None,
        k_positions: Array | None = None,
        alibi: bool = False,
        alibi_slopes: Array | None = None,
        block_table: Array | None = None,
        splits: int = 1,
        k_scale: Array | None = None,
        v_scale: Array | None = None,
        dropout: float = 0.0,
        training: bool = False,
        return_weights: bool = False,
    ) -> Any:
        """Attend; shapes as in `kvattn.testing.keywords`."""
        given: dict[str, Any] = {"causal": causal, "window": window, "scale": scale, "softcap": softcap}
        given |= {"sinks": sinks, "bias": bias, "mask": mask, "ahead": ahead, "chunk": chunk, "prefix": prefix}
        given |= {"lengths": lengths, "starts": starts, "segments": segments, "parents": parents}
        given |= {"q_positions": q_positions, "k_positions": k_positions, "alibi": alibi, "splits": splits}
        given |= {"alibi_slopes": alibi_slopes, "k_scale": k_scale, "v_scale": v_scale, "block_table": block_table}
        given |= {"dropout": dropout, "training": training}
        raw_given = {**given, "return_weights": return_weights}
        k, v = self._gathered(k, v, given)
        sizes = {"B": q.shape[0], "Hq": q.shape[1], "Hkv": k.shape[1], "T": q.shape[2], "S": k.shape[2]}
        sizes |= {"D": q.shape[3], "Dv": v.shape[3]}
        for name, when in self.lost.items():
            if _formula(when, **raw_given, **sizes):
                given[name] = None
        given |= dict.fromkeys(self.ignore)
        heads = [_formula(self.head_map, h=h, **sizes) for h in range(sizes["Hq"])]
        if given["k_scale"] is not None:
            k = self._("k_scale", x=k, f=np.asarray(given["k_scale"])[:, None, None])
        if given["v_scale"] is not None:
            v = self._("v_scale", x=v, f=np.asarray(given["v_scale"])[:, None, None])
        q, k, v = self._round("q, k", q), self._round("q, k", k)[:, heads], self._round("v", v)[:, heads]
        raw = self._round("products", np.einsum("bhtd,bhsd->bhts", q, k))
        keep, penalty = self._keep(given, raw.shape), self._penalty(given, raw.shape)
        a = float(given["scale"] if given["scale"] is not None else _formula(self.scale, **sizes))
        bias = None if given["bias"] is None else self.bias_factor * given["bias"]
        if bias is not None and self.bias_place == "before scale":
            raw = raw + bias
        scores = self._round("scores", raw * a)
        if bias is not None and self.bias_place == "before cap":
            scores = scores + bias
        if given["softcap"] is not None and not self.cap_last:
            scores = _formula(self.cap, s=scores, x=raw, a=a, c=float(given["softcap"]))
        if bias is not None and self.bias_place == "last":
            scores = self._("biased", x=scores, bias=bias, a=a, mask=given["mask"])
        if penalty is not None:
            scores = scores + penalty
        if given["mask"] is not None and self.mask_reads == "added":
            scores = scores + given["mask"]
        planes = [seen for name, seen in keep.items() if name != "all"]
        scores = self._("hidden", x=scores, keep=keep["all"], planes=planes)
        keep["all"] = keep["all"] if "hidden" not in self.formulas else np.ones_like(keep["all"])
        if given["softcap"] is not None and self.cap_last:
            scores = _formula(self.cap, s=scores, x=raw, a=a, c=float(given["softcap"]))
            keep["all"] = np.ones_like(keep["all"])
        out, lse, weights = self._merged(scores, keep["all"], v, given)
        out, lse = out.astype(v.dtype), lse / math.log(self.log_base)
        shown = (weights,) if return_weights else ()
        return (out, lse, *shown) if self.returns_lse else (out, *shown) if shown else out

    def __repr__(self) -> str:
        plain = Planted.__dataclass_fields__
        differ = {n: x for n in plain if (x := getattr(self, n)) != _default(plain[n])}
        return f"Planted({', '.join(f'{name}={value!r}' for name, value in differ.items())})"

    def _(self, name: str, **names: Any) -> Any:
        """Evaluate a row of `FORMULAS`, or what replaces it."""
        return _formula(self.formulas.get(name, FORMULAS[name]), **names)

    def _round(self, stage: str, x: Array) -> Array:
        name = self.rounded.get(stage)
        return x if name is None else FORMATS[name].round(x)

    def _gathered(self, k: Array, v: Array, given: dict[str, Any]) -> tuple[Array, Array]:
        """Lay the pages of each sequence side by side, ``[B, Hkv, S, D]``."""
        table = given["block_table"]
        if table is None:
            return k, v
        size = k.shape[2]
        s = np.arange(table.shape[1] * size)
        dense = []
        for pool in (k, v):
            names = [{"s": s, "P": size, "table": row, "n": n} for row, n in zip(table, given["lengths"], strict=True)]
            rows = [pool[self._("page", **each), :, self._("slot", **each)] for each in names]  # [S, Hkv, D] each
            dense.append(np.stack(rows).swapaxes(1, 2))
        return dense[0], dense[1]

    def _places(self, given: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        batch, heads, length, count = shape
        lengths = given["lengths"]
        n = np.full(batch, count) if lengths is None else np.asarray(lengths)
        names: dict[str, Any] = {"t": np.arange(length)[:, None], "s": np.arange(count), "T": length, "S": count}
        names |= {"B": batch, "H": heads, "h": np.arange(heads)[:, None, None], "n": n[:, None, None, None]}
        names["P"] = given["block_table"] is not None and 4
        for name, key in (("at", "q_positions"), ("key at", "k_positions")):
            axes = (slice(None), None, slice(None), None) if name == "at" else (slice(None), None, None, slice(None))
            names["given"] = None if given[key] is None else np.asarray(given[key])[axes]
            names["placed"] = given[key] is not None
            use = given[key] is not None and name not in self.formulas
            names["at" if name == "at" else "j"] = names["given"] if use else self._(name, **names)
        corner = self.anchor == "top_left" and given["q_positions"] is None
        names["placed"] = given["q_positions"] is not None
        names["i"] = names["at"] + self.shift - (names["n"] - length if corner else 0)
        return names

    def _keep(self, given: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Visible]:
        """Who sees whom, [B, Hq, T, S], in all and by keyword."""
        names = self._places(given, shape)
        length, count = shape[2:]
        each: dict[str, Visible] = {}
        values = {"window": "w", "ahead": "a", "chunk": "c", "prefix": "p", "lengths": "n", "starts": "b"}
        if given["causal"]:
            each["causal"] = self._("causal", **names)
        for keyword, letter in values.items():
            value = given[keyword]
            if value is None or (keyword == "prefix" and "causal" not in each):
                continue
            letters = {letter: np.asarray(value)[:, None, None, None] if np.ndim(value) else value}
            if keyword == "window":
                letters["w"] += self.extra_keys
            if keyword == "prefix":
                each["causal"] = self._("prefix", **{**names, **letters, "before": each["causal"]})
            else:
                each[keyword] = self._(keyword, **{**names, **letters})
        if given["segments"] is not None:
            owner = np.asarray(given["segments"])[:, None]
            each["segments"] = self._(
                "segments",
                own=owner[:, :, -length:, None],
                owner=owner[:, :, None],
                first=owner[:, :, :length, None],
                **names,
            )
        if given["parents"] is not None:
            tree = np.ones((length, count), np.bool_)
            for t, s in np.ndindex(length, length):
                at = t
                while at > s:
                    at = int(given["parents"][at])
                tree[t, count - length + s] = at == s
            each["parents"] = self._("parents", tree=tree, **names)
        if given["mask"] is not None:
            seen = np.broadcast_to(given["mask"], shape)
            if self.mask_reads == "length":
                seen = names["s"] < seen.sum(-1, keepdims=True)
            each["mask"] = ~seen if self.mask_reads == "blocked" else seen | (self.mask_reads == "added")
        keep = np.ones(shape, np.bool_)
        for seen in each.values():
            keep &= seen
        return {"all": keep, **{name: np.broadcast_to(seen, shape) for name, seen in each.items()}}

    def _penalty(self, given: dict[str, Any], shape: tuple[int, ...]) -> Array | None:
        if not given["alibi"] and given["alibi_slopes"] is None:
            return None
        names = self._places(given, shape)
        slopes = given["alibi_slopes"]
        if slopes is None:
            slopes = np.broadcast_to(self._("slopes", H=shape[1], h=np.arange(shape[1]), paper=paper), shape[1])
        return np.asarray(self._("penalty", m=np.asarray(slopes)[:, None, None], **names))

    def _merged(self, scores: Array, keep: Visible, v: Array, given: dict[str, Any]) -> tuple[Array, Array, Array]:
        """Attend to each part of the keys, and merge."""
        sinks, count = given["sinks"], max(1, int(given["splits"] or 1))
        cuts = np.array_split(np.arange(scores.shape[-1]), count)
        counted = {"last": [n == count - 1 for n in range(count)], "each": [True] * count, "none": [False] * count}
        if count == 1:
            return self._mix(scores, keep, v, sinks, given, self)
        plain = Planted(**{**vars(self), "empty": "zero", "formulas": {**self.formulas, "lse": "l"}})
        parts = [
            self._mix(scores[..., cut], keep[..., cut], v[:, :, cut], sinks if with_sinks else None, given, plain)
            for cut, with_sinks in zip(cuts, counted[self.sink_in], strict=True)
        ]
        lse = np.stack([part[1] for part in parts], -1)
        most = lse.max(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            safe = np.where(np.isneginf(most), 0, most)
            shares = np.broadcast_to(self._("part", l=lse, most=safe), lse.shape)
            total = shares.sum(-1, keepdims=True)
            shares = shares / np.where((total == 0) & (self.empty != "nan"), 1, total)
            whole = np.log(total[..., 0]) + safe[..., 0]
        out: Any = sum(shares[..., n, None] * part[0] for n, part in enumerate(parts))
        weights = np.concatenate([shares[..., n, None] * part[2] for n, part in enumerate(parts)], -1)
        if self.empty == "mean" and sinks is None:
            out = np.where(keep.any(-1, keepdims=True), out, v.mean(2, keepdims=True))
        return np.asarray(out), whole, weights

    def _mix(
        self, scores: Array, keep: Visible, v: Array, sinks: Array | None, given: dict[str, Any], ways: "Planted"
    ) -> tuple[Array, Array, Array]:
        """Softmax with sinks, and the mix of the values."""
        logits = None if sinks is None else self.sink_factor * sinks[:, None, None]
        if not scores.shape[-1]:
            scores, keep = np.full((*scores.shape[:3], 1), -np.inf), np.zeros((*scores.shape[:3], 1), np.bool_)
            v = np.zeros((*scores.shape[:2], 1, v.shape[3]))
        top = self._("top", x=scores)
        if logits is not None:
            top = np.maximum(top, logits)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            shifted = self._round("shifted", scores - np.where(np.isneginf(top), 0, top))
            weights = np.where(keep, self._round("exp", np.exp(shifted)), 0)
            total = weights.sum(-1, keepdims=True)
            gate: Any = 1.0
            if logits is not None:
                gate = self._("gate", l=top + np.log(total), z=logits, a=given["scale"])
                total = total + self.sink_count * self._("sinks", z=logits, top=top, total=total)
            total = self._round("total", total)
            sink = 0.0 if logits is None else self.sink_count * np.exp(logits - top)
            lse = ways._("lse", l=top + np.log(total), top=top, total=total, sink=sink, S=scores.shape[-1])[..., 0]
            weights = weights / np.where((total == 0) & (ways.empty != "nan"), 1, total) * gate
        if ways.empty == "mean":
            weights = np.where(keep.any(-1, keepdims=True) | (sinks is not None), weights, 1 / scores.shape[-1])
        weights = self._round("probabilities", weights)
        mixed = weights
        if given["dropout"] and self._("dropped", training=bool(given["training"])):
            kept = np.random.default_rng().random(weights.shape) >= given["dropout"]
            mixed = weights * kept / (1 - given["dropout"])
        if self.guard_values:  # [B, Hq, T, S, Dv], so that a key behind the mask is not even multiplied
            out = (mixed[..., None] * np.where(weights[..., None] > 0, v[:, :, None], 0)).sum(-2)
            out = np.where(np.isnan(weights).any(-1, keepdims=True), np.nan, out)
        else:
            out = mixed @ v
        return self._round("out", out), lse, weights


def _default(row: Any) -> Any:
    return row.default if row.default_factory is MISSING else row.default_factory()


def paper(heads: int) -> Array:
    """ALiBi's slopes as the paper's code makes them.

    >>> paper(3)
    array([0.0625    , 0.00390625, 0.25      ])
    """
    below = 2 ** int(math.log2(heads))
    powers = [[2 ** (-8 * (h + 1) / n) for h in range(n)] for n in (below, 2 * below)]
    return np.array([*powers[0], *powers[1][::2]][:heads])


def _strided(tree: Visible, stride: int) -> Visible:
    """Rows of a draft tree laid down ``stride`` apart and read as many apart as there are."""
    length, count = tree.shape
    flat = np.zeros(length * stride, np.bool_)
    for t, row in enumerate(tree[:, count - length :]):
        flat[t * stride : t * stride + length] = row
    read = [flat[t * length : (t + 1) * length] for t in range(length)]
    return np.concatenate([tree[:, : count - length], np.stack(read)], 1)


_FUNCTIONS = {
    **{name: getattr(np, name) for name in ("sqrt", "tanh", "exp", "log", "where", "maximum", "abs", "inf")},
    **{name: getattr(np, name) for name in ("finfo", "minimum", "nan", "sort")},
    "strided": _strided,
}
"""What formulas may use."""


@cache
def _compiled(text: str) -> CodeType:
    return compile(text.lstrip(), "<formula>", "eval")


def _formula(text: str, **names: Any) -> Any:
    """Evaluate one of the small formulas above."""
    return eval(_compiled(text), {**_FUNCTIONS, **names})  # noqa: S307 - our own text
