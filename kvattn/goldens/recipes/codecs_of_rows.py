"""Rows of numbers as codes and scales: GGUF blocks, eight- and four-bit floats, integers.

"coded rows": input ``x [B, H, T, D]``; a ``format``

    q8_0, q4_0                      blocks of 32 as ggml writes them
    e4m3, e5m2                      a float32 scale from the numbers, or scales given beforehand, one or one a head
    mxfp4, nvfp4                    a power of two for 32; an E4M3 scale for 16, all times scale
    symmetric, zero point, minimum  integers of so many bits, scales in float32 unless given; where rotated,
                                    behind a Hadamard rotation of the channels over the root of their number

and for scales of the numbers a ``sharing``: so many heads, tokens and channels share one, null for all of them.
Expected: ``blocks`` of bytes; or ``codes`` (two or four to a byte, the first channel lowest), ``scales`` and ``zeros``
as they are stored; and ``decoded``, what they are read back as, exactly.  Rounding is done on fractions, step by step
as each format says.

Sources: ggml-quants.c (``quantize_row_q8_0_ref``, ``quantize_row_q4_0_ref``); OCP 8-bit floating point 1.0; OCP
Microscaling 1.0 §5 and §6.3; NVIDIA 2025 (arXiv 2509.25149); Jacob et al. 2018 (1712.05877) §2.1; Liu et al. 2024
(KIVI, 2402.02750) §3; Ashkboos et al. 2024 (2404.00456).
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
import math
from typing import Any, NamedTuple

import numpy as np

from kvattn import codecs
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._loops import Nested, fraction
from kvattn.goldens.recipes._told import told

SCALES = Flag(
    "ScaleSharing",
    "KNOWN_BUG",
    "Takes one head's scale for all, shares a scale along another axis, or leaves a scale out when writing or reading.",
    (
        "sgl-project/sgl-kernel-xpu#252",
        "sgl-project/sglang#26436",
        "sgl-project/sglang#34765",
        "sgl-project/sglang#18818",
        "sgl-project/sglang#20705",
        "raullenchai/Rapid-MLX#1219",
    ),
)
ROUNDING = Flag("CodeRounding", "NUMERIC_RANGE", "Rounds ties the other way, or a scale before its codes are made.")
PACKING = Flag(
    "CodePacking",
    "LAYOUT",
    "Puts other channels, or the same in another order, into a byte, or reads rows without the scales between them.",
    ("ovg-project/kvcached#424",),
)
RANGE = Flag("CodeRange", "EDGE_CASE", "Gives infinity or NaN beyond the largest number instead of that number.")

Rows = list[Fraction]


class _Kind(NamedTuple):
    """A small float: mantissa bits, the least exponent, the largest number, exponent bits."""

    mantissa: int
    least: int
    largest: int
    exponent: int


FLOATS = {
    "float32": _Kind(23, -126, 2**127, 8),
    "float16": _Kind(10, -14, 65504, 5),
    "e4m3": _Kind(3, -6, 448, 4),
    "e5m2": _Kind(2, -14, 57344, 5),
    "e2m1": _Kind(1, 0, 6, 2),
}


def _log2(x: Fraction) -> int:
    """The largest e with 2^e <= x."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def _rounded(x: Fraction, name: str) -> Fraction:
    """To nearest, ties to even, at most the largest number."""
    kind = FLOATS[name]
    if not x:
        return x
    step = Fraction(2) ** (max(_log2(abs(x)), kind.least) - kind.mantissa)
    found = round(x / step) * step
    return max(min(found, Fraction(kind.largest)), Fraction(-kind.largest))


def _bits(x: Fraction, negative: bool, name: str) -> int:
    """Sign, exponent, mantissa of a number of the format."""
    kind, size = FLOATS[name], abs(x)
    e = max(_log2(size), kind.least) if size else kind.least
    parts = int(size / Fraction(2) ** (e - kind.mantissa))
    normal = parts >= 1 << kind.mantissa
    field = (e - kind.least + 1 if normal else 0) << kind.mantissa | parts & ((1 << kind.mantissa) - 1)
    return int(negative) << (kind.exponent + kind.mantissa) | field


