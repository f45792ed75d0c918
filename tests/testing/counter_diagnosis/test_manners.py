"""What a counter refuses, keeps and rounds; in which unit it counts."""

from typing import Any

import pytest

from kvattn.testing.counter_diagnosis.bench import bench_of
from kvattn.testing.counter_diagnosis.manners import UNITS, read_repeats, read_rounded, read_unit, settle
from kvattn.testing.diagnosis.raised import Refused


def test_each_size_that_is_refused_is_told_and_left_out() -> None:
    def mine(*, batch: int, queries: int, keys: int, width: int, value_width: int, causal: bool = False) -> int:
        if keys != queries or value_width != width or causal:
            raise NotImplementedError("plain attention alone")
        return 4 * batch * queries * keys * width

    bench = bench_of(mine)
    settle(bench)
    assert [f.parameters["refuses"] for f in bench.findings] == ["keys", "value_width", "causal"]
    assert all(f.fault_class == "flop-count" and f.kind == "fault" for f in bench.findings)
    assert bench.sizes(queries=3, keys=9, value_width=5, causal=True) == bench.sizes(queries=3)


def test_a_plain_question_must_be_answered() -> None:
    def mine(*, queries: int, width: int) -> int:
        raise KeyError("sdpa")

    with pytest.raises(Refused, match="KeyError: 'sdpa'"):
        settle(bench_of(mine))


@pytest.mark.parametrize("unit", sorted({*UNITS["flops"], *UNITS["bytes"]}))
def test_every_unit_is_found(unit: int) -> None:
    counts = "bytes" if unit in UNITS["bytes"] else "flops"
    if counts == "bytes":
        bench = bench_of(lambda *, tokens, kv_heads, width, itemsize: 2 * tokens * kv_heads * width * itemsize / unit)
    else:
        bench = bench_of(lambda *, batch, queries, width: 4 * batch * queries**2 * width / unit)
    read_unit(bench)
    assert bench.unit == unit
    assert bench.findings[0].kind == "convention"


def test_halves_are_no_unit() -> None:
    bench = bench_of(lambda *, queries, width: queries**2 * width / 2)
    read_unit(bench)
    assert (bench.unit, bench.findings) == (1, [])


def test_what_differs_from_call_to_call_is_told() -> None:
    answers = iter([1, 5, 2])
    bench = bench_of(lambda *, queries, width: next(answers))
    read_repeats(bench)
    assert bench.findings[0].parameters == {"repeats": "differs"}
    assert bench.stopped


def test_what_rounds_wrong_is_not_excused() -> None:
    def mine(*, tokens: int, kv_heads: int, width: int, itemsize: int) -> Any:
        return 2 * 8 * tokens * kv_heads * width * itemsize // 2**20

    assert not read_rounded(bench_of(mine))
