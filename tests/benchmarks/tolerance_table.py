"""The two bounds against the errors of computed attention: worst case never violated, statistical within reach.

    python tests/benchmarks/tolerance_table.py > docs/explain/tolerance-table.csv

Attention is computed by `kvattn.testing.emulated` in the very arithmetic that the bounds are stated for, in float64
rounded after every operation, on data of six kinds that are in the format of the inputs.  A line has, for one
arithmetic and one kind of data, over all sizes: the largest error in units of either bound, and the smallest and
largest ratio of statistical bound to error, both as root mean squares over all elements.  The error counts as no
smaller than that of rounding an exact answer, ``u / sqrt(3)``: some answers are exact by luck, as those of one key;
sizes in which every exact answer is 0 have no ratio.  Names of arithmetics may be given; all, unless they are.
"""

from collections.abc import Iterator
from dataclasses import replace
import math
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

ARITHMETICS = {
    name: replace(getattr(arithmetic, name), exp_ulp=0.5)  # the emulated exp is rounded correctly
    for name in ("FLOAT32_BLAS", "BFLOAT16_TENSOR_CORE", "FLOAT16_TENSOR_CORE", "BFLOAT16_PURE", "FLOAT16_PURE")
}

WIDTHS = (8, 32, 64, 128, 256)
COUNTS = (1, 2, 16, 128, 1024, 8192)


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


class Line(NamedTuple):
    """What one case showed: largest error over the bounds, bound over error in the root mean square."""

    worst: float
    statistical: float
    ratio: float
    lse_worst: float
    lse_statistical: float
    lse_ratio: float


def joined(blocks: list[Examined], name: str) -> Limits:
    return Limits(*(np.concatenate(parts) for parts in zip(*(getattr(one, name) for one in blocks), strict=True)))


def measured(case: Case, at: Arithmetic) -> Line:
    """Compute one case, and compare it with its bounds."""
    kind = format_of(at.inputs)
    case = Case(kind.round(case.q), kind.round(case.k), kind.round(case.v), case.sinks)
    found = emulate(case.q, case.k, case.v, arithmetic=at, sinks=case.sinks)
    blocks = list(examined(Call(case.q, case.k, case.v, sinks=case.sinks), at))
    numbers: list[float] = []
    for got, limits in ((found.out, joined(blocks, "out")), (found.lse, joined(blocks, "lse"))):
        error = np.abs(got[0, 0] - limits.exact)
        store = format_of(at.store if got is found.out else at.compute).roundoff
        root = float(np.sqrt(np.maximum((error**2).mean(), store**2 / 3 * (limits.exact**2).mean())))
        typical = float(np.sqrt((limits.statistical**2).mean()))
        inside = [float(np.where(error > 0, error / bound, 0.0).max()) for bound in (limits.worst, limits.statistical)]
        numbers += [*inside, typical / root if root else math.nan]
    return Line(*numbers)


def cases(widths: tuple[int, ...], counts: tuple[int, ...]) -> Iterator[tuple[Any, int, int]]:
    for kind in KINDS:
        for width in widths:
            for count in counts:
                if count < 8192 or width in (8, 256):  # minutes
                    yield kind, width, count


def table(names: list[str], widths: tuple[int, ...] = WIDTHS, counts: tuple[int, ...] = COUNTS) -> Iterator[str]:
    yield "arithmetic,data,error / worst case,error / statistical,statistical / RMS error,lse: error / worst case,\
lse: error / statistical"
    for name in names:
        at = ARITHMETICS[name]
        lines: dict[str, list[Line]] = {}
        for kind, width, count in cases(widths, counts):
            line = measured(kind(np.random.default_rng([width, count]), count, width), at.tiled(count, 128))
            lines.setdefault(kind.__name__, []).append(line)
            print(name, kind.__name__, width, count, *(f"{x:.3g}" for x in line), file=sys.stderr, flush=True)
        for data, found in lines.items():
            ratios = [line.ratio for line in found if not math.isnan(line.ratio)]
            largest = [max(getattr(line, field) for line in found) for field in Line._fields]
            spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
            numbers = f"{largest[0]:.3f},{largest[1]:.3f},{spread},{largest[3]:.3f},{largest[4]:.3f}"
            yield f"{name},{data.replace('_', ' ')},{numbers}"


if __name__ == "__main__":
    for text in table(sys.argv[1:] or list(ARITHMETICS)):
        print(text)
