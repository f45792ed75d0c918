"""Bias: what the array says is added to each pair, by row number or by position."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.mods import Bias
from kvattn.typing import Place


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def place(b: int, heads: int, q: Any, k: Any) -> Place:
    return Place(b, np.arange(heads)[:, None, None], None, np.asarray(q)[None, :, None], np.asarray(k)[None, None, :])


@pytest.mark.parametrize(
    "shape", [(4, 5), (1, 1, 4, 5), (2, 1, 4, 5), (1, 3, 4, 5), (2, 3, 4, 5), (2, 3, 1, 5), (2, 3, 4, 1)]
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_by_row_number_it_adds_the_entry(shape: tuple[int, ...], dtype: Any) -> None:
    array = drawn(*shape)
    full = np.broadcast_to(array.reshape((1,) * (4 - len(shape)) + shape), (2, 3, 4, 5)).tolist()
    for b in range(2):
        scores = drawn(3, 4, 5, dtype=dtype, seed=b + 1)
        bent = Bias(array)(scores, place(b, 3, range(4), range(5)))
        assert bent.dtype == dtype
        for h in range(3):
            for q in range(4):
                for k in range(5):
                    assert bent[h, q, k] == scores[h, q, k] + dtype(full[b][h][q][k])


@pytest.mark.by_hand("mods/bias")
@given(st.permutations(range(-3, 6)), st.permutations(range(70, 79)), st.integers(1, 9), st.integers(1, 9))
def test_by_position_it_adds_the_entry_that_stands_there(q: list[int], k: list[int], rows: int, columns: int) -> None:
    q, k, array = q[:rows], k[:columns], drawn(2, 2, rows, columns)
    bent = Bias(array, q, k)(np.zeros((2, rows, columns)), place(1, 2, sorted(q), sorted(k)))
    for h in range(2):
        for i, at in enumerate(sorted(q)):
            for j, to in enumerate(sorted(k)):
                assert bent[h, i, j] == array[1, h, q.index(at), k.index(to)]


def test_rows_of_several_heads_find_their_own_entry() -> None:
    """The kernel's layout: query heads of a group stand in rows, and an unheld column repeats a key."""
    array = drawn(1, 4, 2, 3)
    heads = np.array([[[0], [1], [0], [1]], [[2], [3], [2], [3]]])
    q, k = np.array([[[0], [0], [1], [1]]]), np.array([[[2, 0, 0, 0]]])
    bent = Bias(array)(np.zeros((2, 4, 4)), Place(0, heads, None, q, k))
    for n in range(2):
        for row in range(4):
            for column in range(4):
                expected = array[0, heads[n, row, 0], q[0, row, 0], k[0, 0, column]]
                assert bent[n, row, column] == expected


def test_by_row_in_place_of_by_position_differs() -> None:
    """Mutant: positions are ignored."""
    array, at = drawn(4, 4), [3, 0, 2, 1]
    asked = place(0, 1, range(4), range(4))
    assert not np.array_equal(Bias(array, at, at)(np.zeros((1, 4, 4)), asked), Bias(array)(np.zeros((1, 4, 4)), asked))


@pytest.mark.law("mods/bias", "minus infinity hides its pair", "bits")
def test_minus_infinity_hides_its_pair() -> None:
    bent = Bias(np.array([[0.0, -np.inf]]))(np.ones((1, 1, 2)), place(0, 1, [0], [0, 1]))
    assert bent.tolist() == [[[1.0, -np.inf]]]


def test_bfloat16_is_widened_exactly() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = drawn(2, 3).astype(ml_dtypes.bfloat16)
    bent = Bias(array)(np.zeros((1, 2, 3)), place(0, 1, range(2), range(3)))
    assert (bent[0] == array.astype(np.float64)).all()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((2, 2), bool), "^array must be floating-point, got bool; a boolean array is a mask$"),
        (np.ones((2, 2), int), "^array must be floating-point, got int64$"),
        (np.ones((2, 2), complex), "^array must be floating-point, got complex128$"),
        (np.ones((2, 2), object), "^array must be floating-point, got object$"),
        (None, "^array must be floating-point, got object$"),
    ],
    ids=["bool", "int", "complex", "object", "None"],
)
def test_an_array_of_another_kind_is_named(array: Any, words: str) -> None:
    with pytest.raises(DtypeError, match=words):
        Bias(array)


@pytest.mark.parametrize("shape", [(), (2,), (2, 2, 2)])
def test_an_array_of_another_rank_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"^array must have shape \[T, S\] or \[B, H, T, S\], got \("):
        Bias(np.ones(shape))


def test_what_is_not_in_the_array_raises() -> None:
    bias = Bias(np.ones((2, 3, 2, 2)))
    with pytest.raises(PositionError, match=r"^k_positions must be among the rows of the array, 0 to 1, got 2$"):
        bias(np.zeros((1, 1, 1)), place(0, 1, [0], [2]))
    with pytest.raises(ShapeError, match=r"^b must be from 0 to 1 for an array of that size, got 2$"):
        bias(np.zeros((1, 1, 1)), place(2, 1, [0], [0]))
    with pytest.raises(ShapeError, match=r"^h must be from 0 to 2 for an array of that size, got 3$"):
        bias(np.zeros((4, 1, 1)), place(0, 4, [0], [0]))


def test_it_is_a_value() -> None:
    array = np.ones((2, 2))
    bias = Bias(array, k_positions=[4, 5])
    array[:] = np.nan
    assert (bias(np.zeros((1, 2, 2)), place(0, 1, [0, 1], [4, 5])) == 1).all()
    assert bias == Bias(np.ones((2, 2)), k_positions=(4, 5))
    assert hash(bias) == hash(Bias(np.ones((2, 2)), k_positions=(4, 5)))
    assert bias != Bias(np.ones((2, 2), np.float32), k_positions=(4, 5))
    assert repr(bias) == "Bias(<float64 [1, 1, 2, 2]>, k_positions=<2>)"
