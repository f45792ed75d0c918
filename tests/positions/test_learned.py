"""Learned absolute positions: the row that a position takes, and positions that have none."""

from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.positions.learned import Learned


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


TABLE = drawn(9, 4, seed=1)


def by_hand(table: Any, x: Any, positions: list[int], first: int) -> list[list[float]]:
    """Add the row ``position + first``, number by number; one float64 addition each, so equal to the bit."""
    return [
        [a + b for a, b in zip(row, table.tolist()[place + first], strict=True)]
        for row, place in zip(x.tolist(), positions, strict=True)
    ]


@pytest.mark.by_hand("positions/learned")
@pytest.mark.parametrize(("offset", "positions"), [(0, [0, 8, 3, 3]), (2, [0, 6, 1, -2])])
def test_it_equals_the_rows_by_hand(offset: int, positions: list[int]) -> None:
    x = drawn(4, 4)
    found = Learned(TABLE, offset).embed(x, np.array(positions))
    assert found.tolist() == by_hand(TABLE, x, positions, offset)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda x, at: Learned(TABLE, 1).embed(x, at),
        lambda x, at: Learned(TABLE).embed(x, at),
        lambda x, at: Learned(TABLE[::-1], 2).embed(x, at),
        lambda x, at: Learned(TABLE, 2).embed(x, np.arange(len(at))),
        lambda x, at: TABLE[at + 2],
    ],
    ids=["offset 1", "no offset", "backwards", "row numbers", "not added"],
)
def test_another_row_is_rejected(mutant: Any) -> None:
    x, at = drawn(3, 4), [3, 1, 5]
    assert mutant(x, np.array(at)).tolist() != by_hand(TABLE, x, at, 2)


@pytest.mark.parametrize(
    ("offset", "lost", "words"), [(0, 9, "0 .. 8"), (0, -1, "0 .. 8"), (2, 7, "-2 .. 6"), (2, -3, "-2 .. 6")]
)
def test_a_position_without_a_row_raises(offset: int, lost: int, words: str) -> None:
    """A table indexed with a negative number would answer from its end."""
    with pytest.raises(PositionError, match=rf"^positions must be in {words}, got {lost}$"):
        Learned(TABLE, offset).embed(drawn(2, 4), np.array([1, lost]))


@pytest.mark.law("positions/learned", "a chunk is the slice of the whole", "bits")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_chunk_equals_the_slice_of_the_whole_to_the_bit(dtype: Any) -> None:
    scheme, x, at = Learned(TABLE.astype(dtype)), drawn(2, 9, 4, dtype=dtype), np.arange(9)
    whole = scheme.embed(x, at)
    assert whole.dtype == dtype
    for size in (1, 2, 5):
        parts = [scheme.embed(x[:, n : n + size], at[n : n + size]) for n in range(0, 9, size)]
        assert np.concatenate(parts, axis=1).tobytes() == whole.tobytes()


def test_positions_may_differ_between_sequences() -> None:
    x, at = drawn(2, 3, 4), np.array([[0, 1, 2], [8, 4, 4]])
    together = Learned(TABLE).embed(x, at)
    assert all((together[b] == Learned(TABLE).embed(x[b], at[b])).all() for b in range(2))
    assert Learned(TABLE).embed(x[:, :0], np.arange(0)).shape == (2, 0, 4)


def test_the_table_is_read_once() -> None:
    table = TABLE.copy()
    scheme = Learned(table)
    table += 1.0
    assert (scheme.table == TABLE).all()
    assert not scheme.table.flags.writeable


@pytest.mark.law("positions/learned", "cost is count", "integers")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_cost_is_what_is_counted(dtype: Any) -> None:
    scheme = Learned(TABLE.astype(dtype))
    with counting() as counted:
        scheme.embed(drawn(2, 3, 5, 4, dtype=dtype), np.arange(5))
    assert counted.tally == scheme.cost(rows=30, positions=5)
    assert counted.arithmetic == 30 * 4
    assert counted.tables_read == 5 * 4 * scheme.table.itemsize


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Learned(np.ones(3)), ShapeError, r"^table must have shape \[N, M\] with N, M >= 1, got \(3,\)$"),
        (
            lambda: Learned(np.ones((0, 3))),
            ShapeError,
            r"^table must have shape \[N, M\] with N, M >= 1, got \(0, 3\)$",
        ),
        (lambda: Learned(np.ones((2, 3), int)), DtypeError, r"^table must be float64 or float32, got int64$"),
        (lambda: Learned(TABLE, 9), ArgumentError, r"^offset must be an integer in 0 \.\. 8, got 9$"),
        (lambda: Learned(TABLE, -1), ArgumentError, r"^offset must be an integer in 0 \.\. 8, got -1$"),
        (lambda: Learned(TABLE).embed(drawn(2, 5), np.arange(2)), ShapeError, r"^x must have 4 features, got 5$"),
        (
            lambda: Learned(TABLE).embed(drawn(2, 4, dtype=np.float32), np.arange(2)),
            DtypeError,
            r"^x must have the dtype of the table, float64, got float32$",
        ),
        (
            lambda: Learned(TABLE).embed(drawn(2, 4), np.array([0.0, 1.0])),
            PositionError,
            r"^positions must be integers, got dtype float64$",
        ),
        (
            lambda: Learned(TABLE).embed(drawn(2, 4), np.arange(3)),
            ShapeError,
            r"^positions must broadcast to x.shape\[:-1\], which is \(2,\), got \(3,\)$",
        ),
    ],
    ids=range(9),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
