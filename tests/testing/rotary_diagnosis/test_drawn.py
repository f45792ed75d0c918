"""A fault that stands in no list is caught by drawn cases, and told with its place."""

from typing import Any

from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.looking import look
from kvattn.testing.rotary_targets import RotaryTarget


def late(x: Any, positions: Any) -> Any:
    """Right up to 40 tokens; the last of more stands still."""
    turned = PlantedRotation().alone(x, positions)
    if x.shape[2] in {15, 18}:
        turned[:, :, -1] = x[:, :, -1]
    return turned


def test_a_last_row_that_stands_still_in_some_lengths() -> None:
    bench, margin = look(RotaryTarget("late", late, width=8))
    (finding,) = bench.findings
    assert finding.fault_class == "unclassified"
    assert "times the bound" in finding.detail
    assert margin is not None
    assert margin.worst > 1


def test_the_same_seed_gives_the_same_cases() -> None:
    one, two = (look(RotaryTarget("mine", PlantedRotation().alone, width=8), seed=3)[1] for _ in range(2))
    assert one == two