def _half_away(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2)) if x >= 0 else math.ceil(x - Fraction(1, 2))


def _half_bytes(x: Fraction, negative: bool) -> list[int]:
    bits = _bits(x, negative, "float16")
    return [bits & 255, bits >> 8]


def _q8_0(row: Rows, p: Mapping[str, Any]) -> tuple[list[int], Rows]:
    """32 codes and a scale: every operation in float32."""
    d = _rounded(max(abs(x) for x in row) / 127, "float32")
    if p.get("scale_rounded_first"):
        d = _rounded(d, "float16")
    back = _rounded(1 / d, "float32") if d else Fraction(0)
    codes = [(round if p.get("ties_to_even") else _half_away)(_rounded(x * back, "float32")) for x in row]
    kept = _rounded(d, "float16")
    return [*_half_bytes(kept, False), *(code & 255 for code in codes)], [code * kept for code in codes]


def _q4_0(row: Rows, p: Mapping[str, Any]) -> tuple[list[int], Rows]:
    """32 nibbles and a scale, negative where the largest number is positive."""
    top = max(row, key=abs)
    d = _rounded((abs(top) if p.get("sign_lost") else top) / -8, "float32")
    back = _rounded(1 / d, "float32") if d else Fraction(0)
    moved = [_rounded(_rounded(x * back, "float32") + Fraction(17, 2), "float32") for x in row]
    codes = [max(0, min(15, math.floor(x))) for x in moved]
    kept = _rounded(d, "float16")
    if p.get("neighbours"):
        nibbles = [low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True)]
    else:
        nibbles = [low | high << 4 for low, high in zip(codes[:16], codes[16:], strict=True)]
    return [*_half_bytes(kept, kept < 0 or not kept), *nibbles], [(code - 8) * kept for code in codes]


def _blocks(n: Numbers, x: Nested, p: Mapping[str, Any]) -> dict[str, Nested]:
    one = {"q8_0": _q8_0, "q4_0": _q4_0}[p["format"]]

    def row(values: Rows) -> tuple[list[int], Nested]:
        found = [one(values[first : first + 32], p) for first in range(0, len(values), 32)]
        return [b for part, _ in found for b in part], [n(float(y)) for _, part in found for y in part]

    done = [[[row(values) for values in head] for head in heads] for heads in x]
    return {
        name: [[[pair[i] for pair in head] for head in heads] for heads in done]
        for i, name in enumerate(("blocks", "decoded"))
    }


