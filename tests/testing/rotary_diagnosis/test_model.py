"""The model turns as `Rotary` does, and its bound holds for float32 angles and fails for bfloat16's."""

import numpy as np
import pytest

from kvattn.positions import Rotary
from kvattn.testing.formats import FORMATS
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.model import Model

ROTATIONS = [Rotary.of(6), Rotary.of(4, layout="adjacent", start=1), Rotary.of(4, magnitude=1.5)]


@pytest.mark.parametrize("rotary", ROTATIONS)
def test_it_turns_as_rotary_does(rotary: Rotary) -> None:
    x, at = np.random.default_rng(3).standard_normal((5, 6)), np.array([0, 1, 9, 300, 4])
    assert Model.of(rotary, 6).turn(x, at) == pytest.approx(rotary.rotate(x, at), abs=1e-12)


def test_the_bound_holds_for_float32_angles_and_not_for_bfloat16() -> None:
    r = np.random.default_rng(4)
    x, at = r.standard_normal((3, 2, 40, 16)), r.integers(0, 4096, (3, 40))
    model = Model.of(Rotary.of(16), 16)
    limit = model.bound(x, at[:, None], 2.0**-24, 2.0**-24)
    stages = ["positions", "frequencies", "angles", "tables"]
    single = PlantedRotation(rounding=dict.fromkeys(stages, lambda v: np.asarray(v, np.float32).astype(float)))
    assert (np.abs(single.alone(x, at) - model.turn(x, at[:, None])) <= limit).all()
    half = PlantedRotation(rounding={"frequencies": FORMATS["bfloat16"].round})
    assert (np.abs(half.alone(x, at) - model.turn(x, at[:, None])) > limit).any()


def test_direction_and_offset() -> None:
    back = Model(np.array([0]), np.array([1]), np.array([1.0]), direction=-1, offset=2.0)
    assert back.turn(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(np.array([[np.cos(3), -np.sin(3)]]))
