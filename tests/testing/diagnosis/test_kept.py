"""Options that are kept between calls."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.diagnosis.kept import read_kept
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.planted import Mutant, Planted
from kvattn.testing.planted.manners import STATE
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import named, silent

MUTANTS = [mutant for mutant in STATE if mutant.parameters.get("kept") in {"causal", "window", "bias", "mask"}]
RIGHT = Planted(returns_lse=False)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_kept)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_kept)


class Table:
    """Makes its table of who sees whom once for T and S, as modules that register a buffer do."""

    def __init__(self, by_window: bool) -> None:
        self.by_window, self.kept = by_window, {}  # type: ignore[var-annotated]

    def __call__(self, q: Any, k: Any, v: Any, *, causal: bool = False, window: int | None = None) -> Any:
        """Attend."""
        length, count = q.shape[2], k.shape[2]
        key = (length, count, causal, window) if self.by_window else (length, count)
        if key not in self.kept:
            far = np.arange(length)[:, None] + count - length - np.arange(count)
            seen = (far >= 0) | (not causal)
            self.kept[key] = seen if window is None else seen & (far < window)
        return RIGHT(q, k, v, mask=np.broadcast_to(self.kept[key], (*q.shape[:3], count)))


def test_a_table_that_is_made_once_for_a_shape_is_named_and_one_that_is_made_for_its_options_is_right() -> None:
    report = check(Table(False), cases=0)
    assert [(f.fault_class, f.parameters["kept"]) for f in report.findings] == [("stale-state", "causal")]
    assert check(Table(True), cases=0).findings == ()


def test_an_option_without_effect_was_not_kept() -> None:
    lab = Lab(target_of(Planted(ignore=("mask", "causal", "bias"))))
    read_kept(lab)
    assert lab.findings == []
