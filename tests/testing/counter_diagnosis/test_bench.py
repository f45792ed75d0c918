"""Numbers are read exactly, sizes that a counter does not take are neutral, lines run."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kvattn.testing.counter_diagnosis.bench import CounterBench, bench_of
from kvattn.testing.counter_diagnosis.numbers import exact, plain_number, shown
from kvattn.testing.counter_diagnosis.sizes import Sizes
from kvattn.testing.counter_targets import CounterTarget
from kvattn.testing.diagnosis.raised import Misshapen


@pytest.mark.parametrize(
    "returned", [7, 7.0, np.int32(7), np.float64(7), np.array(7), np.array([7]), Fraction(7)], ids=repr
)
def test_a_number_is_a_number(returned: Any) -> None:
    assert exact(returned) == 7


@pytest.mark.parametrize("returned", [True, None, "7", (7,), [7, 8], 7j, float("nan"), np.array([7, 8])], ids=repr)
def test_anything_else_is_not(returned: Any) -> None:
    with pytest.raises(Misshapen, match=r"returned .*, expected one number"):
        exact(returned)


def test_numbers_are_said_as_python_says_them() -> None:
    assert (shown(Fraction(10**20)), shown(Fraction(1, 4))) == (str(10**20), "0.25")
    assert (plain_number(Fraction(3)), plain_number(Fraction(1, 2))) == (3, 0.5)


def test_a_line_runs_and_prints_both_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    target = CounterTarget("m", max, "flops", {"queries": "n", "width": "d"}, setup="f = lambda n, d: n * d")
    bench = CounterBench(target, unit=1000)
    line = bench.line(Sizes(queries=2, keys=2))
    exec(line)  # noqa: S102 - that it runs is what is tested
    assert capsys.readouterr().out == "16000 expected 128\n"


def test_a_float_in_gigaflops_is_the_integer_that_it_stands_for() -> None:
    bench = bench_of(lambda *, queries, width: 4 * queries**2 * width / 1e9)
    bench.unit = 10**9
    assert bench.count(bench.sizes(queries=4099, width=72)) == 4 * 4099**2 * 72


def test_the_first_wrong_sizes_are_shown() -> None:
    bench = bench_of(lambda *, queries, width: 4 * queries**2 * width + (queries > 2))
    assert bench.wrong(Sizes(queries=n, keys=n) for n in (1, 2, 3, 4)).queries == 3
    assert bench.wrong(Sizes(queries=n, keys=n) for n in (1, 2)).queries == 1
