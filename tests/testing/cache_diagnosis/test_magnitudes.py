"""Rows of different sizes come back in theirs; where not, it is said along which axis."""

import math

import numpy as np
import pytest

from kvattn.testing.cache_diagnosis.magnitudes import AXES, read_sizes, written
from kvattn.testing.conformance import PagedAdapter
from kvattn.testing.planted_caches import PlantedCache, PlantedCodes, PlantedRing, PlantedScales


def test_sizes_differ_along_every_axis() -> None:
    for rows in written():
        for axis in range(len(AXES)):
            assert np.ptp(np.log(np.abs(rows)), axis=axis).min() > 0.5 or axis in {0, 3}
            assert np.ptp(np.log(np.abs(rows)), axis=axis).max() > 0.4


def test_what_is_stored_as_it_is_comes_back_without_error() -> None:
    for right in (PagedAdapter(), PlantedCache(), PlantedRing(4)):
        assert [(one.wrong, one.error) for one in read_sizes(right)] == [(False, 0.0)] * 2


def test_codes_are_rounding_and_no_fault() -> None:
    for one in read_sizes(PlantedCodes()):
        assert not one.wrong
        assert one.error <= 0.5 / 127  # the largest of a row is its scale times 127


@pytest.mark.parametrize(
    ("wrong", "field", "varies"),
    [
        (PlantedCodes(of_head=0), "k", ("head",)),
        (PlantedCodes(of_token=0), "v", ("token",)),
        (PlantedCodes(factor=2.0), "k", ()),
    ],
)
def test_a_wrong_scale_is_told_by_its_axis(wrong: PlantedCodes, field: str, varies: tuple[str, ...]) -> None:
    found = {one.field: one for one in read_sizes(wrong)}[field]
    assert found.wrong
    assert found.varies == varies
    assert varies or math.isclose(found.ratio, wrong.factor, rel_tol=0.01)


def test_few_levels_are_rounding_and_no_fault() -> None:
    """Mutant: of codes of four bits whose scale is of a channel, small tokens were too far off."""
    for one in read_sizes(PlantedScales(shared="channel", levels=7)):
        assert one.rounded
        assert not one.wrong


def test_nothing_is_said_of_rows_that_are_lost() -> None:
    assert list(read_sizes(PlantedCache(zeroes=2))) == []
