"""Partners, angles and names of pairings, off matrices that were made by hand."""

import numpy as np
import pytest

from kvattn.testing.rotary_diagnosis.pairs import Layout, layout_of, pairs_of, read_turning


def matrices(pairs: list[tuple[int, int]], theta: list[float], size: int, count: int = 12, at: int = 0) -> np.ndarray:
    out = np.zeros((count, size, size)) + np.eye(size)
    for (a, b), frequency in zip(pairs, theta, strict=True):
        for t in range(count):
            c, s = np.cos((t + at) * frequency), np.sin((t + at) * frequency)
            out[t, a, a], out[t, a, b], out[t, b, a], out[t, b, b] = c, -s, s, c
    return out


def test_partners_steps_and_rest() -> None:
    turning = read_turning(matrices([(0, 3), (2, 1)], [1.0, 0.25], 5))
    assert turning.partner.tolist() == [3, 2, 1, 0, 4]
    assert turning.steps == pytest.approx([1.0, -0.25, -0.25, 1.0, 0.0])  # (2, 1): the lower feature is the second
    assert turning.start == pytest.approx(np.zeros(5))
    assert turning.magnitude == pytest.approx(np.ones(5))
    assert turning.bent < 1e-12
    assert turning.stray == 0


def test_a_first_angle_and_a_bent_line() -> None:
    moved = matrices([(0, 1)], [0.5], 2, at=3)
    assert read_turning(moved).start == pytest.approx([1.5, 1.5])
    moved[5:] = moved[5]
    assert read_turning(moved).bent > 0.5


def test_a_third_feature_is_seen() -> None:
    spoilt = matrices([(0, 1)], [0.5], 3)
    spoilt[4, 0, 2] = 0.125
    assert read_turning(spoilt).stray == 0.125


@pytest.mark.parametrize(
    ("partner", "layout"),
    [
        ([0, 1, 2], Layout("none")),
        ([2, 3, 0, 1, 4, 5], Layout("half", 0, 4)),
        ([0, 1, 4, 5, 2, 3], Layout("half", 2, 4)),
        ([1, 0, 3, 2, 4], Layout("adjacent", 0, 4)),
        ([0, 2, 1, 4, 3], Layout("adjacent", 1, 4)),
        ([4, 5, 2, 3, 0, 1, 6, 7], Layout("half", 0, 8)),  # proportional: pairs between rest
        ([3, 2, 1, 0], Layout("other")),
        ([1, 2, 0], Layout("other")),
        ([1, 0, 2, 4, 3], Layout("other")),
    ],
)
def test_pairings_are_named(partner: list[int], layout: Layout) -> None:
    assert layout_of(np.array(partner)) == layout


def test_a_single_pair_of_neighbours_is_adjacent() -> None:
    assert layout_of(np.array([1, 0])) == Layout("adjacent", 0, 2)


def test_pairs_come_back_in_order() -> None:
    first, second = pairs_of(Layout("half", 1, 6))
    assert (first.tolist(), second.tolist()) == ([1, 2, 3], [4, 5, 6])
