"""Attention over rows that a cache stores as codes, and the small floats themselves, code by code.

    out = attention(q, k̂, v̂),      k̂ = decode(encode(k)),   v̂ alike

- "attention over coded rows": inputs ``q``, ``k``, ``v``, causal; ``keys`` and ``values``, each a format with what
  `kvattn.goldens.recipes.codecs_of_rows` says of it.
- "attention over settled rows": KIVI.  A query at position i sees codes of the tokens before i - i mod ``residual``,
  and the others as they came: ``bits``, keys by groups of ``group`` tokens of a channel, values by groups of so many
  channels of a token.
- "small floats": a ``format`` of ``codes [N]``, all of them, expects their ``values``; of ``x [N]``, ties and what lies
  beyond the largest number among them, it expects the ``nearest`` codes.

Expected otherwise: ``out`` and ``lse``.  Sources: Liu et al. 2024 (KIVI, arXiv 2402.02750) §3; OCP 8-bit floating point
1.0; OCP Microscaling 1.0 §5.3.3; Noune et al. 2022 (2206.02915) for e4m3fnuz.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
import math
from typing import Any

import numpy as np

from kvattn import codecs
from kvattn.caches.coded import Coded
from kvattn.caches.kivi_cache import KiviCache
from kvattn.caches.rows import KeyValue, key_value
from kvattn.core import streaming
from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._loops import Nested, before, fraction
from kvattn.goldens.recipes._told import told
from kvattn.goldens.recipes.codecs_of_rows import codec_of, coded
from kvattn.masks.causal import Causal
from kvattn.one_liners import attend

SCALES = Flag(
    "ScaleOfCachedRows",
    "KNOWN_BUG",
    "Leaves a scale out when keys or values are written or read, or takes one head's for all.",
    (
        "sgl-project/sglang#34765",
        "sgl-project/sglang#18818",
        "sgl-project/sglang#20705",
        "sgl-project/sgl-kernel-xpu#252",
        "sgl-project/sglang#26436",
    ),
)
SETTLED = Flag("SettledRows", "CACHE_STATE", "Makes codes of a token early or late, or of codes again.")
SMALL = Flag(
    "SmallFloats", "NUMERIC_RANGE", "Reads a code as another format's, or rounds ties or large numbers otherwise."
)

FLOATS = {"e4m3": (4, 3, 7), "e5m2": (5, 2, 15), "e2m1": (2, 1, 1), "e4m3fnuz": (4, 3, 8)}
"""Exponent bits, mantissa bits, bias."""


def _over_codes(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    k, v = (coded(n, a[name], p[side])["decoded"] for name, side in (("k", "keys"), ("v", "values")))
    return attention(n, a["q"], a["k"] if p.get("keys_as_they_came") else k, v, see=before)


def _over_settled(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    residual, group = p["residual"], p["group"]
    integers = {"format": "minimum", "bits": p["bits"], "scales": "float16"}
    whole = len(a["k"][0][0]) // group * group
    held = {name: [[head[:whole] for head in heads] for heads in a[name]] for name in ("k", "v")}
    by_channel, by_token = [1, group, 1], [1, 1, group]
    if p.get("keys_like_values"):
        by_channel = by_token
    k = coded(n, held["k"], {**integers, "sharing": by_channel})["decoded"]
    v = coded(n, held["v"], {**integers, "sharing": by_token})["decoded"]
    out: Nested = [[[] for _ in heads] for heads in a["q"]]
    lse: Nested = [[[] for _ in heads] for heads in a["q"]]
    for t in range(len(a["q"][0][0])):
        settled = t - t % residual
        if p.get("one_late"):
            settled = (t + 1) - (t + 1) % residual
        if p.get("never"):
            settled = 0
        mixed = {
            name: [
                [rows[:settled] + raw[settled : t + 1] for rows, raw in zip(*heads, strict=True)]
                for heads in zip(codes, a[name], strict=True)
            ]
            for name, codes in (("k", k), ("v", v))
        }
        answer = attention(n, [[[head[t]] for head in heads] for heads in a["q"]], mixed["k"], mixed["v"])
        for b, heads in enumerate(answer["out"]):
            for h, rows in enumerate(heads):
                out[b][h].append(rows[0])
                lse[b][h].append(answer["lse"][b][h][0])
    return {"out": out, "lse": lse}


def _read(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Sign, exponent, mantissa; what is no number is a plain float."""
    return {"values": [_value(n, code, p["format"]) for code in a["codes"]]}


