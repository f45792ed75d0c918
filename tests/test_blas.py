"""Products whose rows do not feel their neighbours: the probe, and the fallback where it fails."""

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn import blas, ops
from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.masks import Causal

Matmul = Callable[..., Any]
DTYPES = [np.float64, np.float32]


@pytest.fixture(autouse=True)
def _probes_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("KVATTN_ARITHMETIC", raising=False)
    blas.rows_are_independent.cache_clear()
    yield
    blas.rows_are_independent.cache_clear()


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def one_by_one(tiles: Any, matrix: Any) -> Any:
    """Add one contracted index after the other, in Python: multiply, round, add, round."""
    out = np.zeros((tiles.shape[0], matrix.shape[1]), tiles.dtype)
    kind = tiles.dtype.type
    for m in range(out.shape[0]):
        for n in range(out.shape[1]):
            total = kind(0)
            for k in range(tiles.shape[1]):
                total = kind(total + kind(tiles[m, k] * matrix[k, n]))
            out[m, n] = total
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("depth", "columns"), [(1, 8), (7, 16), (33, 8), (64, 24)])
def test_the_forced_fallback_adds_in_order(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, depth: int, columns: int
) -> None:
    monkeypatch.setenv("KVATTN_ARITHMETIC", "ordered")
    tiles, matrix = drawn(8, depth, dtype=dtype), drawn(depth, columns, dtype=dtype, seed=1)
    assert blas.forced()
    assert blas.is_ordered(dtype, depth, columns)
    wanted = one_by_one(tiles, matrix)
    assert blas.tile_product(tiles, matrix).tobytes() == wanted.tobytes()
    assert ops.contract(tiles, matrix).tobytes() == wanted.tobytes()
    into = np.full((8, columns), np.nan, dtype)
    assert blas.tile_product(tiles, matrix, out=into) is into
    assert into.tobytes() == wanted.tobytes()


def test_another_order_is_told_apart() -> None:
    """The comparison above sees a product that adds from the last index to the first."""
    tiles, matrix = drawn(8, 33), drawn(33, 8, seed=1)
    backwards = one_by_one(np.ascontiguousarray(tiles[:, ::-1]), np.ascontiguousarray(matrix[::-1]))
    assert backwards.tobytes() != blas.ordered_product(tiles, matrix).tobytes()


