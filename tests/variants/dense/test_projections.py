"""The four matrices: which column belongs to which head, and what they refuse."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.testing.balls import agree, dot, given
from kvattn.variants.dense.projections import Projections, check_hidden, join, split

HQ, HKV, D, DV, M, ME = 4, 2, 3, 5, 7, 6


def drawn(dtype: Any = np.float64, source: int = M) -> Projections:
    random = np.random.default_rng(0)
    shapes = (M, HQ * D), (source, HKV * D), (source, HKV * DV), (HQ * DV, M)
    query, key, value, output = (random.normal(size=shape).astype(dtype) for shape in shapes)
    return Projections(query, key, value, output, HQ, HKV)


def by_hand(x: Any, matrix: Any, heads: int) -> Any:
    """Head h owns columns h·D .. (h + 1)·D - 1."""
    width = matrix.shape[1] // heads
    columns = [list(column) for column in zip(*given(matrix), strict=True)]
    return [
        [[[dot(row, columns[h * width + d]) for d in range(width)] for row in sequence] for h in range(heads)]
        for sequence in given(x)
    ]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_each_head_owns_its_columns(dtype: Any) -> None:
    w = drawn(dtype)
    x = np.random.default_rng(1).normal(size=(2, 3, M)).astype(dtype)
    for found, matrix, heads in ((w.queries(x), w.query, HQ), (w.keys(x), w.key, HKV), (w.values(x), w.value, HKV)):
        assert found.dtype == dtype
        assert agree(found, by_hand(x, matrix, heads)) <= 1
        interleaved = found.swapaxes(1, 2).reshape(2, 3, -1, heads).transpose(0, 3, 1, 2)  # mutant: d·H + h
        assert agree(interleaved, by_hand(x, matrix, heads)) > 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_output_takes_heads_side_by_side(dtype: Any) -> None:
    w = drawn(dtype)
    mixed = np.random.default_rng(1).normal(size=(2, HQ, 3, DV)).astype(dtype)
    columns = [list(column) for column in zip(*given(w.output), strict=True)]
    wanted = [
        [[dot([n for h in range(HQ) for n in given(mixed[b, h, t])], column) for column in columns] for t in range(3)]
        for b in range(2)
    ]
    assert w.outputs(mixed).dtype == dtype
    assert agree(w.outputs(mixed), wanted) <= 1
    assert agree(w.outputs(mixed[:, ::-1].copy()), wanted) > 2


def test_heads_split_and_join_without_loss() -> None:
    flat = np.arange(2 * 3 * 12.0).reshape(2, 3, 12)
    heads = split(flat, 4)
    assert heads.shape == (2, 4, 3, 3)
    for b, h, t, d in np.ndindex(2, 4, 3, 3):
        assert heads[b, h, t, d] == flat[b, t, h * 3 + d]
    assert np.array_equal(join(heads), flat)
    assert join(split(flat[:, :0], 4)).shape == (2, 0, 12)


def test_sizes_are_read_from_the_matrices() -> None:
    w = drawn(np.float32, source=ME)
    assert (w.hidden, w.width, w.value_width, w.dtype.name) == (M, D, DV, "float32")
    assert w.keys(np.ones((1, 2, ME), np.float32)).shape == (1, HKV, 2, D)


def test_weights_are_copied_and_read_only() -> None:
    query = np.ones((M, HQ * D))
    w = replace(drawn(), query=query)
    query[:] = 7.0
    assert (w.query == 1.0).all()
    with pytest.raises(ValueError, match="read-only"):
        w.query[0, 0] = 2.0


def test_lists_are_matrices_too() -> None:
    assert Projections([[1.0]], [[1.0]], [[1.0]], [[1.0]], heads=1, kv_heads=1).hidden == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("query",), ("key", "value"), ("query", "key", "value", "output")])
def test_what_they_cost_is_counted(names: tuple[str, ...]) -> None:
    """2·rows·inner·outer FLOPs, each matrix read once, rows in and out."""
    w = drawn()
    sizes = {"query": (M, HQ * D), "key": (M, HKV * D), "value": (M, HKV * DV), "output": (HQ * DV, M)}
    x = np.ones((2, 3, M))
    verbs = {"query": w.queries, "key": w.keys, "value": w.values}
    with counting() as tally:
        for name in names:
            _ = w.outputs(np.ones((2, HQ, 3, DV))) if name == "output" else verbs[name](x)
    by_size = [sizes[name] for name in names]
    assert tally.tally == w.cost(6, *names)
    assert tally.tally == Tally(
        matmul=sum(2 * 6 * a * b for a, b in by_size),
        weights_read=sum(8 * a * b for a, b in by_size),
        activations=sum(8 * 6 * (a + b) for a, b in by_size),
    )


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "heads that do not divide": (
        {"heads": 3},
        ShapeError,
        r"^q must have a multiple of the 2 key/value heads, got 3 query heads$",
    ),
    "no heads": ({"heads": 0}, ArgumentError, r"^heads must be an integer >= 1, got 0$"),
    "no key heads": ({"kv_heads": 0}, ArgumentError, r"^kv_heads must be an integer >= 1, got 0$"),
    "half a head": ({"heads": 4.0}, ArgumentError, r"^heads must be an integer >= 1, got 4\.0$"),
    "a truth for a head": ({"kv_heads": True}, ArgumentError, r"^kv_heads must be an integer >= 1, got True$"),
    "columns that no head owns": (
        {"query": np.ones((M, HQ * D + 1))},
        ShapeError,
        r"^query must have shape \[M, Hq·D\] with Hq=4, got \(7, 13\)$",
    ),
    "a query of rank 1": (
        {"query": np.ones(12)},
        ShapeError,
        r"^query must have shape \[M, Hq·D\] with Hq=4, got \(12,\)$",
    ),
    "a value of odd width": (
        {"value": np.ones((M, 3))},
        ShapeError,
        r"^value must have shape \[M, Hkv·Dv\] with Hkv=2, got \(7, 3\)$",
    ),
    "a key of another width": (
        {"key": np.ones((M, HKV * (D + 1)))},
        ShapeError,
        r"^key must have shape \[Me, 6\] with Me=7, got \(7, 8\)$",
    ),
    "a key of another source": (
        {"key": np.ones((M + 1, HKV * D))},
        ShapeError,
        r"^key must have shape \[Me, 6\] with Me=7, got \(8, 6\)$",
    ),
    "an output of other heads": (
        {"output": np.ones((HQ * DV + 1, M))},
        ShapeError,
        r"^output must have shape \[20, M\] with M=7, got \(21, 7\)$",
    ),
    "another dtype": (
        {"key": np.ones((M, HKV * D), np.float32)},
        DtypeError,
        r"^key must be float64 or float32 like query, got float32$",
    ),
    "integers": (
        {"query": np.ones((M, HQ * D), int)},
        DtypeError,
        r"^query must be float64 or float32 like query, got int64$",
    ),
    "objects": (
        {"output": np.ones((HQ * DV, M), object)},
        DtypeError,
        r"^output must be float64 or float32 like query, got object$",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_matrices_that_do_not_fit_are_named(name: str) -> None:
    arguments, error, words = BAD[name]
    with pytest.raises(error, match=words):
        replace(drawn(), **arguments)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones((2, M)), ShapeError, r"^x must have shape \[B, T, M\] with B=2, M=7, got \(2, 7\)$"),
        (np.ones((2, 3, M + 1)), ShapeError, r"^x must have shape \[B, T, M\] with B=2, M=7, got \(2, 3, 8\)$"),
        (np.ones((1, 3, M)), ShapeError, r"^x must have shape \[B, T, M\] with B=2, M=7, got \(1, 3, 7\)$"),
        (np.ones((2, 3, M), "f4"), DtypeError, r"^x must have the dtype of the weights, float64, got float32$"),
        (np.ones((2, 3, M), object), DtypeError, r"^x must have the dtype of the weights, float64, got object$"),
    ],
)
def test_hidden_states_that_do_not_fit_are_named(x: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_hidden("x", x, 2, M, np.dtype(np.float64))
