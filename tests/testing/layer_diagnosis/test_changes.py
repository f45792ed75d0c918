"""Every change differs from the plan and from every other; a number is found on a scale of logarithms."""

import numpy as np
import pytest

from kvattn.positions import Rotary, yarn_rotary
from kvattn.testing.layer_diagnosis import changes
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Reading

PLANS = [
    Plan(rotary=Rotary.of(8), norm="before", window=3, softcap=1.0),
    Plan(rotary=yarn_rotary(8, factor=16.0, trained=64)),
    Plan(alibi=True),
]


@pytest.mark.parametrize("plan", PLANS, ids=["normed", "YaRN", "ALiBi"])
def test_changes_are_told_apart(plan: Plan) -> None:
    now = Reading(plan)
    found = [
        change for tries in (changes.projections, changes.heads, changes.bends, changes.norms) for change in tries(now)
    ] + list(changes.rotations(now, 8))
    drawings = [
        Drawing(B=3, T=7, Hq=6, Hkv=3, M=48, norms=True, small=True, positions="gaps"),
        Drawing(B=2, T=6, Hq=8, Hkv=2, M=64, norms=True, positions="far", seed=1),
        Drawing(B=1, T=9, Hq=12, Hkv=4, M=96, norms=True, positions="far", seed=2),
        Drawing(B=1, T=4, Hq=6, Hkv=2, M=48, norms=True, seed=3),
    ]
    cases = [drawing.build() for drawing in drawings]
    seen: dict[bytes, str] = {np.round(np.concatenate([now.predict(*c).ravel() for c in cases]), 9).tobytes(): "plan"}
    same = []
    for change in found:
        if "uses" in change.parameters:  # matrices of one shape alone can be exchanged
            continue
        key = np.round(np.concatenate([change.reading.predict(*c).ravel() for c in cases]), 9).tobytes()
        if key in seen:
            same.append((change.words, seen[key]))
        seen[key] = change.words
    assert len(found) > 60
    assert len(same) <= 12, same


def test_a_number_is_found() -> None:
    for value in (1e-5, 0.3, 777.0):
        assert changes.scan(lambda x, value=value: abs(np.log(x / value)), 1e-9, 1e9) == pytest.approx(value, rel=1e-9)  # type: ignore[misc]