@pytest.mark.parametrize("word", ["", "blas", "ORDERED", "1"])
def test_no_other_word_forces_it(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("KVATTN_ARITHMETIC", word)
    assert not blas.forced()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ordered", [False, True])
def test_stacks_broadcast_and_equal_their_parts(monkeypatch: pytest.MonkeyPatch, dtype: Any, ordered: bool) -> None:
    if ordered:
        monkeypatch.setenv("KVATTN_ARITHMETIC", "ordered")
    tiles, matrices = drawn(2, 3, 8, 5, dtype=dtype), drawn(2, 1, 5, 16, dtype=dtype, seed=1)
    found = blas.tile_product(tiles, matrices)
    assert found.shape == (2, 3, 8, 16)
    assert found.dtype == dtype
    for a, b in np.ndindex(2, 3):
        assert np.array_equal(found[a, b], blas.tile_product(tiles[a, b], matrices[a, 0]))


@given(
    st.sampled_from(DTYPES),
    st.integers(0, 300),
    st.integers(0, 12),
    st.integers(0, 7),
    st.integers(0, 2**16),
    st.sampled_from([0.0, np.nan, np.inf, 1e30]),
)
def test_a_row_is_the_same_in_any_place_and_company(
    dtype: Any, depth: int, eights: int, place: int, seed: int, company: float
) -> None:
    row, matrix = drawn(depth, dtype=dtype, seed=seed), drawn(depth, 8 * eights, dtype=dtype, seed=seed + 1)
    first, other = np.zeros((8, depth), dtype), np.full((8, depth), company, dtype)
    first[0], other[place] = row, row
    with np.errstate(all="ignore"):
        found = blas.tile_product(other, matrix)[place]
    assert found.tobytes() == blas.tile_product(first, matrix)[0].tobytes()


@pytest.mark.parametrize("code", ["d", "f"])
def test_the_probe_passes_or_the_fallback_is_taken(code: str) -> None:
    """float64 passes on every BLAS that was tried; float32 may fail on some kernels, and then falls back."""
    if code == "d":
        assert blas.rows_are_independent("d", 64, 256)
        assert blas.rows_are_independent("d", 256, 64)
    for depth, columns in ((64, 256), (256, 64)):
        passes = blas.rows_are_independent(code, depth, columns)
        assert blas.is_ordered(np.dtype(code), depth, columns) is not passes


def test_a_product_of_nothing_is_always_safe() -> None:
    assert blas.rows_are_independent("f", 0, 8)
    assert blas.rows_are_independent("f", 8, 0)
    assert (blas.ordered_product(np.ones((8, 0)), np.ones((0, 3))) == np.zeros((8, 3))).all()


true_matmul = np.matmul


def turned_by_place(a: Any, b: Any, out: Any = None) -> Any:
    """A BLAS whose row r begins its sum at index r."""
    depth = a.shape[-1]
    parts = [
        blas.ordered_product(np.roll(a, -r, -1)[..., r : r + 1, :], np.roll(b, -r, -2)) for r in range(a.shape[-2])
    ]
    found = np.concatenate(parts, axis=-2) if depth else true_matmul(a, b)
    if out is None:
        return found
    out[...] = found
    return out


def last_row_apart(a: Any, b: Any, out: Any = None) -> Any:
    """A BLAS whose kernel takes seven rows, and another the eighth."""
    found = true_matmul(a, b)
    if a.shape[-2] == 8:
        found[..., 7:, :] = true_matmul(a[..., 7:, ::-1], b[..., ::-1, :])
    if out is None:
        return found
    out[...] = found
    return out


def rows_leak(a: Any, b: Any, out: Any = None) -> Any:
    """A BLAS that adds 0 times the next row."""
    found = true_matmul(a + 0.0 * np.roll(a, 1, -2), b)
    if out is None:
        return found
    out[...] = found
    return out


FAKES = [turned_by_place, last_row_apart, rows_leak]


@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("code", ["d", "f"])
def test_a_blas_whose_rows_feel_their_place_or_company_fails(
    monkeypatch: pytest.MonkeyPatch, fake: Matmul, code: str
) -> None:
    monkeypatch.setattr(np, "matmul", fake)
    assert not blas.rows_are_independent(code, 64, 256)
    assert blas.is_ordered(np.dtype(code), 64, 256)
    tiles, matrix = drawn(8, 64, dtype=code), drawn(64, 256, dtype=code, seed=1)
    assert blas.tile_product(tiles, matrix).tobytes() == blas.ordered_product(tiles, matrix).tobytes()


def decoded(length: int = 11) -> tuple[Any, Any]:
    """Attention of some tokens at once, and of the same tokens one by one."""
    q, k, v = drawn(1, 1, length, 16), drawn(1, length, 16, seed=1), drawn(1, length, 8, seed=2)
    at = np.arange(length)
    whole = streaming.attend(q, at[None], [blocks_of(k, v, at)], value_width=8, mask=Causal())
    steps = [
        streaming.attend(
            q[:, :, t : t + 1],
            at[None, t : t + 1],
            [blocks_of(k[:, : t + 1], v[:, : t + 1], at[: t + 1])],
            value_width=8,
            mask=Causal(),
        ).out
        for t in range(length)
    ]
    return whole.out, np.concatenate(steps, axis=2)


@pytest.mark.parametrize("fake", [turned_by_place, last_row_apart])
def test_with_such_a_blas_bits_hold_because_of_the_fallback(monkeypatch: pytest.MonkeyPatch, fake: Matmul) -> None:
    monkeypatch.setattr(np, "matmul", fake)
    whole, steps = decoded()
    assert np.array_equal(whole, steps)
    monkeypatch.setattr(blas, "is_ordered", lambda *_: False)  # mutant: trusts any BLAS
    whole, steps = decoded()
    assert not np.array_equal(whole, steps)


def test_the_report_says_what_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "matmul", rows_leak)
    monkeypatch.setenv("KVATTN_ARITHMETIC", "ordered")
    report = blas.probe_report()
    assert (report["rows"], report["forced"]) == (8, True)
    for name in ("float64", "float32"):
        found: Any = report[name]
        assert found["shapes tried"] == 35
        assert [64, 256] in found["ordered fallback for"]


@pytest.mark.parametrize(("depth", "columns"), [(576, 256), (256, 512), (200, 264), (3000, 40)])
def test_columns_are_cut_so_that_blas_starts_no_threads(depth: int, columns: int) -> None:
    """Two thread pools in one process wait for each other: no product reaches the size where BLAS starts its own."""
    wide = blas.at_once(depth, columns)
    assert wide == columns if depth > 2048 else 8 * depth * wide <= 262_144 < 8 * depth * columns
    rng = np.random.default_rng(0)
    tiles, matrix = rng.standard_normal((2, 8, depth)), rng.standard_normal((depth, columns))
    found = blas.tile_product(tiles, matrix)
    assert np.abs(found - tiles @ matrix).max() < 1e-12 * depth
    into = np.full_like(found, np.nan)
    assert blas.tile_product(tiles, matrix, into) is into
    assert into.tobytes() == found.tobytes()
    parts = [blas.tile_product(tiles, np.ascontiguousarray(matrix[:, n : n + wide])) for n in range(0, columns, wide)]
    assert np.concatenate(parts, axis=-1).tobytes() == found.tobytes()
