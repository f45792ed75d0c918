"""Every counter with a planted fault is detected and named, with its parameters; every convention is called one.

CI runs every fourth, ``KVATTN_PROFILE=deep`` all; ``python -m tests.mutants.test_planted_counters`` prints what each is
called.  What is planted stands in `kvattn.testing.planted_counters`, which adds up query by query.
"""

from collections.abc import Callable
import contextlib
import io
import os
from typing import Any, NamedTuple

import numpy as np
import pytest

from kvattn.testing.counter_diagnosis.looking import look
from kvattn.testing.counter_targets import counter_target_of
from kvattn.testing.diagnosis.finding import Finding
from kvattn.testing.planted_counters import PlantedBytes, PlantedFlops, visible

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"
SOME, CASES = (1, 40) if DEEP else (4, 12)


class Mutant(NamedTuple):
    """A counter, and what it must be called: conventions and faults, by their parameters."""

    counter: Callable[..., Any]
    faults: tuple[dict[str, Any], ...] = ()
    conventions: tuple[dict[str, Any], ...] = ()


def masked(
    causal: Callable[[int, int], Any] | None = None, window: Callable[[int, int, int], Any] | None = None
) -> Any:
    """Pairs that are right but under a causal mask, or in a window."""

    def pairs(t: int, s: int, is_causal: bool, w: int | None) -> Any:
        if w is not None:
            return visible(t, s, True, w) if window is None else window(t, s, w)
        if is_causal:
            return visible(t, s, True, None) if causal is None else causal(t, s)
        return t * s

    return pairs


def tiles(tall: int, wide: int) -> Callable[[int, int], int]:
    """Pairs in whole tiles of a causal mask, tile by tile."""

    def causal(t: int, s: int) -> int:
        return sum(
            tall * wide
            for top in range(0, t, tall)
            for left in range(0, s, wide)
            if left <= s - t + min(top + tall, t) - 1
        )

    return causal


def F(faults: Any = (), conventions: Any = (), **planted: Any) -> Mutant:
    """A counter of FLOPs."""
    counter: Any = PlantedFlops(**planted)
    return Mutant(counter, *((x,) if isinstance(x, dict) else tuple(x) for x in (faults, conventions)))


def B(faults: Any = (), conventions: Any = (), **planted: Any) -> Mutant:
    """A counter of bytes."""
    counter: Any = PlantedBytes(**planted)
    return Mutant(counter, *((x,) if isinstance(x, dict) else tuple(x) for x in (faults, conventions)))


def square(batch: int, seqlen: int, headdim: int, nheads: int, causal: bool) -> float:
    return 4 * batch * seqlen**2 * nheads * headdim / (2 if causal else 1)


def square_of_keys(batch: int, seqlen_q: int, seqlen_k: int, headdim: int, nheads: int, causal: bool) -> int:
    return 4 * batch * seqlen_q * seqlen_k * nheads * headdim // (2 if causal else 1)


def refuses_groups(*, query_heads: int, kv_heads: int, queries: int, keys: int, width: int) -> int:
    if query_heads != kv_heads:
        raise ValueError("key heads must be query heads")
    return 4 * query_heads * queries * keys * width


def always_causal(*, query_heads: int, queries: int, width: int) -> int:
    return 4 * query_heads * width * queries * (queries + 1) // 2


def bytes_per_token(num_layers: int, n_heads: int, n_kv_heads: int, head_dim: int, dtype_bytes: int) -> int:
    return 2 * num_layers * n_heads * n_kv_heads * head_dim * dtype_bytes