class _Boxes(NamedTuple):
    """Who shares a scale: so many heads, tokens and channels; None for all of them."""

    heads: int | None
    tokens: int | None
    width: int | None

    def shape(self, heads: int, tokens: int, width: int) -> tuple[int, int, int]:
        """How many boxes there are along each axis."""
        sizes = zip((heads, tokens, width), self, strict=True)
        return tuple(1 if each is None else size // each for size, each in sizes)  # type: ignore[return-value]

    def of(self, h: int, t: int, d: int) -> tuple[int, int, int]:
        """The box of a number."""
        places = zip((h, t, d), self, strict=True)
        return tuple(0 if each is None else at // each for at, each in places)  # type: ignore[return-value]


Spread = Callable[[int, int, int], Any]


def _shared(x: Nested, boxes: _Boxes, read: Callable[[Rows], Any]) -> tuple[Nested, Callable[[int], Spread]]:
    """One entry for each box of each sequence, as nested lists, and how a number finds its own."""
    found = []
    for heads in x:
        held: dict[Any, Rows] = {}
        for h, rows in enumerate(heads):
            for t, row in enumerate(rows):
                for d, value in enumerate(row):
                    held.setdefault(boxes.of(h, t, d), []).append(value)
        found.append({box: read(values) for box, values in held.items()})
    tall, long, wide = boxes.shape(len(x[0]), len(x[0][0]), len(x[0][0][0]))
    nested = [[[[each[i, j, k] for k in range(wide)] for j in range(long)] for i in range(tall)] for each in found]
    return nested, lambda b: lambda h, t, d: found[b][boxes.of(h, t, d)]


def _mapped(x: Nested, change: Callable[[int, int, int, int, Fraction], Any]) -> Nested:
    def row(b: int, h: int, t: int, values: Rows) -> list[Any]:
        return [change(b, h, t, d, y) for d, y in enumerate(values)]

    return [
        [[row(b, h, t, values) for t, values in enumerate(rows)] for h, rows in enumerate(heads)]
        for b, heads in enumerate(x)
    ]


def _packed(codes: Nested, bits: int, high_first: bool = False) -> Nested:
    """Small codes in bytes, the lowest channel in the lowest bits."""
    each = 8 // bits

    def packed(row: list[int]) -> list[int]:
        groups = [row[first : first + each] for first in range(0, len(row), each)]
        if high_first:
            groups = [group[::-1] for group in groups]
        return [sum((code & ((1 << bits) - 1)) << (bits * i) for i, code in enumerate(group)) for group in groups]

    return [[[packed(row) for row in rows] for rows in heads] for heads in codes]


def _numbers(n: Numbers, values: Nested) -> Nested:
    return [_numbers(n, value) for value in values] if isinstance(values, list) else n(float(values))


def _small_floats(n: Numbers, x: Nested, p: Mapping[str, Any]) -> dict[str, Nested]:
    """A scale from the numbers, or one for each head given beforehand."""
    name, boxes = p["format"], _Boxes(*p["sharing"])
    given = p.get("scales")

    def scale(values: Rows) -> Fraction:
        return _rounded(max(abs(y) for y in values) / FLOATS[name].largest, "float32")

    nested, spread = _shared(x, boxes, scale)

    def of(b: int, h: int, t: int, d: int) -> Fraction:
        if given is None:
            return Fraction(spread(b)(0 if p.get("first_head_for_all") else h, t, d))
        return Fraction(given[0 if len(given) == 1 or p.get("first_head_for_all") else h])

    def code(b: int, h: int, t: int, d: int, y: Fraction) -> Fraction:
        each = Fraction(1) if p.get("written_unscaled") else of(b, h, t, d)
        return _rounded(y / each, name) if each else Fraction(0)

    def back(b: int, h: int, t: int, d: int) -> Fraction:
        return Fraction(1) if p.get("read_unscaled") else of(b, 0 if p.get("read_by_first_head") else h, t, d)

    rounded = _mapped(x, code)
    bits = _mapped(x, lambda b, h, t, d, y: _bits(rounded[b][h][t][d], y < 0, name))
    read = _mapped(x, lambda b, h, t, d, y: rounded[b][h][t][d] * back(b, h, t, d))
    scales = {} if given is not None else {"scales": _numbers(n, nested)}
    return {"codes": bits, **scales, "decoded": _numbers(n, read)}


def _four_bit_floats(n: Numbers, x: Nested, p: Mapping[str, Any]) -> dict[str, Nested]:
    """MXFP4: a power of two for 32 numbers; NVFP4: an E4M3 scale for 16, all under one of float32."""
    if p["format"] == "mxfp4":
        boxes = _Boxes(1, 1, 32)

        def exponent(values: Rows) -> int:
            top = max(abs(y) for y in values)
            return max(_log2(top) - 2, -127) if top else -127

        stored, spread = _shared(x, boxes, exponent)
        kept = _numbered(stored, lambda e: e + 127)

        def of(b: int, h: int, t: int, d: int) -> Fraction:
            return Fraction(2) ** int(spread(b)(h, t, d))
    else:
        boxes, whole = _Boxes(1, 1, 16), Fraction(p["scale"])

        def block(values: Rows) -> Fraction:
            return _rounded(max(abs(y) for y in values) / 6 / whole, "e4m3")

        stored, spread = _shared(x, boxes, block)
        kept = _numbered(stored, lambda value: _bits(value, False, "e4m3"))

        def of(b: int, h: int, t: int, d: int) -> Fraction:
            return Fraction(spread(b)(h, t, d)) * whole

    def code(b: int, h: int, t: int, d: int, y: Fraction) -> Fraction:
        each = of(b, h, t, d)
        return _rounded(y / each, "e2m1") if each else Fraction(0)

    rounded = _mapped(x, code)
    bits = _mapped(x, lambda b, h, t, d, y: _bits(rounded[b][h][t][d], y < 0, "e2m1"))
    over = Fraction(p["scale"]) if p.get("whole_scale_left_out") else Fraction(1)
    read = _mapped(x, lambda b, h, t, d, y: rounded[b][h][t][d] * of(b, h, t, d) / over)
    return {
        "codes": _packed(bits, 4, p.get("high_nibble_first", False)),
        "scales": kept,
        "decoded": _numbers(n, read),
    }


def _numbered(values: Nested, change: Callable[[Any], int]) -> Nested:
    return [_numbered(value, change) for value in values] if isinstance(values, list) else change(values)


def _integers(n: Numbers, x: Nested, p: Mapping[str, Any]) -> dict[str, Nested]:
    """Signed around zero, unsigned with a zero point, or unsigned above the minimum."""
    bits, boxes, kind, dtype = p["bits"], _Boxes(*p["sharing"]), p["format"], p.get("scales", "float32")
    top = 2 ** (bits - 1) - 1 if kind == "symmetric" else 2**bits - 1

    def read(values: Rows) -> tuple[Fraction, Fraction]:
        low, high = min(values), max(values)
        if kind == "symmetric":
            return _rounded(max(-low, high) / top, dtype), Fraction(0)
        if kind == "minimum":
            return _rounded((high - low) / top, dtype), _rounded(low, dtype)
        low, high = min(low, Fraction(0)), max(high, Fraction(0))
        scale = _rounded((high - low) / top, dtype)
        return scale, Fraction(max(0, min(top, round(-low / scale)))) if scale else Fraction(0)

    nested, spread = _shared(x, boxes, read)

    def of(b: int, h: int, t: int, d: int) -> tuple[Fraction, Fraction]:
        pair: tuple[Fraction, Fraction] = spread(b)(0 if p.get("first_head_for_all") else h, t, d)
        return pair

    def code(b: int, h: int, t: int, d: int, y: Fraction) -> int:
        scale, zero = of(b, h, t, d)
        if kind == "symmetric":
            return max(-int(top), min(int(top), round(y / scale))) if scale else 0
        moved = (y - zero) / scale if kind == "minimum" and scale else y / scale if scale else Fraction(0)
        return max(0, min(int(top), round(moved) + (int(zero) if kind == "zero point" else 0)))

    def back(b: int, h: int, t: int, d: int, _: Fraction) -> Fraction:
        scale, zero = of(b, h, t, d)
        q = Fraction(codes[b][h][t][d])
        scale = Fraction(1) if p.get("read_unscaled") else scale
        return q * scale + zero if kind == "minimum" else (q - zero) * scale

    codes = _mapped(x, code)
    found = {"codes": codes if bits == 8 else _packed(codes, bits, p.get("high_nibble_first", False))}
    found["scales"] = _numbers(n, _part(nested, 0))
    if kind == "minimum":
        found["zeros"] = _numbers(n, _part(nested, 1))
    if kind == "zero point":
        found["zeros"] = _numbered(_part(nested, 1), int)
    return {**found, "decoded": _numbers(n, _mapped(x, back))}


def _part(values: Nested, i: int) -> Nested:
    return [_part(value, i) for value in values] if isinstance(values, list) else values[i]


def _turned(n: Numbers, x: Nested, p: Mapping[str, Any]) -> dict[str, Nested]:
    """A Hadamard rotation of sixteen channels in front of integers, and back behind them."""
    width = len(x[0][0][0])

    def sign(i: int, j: int) -> int:
        return -1 if (i & j).bit_count() % 2 else 1

    def over(row: Any) -> Any:
        return [sum(sign(i, j) * y for j, y in enumerate(row)) / math.isqrt(width) for i in range(width)]

    turned = [[[over(row) for row in rows] for rows in heads] for heads in x]
    inner = _integers(n, turned, p)
    if p.get("not_turned_back"):
        return inner

    def returned(row: Any) -> Any:
        return [n.sum(sign(i, j) * y for j, y in enumerate(row)) / math.isqrt(width) for i in range(width)]

    back = [[[returned(row) for row in rows] for rows in heads] for heads in inner["decoded"]]
    return {**inner, "decoded": back}


_FORMATS = {
    "q8_0": _blocks,
    "q4_0": _blocks,
    "e4m3": _small_floats,
    "e5m2": _small_floats,
    "mxfp4": _four_bit_floats,
    "nvfp4": _four_bit_floats,
    "symmetric": _integers,
    "zero point": _integers,
    "minimum": _integers,
}


def coded(n: Numbers, numbers: Nested, p: Mapping[str, Any]) -> dict[str, Nested]:
    """The format of parameters ``p`` on ``numbers [B][H][T][D]``, parts of 128 all of them.

    >>> from kvattn.goldens.numbers import Decimals
    >>> n = Decimals()
    >>> coded(n, [[[[n(1.0), n(-0.5)]]]], {"format": "symmetric", "bits": 8, "sharing": [1, 1, None]})["codes"]
    [[[[127, -64]]]]
    """
    x = [[[[fraction(y, 128) for y in row] for row in rows] for rows in heads] for heads in numbers]
    return _turned(n, x, p) if p.get("rotated") else _FORMATS[p["format"]](n, x, p)


def _coded(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    return coded(n, a["x"], p)


def codec_of(p: Mapping[str, Any]) -> Any:
    """kvattn's codec of a case's parameters.

    >>> codec_of({"format": "q8_0"})
    Q8_0()
    """
    name = p["format"]
    if name in {"q8_0", "q4_0", "mxfp4"}:
        return {"q8_0": codecs.Q8_0, "q4_0": codecs.Q4_0, "mxfp4": codecs.MXFP4}[name]()
    if name == "nvfp4":
        return codecs.NVFP4(p["scale"])
    sharing = codecs.Sharing(*p["sharing"])
    if name in {"e4m3", "e5m2"}:
        kind = codecs.E4M3FN if name == "e4m3" else codecs.E5M2
        fixed = p.get("scales")
        return codecs.Float8(kind, sharing) if fixed is None else codecs.Float8Fixed(kind, tuple(fixed))
    kinds: Any = {"symmetric": codecs.Symmetric, "zero point": codecs.ZeroPoint, "minimum": codecs.Minimum}
    made = kinds[name](p["bits"], sharing, np.dtype(p.get("scales", "float32")))
    return codecs.Rotated(made) if p.get("rotated") else made


def _forms(alone: bool) -> dict[str, Ours]:
    """All tokens at once, and token by token where each stands alone."""

    def whole(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        codec = codec_of(p)
        codes = codec.encode(inputs["x"])
        found = {name: np.asarray(array) for name, array in codes._asdict().items()}
        found |= {name: array.astype(np.float64) for name, array in found.items() if array.dtype.kind == "f"}
        found |= {name: array.astype(np.int64) for name, array in found.items() if array.dtype.kind in "iu"}
        return {**found, "decoded": codec.decode(codes, np.float64)}

    def apart(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        x = inputs["x"]
        parts = [whole({"x": x[:, :, t : t + 1]}, p) for t in range(x.shape[2])]
        return {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}

    return {"at once": whole, "token by token": apart} if alone else {"at once": whole}


def _case(
    name: str,
    row: str,
    comment: str,
    x: Any,
    parameters: dict[str, Any],
    mistakes: dict[str, Any],
    *flags: Flag,
    alone: bool = True,
    sibling: str | None = None,
) -> Recipe:
    words = (f"codecs/{name}", f"codecs/{row}", "coded rows", comment)
    sibling = sibling and f"codecs/{sibling}"
    return told(*words, {"x": x}, parameters, _coded, _forms(alone), sibling=sibling, flags=flags, mistakes=mistakes)


def recipes() -> tuple[Recipe, ...]:
    """The cases of codecs.

    >>> len({recipe.name for recipe in recipes()})
    22
    """
    wide = drawn("codecs wide 66", 1, 2, 3, 32)
    wide[:, 1] /= 8
    even = wide.copy()
    even[0, 0, 1] = 0.0
    narrow = drawn("codecs narrow", 1, 2, 5, 8)
    narrow[:, 1] /= 8
    far = narrow + 6.0
    rotated = drawn("codecs rotated", 1, 2, 3, 16)
    rotated[..., 5] *= 8
    token_head, token, tensor, channel, head = (
        [1, 1, None],
        [None, 1, None],
        [None, None, None],
        [1, None, 1],
        [1, None, None],
    )
    ties = np.zeros((1, 2, 3, 32))
    ties[...] = np.arange(1, 64, 2) / 32 * (-1.0) ** np.arange(32)
    ties[..., 0] = 127 / 16
    first = {"the first head's scale for all": {"first_head_for_all": True}}
    floats = {"format": "e4m3", "sharing": token_head}
    ints = {"format": "symmetric", "bits": 8, "sharing": token_head}
    return (
        _case(
            "blocks/q8-0",
            "q8_0",
            "Bytes as ggml writes them: the scale in float16, codes made with the scale before that rounding.",
            wide,
            {"format": "q8_0"},
            {"the scale rounded first": {"scale_rounded_first": True}},
            ROUNDING,
        ),
        _case(
            "blocks/q8-0-zeros",
            "q8_0",
            "A block of zeros has scale 0 and codes 0.",
            even,
            {"format": "q8_0"},
            {"the scale rounded first": {"scale_rounded_first": True}},
            RANGE,
            sibling="blocks/q8-0",
        ),
        _case(
            "blocks/q8-0-ties",
            "q8_0",
            "Every number but the largest lies between two codes: ties go away from zero.",
            ties,
            {"format": "q8_0"},
            {"ties to even": {"ties_to_even": True}},
            ROUNDING,
            sibling="blocks/q8-0",
        ),
        _case(
            "blocks/q4-0",
            "q4_0",
            "Channel i beside channel i + 16; the scale has the other sign of the number of largest size.",
            wide,
            {"format": "q4_0"},
            {"neighbours in a byte": {"neighbours": True}, "the sign lost": {"sign_lost": True}},
            PACKING,
        ),
        _case(
            "blocks/q4-0-zeros",
            "q4_0",
            "A block of zeros has scale -0 and codes 8.",
            even,
            {"format": "q4_0"},
            {"neighbours in a byte": {"neighbours": True}},
            RANGE,
            sibling="blocks/q4-0",
        ),
        _case(
            "floats/e4m3",
            "float8",
            "A scale for each token of each head: the largest number becomes 448.",
            narrow,
            floats,
            {**first, "read back without the scale": {"read_unscaled": True}},
            SCALES,
        ),
        _case(
            "floats/e4m3-of-the-tensor",
            "float8",
            "One scale for all: the small head loses its small numbers.",
            narrow,
            {**floats, "sharing": tensor},
            {"a scale for each token": {"sharing": token_head}},
            SCALES,
            alone=False,
            sibling="floats/e4m3",
        ),
        _case(
            "floats/e5m2",
            "float8",
            "Two bits of mantissa, up to 57344.",
            narrow,
            {**floats, "format": "e5m2"},
            {"e4m3": {"format": "e4m3"}},
            SCALES,
            sibling="floats/e4m3",
        ),
        _case(
            "floats/e4m3-fixed",
            "float8_fixed",
            "A scale for each head, given beforehand; what is beyond 448 times it becomes that.",
            narrow,
            {**floats, "scales": [2.0**-8, 2.0**-10]},
            {**first, "written without the scale": {"written_unscaled": True}},
            SCALES,
            RANGE,
            sibling="floats/e4m3",
        ),
        _case(
            "floats/e5m2-cast",
            "float8_fixed",
            "A plain cast: scale 1.",
            narrow,
            {**floats, "format": "e5m2", "scales": [1.0]},
            {"e4m3": {"format": "e4m3"}},
            ROUNDING,
            sibling="floats/e5m2",
        ),
        _case(
            "floats/mxfp4",
            "mxfp4",
            "A power of two for 32 numbers, at most 6 times it; the lower channel in the low nibble.",
            wide,
            {"format": "mxfp4"},
            {"the higher channel in the low nibble": {"high_nibble_first": True}},
            PACKING,
            RANGE,
        ),
        _case(
            "floats/mxfp4-zeros",
            "mxfp4",
            "A block of zeros has the exponent -127.",
            even,
            {"format": "mxfp4"},
            {"the higher channel in the low nibble": {"high_nibble_first": True}},
            RANGE,
            sibling="floats/mxfp4",
        ),
        _case(
            "floats/nvfp4",
            "nvfp4",
            "An E4M3 scale for 16 numbers, all under one scale for the tensor.",
            wide,
            {"format": "nvfp4", "scale": 2.0**-10},
            {
                "the tensor's scale left out": {"whole_scale_left_out": True},
                "the higher channel in the low nibble": {"high_nibble_first": True},
            },
            SCALES,
            PACKING,
        ),
        _case(
            "integers/symmetric-8",
            "symmetric",
            "Codes from -127 to 127; zero is exact.",
            narrow,
            ints,
            {**first, "read back without the scale": {"read_unscaled": True}},
            SCALES,
        ),
        _case(
            "integers/symmetric-8-by-channel",
            "symmetric",
            "A scale for each channel over all tokens.",
            narrow,
            {**ints, "sharing": channel},
            {
                "a scale for each token": {"sharing": token_head},
                "for each channel of all heads": {"sharing": [None, None, 1]},
            },
            SCALES,
            alone=False,
            sibling="integers/symmetric-8",
        ),
        _case(
            "integers/symmetric-8-by-token",
            "symmetric",
            "A scale for each token over all heads.",
            narrow,
            {**ints, "sharing": token},
            {"a scale for each head": {"sharing": head}, "for each token of each head": {"sharing": token_head}},
            SCALES,
            sibling="integers/symmetric-8",
        ),
        _case(
            "integers/symmetric-4",
            "symmetric",
            "Codes from -7 to 7 in two's complement, two in a byte, scales in float16.",
            narrow,
            {**ints, "bits": 4, "scales": "float16"},
            {
                "the higher channel in the low nibble": {"high_nibble_first": True},
                "scales in float32": {"scales": "float32"},
            },
            PACKING,
            sibling="integers/symmetric-8",
        ),
        _case(
            "integers/symmetric-4-rotated",
            "hadamard",
            "A channel eight times as large, shared out over all by a Hadamard rotation.",
            rotated,
            {**ints, "bits": 4, "rotated": True},
            {"not rotated": {"rotated": False}, "not turned back": {"not_turned_back": True}},
            SCALES,
        ),
        _case(
            "integers/zero-point-8",
            "zero_point",
            "Unsigned codes; zero has a code of its own.",
            narrow,
            {**ints, "format": "zero point"},
            {**first, "the minimum in zero's place": {"format": "minimum"}},
            SCALES,
            sibling="integers/symmetric-8",
        ),
        _case(
            "integers/minimum-4",
            "minimum",
            "Unsigned codes above the minimum of groups of four channels, far from 0.",
            far,
            {**ints, "format": "minimum", "bits": 4, "sharing": [1, 1, 4]},
            {"groups of eight": {"sharing": [1, 1, 8]}, "a zero point": {"format": "zero point"}},
            SCALES,
            PACKING,
            sibling="integers/zero-point-8",
        ),
        _case(
            "integers/kivi-keys",
            "kivi",
            "KIVI's keys: two bits, one channel over groups of five tokens, in float16.",
            far,
            {**ints, "format": "minimum", "bits": 2, "sharing": [1, 5, 1], "scales": "float16"},
            {"like values": {"sharing": [1, 1, 4]}},
            SCALES,
            PACKING,
            alone=False,
            sibling="integers/minimum-4",
        ),
        _case(
            "integers/kivi-values",
            "kivi",
            "KIVI's values: two bits, one token over groups of four channels, in float16.",
            far,
            {**ints, "format": "minimum", "bits": 2, "sharing": [1, 1, 4], "scales": "float16"},
            {"like keys": {"sharing": [1, 5, 1]}},
            SCALES,
            PACKING,
            sibling="integers/kivi-keys",
        ),
    )
