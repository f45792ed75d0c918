"""The two bounds against the errors of computed attention: worst case never violated, statistical within reach.

    python tests/benchmarks/tolerance_table.py docs/explain

Attention is computed by `kvattn.testing.emulated` in the very arithmetic that the bounds are stated for, in float64
rounded after every operation, on data of six kinds that are in the format of the inputs.  A line of
tolerance-table.csv has, for one arithmetic and one kind of data, over all sizes: the largest error in units of either
bound, and the smallest and largest ratio of statistical bound to error, both as root mean squares over all elements
of a few draws (`DRAWS`): the elements of one call share its keys, so that those of one call with two keys are as good
as two.  The error counts as no smaller than that of rounding an exact answer, ``u / sqrt(3)``: some answers are exact
by luck, as those of one key; sizes in which every exact answer is 0 have no ratio.

tolerance-far.csv lists the sizes with a ratio above `FAR`, with what explains it: the ratio of each draw, the same
where keys of opposite values are not nearly equal (`apart`) and in another order of the keys (`even_first`), and what
the total loses, as the bound has it and as computed.  Names of arithmetics may follow; all, unless they do.
"""

from collections.abc import Iterator
from dataclasses import replace
import math
from pathlib import Path
import sys
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing import arithmetic
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.emulated import emulate
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.bounding import Examined, examined
from kvattn.testing.tolerance.calls import Call
from kvattn.testing.tolerance.limits import Limits
from kvattn.typing import Array

ROUNDED, EITHER = " with a rounded total", " with either total"
ARITHMETICS = {
    name: replace(getattr(arithmetic, name), exp_ulp=0.5, totals="unrounded")  # the emulated exp is rounded correctly
    for name in ("FLOAT32_BLAS", "BFLOAT16_TENSOR_CORE", "FLOAT16_TENSOR_CORE", "BFLOAT16_PURE", "FLOAT16_PURE")
}
ARITHMETICS |= {
    name + which: replace(ARITHMETICS[name], totals=totals)
    for which, totals in ((ROUNDED, "rounded"), (EITHER, "either"))
    for name in ("BFLOAT16_TENSOR_CORE", "FLOAT16_TENSOR_CORE")
}
"""What is computed, and stated; where either total is stated, one is computed with each."""

WIDTHS = (8, 32, 64, 128, 256)
COUNTS = (1, 2, 16, 128, 1024, 8192)
DRAWS = {1: 8, 2: 8, 16: 8, 128: 2}
FAR = 20.0


class Case(NamedTuple):
    """Numbers for one call: ``q [1, 1, T, D]``, ``k [1, 1, S, D]``, ``v [1, 1, S, 16]``, sinks or None."""

    q: Array
    k: Array
    v: Array
    sinks: Array | None = None


def gaussian(r: np.random.Generator, count: int, width: int) -> Case:
    rows = 64 if count <= 128 else 16  # chance must not make the ratio
    q, k, v = (r.standard_normal((1, 1, *size)) for size in ((rows, width), (count, width), (count, 16)))
    return Case(q, k, v)


def large_score(r: np.random.Generator, count: int, width: int) -> Case:
    case = gaussian(r, count, width)
    return case._replace(q=8 * case.q)


def repeated_maximum(r: np.random.Generator, count: int, width: int) -> Case:
    """A quarter of the keys are the same, and the best of every row; values lean to one side."""
    case = gaussian(r, count, width)
    common = r.standard_normal(width)
    case.q[:] = common + 0.1 * case.q
    case.k[:, :, ::4] = 2 * common
    return case._replace(v=case.v - 0.5)


def cancelling_value(r: np.random.Generator, count: int, width: int) -> Case:
    """Neighbours have opposite values, and keys that are nearly the same."""
    case = gaussian(r, count, width)
    half = count // 2
    case.k[:, :, 1 : 2 * half : 2] = case.k[:, :, 0 : 2 * half : 2] * 1.01
    case.v[:, :, 1 : 2 * half : 2] = -case.v[:, :, 0 : 2 * half : 2]
    return case


