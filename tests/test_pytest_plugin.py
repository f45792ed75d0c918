"""The pytest plugin, run as a user's test suite would run it, each time in a process of its own."""

from importlib.metadata import entry_points
from pathlib import Path
import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

LOADED = any(point.value == "kvattn.pytest_plugin" for point in entry_points(group="pytest11"))
NAMED = () if LOADED else ("-p", "kvattn.pytest_plugin")
"""Where kvattn is installed, pytest finds the plugin by itself."""


@pytest.fixture(autouse=True)
def _this_kvattn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def run(pytester: pytest.Pytester, code: str, *arguments: str) -> pytest.RunResult:
    pytester.makepyfile(code)
    return pytester.runpytest_subprocess(*NAMED, "-q", "--strict-markers", *arguments)


def test_a_check_fails_with_its_report(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        from kvattn.testing.planted import Planted

        def right(q, k, v, *, causal=False, window=None):
            return Planted()(q, k, v, causal=causal, window=window)

        def wrong(q, k, v, *, causal=False, window=None):
            return Planted(extra_keys=1)(q, k, v, causal=causal, window=window)

        def test_right(kvattn_check):
            assert kvattn_check(right, cases=4).verdict == "pass"

        def test_wrong(kvattn_check):
            kvattn_check(wrong, cases=4)

        def test_known(kvattn_check):
            kvattn_check(wrong, known=("window-off-by-one",), cases=4)
        """,
    )
    done.assert_outcomes(passed=2, failed=1)
    done.stdout.fnmatch_lines(["*fault: window-off-by-one*", "*A window of W shows W + 1 keys*"])
    done.stdout.no_fnmatch_line("*passing.py*raise*")  # its own lines are hidden
    assert len(done.outlines) < 60


def test_golden_cases_are_one_test_each(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        from kvattn.goldens import cases
        from kvattn.pytest_plugin import kvattn_cases

        SEEN = []

        @kvattn_cases(family="dense/merge", result="valid")
        def test_each(kvattn_case):
            assert kvattn_case.name.startswith("dense/merge/")
            SEEN.append(kvattn_case.name)

        def test_all_of_them():
            assert SEEN == [case.name for case in cases(family="dense/merge", result="valid")]
        """,
    )
    counts = done.parseoutcomes()
    assert set(counts) == {"passed"}
    assert counts["passed"] > 5


def test_a_selection_that_selects_nothing_is_an_error(pytester: pytest.Pytester) -> None:
    marks = {"bare": "", "family": "@kvattn_cases(family='no such')\n", "other": "@kvattn_cases(colour='red')\n"}
    start, test = "from kvattn.pytest_plugin import kvattn_cases\n", "def test_it(kvattn_case): ...\n"
    pytester.makepyfile(**{f"test_{name}": f"{start}{mark}{test}" for name, mark in marks.items()})
    done = pytester.runpytest_subprocess(*NAMED, "-q", "--strict-markers", "--continue-on-collection-errors")
    done.assert_outcomes(errors=3)
    done.stdout.fnmatch_lines_random(
        ["*must have @kvattn_cases where it asks for kvattn_case*", "*no such*", "*colour*"]
    )


def test_what_a_test_counts_is_its_own(pytester: pytest.Pytester) -> None:
    done = run(
        pytester,
        """
        import numpy as np
        import pytest
        from kvattn import ops

        @pytest.mark.parametrize("again", [1, 2])
        def test_counts(kvattn_tally, again):
            ops.contract(np.ones((3, 4)), np.ones((4, 5)))
            assert kvattn_tally.matmul == 120
        """,
    )
    done.assert_outcomes(passed=2)


def test_loading_it_loads_no_numpy() -> None:
    code = "import sys, kvattn.pytest_plugin; print(sorted({'numpy', 'hypothesis'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
