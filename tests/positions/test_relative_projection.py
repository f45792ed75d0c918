"""The mix of curves over distance: pairs by hand; the layer that brings r is tested beside its variant."""

import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions.relative_projection import RelativeProjection
from tests.positions.scored import DTYPES, bent, drawn

CURVES = drawn(3, 5, seed=1)
MOD = RelativeProjection(CURVES)


@pytest.mark.by_hand("positions/relative_projection")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_equals_by_hand(dtype: Any) -> None:
    q, k, notes = (7, 2, 40), (0, 2, 3, 6, 7, 8), drawn(2, 3, 3, seed=2, dtype=dtype)
    found = bent(MOD, q, k, 2, dtype, query_notes=notes)
    for h in range(2):
        for i in range(3):
            for j in range(6):
                apart = q[i] - k[j]
                inside = 0 <= apart < 5
                terms = [float(notes[h, i, r]) * float(CURVES[r, apart]) for r in range(3)] if inside else [0.0]
                assert abs(found[h, i, j] - math.fsum(terms)) <= 4 * np.finfo(dtype).eps * sum(map(abs, terms))


def test_the_last_distance_is_inside_and_the_next_is_not() -> None:
    found = bent(MOD, [5], [0, 1, 5, 6], query_notes=np.ones((1, 1, 3)))[0, 0]
    assert found[0] == found[3] == 0.0
    assert found[1] == pytest.approx(CURVES[:, 4].sum())
    assert found[2] == pytest.approx(CURVES[:, 0].sum())


@pytest.mark.law("positions/relative_projection", "a pair's bias does not feel other rows and columns", "bits")
def test_a_pair_alone_has_the_same_bits() -> None:
    notes = drawn(2, 9, 3, seed=3)
    whole = bent(MOD, range(9), range(9), 2, query_notes=notes)
    for i in range(9):
        assert np.array_equal(bent(MOD, [i], range(9), 2, query_notes=notes[:, i : i + 1])[:, 0], whole[:, i])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: RelativeProjection(CURVES[0]),
            ShapeError,
            r"^curves must have shape \[R, extent\], none of them 0, got",
        ),
        (
            lambda: bent(MOD, [0], [0]),
            ArgumentError,
            r"^place must have query_notes for curves to be mixed by, got None$",
        ),
        (
            lambda: bent(MOD, [0], [0], query_notes=np.ones((1, 1, 2))),
            ShapeError,
            r"^query_notes must have shape \[\.\.\., rows, 3\], got \(1, 1, 2\)$",
        ),
    ],
    ids=range(3),
)
def test_a_bad_argument_is_named(call: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call()
