"""What is said of each sequence is read alike by every storage, and refused in the same words."""

from typing import Any

import numpy as np
import pytest

from kvattn.caches import Contiguous, Paged, Ring, latent
from kvattn.caches.batches import one_length, per_sequence, picked
from kvattn.errors import ArgumentError

STORAGES: list[Any] = [
    Paged.start(latent(1), 2),
    Contiguous.start(latent(1), batch=2),
    Ring.start(latent(1), window=4, batch=2),
]


def test_one_number_is_for_all_and_a_row_for_each() -> None:
    assert per_sequence("length", np.int64(2), (3, 2)) == (2, 2)
    assert per_sequence("length", np.array([3, 0]), (3, 2)) == (3, 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "length must be an integer in 0 .. 2, got 3"),
        ([1], "length must be one integer or one for each of 2 sequences, got [1]"),
        ([1, -1], "length of sequence 1 must be an integer in 0 .. 2, got -1"),
        (True, "length must be an integer in 0 .. 2, got True"),
        ("12", "length must be an integer in 0 .. 2, got '12'"),
    ],
)
def test_other_numbers_are_refused_by_every_storage(value: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as said:
        per_sequence("length", value, (3, 2))
    assert str(said.value) == words
    for cache in STORAGES:
        longer = cache.append([np.ones((2, 1, 3, 1))]).truncate([3, 2])
        with pytest.raises(ArgumentError) as said:
            longer.truncate(value)
        assert str(said.value) == words


@pytest.mark.law("caches/batches", "every storage refuses the same sequences, in the same words", "integers")
@pytest.mark.parametrize("indices", [[], 0, [[0]], [2], [-1], [0.5], [True]])
def test_what_is_no_sequence_is_refused_by_every_storage(indices: Any) -> None:
    with pytest.raises(ArgumentError) as said:
        picked(indices, 2)
    for cache in STORAGES:
        with pytest.raises(ArgumentError) as again:
            cache.select(indices)
        assert str(again.value) == str(said.value)


def test_lengths_that_differ_have_no_length() -> None:
    assert one_length((4, 4)) == 4
    for cache in STORAGES:
        with pytest.raises(ArgumentError, match=r"length must be the same for all sequences, got \(1, 0\)"):
            assert cache.append([np.ones((2, 1, 1, 1))]).truncate([1, 0]).length
