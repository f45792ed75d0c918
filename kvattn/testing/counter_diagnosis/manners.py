"""How a counter takes its sizes: what it refuses, whether it counts the same twice, and in which unit."""

from fractions import Fraction
from typing import Any

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.numbers import shown
from kvattn.testing.counter_diagnosis.sizes import Sizes
from kvattn.testing.diagnosis.raised import Refused

UNITS = {"flops": (10**3, 10**6, 10**9, 10**12, 10**15), "bytes": (2**10, 10**3, 2**20, 10**6, 2**30, 10**9, 2**40)}
"""What one of the returned numbers may stand for, the smallest first."""

_ODD: tuple[dict[str, Any], ...] = (
    {"queries": 3, "keys": 7, "width": 6, "value_width": 6, "head": 6},
    {"batch": 3, "kv_heads": 3, "queries": 5, "keys": 11, "width": 14, "value_width": 14, "head": 14},
    {"layers": 3, "kv_heads": 7, "queries": 7, "keys": 13, "width": 22, "value_width": 22, "head": 22},
)
"""Sizes whose count has few factors of 2 and none of 5."""


def plain_sizes(bench: CounterBench, **asked: Any) -> Sizes:
    """Return a plain question: no mask, no window, as many queries as keys, D = Dv.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> plain_sizes(bench_of(lambda *, queries, keys, width: 0)).keys
    16
    """
    step = 16 if bench.target.counts == "flops" else 1
    return bench.sizes(**{"queries": step, "keys": 16, "width": 8, "value_width": 8, "head": 8, **asked})


def settle(bench: CounterBench) -> None:
    """Find which sizes it takes, each beside a plain question; what it refuses stays neutral.

    Raises
    ------
    Refused
        Where it refuses a plain question.

    Examples
    --------
    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> def mine(*, query_heads, kv_heads, queries, width):
    ...     assert query_heads == kv_heads
    ...     return 4 * query_heads * queries**2 * width
    >>> bench = bench_of(mine)
    >>> settle(bench)
    >>> bench.findings[0].parameters
    {'refuses': 'grouped heads', 'raised': 'AssertionError'}
    """
    plain = plain_sizes(bench)
    bench.count(plain)
    fewer = {"queries": 4} if bench.target.counts == "flops" else {"queries": 2}
    tried: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("batch", "batch > 1", {"batch": 3}),
        ("layers", "layers > 1", {"layers": 3}),
        ("grouped heads", "kv_heads < query_heads", {"kv_heads": 2, "group": 4}),
        ("keys", "queries < keys", {**fewer}),
        ("tokens", "more tokens", {"keys": 40}),
        ("value_width", "value_width != width", {"value_width": 24}),
        ("hidden", "hidden != query_heads * width", {"head": 40}),
        ("causal", "causal", {"causal": True}),
        ("window", "a window", {"window": 4, "causal": True}),
        ("bits", "4 bits", {"bits": 4}),
        ("group", "scales", {"scale_group": 4}),
        ("page", "pages", {"page": 4}),
    )
    for name, words, change in tried:
        if not (bench.grouped if name == "grouped heads" else bench.can(name)):
            continue
        sizes = plain_sizes(bench, **change)
        try:
            bench.count(sizes)
        except Refused as refused:
            bench.without.add(name)
            parameters = {"refuses": name, "raised": str(refused).partition(":")[0]}
            bench.add(parameters, f"It raises {refused} for {words}.", sizes)


def read_repeats(bench: CounterBench) -> None:
    """Find a counter that keeps something between calls.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> seen = []
    >>> bench = bench_of(lambda *, queries, width: (seen.append(queries), sum(seen))[1])
    >>> read_repeats(bench)
    >>> bench.findings[0].parameters
    {'repeats': 'adds up'}
    """
    sizes = plain_sizes(bench)
    first, second, third = (bench.count(sizes) for _ in range(3))
    if first == second == third:
        return
    if third - second == second - first > 0:
        parameters, words = {"repeats": "adds up"}, "adds each call to those before"
    else:
        parameters, words = {"repeats": "differs"}, "is another number each time"
    told = ", ".join(map(shown, (first, second, third)))
    bench.add(parameters, f"The same question three times gives {told}: it {words}.", sizes)
    bench.stopped = True


def read_rounded(bench: CounterBench) -> bool:
    """Say whether it rounds to whole units, or a few digits of them: compared at large sizes alone.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, queries, width: round(4 * queries**2 * width / 1e9, 2))
    >>> read_rounded(bench), bench.findings[0].parameters
    (True, {'unit': 1000000000, 'rounded': True})
    """
    flops = bench.target.counts == "flops"
    asked = [
        bench.sizes(layers=48, kv_heads=8, group=4, queries=step, keys=length, width=128, value_width=128, head=128)
        for length in ((65536, 100_000, 262_144) if flops else (2**22, 5_000_000, 2**24))
        for step in ((length, length // 2) if flops else (1,))
    ]
    pairs = [(bench.count(sizes), bench.expected(sizes)) for sizes in asked]
    for unit in reversed(UNITS[bench.target.counts]):
        if all(right >= 10 * unit and abs(read * unit - right) <= unit for read, right in pairs):
            words = f"It counts in units of {_power(unit)} and rounds: large sizes alone were compared."
            bench.add({"unit": unit, "rounded": True}, words, asked[0], kind="convention")
            bench.stopped = True
            return True
    return False


def _power(unit: int) -> str:
    return next(f"{base}**{n}" for base in (10, 2) for n in range(3, 41) if base**n == unit)


def read_unit(bench: CounterBench) -> None:
    """Find a counter that returns thousands, or gibibytes.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, queries, width: 4 * queries**2 * width / 1e9)
    >>> read_unit(bench)
    >>> bench.unit, bench.findings[0].parameters
    (1000000000, {'unit': 1000000000})
    """
    asked = [bench.sizes(**sizes) for sizes in _ODD]
    numbers = [bench.count(sizes) for sizes in asked]
    if all((4 * number).denominator == 1 for number in numbers):
        return
    for unit in UNITS[bench.target.counts]:
        near = [abs(4 * number * unit - round(4 * number * unit)) for number in numbers]
        large = all(number * unit >= 1 for number in numbers)
        if large and all(off <= Fraction(1, 10**6) for off in near):
            what = "FLOPs" if bench.target.counts == "flops" else "bytes"
            bench.add({"unit": unit}, f"It counts in units of {_power(unit)} {what}.", asked[0], kind="convention")
            bench.unit = unit
            return