def sink_dominated(r: np.random.Generator, count: int, width: int) -> Case:
    return gaussian(r, count, width)._replace(sinks=np.array([6.0 + np.log(count)]))


def one_hot(r: np.random.Generator, count: int, width: int) -> Case:
    """Every value is a unit vector: the output is the weights of the keys, summed over every sixteenth."""
    return gaussian(r, count, width)._replace(v=np.eye(16)[np.arange(count) % 16][None, None])


KINDS = (gaussian, large_score, repeated_maximum, cancelling_value, sink_dominated, one_hot)


def apart(r: np.random.Generator, count: int, width: int) -> Case:
    """Neighbours have opposite values, and keys that have nothing in common."""
    case = gaussian(r, count, width)
    half = count // 2
    case.v[:, :, 1 : 2 * half : 2] = -case.v[:, :, 0 : 2 * half : 2]
    return case


def even_first(case: Case) -> Case:
    """The same, with every other key put to the end: another order of the same sums."""
    order = np.argsort(np.arange(case.k.shape[2]) % 2, kind="stable")
    return case._replace(k=case.k[:, :, order], v=case.v[:, :, order])


class Line(NamedTuple):
    """What one size showed: largest error over the bounds, bound over error in the root mean square, of each draw."""

    worst: float
    statistical: float
    ratio: float
    lse_worst: float
    lse_statistical: float
    lse_ratio: float
    draws: tuple[float, ...] = ()


def joined(blocks: list[Examined], name: str) -> Limits:
    return Limits(*(np.concatenate(parts) for parts in zip(*(getattr(one, name) for one in blocks), strict=True)))


class Found(NamedTuple):
    """What one draw showed of the output, or of the log-sum-exp: largest errors, and means of squares."""

    worst: float
    statistical: float
    squares: Array  # of the bound, the error, the exact answer


def compared(case: Case, at: Arithmetic) -> tuple[Found, Found]:
    """Compute one draw, and compare it with its bounds.

    Where the statement covers two kinds of program, with the errors of the kind that errs more.
    """
    kind = format_of(at.inputs)
    case = Case(kind.round(case.q), kind.round(case.k), kind.round(case.v), case.sinks)
    found = [emulate(case.q, case.k, case.v, arithmetic=one, sinks=case.sinks) for one in at.statements()]
    blocks = list(examined(Call(case.q, case.k, case.v, sinks=case.sinks), at))
    out, lse = joined(blocks, "out"), joined(blocks, "lse")
    return _within([one.out for one in found], out), _within([one.lse for one in found], lse)


def _within(found: list[Array], limits: Limits) -> Found:
    errors = [np.abs(got[0, 0] - limits.exact) for got in found]
    inside = [
        max(float(np.where(error > 0, error / bound, 0.0).max()) for error in errors)
        for bound in (limits.worst, limits.statistical)
    ]
    error = max((error**2).mean() for error in errors)
    return Found(inside[0], inside[1], np.array([(limits.statistical**2).mean(), error, (limits.exact**2).mean()]))


def ratio(squares: Array, name: str) -> float:
    """Bound over error, which is no smaller than that of rounding the exact answer."""
    root = float(np.sqrt(max(squares[1], format_of(name).roundoff ** 2 / 3 * squares[2])))
    return float(np.sqrt(squares[0])) / root if root else math.nan


def measured(kind: Any, at: Arithmetic, width: int, count: int, more: tuple[int, ...] = ()) -> Line:
    """Draw cases of one size, and compare each with its bounds."""
    seeds = [[width, count, *more, *([n] if n else [])] for n in range(DRAWS.get(count, 1))]
    draws = [compared(kind(np.random.default_rng(seed), count, width), at) for seed in seeds]

    def part(number: int, name: str) -> tuple[float, float, float]:
        some = [draw[number] for draw in draws]
        squares = np.mean([x.squares for x in some], axis=0)
        return max(x.worst for x in some), max(x.statistical for x in some), ratio(squares, name)

    each = tuple(ratio(draw[0].squares, at.store) for draw in draws)
    return Line(*part(0, at.store), *part(1, at.compute), draws=each)