def _value(n: Any, code: int, name: str) -> Any:
    exponent, mantissa, bias = FLOATS[name]
    sign = -1 if code >> (exponent + mantissa) else 1
    field, part = (code >> mantissa) & ((1 << exponent) - 1), code & ((1 << mantissa) - 1)
    top = field == (1 << exponent) - 1
    if name == "e4m3fnuz" and code == 128:
        return math.nan
    if name == "e4m3" and top and part == 7:
        return math.nan
    if name == "e5m2" and top:
        return sign * math.inf if part == 0 else math.nan
    if field == 0:
        return n(float(sign * part * Fraction(2) ** (1 - bias - mantissa) + 0))
    return n(float(sign * (1 + Fraction(part, 1 << mantissa)) * Fraction(2) ** (field - bias)))


def _written(_: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """By looking for the nearest of all numbers; a tie goes to the even code."""
    exponent, mantissa, _bias = FLOATS[p["format"]]
    plain = [_value(float, code, p["format"]) for code in range(1 << (exponent + mantissa))]
    known = [(code, value) for code, value in enumerate(plain) if math.isfinite(value)]
    found = []
    for number in a["x"]:
        x = fraction(number, 2**20)
        wrong = 0 if p.get("ties_to_odd") else 1
        code = min((abs(abs(x) - Fraction(value)), code % 2 == wrong, code) for code, value in known)[2]
        beyond = abs(x) > Fraction(known[-1][1])
        if beyond and p.get("no_number_beyond"):
            code = (1 << (exponent + mantissa)) - 1
        negative = x < 0 and (p["format"] != "e4m3fnuz" or code > 0)
        found.append(code | int(negative) << (exponent + mantissa))
    return {"nearest": found}


def _coded_forms() -> dict[str, Ours]:
    def rounded(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        k, v = (
            codec.decode(codec.encode(rows), np.float64)
            for codec, rows in ((codec_of(p["keys"]), inputs["k"]), (codec_of(p["values"]), inputs["v"]))
        )
        return dict(attend(inputs["q"], k, v, mask=Causal())._asdict())

    def cached(cuts: tuple[int, ...]) -> Ours:
        def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            k, v = inputs["k"], inputs["v"]
            schema = key_value(k.shape[1], k.shape[3], v.shape[3])
            cache = Coded.start(schema, keys=codec_of(p["keys"]), values=codec_of(p["values"]), batch=len(k), page=2)
            return _stepped(cache, inputs, cuts)

        return ours

    return {"rounded": rounded, "coded cache": cached(()), "coded cache in pieces": cached((1, 2))}


def _kivi_forms() -> dict[str, Ours]:
    def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        k, v = inputs["k"], inputs["v"]
        schema = key_value(k.shape[1], k.shape[3], v.shape[3])
        kivi = codecs.Kivi(p["bits"], p["group"], p["residual"])
        return _stepped(KiviCache.start(schema, kivi, batch=len(k)), inputs, tuple(range(1, k.shape[2])))

    return {"one by one": ours}


def _stepped(cache: Any, inputs: Mapping[str, Any], cuts: tuple[int, ...]) -> dict[str, Any]:
    """Append and attend, part by part."""
    q, k, v = (inputs[name] for name in "qkv")
    found, edges = [], [0, *cuts, k.shape[2]]
    for first, last in pairwise(edges):
        part = slice(first, last)
        at = cache.coming(last - first)
        cache = cache.append(KeyValue(k[:, :, part], v[:, :, part]))
        blocks = [cache.blocks(b) for b in range(len(k))]
        found.append(streaming.attend(q[:, :, part], at, blocks, value_width=v.shape[3], mask=Causal()))
    return {name: np.concatenate([getattr(one, name) for one in found], axis=2) for name in ("out", "lse")}


def _small_forms() -> dict[str, Ours]:
    kinds = {"e4m3": codecs.E4M3FN, "e5m2": codecs.E5M2, "e2m1": codecs.E2M1, "e4m3fnuz": codecs.E4M3FNUZ}

    def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        kind = kinds[p["format"]]
        if "codes" in inputs:
            return {"values": kind.decode(inputs["codes"].astype(np.uint8))}
        return {"nearest": kind.encode(inputs["x"]).astype(np.int64)}

    return {"small float": ours}


def _attended() -> tuple[Recipe, ...]:
    def rows(tokens: int, width: int, value_width: int) -> dict[str, Any]:
        label = f"coded attention {tokens} {width} {value_width} "
        k, v = drawn(label + "k", 1, 2, tokens, width), drawn(label + "v", 1, 2, tokens, value_width)
        k[:, 1] /= 8
        v[:, 1] /= 8
        return {"q": drawn(label + "q", 1, 4, tokens, width), "k": k, "v": v}

    def case(name: str, comment: str, inputs: Any, keys: Any, values: Any, mistakes: Any, **others: Any) -> Recipe:
        words = (f"codecs/attention/{name}", "caches/coded", "attention over coded rows", comment)
        given = {"keys": keys, "values": values}
        return told(*words, inputs, given, _over_codes, _coded_forms(), flags=(SCALES,), mistakes=mistakes, **others)

    token_head = [1, 1, None]
    integers = {"format": "symmetric", "bits": 8, "sharing": token_head}
    fixed = {"format": "e4m3", "sharing": token_head, "scales": [2.0, 0.25]}
    zero = {**integers, "format": "zero point"}
    first, bare = {"first_head_for_all": True}, {"read_unscaled": True}
    settled = rows(9, 8, 4)
    return (
        case(
            "integers",
            "Eight-bit keys and values, a scale for each token of each head; the heads differ by a factor of 8.",
            rows(5, 6, 3),
            integers,
            integers,
            {
                "the first head's scales for all keys": {"keys": {**integers, **first}},
                "values read without their scales": {"values": {**integers, **bare}},
                "keys that were not rounded": {"keys_as_they_came": True},
            },
        ),
        case(
            "floats",
            "E4M3 with a scale for each head, given beforehand: 2 and 1/4.",
            rows(5, 6, 3),
            fixed,
            fixed,
            {
                "written without scales, read with them": {
                    "keys": {**fixed, "written_unscaled": True},
                    "values": {**fixed, "written_unscaled": True},
                },
                "values read without their scales": {"values": {**fixed, **bare}},
                "read with the first head's scale": {
                    "keys": {**fixed, "read_by_first_head": True},
                    "values": {**fixed, "read_by_first_head": True},
                },
            },
            sibling="codecs/attention/integers",
        ),
        case(
            "four-bit-values",
            "Eight-bit keys with a zero point, four-bit values.",
            rows(5, 6, 4),
            zero,
            {**integers, "bits": 4},
            {"eight bits for values too": {"values": integers}},
        ),
        case(
            "blocks",
            "llama.cpp's q8_0 for keys and q4_0 for values.",
            rows(3, 32, 32),
            {"format": "q8_0"},
            {"format": "q4_0"},
            {
                "the same for both": {"values": {"format": "q8_0"}},
                "the sign lost": {"values": {"format": "q4_0", "sign_lost": True}},
            },
        ),
        told(
            "codecs/attention/settled",
            "caches/kivi_cache",
            "attention over settled rows",
            "KIVI: two bits, groups of two, a residual of four; tokens settle when the first one behind them comes.",
            settled,
            {"bits": 2, "group": 2, "residual": 4},
            _over_settled,
            _kivi_forms(),
            flags=(SETTLED,),
            mistakes={
                "settled one token early": {"one_late": True},
                "never settled": {"never": True},
                "keys like values": {"keys_like_values": True},
            },
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of coded attention and of small floats.

    >>> len({recipe.name for recipe in recipes()})
    12
    """
    every = {name: np.arange(16 if name == "e2m1" else 256) for name in FLOATS}
    marks = {
        "e4m3": "An exponent of all ones is a number, but for the last code.",
        "e5m2": "Infinities and NaN as in IEEE 754.",
        "e2m1": "Sixteen numbers, none of them special.",
        "e4m3fnuz": "One bias more, one zero, NaN where -0 would be.",
    }
    other = {"e4m3": "e4m3fnuz", "e4m3fnuz": "e4m3", "e5m2": "e4m3", "e2m1": "e4m3"}
    small = [2.0**-10, 3 * 2.0**-10, -(2.0**-9)]
    ties = {
        "e4m3": [1.0625, 1.1875, -1.0625, *small, 0.0, 17.0, 19.0, 448.0, 464.0, -1000.0, 0.3125],
        "e5m2": [1.125, 1.375, -1.125, 2.0**-17, 3 * 2.0**-17, 0.0, 9.0, 11.0, 57344.0, 61440.0, -99999.0, 0.15625],
        "e2m1": [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -5.0, 6.5, -100.0, 0.0, 2.75],
    }

    def case(name: str, comment: str, inputs: Any, given: Any, formula: Any, mistakes: Any) -> Recipe:
        words = (f"codecs/small-floats/{name}", "codecs/small_float", "small floats", comment)
        return told(*words, inputs, given, formula, _small_forms(), flags=(SMALL,), mistakes=mistakes)

    return (
        *_attended(),
        *(
            case(
                f"all-{name}",
                marks[name],
                {"codes": codes},
                {"format": name},
                _read,
                {f"read as {other[name]}": {"format": other[name]}},
            )
            for name, codes in every.items()
        ),
        *(
            case(
                f"ties-{name}",
                "Ties go to the even code; beyond the largest number stands the largest.",
                {"x": np.array(numbers)},
                {"format": name},
                _written,
                {"ties to the odd code": {"ties_to_odd": True}}
                | ({} if name == "e2m1" else {"the last code beyond the largest": {"no_number_beyond": True}}),
            )
            for name, numbers in ties.items()
        ),
    )
