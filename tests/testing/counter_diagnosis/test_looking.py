"""Counters as people write them: those that are right in some convention are no faults, the others are never missed.

None of them is a planted counter, and most have a form that no rule was written for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.core.accounting import Shape, attend_cost
from kvattn.counting import Tally
from kvattn.masks import Causal, Window
from kvattn.testing import check
from kvattn.testing.counter_diagnosis.looking import look
from kvattn.testing.counter_targets import counter_target_of
from kvattn.testing.diagnosis.finding import Finding


def read(function: Callable[..., Any], cases: int = 30) -> tuple[list[Finding], int, list[str]]:
    bench, margin = look(counter_target_of(function), cases=cases)
    return bench.findings, 0 if margin is None else margin.cases, bench.notes


def benchmark_flops(batch: int, seqlen: int, headdim: int, nheads: int, causal: bool) -> float:
    return 4 * batch * seqlen**2 * nheads * headdim / (2 if causal else 1)


def backward_flops(batch: int, seqlen: int, headdim: int, nheads: int, causal: bool) -> float:
    return 2.5 * benchmark_flops(batch, seqlen, headdim, nheads, causal)


def per_token_flops(num_layers: int, num_heads: int, head_dim: int, seq_len: int) -> int:
    return 12 * num_layers * num_heads * head_dim * seq_len


def whole_layer_flops(batch_size: int, num_layers: int, seq_len: int, hidden_size: int) -> int:
    return num_layers * (8 * batch_size * seq_len * hidden_size**2 + 4 * batch_size * seq_len**2 * hidden_size)


def half_window_flops(
    batch: int, seq_len: int, num_heads: int, head_dim: int, sliding_window: int | None = None
) -> Any:
    seen = seq_len if sliding_window is None else min(sliding_window, seq_len)
    pairs = seq_len**2 if sliding_window is None else seq_len * seen - 0.5 * seen**2
    return 4 * batch * pairs * num_heads * head_dim


def rounded_gflops(*, query_heads: int, queries: int, keys: int, width: int) -> float:
    return round(4 * query_heads * queries * keys * width / 1e9, 2)


def single_flops(*, query_heads: int, queries: int, keys: int, width: int) -> float:
    return float(np.float32(4 * query_heads * queries * keys * width))


def exactly_causal(*, query_heads: int, queries: int, keys: int, width: int, causal: bool = False) -> int:
    before = keys - queries
    pairs = keys * (keys + 1) // 2 - before * (before + 1) // 2 if causal else queries * keys
    return 4 * query_heads * width * pairs


def kv_cache_gib(num_layers: int, num_kv_heads: int, head_dim: int, context_length: int) -> float:
    return 2 * num_layers * num_kv_heads * head_dim * context_length * 2 / 1024**3


def derived_width_bytes(num_layers: int, hidden_size: int, num_heads: int, num_kv_heads: int, seq_len: int) -> int:
    return 2 * num_layers * num_kv_heads * (hidden_size // num_heads) * seq_len * 2


def paged_bytes(num_kv_heads: int, head_size: int, seq_len: int, block_size: int, dtype_bytes: int) -> int:
    return -(-seq_len // block_size) * block_size * num_kv_heads * head_size * 2 * dtype_bytes


def latent_bytes(*, layers: int, tokens: int, width: int, itemsize: int) -> int:
    return layers * tokens * width * itemsize


def hybrid_bytes(
    *, layers: int, window_layers: int | None = None, tokens: int, window: int | None = None, width: int, itemsize: int
) -> int:
    near = 0 if window is None else layers if window_layers is None else window_layers
    return 2 * width * itemsize * ((layers - near) * tokens + near * min(tokens, window or tokens))


RIGHT: dict[Callable[..., Any], list[dict[str, Any]]] = {
    benchmark_flops: [{"causal": "half"}],
    backward_flops: [{"passes": "backward, scores recomputed in tiles"}, {"causal": "half"}],
    per_token_flops: [{"per": "token"}, {"passes": "forward and backward"}],
    whole_layer_flops: [{"projections": "8 D^2"}],
    half_window_flops: [{"window": "half"}],
    rounded_gflops: [{"unit": 10**9, "rounded": True}],
    single_flops: [{"rounded": "float32"}],
    exactly_causal: [],
    kv_cache_gib: [{"unit": 2**30}, {"itemsize": 2}],
    derived_width_bytes: [{"itemsize": 2}],
    paged_bytes: [],
    latent_bytes: [{"stored": "one row for keys and values"}],
    hybrid_bytes: [],
}


@pytest.mark.parametrize("function", RIGHT)
def test_a_right_counter_is_no_fault(function: Callable[..., Any]) -> None:
    findings, _, _ = read(function)
    assert [(f.kind, f.parameters) for f in findings] == [("convention", wanted) for wanted in RIGHT[function]]


def padded_width(*, query_heads: int, queries: int, keys: int, width: int) -> int:
    return 4 * query_heads * queries * keys * (-(-width // 64) * 64)


def clamped(*, tokens: int, kv_heads: int, width: int, itemsize: int) -> int:
    return 2 * min(tokens, 8192) * kv_heads * width * itemsize


def both_heads(*, query_heads: int, kv_heads: int, queries: int, keys: int, width: int) -> int:
    return 2 * (query_heads + kv_heads) * queries * keys * width


def negative(*, query_heads: int, queries: int, keys: int, width: int) -> int:
    return -4 * query_heads * queries * keys * width


def thirds(*, query_heads: int, queries: int, keys: int, width: int, causal: bool = False) -> int:
    return 4 * query_heads * width * queries * keys // (3 if causal else 1)


def with_sinks(*, query_heads: int, queries: int, width: int, window: int | None = None) -> int:
    return (
        4
        * query_heads
        * width
        * sum(
            queries if window is None else min(i + 1, window) + min(4, max(0, i + 1 - window)) for i in range(queries)
        )
    )


def chunks(*, query_heads: int, queries: int, width: int, window: int | None = None) -> int:
    return 4 * query_heads * width * sum(queries if window is None else i % window + 1 for i in range(queries))


def first_token_free(*, tokens: int, kv_heads: int, width: int, itemsize: int) -> int:
    return 2 * tokens * kv_heads * width * itemsize if tokens > 1 else 0


def text(*, query_heads: int, queries: int, keys: int, width: int) -> str:
    return f"{4 * query_heads * queries * keys * width} FLOPs"


def pair(*, query_heads: int, queries: int, keys: int, width: int) -> tuple[int, int]:
    return 1, 2


def nothing(*, tokens: int, kv_heads: int, width: int, itemsize: int) -> None:
    return None


def infinite(*, tokens: int, kv_heads: int, width: int, itemsize: int) -> float:
    return float("inf")


def raises(*, tokens: int, kv_heads: int, width: int, itemsize: int) -> int:
    raise ValueError("no")


def leaves(*, tokens: int, kv_heads: int, width: int, itemsize: int) -> int:
    raise SystemExit(3)


ODD = {
    padded_width: "It is no polynomial of batch, layers, heads and widths: it counts",
    clamped: "What was read of it does not hold here: it counts",
    both_heads: "It counts 384 Hkv G D + 384 Hkv D: it counts",
    negative: "For each pair and query head it counts - 4 D: it counts -5120",
    thirds: "Under a causal mask, its pairs are no rule that is known: it counts 10",
    with_sinks: "In a window, its pairs are no rule that is known: it counts 96 for query_heads=1, queries=2",
    chunks: "In a window, its pairs are no rule that is known: it counts 128 for query_heads=1, queries=3",
    first_token_free: "How it grows with the tokens is no rule that is known: it counts 0 for tokens=1",
    text: "It returned str, expected one number.",
    pair: "It returned tuple, expected one number.",
    nothing: "It returned NoneType, expected one number.",
    infinite: "It returned inf, expected one number.",
    raises: "It raises ValueError: no.",
    leaves: "It raises the function left the program with code 3.",
}


@pytest.mark.parametrize("function", ODD)
def test_what_no_rule_explains_is_told(function: Callable[..., Any]) -> None:
    findings, drawn, _ = read(function)
    assert [(f.fault_class, f.kind) for f in findings] == [("unclassified", "fault")]
    assert findings[0].detail.startswith(ODD[function])
    assert not drawn


def test_a_window_that_is_counted_exactly_does_not_compare_with_all_pairs() -> None:
    def mine(*, queries: int, width: int, causal: bool = False, window: int | None = None) -> int:
        return 4 * width * sum(queries if window is None else min(window, i + 1) for i in range(queries))

    _, _, notes = read(mine, cases=3)
    assert "A window is counted exactly and a causal mask is not: the two numbers do not compare" in notes


def test_what_it_does_not_take_is_told() -> None:
    _, _, notes = read(derived_width_bytes)
    assert "It takes no width: it can be right only where width is hidden // query_heads" in notes


def of_kvattn(part: Callable[[Tally], int]) -> Callable[..., int]:
    """What kvattn counts itself, of short sequences alone: it adds up block by block."""

    def flops(*, query_heads: int, queries: int, keys: int, width: int, causal: bool = False) -> int:
        if queries * keys > 300_000:
            raise MemoryError("longer than this test waits")
        shape = Shape(query_heads, query_heads, width, width, 2, past=keys - queries, new=queries)
        return part(attend_cost(shape, Causal() if causal else None))

    return flops


def test_kvattns_own_counts_are_conventions_or_pass() -> None:
    findings, drawn, _ = read(of_kvattn(lambda tally: tally.matmul), cases=12)
    assert [dict(f.parameters) for f in findings] == [{"tiles": [256, 256]}]
    assert findings[0].kind == "convention"
    assert drawn

    def step_bytes(
        *, query_heads: int, kv_heads: int, queries: int, tokens: int, width: int, window: int | None = None
    ) -> int:
        shape = Shape(query_heads, kv_heads, width, width, 2, past=tokens - queries, new=queries)
        return attend_cost(shape, Causal() if window is None else Window(window)).kv_read

    findings, drawn, _ = read(step_bytes, cases=4)
    assert [dict(f.parameters) for f in findings] == [{"itemsize": 2}, {"blocks": 256}]


def test_a_report_says_that_integers_were_compared() -> None:
    report = check(exactly_causal, cases=5)
    assert (report.verdict, report.dtype, report.arithmetic) == ("pass", "integers", "integers")
    assert "5 drawn sizes: every count was as it was read, to the last digit" in str(report)
    assert report.as_dict()["findings"] == []
