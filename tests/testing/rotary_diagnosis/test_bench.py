"""Widths and shapes of positions are found; what a target raises or misshapes is told as such."""

from typing import Any

import numpy as np
import pytest

from kvattn.positions import Rotary
from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.bench import FORMS, RotaryBench, bench_of
from kvattn.testing.rotary_targets import RotaryTarget


def by_row(x: Any, positions: Any) -> Any:
    if np.ndim(positions) != 1:
        raise ValueError("positions must be one vector")
    return Rotary.of(8).rotate(x, positions)


@pytest.mark.parametrize(
    ("function", "form"),
    [(PlantedRotation().alone, FORMS[0]), (Rotary.of(8).rotate, FORMS[1]), (by_row, FORMS[2])],
)
def test_the_shape_of_positions_is_found(function: Any, form: str) -> None:
    bench = bench_of(function, width=8)
    assert bench.form == form
    x, at = np.ones((2, 3, 4, 8)), np.array([[0, 1, 2, 3], [5, 6, 7, 8]])
    assert bench.run(x, x, at).q == pytest.approx(Rotary.of(8).rotate(x, at[:, None]))


def test_a_width_is_found() -> None:
    def only(x: Any, positions: Any) -> Any:
        if x.shape[3] != 80:
            raise ValueError("80 features, please")
        return PlantedRotation().alone(x, positions)

    assert bench_of(only).width == 80
    with pytest.raises(Refused, match="80 features"):
        bench_of(only, width=64)


def test_another_shape_is_no_answer() -> None:
    with pytest.raises(Misshapen, match=r"rotated q has shape \(3, 2, 5, 7\), expected \(3, 2, 5, 8\)"):
        bench_of(lambda x, positions: x[..., :7], width=8)


def test_the_target_gets_its_own_copies() -> None:
    def spoils(x: Any, positions: Any) -> Any:
        turned = PlantedRotation().alone(x, positions)
        x[:], positions[:] = 0, 0
        return turned

    bench = RotaryBench(RotaryTarget("spoils", spoils), width=4)
    x, at = np.ones((1, 1, 2, 4)), np.array([[3, 4]])
    bench.run(x, x, at)
    assert x.all()
    assert at.all()
