"""Scales of a quantised cache: what a count grows by when numbers come in groups that share one."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.grid import sizes_at
from kvattn.testing.counter_diagnosis.numbers import plain_number, shown
from kvattn.testing.counter_diagnosis.sizes import Sizes

_ASKED: tuple[dict[str, Any], ...] = (
    {"kv_heads": 2, "group": 3, "width": 64, "value_width": 32, "scale_group": 16, "keys": 10, "scale_itemsize": 2},
    {"kv_heads": 3, "group": 2, "width": 32, "value_width": 96, "scale_group": 8, "keys": 11, "scale_itemsize": 4},
    {"kv_heads": 1, "group": 4, "width": 128, "value_width": 64, "scale_group": 32, "keys": 7, "scale_itemsize": 1},
    {"kv_heads": 5, "group": 2, "width": 40, "value_width": 72, "scale_group": 32, "keys": 3, "scale_itemsize": 2},
)
"""In the last one the widths are no multiples of the group."""


def _formulas() -> Iterator[tuple[str, str, str, Any]]:
    """Kind, parameter, words, and how many scales a sequence has, times their bytes."""

    def up(width: int, group: int) -> int:
        return -(-width // group)

    def each(s: Sizes) -> int:
        return s.keys * s.kv_heads

    def whole(s: Sizes, g: int) -> int:
        return each(s) * (up(s.width, g) + up(s.value_width, g))

    def size(s: Sizes) -> int:
        return s.scale_itemsize

    number = Fraction(1, 8)
    yield "right", "", "", lambda s, g: whole(s, g) * size(s)
    yield "fault", "left out", "leaves the scales out", lambda _s, _g: 0
    yield (
        "convention",
        "with zero points",
        "takes a zero point beside each scale",
        lambda s, g: 2 * whole(s, g) * size(s),
    )
    yield "fault", "keys alone", "takes the scales of keys alone", lambda s, g: each(s) * up(s.width, g) * size(s)
    yield ("fault", "values alone", "takes the scales of values alone",
           lambda s, g: each(s) * up(s.value_width, g) * size(s))  # fmt: skip
    yield ("fault", "width for value_width", "takes the scales of keys for those of values",
           lambda s, g: 2 * each(s) * up(s.width, g) * size(s))  # fmt: skip
    yield "fault", "group ignored", "takes one scale for each row", lambda s, _g: 2 * each(s) * size(s)
    yield "fault", "query heads", "takes scales of every query head", lambda s, g: s.group * whole(s, g) * size(s)
    yield "fault", "heads ignored", "takes scales of one head", lambda s, g: whole(s, g) // s.kv_heads * size(s)
    yield "fault", "tokens ignored", "takes scales of one token", lambda s, g: whole(s, g) // s.keys * size(s)
    yield "fault", "one byte each", "takes a byte for each scale", whole
    yield ("fault", "size of a number", "takes a scale to be as large as a number",
           lambda s, g: whole(s, g) * (s.bits * number if s.bits else s.itemsize))  # fmt: skip
    yield ("fault", "one for each number", "takes a scale for each number",
           lambda s, _g: each(s) * (s.width + s.value_width) * size(s))  # fmt: skip
    yield ("fault", "rounded down", "rounds the number of groups down",
           lambda s, g: each(s) * (s.width // g + s.value_width // g) * size(s))  # fmt: skip
    yield ("fault", "rounded down", "rounds the number of groups down",
           lambda s, g: each(s) * ((s.width + s.value_width) // g) * size(s))  # fmt: skip
    yield ("convention", "across keys and values", "lets a group reach from a key into its value",
           lambda s, g: each(s) * up(s.width + s.value_width, g) * size(s))  # fmt: skip


def read_scales(bench: CounterBench, own: Callable[[Sizes], Fraction] = lambda _: Fraction(1)) -> None:
    """Compare counts with and without groups.

    Parameters
    ----------
    bench
        The counter.
    own
        How many times too large the numbers themselves are counted: scales are first taken to be counted likewise.

    Examples
    --------
    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, tokens, width, bits, group=None: 2 * tokens * width * bits // 8)
    >>> read_scales(bench)
    >>> bench.findings[0].parameters
    {'scales': 'left out'}
    """
    if not bench.can("group"):
        return
    asked = [sizes_at(bench, {}, **sizes, queries=1, itemsize=8, bits=16) for sizes in _ASKED]
    if not bench.can("scale_itemsize"):
        asked = [sizes.but(scale_itemsize=2) for sizes in asked]
    more = [bench.count(sizes) - bench.count(sizes.but(scale_group=None)) for sizes in asked]
    for reads in ([read / own(sizes) for read, sizes in zip(more, asked, strict=True)], more):
        for kind, name, words, formula in _formulas():
            wanted = [Fraction(formula(sizes, sizes.scale_group)) for sizes in asked]
            times = Fraction(1)
            if not bench.can("scale_itemsize") and wanted[0] and reads[0]:  # its own size of a scale
                times = reads[0] / wanted[0]
            if [times * right for right in wanted] != reads:
                continue
            if times != 1:
                told = f"It takes {shown(2 * times)} bytes for a scale."
                bench.add({"scale_itemsize": plain_number(2 * times)}, told, bench.wrong(asked), kind="convention")
            if kind != "right":
                bench.add(
                    {"scales": name},
                    f"It {words}.",
                    bench.wrong(asked),
                    kind="fault" if kind == "fault" else "convention",
                )
            return
    if any(finding.kind == "fault" for finding in bench.findings):
        bench.notes.append("What it takes for scales was not read, beside what is named")
        return
    bench.unexplained(asked[0], None, "What scales add is not explained")


def read_bits(bench: CounterBench) -> None:
    """See what four bits are, of a counter that takes bits.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, tokens, width, bits: 2 * tokens * width * (bits // 8))
    >>> read_bits(bench)
    >>> bench.findings[0].parameters
    {'bits': 'whole bytes, rounded down'}
    """
    if not bench.can("bits"):
        return
    four, eight = (sizes_at(bench, {}, keys=10, bits=bits) for bits in (4, 8))
    half, whole = bench.count(four), bench.count(eight)
    if 2 * half == whole:
        return
    if half == 0:
        bench.add({"bits": "whole bytes, rounded down"}, "It takes no bytes for numbers of 4 bits.", four)
    elif half == whole:
        bench.add({"bits": "whole bytes"}, "It takes a byte for a number of 4 bits.", four, kind="convention")
    else:
        bench.unexplained(four, None, "What 4 bits take is not explained")
