"""What recipes are made of: readers, generators, and the rules that all of them follow."""

import math

import numpy as np

from kvattn.goldens.formats import Bits
from kvattn.goldens.numbers import Decimals, Interval
from kvattn.goldens.recipe import drawn, flat, read

N = Decimals()


def test_drawn_numbers_are_short_binary_fractions_of_all_kinds() -> None:
    found = drawn("any", 40, 50)
    assert found.shape == (40, 50)
    assert (found * 16 == np.round(found * 16)).all()
    assert np.abs(found).max() == 2.0
    assert (found != 0).all()
    assert len(set(found.ravel().tolist())) == 64
    assert abs(found.mean()) < 0.1


def test_drawn_numbers_are_the_same_everywhere_and_differ_by_label() -> None:
    assert drawn("q", 4).tolist() == [-0.75, -0.0625, -1.75, -1.875]
    assert drawn("q", 2, 2).tolist() == [[-0.75, -0.0625], [-1.75, -1.875]]
    assert (drawn("q", 20) != drawn("k", 20)).any()


def test_reading_keeps_what_is_no_number() -> None:
    one, infinite = read(N, np.array([1.0, -np.inf]))
    assert isinstance(one, Interval)
    assert infinite == -math.inf
    assert read(N, np.array([[1, 2]])) == [[1, 2]]
    assert read(N, np.array([True])) == [True]
    assert [x.rounded() for x in read(N, Bits("float16", np.array([0x3C00], np.uint16)))] == [1.0]


def test_leaves_come_in_row_major_order() -> None:
    assert flat([[[1], [2]], [[3], [4]]]) == [1, 2, 3, 4]
    assert flat(5) == [5]
