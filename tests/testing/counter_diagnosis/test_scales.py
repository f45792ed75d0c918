"""Scales of a quantised cache, beside numbers that are counted right and wrong."""

from typing import Any

import pytest

from kvattn.testing.counter_diagnosis.bench import bench_of
from kvattn.testing.counter_diagnosis.scales import read_bits, read_scales


def counter(scales: Any, own: int | None = None) -> Any:
    def mine(*, kv_heads: int, tokens: int, width: int, value_width: int, bits: int, group: int | None = None,
             scale_itemsize: int = 2) -> Any:  # fmt: skip
        more = 0 if group is None else scales(width, value_width, group) * (scale_itemsize if own is None else own)
        return kv_heads * tokens * ((width + value_width) * bits / 8 + more)

    return mine


def test_right_scales_are_nothing_to_tell() -> None:
    bench = bench_of(counter(lambda d, dv, g: -(-d // g) - (-dv // g)))
    read_scales(bench)
    read_bits(bench)
    assert bench.findings == []


@pytest.mark.parametrize(
    ("scales", "name"),
    [
        (lambda *_: 0, "left out"),
        (lambda d, dv, g: 2 * (-(-d // g) - (-dv // g)), "with zero points"),
        (lambda d, _, g: -(-d // g), "keys alone"),
        (lambda _, dv, g: -(-dv // g), "values alone"),
        (lambda d, _, g: 2 * -(-d // g), "width for value_width"),
        (lambda *_: 2, "group ignored"),
        (lambda d, dv, _: d + dv, "one for each number"),
        (lambda d, dv, g: -(-(d + dv) // g), "across keys and values"),
    ],
)
def test_other_scales_are_named(scales: Any, name: str) -> None:
    bench = bench_of(counter(scales))
    read_scales(bench)
    assert [f.parameters for f in bench.findings] == [{"scales": name}]
    assert (bench.findings[0].kind == "convention") == (name in {"with zero points", "across keys and values"})


def test_scales_of_no_known_number_are_told() -> None:
    bench = bench_of(counter(lambda d, dv, g: 3 * d + g))
    read_scales(bench)
    assert bench.findings[0].fault_class == "unclassified"


def test_a_byte_for_four_bits_is_a_choice() -> None:
    bench = bench_of(lambda *, tokens, width, bits: 2 * tokens * width * -(-bits // 8))
    read_bits(bench)
    assert (bench.findings[0].kind, bench.findings[0].parameters) == ("convention", {"bits": "whole bytes"})
