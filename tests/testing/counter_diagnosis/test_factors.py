"""Terms of the polynomial say what stands in whose place: heads, batch, layers; widths apart where they differ."""

from typing import Any

import pytest

from kvattn.testing.counter_diagnosis.bench import bench_of
from kvattn.testing.counter_diagnosis.factors import read_factors, split
from kvattn.testing.counter_diagnosis.grid import axes_of, sizes_at


@pytest.mark.parametrize(
    ("heads", "name"),
    [
        (lambda _, kv: kv, "kv_heads"),
        (lambda *_: 1, "ignored"),
        (lambda q, kv: q // kv, "query_heads // kv_heads"),
        (lambda q, kv: q * kv, "query_heads * kv_heads"),
        (lambda q, _: q * q, "query_heads ** 2"),
        (lambda _, kv: kv * kv, "kv_heads ** 2"),
        (lambda q, kv: q * q // kv, "query_heads ** 2 // kv_heads"),
    ],
)
def test_heads_are_named(heads: Any, name: str) -> None:
    def mine(*, query_heads: int, kv_heads: int, queries: int, width: int) -> Any:
        return 4 * heads(query_heads, kv_heads) * queries**2 * width

    bench = bench_of(mine)
    assert read_factors(bench, queries=4) is not None
    assert [f.parameters for f in bench.findings] == [{"heads": name}]


def test_of_one_product_they_are_named_with_it() -> None:
    def mine(*, batch: int, query_heads: int, kv_heads: int, queries: int, width: int, value_width: int) -> int:
        return 2 * queries**2 * (batch * query_heads * width + kv_heads * value_width)

    bench = bench_of(mine)
    assert read_factors(bench, queries=4) is not None
    assert [f.parameters for f in bench.findings] == [
        {"batch": "ignored", "of": "PV"},
        {"heads": "kv_heads", "of": "PV"},
    ]


def test_sums_of_heads_are_told_and_end_the_reading() -> None:
    bench = bench_of(lambda *, query_heads, kv_heads, queries, width: (query_heads + kv_heads) * queries**2 * width)
    assert read_factors(bench, queries=4) is None
    assert bench.findings[0].detail.startswith("It counts 16 Hkv G D + 16 Hkv D: it counts ")
    assert bench.stopped


def test_a_share_is_relative_to_one_of_everything() -> None:
    factors = split({(("batch", 1), ("width", 1)): 3, (("width", 2),): 5})  # type: ignore[dict-item]
    assert factors.share((("width", 1),), {"batch": 7}) == 7
    assert factors.share((("width", 2),), {"batch": 7}) == 1


def test_the_grid_has_what_the_counter_takes() -> None:
    bench = bench_of(lambda *, kv_heads, query_heads, tokens, width, hidden, bits: 0)
    assert list(axes_of(bench)) == ["kv_heads", "group", "item", "width", "head"]
    assert list(axes_of(bench, widths_only=True)) == ["width", "head"]
    sizes = sizes_at(bench, {"item": 2, "kv_heads": 3, "group": 2, "head": 56}, keys=9)
    assert (sizes.bits, sizes.query_heads, sizes.hidden) == (16, 6, 336)
