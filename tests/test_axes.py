"""Letters bind to sizes, and the first argument that does not fit is named."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.axes import LEGEND, sizes
from kvattn.errors import ShapeError


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_each_letter_is_the_size_of_its_axis(shape: list[int]) -> None:
    letters = list(LEGEND)[: len(shape)]
    bound = sizes(("x", np.zeros(shape), " ".join(letters)))
    assert bound == dict(zip(letters, shape, strict=True))


def test_letters_are_shared_and_numbers_are_fixed() -> None:
    q, k = np.zeros((2, 4, 3)), np.zeros((2, 1, 3))
    assert sizes(("q", q, "B Hq D"), ("k", k, "B 1 D")) == {"B": 2, "Hq": 4, "D": 3}


def test_a_letter_may_stand_twice() -> None:
    assert sizes(("square", np.zeros((3, 3)), "T T")) == {"T": 3}
    with pytest.raises(ShapeError, match=r"^square must have shape \[T, T\], got \(3, 4\)$"):
        sizes(("square", np.zeros((3, 4)), "T T"))


def test_nothing_is_an_array_without_axes() -> None:
    assert sizes() == {}
    assert sizes(("x", np.zeros(()), "")) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([("q", (2, 8), "T D"), ("k", (5, 7), "S D")], r"^k must have shape \[S, D\] with D=8, got \(5, 7\)$"),
        ([("q", (2, 8), "B T D")], r"^q must have shape \[B, T, D\], got \(2, 8\)$"),
        ([("sinks", (3,), "4")], r"^sinks must have shape \[4\], got \(3,\)$"),
        ([("sinks", (), "4")], r"^sinks must have shape \[4\], got \(\)$"),
        ([("q", (2, 3), "B T"), ("v", (3, 3), "B T")], r"^v must have shape \[B, T\] with B=2, T=3, got \(3, 3\)$"),
        ([("q", (2, 3, 1), "B T")], r"^q must have shape \[B, T\], got \(2, 3, 1\)$"),
    ],
)
def test_what_does_not_fit_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        sizes(*((name, np.zeros(shape), letters) for name, shape, letters in arguments))


def test_every_letter_of_the_legend_says_what_it_counts() -> None:
    assert set(LEGEND) == {"B", "Hq", "Hkv", "G", "T", "S", "D", "Dv", "M"}
    assert all(sentence and not sentence.endswith(".") for sentence in LEGEND.values())
