"""Vectors by distance: rows of distances, products with queries and keys, and bits that feel no neighbour."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.positions.distance_table import DistanceTable
from kvattn.typing import Place
from tests.positions.scored import DTYPES, drawn

TABLE = DistanceTable(drawn(4, 300, 5, seed=1), ahead=7)
SHARED = DistanceTable(TABLE.vectors[:1], ahead=7)


def place(q: Any, k: Any, heads: Any) -> Place:
    return Place(0, np.array(heads), None, np.array(q)[None, :, None], np.array(k)[None, None, :])


Q, K = (0, 3, 500, 280, 290, 291, 292, 293, 9), (0, 1, 9, 10, 20, 400, 3)
HEADS = np.arange(4)[:, None, None]


def row_by_hand(apart: int) -> int:
    return min(max(apart, -7), 292) + 7


@pytest.mark.by_hand("positions/distance_table")
@pytest.mark.no_peer("positions/distance_table", "a part of schemes, which are compared with peers themselves")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table", [TABLE, SHARED], ids=["a table for each head", "one table"])
def test_products_with_queries_equal_by_hand(table: DistanceTable, dtype: Any) -> None:
    queries = drawn(4, len(Q), 5, seed=2, dtype=dtype)
    found = table.with_queries(queries, place(Q, K, HEADS))
    assert found.dtype == dtype
    for h in range(4):
        for i, q in enumerate(Q):
            for j, k in enumerate(K):
                vector = table.vectors[h % len(table.vectors), row_by_hand(q - k)]
                wanted = sum(float(a) * float(b) for a, b in zip(queries[h, i], vector, strict=True))
                assert abs(found[h, i, j] - wanted) <= 40 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table", [TABLE, SHARED], ids=["a table for each head", "one table"])
def test_products_with_keys_equal_by_hand(table: DistanceTable, dtype: Any) -> None:
    keys = drawn(4, 5, len(K), seed=3, dtype=dtype)
    found = table.with_keys(keys, place(Q, K, HEADS))
    assert found.dtype == dtype
    for h in range(4):
        for i, q in enumerate(Q):
            for j, k in enumerate(K):
                vector = table.vectors[h % len(table.vectors), row_by_hand(q - k)]
                wanted = sum(float(a) * float(b) for a, b in zip(keys[h, :, j], vector, strict=True))
                assert abs(found[h, i, j] - wanted) <= 40 * np.finfo(dtype).eps


def test_rows_of_several_heads_find_their_own_table() -> None:
    """The kernel's layout: heads of a group stand in rows, ``[h, rows, 1]``, and share the keys of axis 0."""
    heads = np.array([[[1], [0]], [[3], [2]]])
    queries, keys = drawn(2, 2, 5, seed=4), drawn(2, 5, 3, seed=5)
    at = place((5, 9), (4, 2, 0), heads)
    by_query, by_key = TABLE.with_queries(queries, at), TABLE.with_keys(keys, at)
    for n in range(2):
        for row in range(2):
            for column in range(3):
                vector = TABLE.vectors[heads[n, row, 0], row_by_hand((5, 9)[row] - (4, 2, 0)[column])]
                assert by_query[n, row, column] == pytest.approx(float(queries[n, row] @ vector), rel=1e-13)
                assert by_key[n, row, column] == pytest.approx(float(keys[n, :, column] @ vector), rel=1e-13)


@pytest.mark.law("positions/distance_table", "a pair's product does not feel other rows, columns or distances", "bits")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pair_alone_has_the_same_bits(dtype: Any) -> None:
    queries, keys = drawn(4, len(Q), 5, seed=2, dtype=dtype), drawn(4, 5, len(K), seed=3, dtype=dtype)
    by_query = TABLE.with_queries(queries, place(Q, K, HEADS))
    by_key = TABLE.with_keys(keys, place(Q, K, HEADS))
    for i, q in enumerate(Q):
        for j, k in enumerate(K):
            alone = place([q], [k], HEADS)
            assert np.array_equal(TABLE.with_queries(queries[:, i : i + 1], alone)[..., 0, 0], by_query[:, i, j])
            assert np.array_equal(TABLE.with_keys(keys[..., j : j + 1], alone)[..., 0, 0], by_key[:, i, j])


def test_nan_stays_in_its_row_and_its_column() -> None:
    queries, keys = drawn(4, len(Q), 5, seed=2), drawn(4, 5, len(K), seed=3)
    clean_queries, clean_keys = (
        TABLE.with_queries(queries, place(Q, K, HEADS)),
        TABLE.with_keys(keys, place(Q, K, HEADS)),
    )
    queries[:, 2], keys[..., 4] = np.nan, np.nan
    with np.errstate(invalid="ignore"):
        by_query, by_key = (
            TABLE.with_queries(queries, place(Q, K, HEADS)),
            TABLE.with_keys(keys, place(Q, K, HEADS)),
        )
    assert np.array_equal(np.delete(by_query, 2, 1), np.delete(clean_queries, 2, 1))
    assert np.array_equal(np.delete(by_key, 4, 2), np.delete(clean_keys, 4, 2))


def test_no_pairs_make_no_products() -> None:
    assert TABLE.with_queries(np.zeros((4, 0, 5)), place([], K, HEADS)).shape == (4, 0, len(K))
    assert TABLE.with_keys(np.zeros((4, 5, 0)), place(Q, [], HEADS)).shape == (4, len(Q), 0)


def test_a_bucket_comes_before_the_clip() -> None:
    table = DistanceTable(np.zeros((1, 4, 1)), ahead=1, bucket=lambda apart: apart // 10)
    assert table.rows(np.array([-100, -1, 0, 19, 20, 90])).tolist() == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: DistanceTable(np.zeros((3, 2))),
            ShapeError,
            r"^vectors must have shape \[H, N, D\], none of them 0, got",
        ),
        (
            lambda: DistanceTable(np.zeros((1, 0, 2))),
            ShapeError,
            r"^vectors must have shape \[H, N, D\], none of them 0",
        ),
        (
            lambda: DistanceTable(np.array([[["a"]]])),
            DtypeError,
            r"^vectors must be an array of real numbers, got <U1$",
        ),
        (
            lambda: DistanceTable(np.zeros((1, 3, 2)), 3),
            ArgumentError,
            r"^ahead must be an integer in 0 \.\. 2, got 3$",
        ),
        (
            lambda: DistanceTable(np.zeros((1, 3, 2)), bucket=3),  # type: ignore[arg-type]
            ArgumentError,
            r"^bucket must be a function of distances or None, got 3$",
        ),
        (
            lambda: TABLE.with_queries(np.zeros((4, 1, 6)), place([0], [0], HEADS)),
            ShapeError,
            r"^vectors must have the width of what they meet, 6, got 5$",
        ),
        (
            lambda: TABLE.with_queries(np.zeros((4, 1, 5)), place([0], [0], HEADS + 1)),
            ArgumentError,
            r"^vectors must cover every query head, got 4 and head 4$",
        ),
    ],
    ids=range(7),
)
def test_a_bad_argument_is_named(call: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        call()