def bits_rounded_down(*, tokens: int, kv_heads: int, width: int, bits: int) -> int:
    return 2 * tokens * kv_heads * width * (bits // 8)


def int32(count: Any) -> int:
    return int(np.int64(count).astype(np.int32))


FLOPS = {
    "right": F(),
    "multiply-add as one": F(conventions={"unit": 1}, unit=1),
    "softmax, five for each pair": F(conventions={"softmax": 5}, softmax=5),
    "softmax and rows": F(conventions={"softmax": 3, "per query": "7"}, softmax=3, row=7),
    "rows alone": F(conventions={"softmax": 0, "per query": "2"}, row=2),
    "forward and backward": F(conventions={"passes": "forward and backward"}, unit=6),
    "backward of flash": F(conventions={"passes": "backward, scores recomputed in tiles"}, unit=5),
    "GFLOPs": F(conventions={"unit": 10**9}, finish=lambda count: count / 1e9),
    "TFLOPs": F(conventions={"unit": 10**12}, finish=lambda count: count / 1e12),
    "all pairs": F(conventions={"causal": "all pairs"}, pairs=masked(lambda t, s: t * s)),
    "half of the square": F(conventions={"causal": "half"}, pairs=masked(lambda t, s: t * (s - t) + t * t / 2)),
    "half of the square, rounded": F(
        conventions={"causal": "half"}, pairs=masked(lambda t, s: t * (s - t) + t * t // 2)
    ),
    "top-left": F(conventions={"causal": "top-left"}, pairs=masked(lambda t, _: visible(t, t, True, None))),
    "half top-left": F(conventions={"causal": "half top-left"}, pairs=masked(lambda t, _: t * t / 2)),
    "tiles of 64 by 128": F(conventions={"tiles": [64, 128]}, pairs=masked(tiles(64, 128))),
    "tiles of 128 by 32": F(conventions={"tiles": [128, 32]}, pairs=masked(tiles(128, 32))),
    "a whole window for every query": F(
        conventions={"window": "T * W"}, pairs=masked(window=lambda t, s, w: t * min(w, s))
    ),
    "square alone": Mutant(square, conventions=({"causal": "half"},)),
    "always causal": Mutant(always_causal, conventions=({"causal": "always"},)),
    "half at any length": F({"causal": "half at any length"}, pairs=masked(lambda t, s: t * s / 2)),
    "half at any length, rounded": Mutant(square_of_keys, ({"causal": "half at any length"},)),
    "(S - T)**2": F({"causal": "(S - T)**2"}, pairs=masked(lambda t, s: (s - t) ** 2 + t * t / 2)),
    "(S - T)**2 in the second product": F(
        {"causal": "(S - T)**2", "of": "PV"},
        {"causal": "half", "of": "QK"},
        pairs=masked(lambda t, s: t * (s - t) + t * t / 2),
        value_pairs=masked(lambda t, s: (s - t) ** 2 + t * t / 2),
    ),
    "diagonal left out": F({"causal": "diagonal left out"}, pairs=masked(lambda t, s: visible(t, s, True, None) - t)),
    "one key more": F({"causal": "one key more"}, pairs=masked(lambda t, s: visible(t, s, True, None) + t - 1)),
    "S queries": F({"causal": "queries S"}, pairs=masked(lambda _, s: s * (s + 1) // 2)),
    "half of S * S": F({"causal": "half of S * S"}, pairs=masked(lambda _, s: s * s / 2)),
    "triangle left out": F({"causal": "triangle left out"}, pairs=masked(lambda t, s: t * (s - t))),
    "halved twice": F({"causal": "halved twice"}, pairs=masked(lambda t, s: visible(t, s, True, None) / 2)),
    "Hkv for Hq": F({"heads": "kv_heads"}, heads=lambda _, kv: kv),
    "one head": F({"heads": "ignored"}, heads=lambda *_: 1),
    "Hq * Hkv": F({"heads": "query_heads * kv_heads"}, heads=lambda q, kv: q * kv),
    "group for Hq": F({"heads": "query_heads // kv_heads"}, heads=lambda q, kv: q // kv),
    "D for Dv": F({"value_width": "width"}, widths=lambda d, *_: (d, d)),
    "Dv for D": F({"width": "value_width"}, widths=lambda _, dv, __: (dv, dv)),
    "hidden // Hq for D": F({"width": "hidden // query_heads"}, widths=lambda *w: (w[2], w[2])),
    "hidden // Hq for Dv": F({"value_width": "hidden // query_heads"}, widths=lambda d, _, e: (d, e)),
    "second product left out": F({"left out": "PV"}, products=("QK",)),
    "first product left out": F({"left out": "QK"}, products=("PV",)),
    "window ignored": F({"window": "ignored"}, pairs=masked(window=lambda t, s, _: visible(t, s, True, None))),
    "W + 1": F({"window": "W + 1"}, pairs=masked(window=lambda t, s, w: visible(t, s, True, w + 1))),
    "W - 1": F({"window": "W - 1"}, pairs=masked(window=lambda t, s, w: visible(t, s, True, w - 1))),
    "T * W, not limited": F({"window": "not limited"}, pairs=masked(window=lambda t, _, w: t * w)),
    "2 W": F({"window": "2 W"}, pairs=masked(window=lambda t, s, w: visible(t, s, True, 2 * w))),
    "window on both sides": F(
        {"window": "both sides"},
        pairs=masked(window=lambda t, s, w: sum(min(s, q + w) - max(0, q - w + 1) for q in range(s - t, s))),
    ),
    "layers with a window left out": F({"window": "left out"}, deep=lambda layers, narrow: (layers - narrow, 0)),
    "a window for every layer": F({"window_layers": "all"},
        deep=lambda layers, narrow: (0, layers) if narrow else (layers, 0),
    ),
    "a window for the other layers": F(
        {"window_layers": "the other ones"},
        deep=lambda layers, narrow: (narrow, layers - narrow) if 0 < narrow < layers else (layers - narrow, narrow),
    ),
    "batch ignored": F({"batch": "ignored"}, batches=False),
    "T for S": F(({"keys": "T"}, {"window": "ignored"}), {"causal": "all pairs"}, pairs=lambda t, *_: t * t),
    "S for T": F(({"queries": "S"}, {"window": "ignored"}), {"causal": "all pairs"}, pairs=lambda _, s, *__: s * s),
    "one query": F(({"queries": "ignored"}, {"window": "ignored"}), {"causal": "all pairs"}, pairs=lambda _, s, *__: s),
    "one key": F(({"keys": "ignored"}, {"window": "ignored"}), {"causal": "all pairs"}, pairs=lambda t, *_: t),
    "nothing": F({"counts": 0}, finish=lambda _: 0),
    "twice": F({"factor": 2}, unit=4),
    "four and a half times": F({"factor": 4.5}, unit=9),
    "32 bits": F({"overflow": 32}, finish=int32),
    "adds up": F({"repeats": "adds up"}, keeps=True),
    "refuses groups": Mutant(refuses_groups, ({"refuses": "grouped heads"},)),
    "Hkv, one for a multiply-add, no window": F(
        ({"heads": "kv_heads"}, {"window": "ignored"}), {"unit": 1},
        unit=1, heads=lambda _, kv: kv, pairs=masked(window=lambda t, s, _: visible(t, s, True, None)),
    ),
    "D for Dv, softmax, W + 1": F(
        ({"value_width": "width"}, {"window": "W + 1"}), {"softmax": 4},
        softmax=4, widths=lambda d, *_: (d, d), pairs=masked(window=lambda t, s, w: visible(t, s, True, w + 1)),
    ),
}  # fmt: skip


def rows(window: Callable[[int, int, int], Any]) -> Callable[[int, int, int | None], Any]:
    return lambda t, s, w: s if w is None else window(t, s, w)


BYTES = {
    "right": B(),
    "MiB": B(conventions={"unit": 2**20}, finish=lambda count: count / 2**20),
    "GB": B(conventions={"unit": 10**9}, finish=lambda count: count / 1e9),
    "bits": B(conventions={"unit": "bits"}, size=lambda itemsize: 8 * itemsize),
    "positions beside": B(conventions={"beside": 8}, beside=8),
    "W - 1 between steps": B(conventions={"window": "W - 1 between steps"}, rows=rows(lambda _, s, w: min(s, w - 1))),
    "whole ring": B(conventions={"window": "whole ring"}, rows=rows(lambda _t, _s, w: w)),
    "zero points": B(
        conventions={"scales": "with zero points"}, scales=lambda d, dv, g, size: 2 * (-(-d // g) - (-dv // g)) * size
    ),
    "Hq for Hkv": B({"heads": "query_heads"}, heads=lambda q, _: q),
    "group for Hkv": B({"heads": "query_heads // kv_heads"}, heads=lambda q, kv: q // kv),
    "one head more each": B({"heads": "query_heads * kv_heads"}, heads=lambda q, kv: q * kv),
    "one head": B({"heads": "ignored"}, heads=lambda *_: 1),
    "bytes per token": Mutant(bytes_per_token, ({"heads": "query_heads * kv_heads"},)),
    "hidden": B({"numbers": "hidden"}, heads=lambda q, _: q, numbers=lambda *w: 2 * w[2]),
    "hidden // Hq": B({"width": "hidden // query_heads"}, numbers=lambda *w: 2 * w[2]),
    "D for Dv": B({"value_width": "width"}, numbers=lambda d, *_: 2 * d),
    "values left out": B({"left out": "values"}, numbers=lambda d, *_: d),
    "keys left out": B({"left out": "keys"}, numbers=lambda _, dv, __: dv),
    "two bytes always": B({"itemsize": "ignored", "bytes": 2}, size=lambda _: 2),
    "numbers, not bytes": B({"itemsize": "ignored", "bytes": 1}, size=lambda _: 1),
    "twice": B({"factor": 2}, finish=lambda count: 2 * count),
    "window ignored": B({"window": "ignored"}, rows=lambda _, s, __: s),
    "W + 1": B({"window": "W + 1"}, rows=rows(lambda t, s, w: min(s, w + max(t, 1)))),
    "window for one query": B({"window": "one query"}, rows=rows(lambda _, s, w: min(s, w))),
    "dropped rows": B({"window": "dropped rows"}, rows=rows(lambda _, s, w: max(0, s - w))),
    "one token less": B({"tokens": "S - 1"}, rows=lambda _, s, w: (s if w is None else min(s, w)) - 1),
    "once for each query": B(
        {"reads": "once per query"}, rows=lambda t, s, w: max(t, 1) * (s if w is None else min(s, w + max(t, 1) - 1))
    ),
    "scales left out": B({"scales": "left out"}, scales=lambda *_: 0),
    "a scale for a row": B({"scales": "group ignored"}, scales=lambda _d, _dv, _g, size: 2 * size),
    "scales of keys": B({"scales": "keys alone"}, scales=lambda d, _, g, size: -(-d // g) * size),
    "scales rounded down": B({"scales": "rounded down"}, scales=lambda d, dv, g, size: (d // g + dv // g) * size),
    "pages ignored": B({"page": "ignored"}, pages=lambda count, _: count),
    "last page left out": B({"page": "rounded down"}, pages=lambda count, page: count // page * page),
    "one page more": B(
        {"page": "one more"}, pages=lambda count, page: (count // page + 1) * page if page > 1 else count
    ),
    "pages of 16 always": B({"page": "ignored"}, {"page": 16}, pages=lambda count, _: -(-count // 16) * 16),
    "a window for every layer": B({"window_layers": "all"},
        deep=lambda layers, narrow: (0, layers) if narrow else (layers, 0),
    ),
    "bits rounded down": Mutant(bits_rounded_down, ({"bits": "whole bytes, rounded down"},)),
    "Hq, no window, two bytes": B(
        ({"heads": "query_heads"}, {"window": "ignored"}, {"itemsize": "ignored", "bytes": 2}),
        heads=lambda q, _: q, rows=lambda _, s, __: s, size=lambda _: 2,
    ),
}  # fmt: skip


def called(mutant: Mutant) -> list[Finding]:
    return look(counter_target_of(mutant.counter), cases=CASES)[0].findings


def named(mutant: Mutant, findings: list[Finding]) -> bool:
    """Whether exactly the planted things are named: each with its parameters, and nothing else."""
    for kind, wanted in (("fault", mutant.faults), ("convention", mutant.conventions)):
        found = [dict(f.parameters) for f in findings if f.kind == kind and f.fault_class != "unclassified"]
        if len(found) != len(wanted):
            return False
        for parameters in wanted:
            if not any(parameters.items() <= one.items() for one in found):
                return False
    return not any(f.fault_class == "unclassified" for f in findings)


def shows(mutant: Mutant, finding: Finding) -> bool:
    """Whether the line that reproduces a finding prints two different numbers."""
    if "repeats" in finding.parameters or "refuses" in finding.parameters:
        return True
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(finding.reproduce, {"f": mutant.counter})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = out.getvalue().strip().partition(" expected ")
    return float(got) != float(wanted)


@pytest.mark.parametrize("name", [*FLOPS][::SOME])
def test_a_counter_of_flops_is_named(name: str) -> None:
    findings = called(FLOPS[name])
    assert named(FLOPS[name], findings), findings
    assert all(f.fault_class == "flop-count" and shows(FLOPS[name], f) for f in findings)


@pytest.mark.parametrize("name", [*BYTES][::SOME])
def test_a_counter_of_bytes_is_named(name: str) -> None:
    findings = called(BYTES[name])
    assert named(BYTES[name], findings), findings
    assert all(f.fault_class == "byte-count" and shows(BYTES[name], f) for f in findings)


def test_there_are_enough_of_them() -> None:
    flops, bytes_ = (sum(bool(m.faults) for m in zoo.values()) for zoo in (FLOPS, BYTES))
    assert flops >= 20
    assert bytes_ >= 12


if __name__ == "__main__":
    for zoo in (FLOPS, BYTES):
        for name, mutant in zoo.items():
            findings = called(mutant)
            print("named" if named(mutant, findings) else "NOT NAMED", name, [dict(f.parameters) for f in findings])
