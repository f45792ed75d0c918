"""What a layer does, as far as it is known: its plan and what was found to differ; and what a layer of this kind gives.

In float64, on whole matrices, with every step in sight, so that each may be exchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
import math
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvattn.positions.alibi import power_slopes, slopes
from kvattn.positions.rotary import Rotary
from kvattn.testing.diagnosis.behaviour import HEAD_MAPS, SCALES
from kvattn.testing.formats import FORMATS
from kvattn.testing.layer_diagnosis.plan import Plan

Numbers = NDArray[np.float64]

SLOPES: Mapping[str, Callable[[int], tuple[float, ...]]] = MappingProxyType(
    {
        "paper": slopes,
        "power of two for any number": power_slopes,
        "from h = 0": lambda heads: tuple(2.0 ** (-8 * h / heads) for h in range(heads)),
        "over half": lambda heads: tuple(2.0 ** (-4 * (h + 1) / heads) for h in range(heads)),
        "sorted": lambda heads: tuple(sorted(slopes(heads), reverse=True)),
        "reversed": lambda heads: slopes(heads)[::-1],
        "of the power of two above": lambda heads: slopes(1 << (heads - 1).bit_length())[:heads],
        "1 / heads": lambda heads: tuple((h + 1) / heads for h in range(heads)),
    }
)
"""ALiBi's slope of each head; the paper's first."""


HEAD_ORDERS: Mapping[str, Callable[[int, int, int], int]] = MappingProxyType(
    {
        "as they are": lambda h, hq, hkv: h,
        "reversed": lambda h, hq, hkv: hq - 1 - h,
        "reversed in each group": lambda h, hq, hkv: h - h % (hq // hkv) + hq // hkv - 1 - h % (hq // hkv),
        "groups reversed": lambda h, hq, hkv: (hkv - 1 - h // (hq // hkv)) * (hq // hkv) + h % (hq // hkv),
        "h % Hkv * (Hq // Hkv) + h // Hkv": lambda h, hq, hkv: h % hkv * (hq // hkv) + h // hkv,
        "h % (Hq // Hkv) * Hkv + h // (Hq // Hkv)": lambda h, hq, hkv: h % (hq // hkv) * hkv + h // (hq // hkv),
        "(h + 1) % Hq": lambda h, hq, hkv: (h + 1) % hq,
        "(h - 1) % Hq": lambda h, hq, hkv: (h - 1) % hq,
    }
)
"""Head that stands at place h of the query heads' matrix or of the joined heads; the contract's first."""

Heads: TypeAlias = str | tuple[tuple[int, int, tuple[int, ...]], ...]
"""A name in a table of heads, or the heads themselves for some numbers of query and of key/value heads."""


def heads_of(rule: Heads, table: Mapping[str, Callable[[int, int, int], int]], hq: int, hkv: int) -> list[int]:
    """Return the heads that a name stands for, or those that were read, which are the table's first elsewhere.

    >>> heads_of("reversed", HEAD_ORDERS, 3, 1), heads_of(((2, 1, (1, 0)),), HEAD_ORDERS, 2, 1)
    ([2, 1, 0], [1, 0])
    """
    read = {} if isinstance(rule, str) else {(one, two): heads for one, two, heads in rule}
    if (hq, hkv) in read:
        return list(read[hq, hkv])
    named = table[rule if isinstance(rule, str) else next(iter(table))]
    return [named(h, hq, hkv) for h in range(hq)]


class Case(NamedTuple):
    """Hidden states and what goes with them; ``cuts`` are the places where they are handed over in parts."""

    x: Numbers
    positions: NDArray[np.int64] | None = None
    valid: NDArray[np.bool_] | None = None
    cuts: tuple[int, ...] = ()


@dataclass(frozen=True)
class LaidOut:
    """A rotation whose pairs are those of a `Rotary` and whose angles are laid out for the other pairing.

    Examples
    --------
    >>> LaidOut(Rotary((1.0, 0.0))).rotate(np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([1])).round(2)
    array([[0.54, 0.54, 0.  , 0.  ]])
    """

    rotary: Rotary

    def rotate(self, x: Numbers, positions: Any) -> Numbers:
        """Turn the two features of a pair by different angles.

        >>> LaidOut(Rotary((1.0,))).rotate(np.array([[1.0, 0.0]]), np.array([1])).round(2)
        array([[0.54, 0.84]])
        """
        rotary, count = self.rotary, len(self.rotary.frequencies)
        angles = np.asarray(positions, np.float64)[..., None] * np.array(rotary.frequencies)
        half = rotary.layout == "half"
        whole = np.repeat(angles, 2, -1) if half else np.concatenate([angles, angles], -1)
        start = rotary.start if rotary.start >= 0 else x.shape[-1] + rotary.start
        out, part = np.array(x), x[..., start : start + 2 * count]
        first = np.arange(count) if half else 2 * np.arange(count)
        second = first + (count if half else 1)
        other = np.empty_like(part)
        other[..., first], other[..., second] = -part[..., second], part[..., first]
        out[..., start : start + 2 * count] = part * np.cos(whole) + other * np.sin(whole)
        return out


@dataclass(frozen=True)
class Reading:
    """A layer: its plan, and where it differs; the defaults differ nowhere.

    Attributes
    ----------
    plan
        What it should be.
    uses
        Matrix of queries, of keys, of values.
    q_columns, k_columns, v_columns, o_rows
        Order of heads and features in a matrix: ``"heads first"`` (the contract's), ``"features first"``, ``"tokens
        first"`` for ``o_rows``: heads are not moved behind tokens before they are joined.
    q_heads, o_heads
        Order of heads in the columns of ``w_q`` and where heads are joined: names in `HEAD_ORDERS`, or heads.
    key_map, value_map
        Names in `HEAD_MAPS`, or heads.
    output
        ``"w_o"``, ``"none"``, ``"transposed"``.
    scale, factor
        Name in `SCALES`, empty for the plan's; a factor on it.
    turned
        Which of q, k, v turn.
    q_rotary, k_rotary
        In place of the plan's.
    q_offset, k_offset, table
        Added to positions; rows of a table behind which they are clamped, 0 for none.
    q_places
        Positions of queries, where none are given: ``"given"``, or ``"after the call"``, as many positions later as the
        call has tokens.
    places
        Positions used: ``"given"``, ``"rows"``, ``"first row"``.
    rounded
        What of the rotation is rounded to which format: ``("positions", "bfloat16")``.
    norm, norm_kind, norm_axis, norm_weight, eps
        Norms of queries and keys: place (empty for the plan's, ``"none"``), ``"rms"``, ``"layer"``, ``"l2"``; over
        ``"head"`` or ``"all"``; ``"w"``, ``"none"``, ``"1 + w"``, ``"exchanged"``; None for the plan's.
    normed
        Which of q, k are normed.
    slopes, slope_factor
        Name in `SLOPES`, empty for the plan's, ``"none"``; a factor on them.
    sight, window_extra
        ``""`` for the plan's, ``"all"``, ``"strict"`` (not itself), ``"one ahead"``; keys beyond the window.
    softcap
        ``""``, ``"none"``, ``"before scale"``.
    pads
        ``"hidden"``, ``"visible"``, ``"reversed"`` or ``"first row"``: of what ``valid`` says.
    pad_places
        Positions under padding, where none are given: ``"counted"`` tokens, ``"rows"``, or rows in the first part and
        counted in later ones (``"rows, then counted"``).
    part_places
        Positions of a later part: ``"go on"``, ``"restart"``, ``"one more"``, ``"one less"``, ``"length"``.
    part_given
        Whether that holds for positions that are given too.
    part_sight
        What a later part sees: ``"past and causal"``, ``"row numbers"``, ``"all"``, ``"itself"``, what its last token's
        window holds (``"the last window"``), or ``"as planned"`` where the first sees otherwise.
    part_window, part_window_of
        Keys that a token of a later part sees, None for as many as one of the first; whether that holds for ``"all"``
        later parts, those of ``"one token"`` or those of ``"several tokens"``.
    shared, shares
        Whether keys and values should be another layer's; where they are so: empty for everywhere, ``"later calls"``,
        ``"never"``, ``"values"``, ``"keys"`` alone.

    Examples
    --------
    >>> Reading(Plan(), output="none").output
    'none'
    """

    plan: Plan
    uses: tuple[str, str, str] = ("w_q", "w_k", "w_v")
    q_columns: str = "heads first"
    k_columns: str = "heads first"
    v_columns: str = "heads first"
    o_rows: str = "heads first"
    q_heads: Heads = "as they are"
    o_heads: Heads = "as they are"
    key_map: Heads = "h // (Hq // Hkv)"
    value_map: Heads = "h // (Hq // Hkv)"
    output: str = "w_o"
    scale: str = ""
    factor: float = 1.0
    turned: str = "qk"
    q_rotary: "Rotary | LaidOut | None" = None
    k_rotary: "Rotary | LaidOut | None" = None
    q_offset: int = 0
    k_offset: int = 0
    q_places: str = "given"
    table: int = 0
    places: str = "given"
    rounded: tuple[str, str] = ("", "")
    norm: str = ""
    norm_kind: str = "rms"
    norm_axis: str = "head"
    norm_weight: str = "w"
    eps: float | None = None
    normed: str = "qk"
    slopes: str = ""
    slope_factor: float = 1.0
    sight: str = ""
    window_extra: int = 0
    softcap: str = ""
    pads: str = "hidden"
    pad_places: str = "counted"
    part_places: str = "go on"
    part_given: bool = True
    part_sight: str = "past and causal"
    part_window: int | None = None
    part_window_of: str = "all"
    shared: bool = False
    shares: str = ""

    def predict(self, weights: Any, case: Case) -> Numbers:
        """Return what such a layer gives, ``[B, T, M]``; rows of padding mean nothing.

        Examples
        --------
        >>> from kvattn.testing.layer_targets import Weights
        >>> one = Weights(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1)
        >>> Reading(Plan()).predict(one, Case(np.array([[[0.0], [4.0]]])))[0, :, 0].round(4)
        array([0., 4.])
        """
        x = case.x
        ends = (*case.cuts, x.shape[1])
        parts, begin, kept = [], 0, None
        for end in ends:
            out, kept = self._part(weights, case, begin, end, kept)
            parts.append(out)
            begin = end
        return np.concatenate(parts, 1)

    def bound(self, weights: Any, case: Case, roundoff: float) -> float:
        """Return how far a right layer may be from `predict`, anywhere: the function `bound`.

        >>> from kvattn.testing.layer_targets import Weights
        >>> one = Weights(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1)
        >>> 0 < Reading(Plan()).bound(one, Case(np.ones((1, 2, 1))), 2.0**-53) < 1e-13
        True
        """
        return bound(self, weights, case, roundoff)

    def positions(self, case: Case, begin: int, end: int) -> NDArray[np.int64]:
        """Return the positions ``[(A,) B, T]`` that rows ``begin .. end - 1`` of a case stand at.

        >>> Reading(Plan()).positions(Case(np.zeros((1, 3, 1))), 1, 3)
        array([[1, 2]])
        """
        batch, length = case.x.shape[:2]
        whole = case.positions
        if whole is None or self.places == "rows":
            whole = np.arange(length) + np.zeros((batch, 1), np.int64)
            if case.valid is not None and self.pad_places != "rows":
                whole = np.maximum(np.cumsum(case.valid, 1) - 1, 0)
            if self.plan.axes:
                whole = whole + np.zeros((self.plan.axes, 1, 1), np.int64)
        if self.places == "first row":
            whole = whole[..., :1, :] + np.zeros_like(whole)
        by_rows = {"rows, then counted": begin == 0, "counted, then rows": begin > 0}.get(self.pad_places, False)
        if by_rows and case.positions is None:
            whole = np.arange(length) + np.zeros_like(whole)
        part = whole[..., begin:end]
        kept = case.positions is not None and not self.part_given
        if begin == 0 or kept or self.part_places == "go on":
            return part
        steps = np.arange(end - begin) + np.zeros_like(part)
        return {
            "restart": steps,
            "one more": part + 1,
            "one less": part - 1,
            "length": steps + begin,
        }[self.part_places]

    def _part(self, weights: Any, case: Case, begin: int, end: int, kept: Any) -> tuple[Numbers, Any]:
        hq, hkv = weights.heads, weights.kv_heads
        x = case.x[:, begin:end]
        at = self.positions(case, begin, end)
        length = int(at.max()) + 1 if at.size else 0
        q = _split(x @ weights.matrix(self.uses[0]), hq, self.q_columns)
        q = q[:, heads_of(self.q_heads, HEAD_ORDERS, hq, hkv)]
        late = end - begin if self.q_places == "after the call" and case.positions is None else 0
        q = self._bent("q", q, at + late, length, weights)
        k, v = self._keys(x, weights, at, length, self.uses[1:])
        new = (k, v)
        if self.shares in _OWN and not (self.shares == "later calls" and begin):
            own = self._keys(x, weights, at, length, ("own_k", "own_v"))
            k, v = (own[n] if name in _OWN[self.shares] else new[n] for n, name in enumerate("kv"))
            new = new if self.shares == "later calls" else (k, v)
        valid = np.ones(x.shape[:2], np.bool_) if case.valid is None else case.valid[:, begin:end]
        flat = at if at.ndim == 2 else at[0]
        if kept is not None:
            k, v = np.concatenate([kept[0], k], 2), np.concatenate([kept[1], v], 2)
            new = np.concatenate([kept[0], new[0]], 2), np.concatenate([kept[1], new[1]], 2)
            valid, flat_keys = np.concatenate([kept[2], valid], 1), np.concatenate([kept[3], flat], 1)
        else:
            flat_keys = flat
        key_heads, value_heads = (heads_of(rule, HEAD_MAPS, hq, hkv) for rule in (self.key_map, self.value_map))
        scores = np.einsum("bhtd,bhsd->bhts", q, k[:, key_heads])
        scores = self._scaled(scores, weights, (*x.shape[:2], begin))
        scores = scores + self._slopes(hq)[:, None, None] * (flat_keys[:, None, None, :] - flat[:, None, :, None])
        keep = self._keep(begin, end)[None, None]
        if self.pads != "visible" and case.valid is not None:
            seen = {"hidden": valid, "reversed": ~valid, "first row": valid[:1]}[self.pads]
            keep = keep & seen[:, None, None, :]
        scores = np.where(keep, scores, -np.inf)
        top = scores.max(-1, keepdims=True)
        grown = np.where(keep, np.exp(scores - np.where(np.isneginf(top), 0, top)), 0)
        total = grown.sum(-1, keepdims=True)
        mixed = np.einsum("bhts,bhsd->bhtd", grown / np.where(total == 0, 1, total), v[:, value_heads])
        return self._joined(mixed, weights), (*new, valid, flat_keys)

    def _keys(
        self, x: Numbers, weights: Any, at: NDArray[np.int64], length: int, names: Sequence[str]
    ) -> tuple[Numbers, Numbers]:
        """Keys and values of new tokens."""
        k, v = (
            _split(x @ weights.matrix(name), weights.kv_heads, columns)
            for name, columns in zip(names, (self.k_columns, self.v_columns), strict=True)
        )
        k = self._bent("k", k, at, length, weights)
        return k, self._rotated(v, self.plan.rotary_at(length), at) if "v" in self.turned else v

    def _bent(self, side: str, x: Numbers, at: NDArray[np.int64], length: int, weights: Any) -> Numbers:
        """Norm and rotation of queries or keys."""
        place = self.norm or self.plan.norm or "none"
        if place == "before" and side in self.normed:
            x = self._normed(side, x, weights)
        if side in self.turned:
            own = self.q_rotary if side == "q" else self.k_rotary
            offset = self.q_offset if side == "q" else self.k_offset
            x = self._rotated(x, own or self.plan.rotary_at(length), at + offset)
        if place == "after" and side in self.normed:
            x = self._normed(side, x, weights)
        return x

    def _rotated(self, x: Numbers, rotary: "Rotary | LaidOut | None", at: NDArray[np.int64]) -> Numbers:
        if rotary is None:
            return x
        if self.table:
            at = np.minimum(at, self.table - 1)
        stage, name = self.rounded
        places: Any = at[..., None, :] if at.ndim == 2 else at[:, :, None]
        if stage == "positions":
            places = FORMATS[name].round(places.astype(np.float64))
        elif stage == "frequencies" and isinstance(rotary, Rotary):
            rounded = FORMATS[name].round(np.array(rotary.frequencies)).tolist()
            rotary = Rotary(tuple(rounded), rotary.layout, rotary.magnitude, rotary.start, rotary.axes)
        return np.asarray(rotary.rotate(x, places), np.float64)

    def _normed(self, side: str, x: Numbers, weights: Any) -> Numbers:
        given = {"q": weights.q_norm, "k": weights.k_norm}
        w = given[side if self.norm_weight != "exchanged" else "kq"["qk".index(side)]]
        w = np.ones(x.shape[-1]) if w is None or self.norm_weight == "none" else np.asarray(w, np.float64)
        w = 1 + w if self.norm_weight == "1 + w" else w
        eps = self.plan.eps if self.eps is None else self.eps
        axes = (-1,) if self.norm_axis == "head" else (1, 3)
        if self.norm_kind == "layer":
            x = x - x.mean(axes, keepdims=True)
        squares = (x * x).mean(axes, keepdims=True)
        if self.norm_kind == "l2":
            squares = (x * x).sum(axes, keepdims=True)
        return np.asarray(x / np.sqrt(squares + eps) * w)

    def _scaled(self, scores: Numbers, weights: Any, sizes: tuple[int, int, int]) -> Numbers:
        batch, length, past = sizes
        plain = weights.width**-0.5 if self.plan.scale is None else self.plan.scale
        if self.scale:
            letters = {"B": batch, "Hq": weights.heads, "Hkv": weights.kv_heads, "T": length, "S": past + length}
            rule = MORE_SCALES.get(self.scale)
            letters |= {"D": weights.width, "Dv": weights.width}
            plain = SCALES[self.scale](letters) if rule is None else rule(weights)
        cap = self.plan.softcap
        if cap is None or self.softcap == "none":
            return scores * (plain * self.factor)
        if self.softcap == "before scale":
            return np.asarray(cap * np.tanh(scores / cap) * (plain * self.factor))
        return np.asarray(cap * np.tanh(scores * (plain * self.factor) / cap))

    def _slopes(self, heads: int) -> Numbers:
        name = self.slopes or ("paper" if self.plan.alibi else "none")
        return np.zeros(heads) if name == "none" else self.slope_factor * np.array(SLOPES[name](heads))

    def _keep(self, begin: int, end: int) -> NDArray[np.bool_]:
        """Who sees whom, ``[end - begin, end]``, by the place in the sequence."""
        i, j = np.arange(begin, end)[:, None], np.arange(end)
        if begin and self.part_sight == "as planned":
            return replace(self, sight="", window_extra=0, part_sight="past and causal")._keep(begin, end)
        if begin and self.part_sight not in {"past and causal", "the last window"}:
            return {
                "row numbers": j <= i - begin,
                "all": j < end + 0 * i,
                "itself": (j >= begin) & (j <= i),
            }[self.part_sight]
        keep = np.ones((end - begin, end), np.bool_)
        sight = self.sight or ("causal" if self.plan.causal else "all")
        if sight != "all":
            keep &= j <= i + {"causal": 0, "strict": -1, "one ahead": 1}[sight]
        window = None if self.plan.window is None else self.plan.window + self.window_extra
        if window is not None and begin and self.part_sight == "the last window":
            keep &= j >= end - window
        if begin and self.part_window_of in {"all", "one token" if end - begin == 1 else "several tokens"}:
            window = window if self.part_window is None else self.part_window
        if window is not None:
            keep &= i - j < window
        return keep

    def _joined(self, mixed: Numbers, weights: Any) -> Numbers:
        batch, heads, length, width = mixed.shape
        mixed = mixed[:, heads_of(self.o_heads, HEAD_ORDERS, heads, weights.kv_heads)]
        order: Mapping[str, Sequence[int]] = {"heads first": (0, 2, 1, 3), "features first": (0, 2, 3, 1)}
        flat = mixed.transpose(order.get(self.o_rows, (0, 1, 2, 3))).reshape(batch, length, heads * width)
        if self.output == "none":
            return np.asarray(flat)
        matrix = weights.matrix("w_o")
        return np.asarray(flat @ (matrix.T if self.output == "transposed" else matrix))


MORE_SCALES: Mapping[str, Callable[[Any], float]] = MappingProxyType(
    {
        "1 / sqrt(M)": lambda weights: weights.hidden**-0.5,
        "1 / sqrt(M / Hkv)": lambda weights: (weights.hidden / weights.kv_heads) ** -0.5,
        "1 / sqrt(D / 2)": lambda weights: (weights.width / 2) ** -0.5,
    }
)
"""Scales that a layer can have beside those of a function of q, k, v."""


_OWN: Mapping[str, str] = MappingProxyType({"later calls": "kv", "never": "kv", "values": "k", "keys": "v"})
"""What a layer that should share makes with its own matrices, by where it shares."""


def _split(flat: Numbers, heads: int, columns: str) -> Numbers:
    batch, length, total = flat.shape
    if columns == "features first":
        return flat.reshape(batch, length, total // heads, heads).transpose(0, 3, 1, 2)
    if columns == "tokens first":
        return flat.reshape(batch, heads, length, total // heads)
    return flat.reshape(batch, length, heads, total // heads).transpose(0, 2, 1, 3)


def bound(reading: Reading, weights: Any, case: Case, roundoff: float) -> float:
    """Return how far a layer in arithmetic of a unit roundoff may be from `Reading.predict`, anywhere.

    Roundings of a sum of n products walk at random: 4 √n of them, times the root of the sum of the squared products,
    are four standard deviations of the walk and more.  Errors of a query meet the key at random too; errors of an
    angle do not, since its frequency is the same for all: ``|ln θ| + 5`` roundings of its size
    (`kvattn.testing.rotary_diagnosis.model`).  A norm makes relative errors of relative errors.  A weight is off by
    twice the largest error of a score, relatively, and by a rounding for each key.

    Examples
    --------
    >>> from kvattn.testing.layer_targets import Weights
    >>> one = Weights(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1)
    >>> 0 < bound(Reading(Plan()), one, Case(np.ones((1, 2, 1))), 2.0**-53) < 1e-13
    True
    """
    u, plan = roundoff, reading.plan
    length, width, hidden = case.x.shape[1], weights.width, weights.hidden
    walk = {n: 4 * u * math.sqrt(n) for n in (hidden, width, length, weights.heads * width)}

    def projected(name: str) -> tuple[Numbers, Numbers]:
        """The rows, and how far each feature may be off."""
        matrix = weights.matrix(name)
        return case.x @ matrix, (walk[hidden] + u) * np.sqrt(case.x**2 @ matrix**2)

    reach, feature, angle = {}, {}, {}
    for side, name, norm, heads in (
        ("q", "w_q", weights.q_norm, weights.heads),
        ("k", "w_k", weights.k_norm, weights.kv_heads),
    ):
        rows, errors = (_split(part, heads, "heads first") for part in projected(name))
        size, error = np.linalg.norm(rows, axis=-1), np.linalg.norm(errors, axis=-1) / math.sqrt(width)
        if plan.norm and norm is not None:
            top = float(np.abs(norm).max()) * math.sqrt(width)
            error = top * (2 * error / np.maximum(size, 1e-300) + (walk[width] + 6 * u) / math.sqrt(width))
            size = np.full_like(size, top)
        rotary, turned = plan.rotary_at(length), 0.0
        if rotary is not None:
            most = length if case.positions is None else int(np.abs(case.positions).max(initial=length))
            turns = [abs(x) * (abs(math.log(abs(x))) + 5) for x in rotary.frequencies if x]
            turned = u * (most * max(turns, default=0.0) + 8)
            error, size = rotary.magnitude * error, rotary.magnitude * size
        reach[side], feature[side] = float(size.max(initial=0.0)), float(error.max(initial=0.0))
        angle[side] = turned * reach[side]
    scale = abs(width**-0.5 if plan.scale is None else plan.scale)
    off = {side: feature[side] + angle[side] for side in "qk"}
    most_sized = reach["q"] * reach["k"]
    scores = scale * (off["q"] * reach["k"] + reach["q"] * off["k"] + (walk[width] + 4 * u) * most_sized)
    scores += 4 * u * (length if plan.alibi else 0)
    values, errors = projected("w_v")
    top = float(np.abs(values).max(initial=0.0))
    mixed = top * (math.expm1(min(2 * scores, 30.0)) + walk[length] + 8 * u) + float(errors.max(initial=0.0))
    column = float(np.sqrt((weights.matrix("w_o") ** 2).sum(0)).max())
    return column * (4 * mixed + (walk[weights.heads * width] + 2 * u) * top) + 1e-300
