"""A small version of the tables of bounds against errors: the worst case holds, the statistical bound is near."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from kvattn.testing.emulated import emulate
from kvattn.typing import Array, Attended
from tests.benchmarks import tolerance_table
from tests.benchmarks.tolerance_table import (
    ARITHMETICS,
    FAR,
    FAR_HEAD,
    HEAD,
    KINDS,
    Line,
    cases,
    measured,
    table,
)


def test_the_table_has_all_arithmetics_and_kinds() -> None:
    near, far = table(list(ARITHMETICS), widths=(8,), counts=(2,))
    assert len(near) == 1 + len(ARITHMETICS) * len(KINDS)
    assert far == [FAR_HEAD]
    assert all(line.count(",") == HEAD.count(",") for line in near)


@pytest.mark.parametrize("name", ARITHMETICS)
def test_no_error_is_outside_a_bound_and_no_bound_far_from_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance_table, "DRAWS", {2: 3})  # a few, so that chance makes the ratios
    for kind, width, count in cases(widths=(8,) if " with " in name else (8, 64), counts=(2, 16, 200)):
        line = measured(kind, ARITHMETICS[name].tiled(count, 64), width, count, (1,))
        assert max(line.worst, line.lse_worst) <= 1, (kind.__name__, width, count)
        assert max(line.statistical, line.lse_statistical) <= 1, (kind.__name__, width, count)
        assert math.isnan(line.ratio) or line.ratio < 2 * FAR, (kind.__name__, width, count, line.ratio)
        assert line.lse_ratio < 2 * FAR, (kind.__name__, width, count, line.lse_ratio)


def test_a_size_that_is_far_is_listed_with_its_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tolerance_table, "FAR", 1.0)
    _, far = table(["BFLOAT16_PURE"], widths=(8,), counts=(2,))
    assert len(far) == 1 + len(KINDS)
    assert all(line.count(",") == FAR_HEAD.count(",") for line in far)
    assert [bool(line.split(",")[7]) for line in far[1:]] == [kind.__name__ == "cancelling_value" for kind in KINDS]


def test_a_wrong_result_shows_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(*arrays: Array, **options: Any) -> Attended:
        found = emulate(*arrays, **options)
        return found._replace(out=found.out + 0.1)

    monkeypatch.setattr(tolerance_table, "emulate", off)
    line: Line = measured(KINDS[0], ARITHMETICS["FLOAT32_BLAS"], 8, 16)
    assert line.worst > 1


def test_the_recorded_table_is_whole_and_has_no_violation() -> None:
    path = Path(__file__).parents[3] / "docs/explain/tolerance-table.csv"
    head, *rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
    assert ",".join(head) == HEAD
    assert [(row[0], row[1]) for row in rows] == [
        (name, kind.__name__.replace("_", " ")) for name in ARITHMETICS for kind in KINDS
    ]
    assert all(float(row[column]) <= 1 for row in rows for column in (2, 3, 5, 6))
    listed = {(row[0], row[1]) for row in csv.reader(path.with_name("tolerance-far.csv").read_text().splitlines()[1:])}
    for row in rows:
        ratios = [float(row[column].split(" to ")[1]) for column in (4, 7)]
        assert (max(ratios) > FAR) == ((row[0], row[1]) in listed), row