def cases(widths: tuple[int, ...], counts: tuple[int, ...]) -> Iterator[tuple[Any, int, int]]:
    for kind in KINDS:
        for width in widths:
            for count in counts:
                if count < 8192 or width in (8, 256):  # minutes
                    yield kind, width, count


HEAD = "arithmetic,data,error / worst case,error / statistical,statistical / RMS error,lse: error / worst case,\
lse: error / statistical,lse: statistical / RMS error"
FAR_HEAD = "arithmetic,data,d,n,statistical / RMS error,of each draw,lse: statistical / RMS error,\
keys apart: statistical / RMS error,even keys first: statistical / RMS error,\
share of the total that is lost,as computed"


def table(
    names: list[str], widths: tuple[int, ...] = WIDTHS, counts: tuple[int, ...] = COUNTS
) -> tuple[list[str], list[str]]:
    """The lines of both tables."""
    near, far = [HEAD], [FAR_HEAD]
    for name in names:
        at = ARITHMETICS[name]
        lines: dict[str, list[Line]] = {}
        for kind, width, count in cases(widths, counts):
            line = measured(kind, at.tiled(count, 128), width, count)
            lines.setdefault(kind.__name__, []).append(line)
            print(name, kind.__name__, width, count, *(f"{x:.3g}" for x in line[:6]), file=sys.stderr, flush=True)
            if max(line.ratio, line.lse_ratio) > FAR:
                far.append(f"{name},{explained(kind, at.tiled(count, 128), width, count, line)}")
        for data, found in lines.items():
            largest = [max(getattr(line, field) for line in found) for field in Line._fields[:6]]
            spreads = [spread([getattr(line, field) for line in found]) for field in ("ratio", "lse_ratio")]
            numbers = f"{largest[0]:.3f},{largest[1]:.3f},{spreads[0]},{largest[3]:.3f},{largest[4]:.3f},{spreads[1]}"
            near.append(f"{name},{data.replace('_', ' ')},{numbers}")
    return near, far


def spread(ratios: list[float]) -> str:
    some = [x for x in ratios if not math.isnan(x)]
    return f"{min(some):.1f} to {max(some):.1f}"


def explained(kind: Any, at: Arithmetic, width: int, count: int, line: Line) -> str:
    """Why a bound is far from the errors, in numbers."""
    free = f"{measured(apart, at, width, count).ratio:.1f}" if kind is cancelling_value else ""
    other = measured(lambda r, *sizes: even_first(kind(r, *sizes)), at, width, count).ratio
    case = kind(np.random.default_rng([width, count]), count, width)
    inputs = format_of(at.inputs).round
    case = Case(inputs(case.q), inputs(case.k), inputs(case.v), case.sinks)
    lse = emulate(case.q, case.k, case.v, arithmetic=at, sinks=case.sinks).lse[0, 0]
    limits = joined(list(examined(Call(case.q, case.k, case.v, sinks=case.sinks), at)), "lse")
    lost = [float(-np.expm1(-np.mean(x))) for x in (limits.drift, limits.exact - lse)]
    draws = " ".join(f"{x:.1f}" for x in line.draws)
    return (
        f"{kind.__name__.replace('_', ' ')},{width},{count},{line.ratio:.1f},{draws},{line.lse_ratio:.1f},"
        f"{free},{other:.1f},{lost[0]:.0%},{lost[1]:.0%}"
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, lines in zip(("table", "far"), table(sys.argv[2:] or list(ARITHMETICS)), strict=True):
        (folder / f"tolerance-{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
