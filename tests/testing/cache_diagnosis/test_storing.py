"""Formats of what is kept are told to the last bit, or not at all."""

from dataclasses import replace

import numpy as np
import pytest

from kvattn.testing.cache_diagnosis.storing import ROUNDED, Stored, fractions, read_formats
from kvattn.testing.conformance import CacheAdapter, PagedAdapter
from kvattn.testing.formats import FORMATS
from kvattn.testing.planted_caches import PlantedCache, PlantedCodes, PlantedFormats, PlantedRing, PlantedScales

SINGLE, HALF = Stored("k"), Stored("k", given="float16", dtype="float16")


@pytest.mark.parametrize(
    ("cache", "found"),
    [
        (PagedAdapter(), SINGLE),
        (PlantedFormats(), SINGLE),
        (PlantedFormats("float16"), HALF),
        (PlantedFormats(empty="float64"), replace(SINGLE, dtype="float64")),
        (PlantedFormats("float16", empty="float32"), replace(HALF, dtype="float32")),
        (PlantedFormats(through=("float16",)), replace(SINGLE, formats=("float16",))),
        (PlantedFormats(through=("bfloat16",)), replace(SINGLE, formats=("bfloat16",))),
        (PlantedFormats(through=("bfloat16", "float16")), replace(SINGLE, formats=("bfloat16",))),  # which fits into it
        (PlantedFormats(through=("float16", "bfloat16")), replace(SINGLE, formats=("float16", "bfloat16"))),
        (PlantedFormats("float16", ("bfloat16",)), replace(HALF, formats=("bfloat16",))),
        (PlantedFormats(cut=True), replace(SINGLE, formats=("bfloat16",), cut=True)),
        (
            PlantedFormats(bits="bfloat16 as float16"),
            replace(SINGLE, formats=("bfloat16",), read_as="float16"),
        ),
        (
            PlantedFormats(bits="float16 as bfloat16"),
            replace(SINGLE, formats=("float16",), read_as="bfloat16"),
        ),
    ],
    ids=str,
)
def test_what_became_of_numbers_is_told(cache: CacheAdapter, found: Stored) -> None:
    assert list(read_formats(cache)) == [found, replace(found, field="v")]


@pytest.mark.parametrize("cache", [PlantedCodes(), PlantedScales(), PlantedScales(levels=7)], ids=str)
def test_codes_are_no_format(cache: CacheAdapter) -> None:
    assert [one.explained for one in read_formats(cache)] == [False, False]


def test_nothing_is_said_of_rows_that_are_lost_or_cannot_be_shown() -> None:
    assert list(read_formats(PlantedCache(zeroes=2))) == []
    assert list(read_formats(PlantedRing(1))) == []


def test_every_format_and_every_pair_gives_other_numbers() -> None:
    """Otherwise a name would be one of several; what fits into the next format is rounded by the first alone."""
    rows = fractions()[0]
    once = {name: FORMATS[name].round(rows) for name in ROUNDED}
    bits = {name: number.tobytes() for name, number in once.items()}
    assert len(set(bits.values())) == len(ROUNDED)
    twice = {(one, two): FORMATS[two].round(once[one]).tobytes() for one in ROUNDED for two in ROUNDED}
    assert twice["float16", "bfloat16"] != bits["bfloat16"]
    assert twice["bfloat16", "float16"] == bits["bfloat16"]
    assert twice["float32", "float16"] == bits["float16"]


def test_the_numbers_are_in_every_format_s_reach() -> None:
    for rows in fractions():
        sizes = np.abs(rows)
        assert sizes.max() < 8
        assert sizes.min() > 0.125
        assert len(np.unique(rows)) == rows.size


def test_a_format_is_told_in_words() -> None:
    assert SINGLE.words == "as they were given, in float32"
    assert replace(SINGLE, formats=("bfloat16",), cut=True).words == "cut to bfloat16"
    assert replace(SINGLE, explained=False).words == "as other numbers, which no format explains"
