"""A counter's signature is read, in the contract's names and in those of other projects; the words of a refusal."""

from typing import Any

import pytest

from kvattn.errors import ArgumentError
from kvattn.testing import check, kinds
from kvattn.testing.counter_targets import SYNONYMS, CounterTarget, counter_target_of, is_counter


def flops(batch: int, seqlen: int, headdim: int, nheads: int, causal: bool, mode: str = "fwd") -> int:
    return 4 * batch * seqlen**2 * nheads * headdim // (2 if causal else 1)


def kv_cache_size(num_layers: int, num_kv_heads: int, head_dim: int, context_length: int) -> int:
    return 2 * num_layers * num_kv_heads * head_dim * context_length * 2


def attention(q: Any, k: Any, v: Any, *, causal: bool = False, window: int | None = None) -> Any:
    return v


def test_counters_are_told_from_everything_else() -> None:
    assert is_counter(flops)
    assert is_counter(kv_cache_size)
    assert not is_counter(attention)
    assert not is_counter(lambda x, positions: x)
    assert not is_counter(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
    assert not is_counter(max)
    assert not is_counter(3)


def test_other_names_are_the_contracts() -> None:
    target = counter_target_of(flops)
    assert target.counts == "flops"
    assert target.names == {
        "batch": "batch", "queries": "seqlen", "width": "headdim", "query_heads": "nheads", "causal": "causal",
    }  # fmt: skip
    assert target.untested == ("mode",)
    cache = counter_target_of(kv_cache_size)
    assert (cache.counts, cache.names["tokens"]) == ("bytes", "context_length")
    others = [name for names in SYNONYMS.values() for name in names]
    assert len(others) == len(set(others))


def test_a_flag_that_is_needed_is_given_and_a_zero_too() -> None:
    target = counter_target_of(flops)
    assert target.keywords({"batch": 1, "queries": 2, "width": 3, "query_heads": 4, "causal": False})["causal"] is False
    some = counter_target_of(lambda *, tokens, width, window=None, window_layers=None: 0)
    assert some.keywords({"tokens": 1, "width": 2, "window_layers": 0}) == {"tokens": 1, "width": 2, "window_layers": 0}


def test_what_it_counts_may_be_declared() -> None:
    def mine(seq_len: int, head_dim: int) -> int:
        return seq_len * head_dim

    with pytest.raises(ArgumentError, match=r'f.counts = "flops" or "bytes", got \(seq_len, head_dim\)'):
        counter_target_of(mine)
    mine.counts = "bytes"  # type: ignore[attr-defined]
    assert counter_target_of(mine, "m:mine").counts == "bytes"
    assert isinstance(kinds.target_for(mine), CounterTarget)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (attention, r"target must be a counter, got \(q, k, v, causal, window\); expected flops"),
        (lambda *, queries, seqlen_q, width: 0, "must have one name for queries, got queries and seqlen_q"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(function: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        counter_target_of(function)


def test_a_size_of_the_other_sort_is_not_known() -> None:
    def mine(*, queries: int, width: int, itemsize: int) -> int:
        return 0

    mine.counts = "flops"  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match="target must need only what the contract has, got required itemsize"):
        counter_target_of(mine)


def test_a_check_takes_a_counter_and_its_line_runs(capsys: pytest.CaptureFixture[str]) -> None:
    report = check(CounterTarget("mine", flops, "flops", counter_target_of(flops).names), cases=4)
    assert (report.verdict, report.findings[0].parameters) == ("convention", {"causal": "half"})
    assert report.as_dict()["drawn"]["cases"] == 4
    exec(report.findings[0].reproduce, {"f": flops})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted
    with pytest.raises(
        ArgumentError, match="dtype must be left out for a counter, which is given integers, got float32"
    ):
        check(flops, dtype="float32")
