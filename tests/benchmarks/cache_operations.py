"""Cost of branch, truncate, select and append against the tokens held: microseconds, medians, as a table and a plot.

    python tests/benchmarks/cache_operations.py
    python tests/benchmarks/cache_operations.py docs/explain/cache-operations.svg

Rows are small (one number of float32) and pages hold 256 tokens, so that what is timed is the cache and not the
copying of rows.  Timings belong to no test: ``tests/caches/test_paged_operations.py`` counts steps, and
``tests/caches/test_vectors.py`` pointers.
"""

from collections.abc import Callable
from pathlib import Path
import statistics
import sys
import time
from typing import Any

import numpy as np

from kvattn.caches import Paged, latent

LENGTHS = (100, 1_000, 10_000, 100_000, 1_000_000)
ROUNDS, CALLS = 15, 50
ROW = [np.ones((1, 1, 1, 1), np.float32)]

VERBS: dict[str, Callable[[Paged[Any]], object]] = {
    "branch": lambda cache: cache.branch(),
    "truncate": lambda cache: cache.truncate(cache.lengths[0] * 3 // 4),
    "select": lambda cache: cache.select([0, 0]),
}


def per_call(action: Callable[[], object]) -> float:
    """Median microseconds of a call."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            action()
        times.append((time.perf_counter() - start) / CALLS * 1e6)
    return statistics.median(times)


def appended(cache: Paged[Any]) -> float:
    """Median over rounds of the mean microseconds of 256 appends, one page's worth, each behind the last."""
    times = []
    for _ in range(ROUNDS):
        longer, start = cache, time.perf_counter()
        for _ in range(256):
            longer = longer.append(ROW)
        times.append((time.perf_counter() - start) / 256 * 1e6)
    return statistics.median(times)


def measured() -> dict[str, list[float]]:
    """Microseconds of each operation at each length."""
    found: dict[str, list[float]] = {name: [] for name in (*VERBS, "append")}
    for length in LENGTHS:
        cache = Paged.start(latent(1, np.float32)).append([np.ones((1, 1, length, 1), np.float32)])
        for name, verb in VERBS.items():
            found[name].append(per_call(lambda verb=verb, cache=cache: verb(cache)))  # type: ignore[misc]
        found["append"].append(appended(cache))
    return found


def table(found: dict[str, list[float]]) -> str:
    """A line for each operation."""
    lines = ["tokens held   " + "".join(f"{length:>12,}" for length in LENGTHS)]
    lines += [f"{name:14}" + "".join(f"{each:9.1f} µs" for each in times) for name, times in found.items()]
    return "\n".join(lines)


def plot(found: dict[str, list[float]]) -> str:
    """An SVG: tokens and microseconds, both logarithmic; one line for each operation, named at its end."""
    wide, high, left, top = 640, 360, 70, 20
    across, down = wide - left - 90, high - top - 50

    def place(length: float, micros: float) -> tuple[float, float]:
        x = left + across * (np.log10(length) - 2) / 4
        y = top + down * (1 - (np.log10(micros) + 2) / 5)
        return round(float(x), 1), round(float(y), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="13">',
        "<title>Microseconds of one operation against the tokens that the cache holds</title>",
        f'<rect width="{wide}" height="{high}" fill="white"/>',
    ]
    for exponent in range(-2, 4):
        _, y = place(100, 10.0**exponent)
        label = f"{10.0**exponent:g} µs"
        parts.append(f'<path d="M{left} {y}H{left + across}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    for length in LENGTHS:
        x, _ = place(length, 1)
        parts.append(f'<path d="M{x} {top}V{top + down}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{top + down + 20}" text-anchor="middle">{length:,}</text>')
    parts.append(f'<text x="{left + across / 2}" y="{high - 8}" text-anchor="middle">tokens held</text>')
    ends = []
    for (name, times), colour in zip(found.items(), ("#0072b2", "#d55e00", "#009e73", "#000000"), strict=True):
        points = [place(length, micros) for length, micros in zip(LENGTHS, times, strict=True)]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
            + " ".join(f"{x},{y}" for x, y in points)
            + '"/>'
        )
        ends.append((points[-1][1] + 4, f'fill="{colour}">{name}</text>'))
    low = float(high)
    for y, rest in sorted(ends, reverse=True):
        low = min(y, low - 15)  # names of lines that end side by side stand apart
        parts.append(f'<text x="{left + across + 8}" y="{low}" {rest}')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    measurements = measured()
    print(table(measurements))
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(plot(measurements), encoding="utf-8")
