"""Choices replay, and a failing case becomes the smallest one that still fails."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.testing.choices import Recorded, numbers, pick, reduced

offsets = st.lists(st.integers(0, 60), max_size=8)


def test_recorded_offsets_are_replayed_then_the_lowest_is_taken() -> None:
    choices = Recorded([2, 0, 9])
    asked = [choices.integer(10, 20, "a"), choices.integer(-3, 3, "b"), choices.integer(0, 5, "c")]
    assert asked == [12, -3, 5]
    assert [choices.integer(7, 7, "d"), choices.integer(4, 9, "e")] == [7, 4]
    assert choices.made == [2, 0, 5, 0, 0]


@given(offsets, st.none() | st.integers(0, 99), st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 70)), max_size=9))
def test_choices_keep_their_bounds_and_can_be_made_again(
    given_offsets: list[int], seed: int | None, asked: list[tuple[int, int]]
) -> None:
    first = Recorded(given_offsets, seed)
    drawn = [first.integer(low, low + size, "n") for low, size in asked]
    assert all(low <= n <= low + size for n, (low, size) in zip(drawn, asked, strict=True))
    again = Recorded(first.made)
    assert [again.integer(low, low + size, "n") for low, size in asked] == drawn
    assert again.made == first.made


def test_a_seed_draws_everything_and_another_seed_something_else() -> None:
    drawn = [tuple(Recorded(seed=seed).integer(0, 9, "n") for _ in range(1)) for seed in range(200)]
    assert set(drawn) == {(n,) for n in range(10)}
    long = [[choices.integer(0, 9, "n") for _ in range(20)] for choices in (Recorded(seed=1), Recorded(seed=2))]
    assert long[0] != long[1]


def test_one_of_several() -> None:
    assert [pick(Recorded([n]), "abc", "letter") for n in range(4)] == ["a", "b", "c", "c"]


def test_numbers_are_what_their_choice_says() -> None:
    one, same, other = (numbers(Recorded([n]), (3, 2), np.float32, "x") for n in (5, 5, 6))
    assert one.dtype == np.float32
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(
        numbers(Recorded([5]), (4,), np.float64, "x", 3.0), 3 * numbers(Recorded([5]), (4,), "f8", "x")
    )
    assert abs(float(numbers(Recorded([5]), (4000,), np.float64, "x").std()) - 1) < 0.05


def pair(choices: Recorded) -> tuple[int, int]:
    return choices.integer(0, 100, "a"), choices.integer(0, 100, "b")


def test_the_smallest_failing_case_is_found() -> None:
    assert reduced(lambda c: c.integer(0, 100, "n") >= 7, [93]) == [7]
    assert reduced(lambda c: pair(c)[1] >= 5, [61, 99]) == [0, 5]
    assert reduced(lambda c: min(pair(c)) >= 3, [61, 99]) == [3, 3]
    assert sum(reduced(lambda c: sum(pair(c)) >= 50, [61, 99])) == 50
    assert reduced(lambda c: c.integer(0, 2**16, "seed") >= 0, [54321]) == [0]


def test_choices_that_are_no_longer_asked_for_are_dropped() -> None:
    def fails(choices: Recorded) -> bool:
        many = [choices.integer(0, 9, "item") for _ in range(choices.integer(0, 9, "count"))]
        return any(item >= 4 for item in many)

    assert reduced(fails, [9, 1, 8, 7, 2, 3, 9, 4, 6, 5]) == [3, 0, 0, 4]


@given(offsets, st.integers(1, 5), st.integers(0, 40))
def test_what_is_returned_fails_still_and_is_no_larger(made: list[int], modulus: int, least: int) -> None:
    def fails(choices: Recorded) -> bool:
        drawn = [choices.integer(0, 60, "n") for _ in made]
        return sum(drawn) >= least and sum(drawn) % modulus == total % modulus

    total = sum(made)
    if not fails(Recorded(made)):
        return
    found = reduced(fails, made)
    assert fails(Recorded(found))
    assert sum(found) <= total


def test_a_reducer_that_forgets_to_ask_is_told_apart() -> None:
    """Mutant: takes the smaller case without trying it."""

    def hasty(made: Sequence[int]) -> list[int]:
        return [n // 2 for n in made]

    assert not Recorded(hasty([9])).integer(0, 100, "n") >= 7


@pytest.mark.parametrize("budget", [0, 1, 10])
def test_the_budget_is_kept(budget: int) -> None:
    tried = 0

    def fails(choices: Recorded) -> bool:
        nonlocal tried
        tried += 1
        return sum(choices.integer(0, 2**16, "n") for _ in range(5)) >= 1000

    reduced(fails, [2**16] * 5, budget=budget)
    assert tried == budget
