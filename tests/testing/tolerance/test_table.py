"""A small version of the table of bounds against errors: the worst case holds, the statistical bound is near."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvattn.testing.emulated import emulate
from kvattn.typing import Array, Attended
from tests.benchmarks import tolerance_table
from tests.benchmarks.tolerance_table import ARITHMETICS, KINDS, Line, cases, measured, table


def test_the_table_has_all_arithmetics_and_kinds() -> None:
    lines = list(table(list(ARITHMETICS), widths=(8,), counts=(2, 16)))
    assert len(lines) == 1 + len(ARITHMETICS) * len(KINDS)
    assert all(line.count(",") == lines[0].count(",") for line in lines)


@pytest.mark.parametrize("name", ARITHMETICS)
def test_no_error_is_outside_a_bound_and_no_bound_far_from_the_errors(name: str) -> None:
    for kind, width, count in cases(widths=(8, 64), counts=(2, 16, 200)):
        at = ARITHMETICS[name].tiled(count, 64)
        line = measured(kind(np.random.default_rng([width, count, 1]), count, width), at)
        assert max(line.worst, line.lse_worst) <= 1, (kind.__name__, width, count)
        assert max(line.statistical, line.lse_statistical) <= 1, (kind.__name__, width, count)
        assert math.isnan(line.ratio) or line.ratio < 40, (kind.__name__, width, count, line.ratio)


def test_a_wrong_result_shows_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(*arrays: Array, **options: Any) -> Attended:
        found = emulate(*arrays, **options)
        return found._replace(out=found.out + 0.1)

    monkeypatch.setattr(tolerance_table, "emulate", off)
    line: Line = measured(KINDS[0](np.random.default_rng(0), 16, 8), ARITHMETICS["FLOAT32_BLAS"])
    assert line.worst > 1


def test_the_recorded_table_is_whole_and_has_no_violation() -> None:
    path = Path(__file__).parents[3] / "docs/explain/tolerance-table.csv"
    head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert ",".join(head) == next(table([]))
    assert [(row[0], row[1]) for row in rows] == [
        (name, kind.__name__.replace("_", " ")) for name in ARITHMETICS for kind in KINDS
    ]
    assert all(float(row[column]) <= 1 for row in rows for column in (2, 3, 5, 6))
