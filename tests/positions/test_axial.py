"""Axial rotary positions: which pair follows which axis at which frequency, and where patches stand."""

import cmath
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions.axial import centres, dealt, grid, repeated
from kvattn.positions.rotary import Rotary


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def by_hand(
    kind: str, width: int, axes: int, base: float, layout: str, x: Any, places: list[list[float]]
) -> list[list[float]]:
    """Patch by patch and pair by pair: the axis whose share the pair lies in turns it."""
    share = width // (2 * axes)
    out = [[float(a) for a in row] for row in x]
    for n, row in enumerate(out):
        for axis in range(axes):
            for m in range(share):
                pair = axis * share + m
                exponent = 2 * m * axes / width if kind == "repeated" else 2 * (m * axes + axis) / width
                angle = places[axis][n] * math.exp(-math.log(base) * exponent)
                a, b = (pair, pair + width // 2) if layout == "half" else (2 * pair, 2 * pair + 1)
                turned = complex(row[a], row[b]) * cmath.rect(1.0, angle)
                row[a], row[b] = turned.real, turned.imag
    return out


def bound(x: Any, places: Any) -> float:
    """Angles: 16 roundings of float64 of themselves for either way to the frequency; then 12u as for one axis."""
    u = float(np.finfo(x.dtype).eps) / 2
    largest = float(np.abs(x).max())
    return (12 * u + 2.0**-53 * 16 * float(np.abs(places).max())) * 2 * largest


@pytest.mark.by_hand("positions/axial")
@pytest.mark.parametrize("layout", ["half", "adjacent"])
@pytest.mark.parametrize(("make", "kind"), [(repeated, "repeated"), (dealt, "dealt")])
@pytest.mark.parametrize(("axes", "sizes"), [(2, (3, 4)), (3, (2, 3, 2)), (1, (5,))])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_a_turn_by_hand(
    layout: Any, make: Any, kind: str, axes: int, sizes: tuple[int, ...], dtype: Any
) -> None:
    places = grid(*sizes) * 11 - 3
    x = drawn(places.shape[1], 12 + 1, dtype=dtype)  # a feature more, which passes
    turned = make(12, axes, 100.0, layout).rotate(x, places)
    wanted = np.array(by_hand(kind, 12, axes, 100.0, layout, x, places.tolist()))
    assert turned.dtype == dtype
    assert np.abs(turned - wanted).max() <= bound(x, places)
    assert (turned[:, 12] == x[:, 12]).all()


MUTANTS: dict[str, Rotary] = {
    "axes exchanged": Rotary(repeated(8, base=100.0).frequencies, axes=(1, 1, 0, 0)),
    "axes alternate": Rotary(repeated(8, base=100.0).frequencies, axes=(0, 1, 0, 1)),
    "dealt": dealt(8, base=100.0),
    "one list for all": Rotary(dealt(8, 1, 100.0).frequencies, axes=(0, 0, 1, 1)),
    "layout": repeated(8, base=100.0, layout="adjacent"),
    "base": repeated(8, base=101.0),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_another_rotation_is_rejected(name: str) -> None:
    x, places = drawn(12, 8), grid(3, 4)
    wanted = np.array(by_hand("repeated", 8, 2, 100.0, "half", x, places.tolist()))
    assert np.abs(repeated(8, base=100.0).rotate(x, places) - wanted).max() <= bound(x, places)
    assert np.abs(MUTANTS[name].rotate(x, places) - wanted).max() > 1e6 * bound(x, places)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda: Rotary(repeated(8, base=100.0).frequencies, axes=(0, 0, 1, 1)),
        lambda: dealt(8, base=10.0),
        lambda: Rotary(dealt(8, base=100.0).frequencies[::-1], axes=(0, 0, 1, 1)),
    ],
    ids=["same for both", "base", "backwards"],
)
def test_another_dealing_is_rejected(mutant: Any) -> None:
    x, places = drawn(12, 8), grid(3, 4)
    wanted = np.array(by_hand("dealt", 8, 2, 100.0, "half", x, places.tolist()))
    assert np.abs(mutant().rotate(x, places) - wanted).max() > 1e6 * bound(x, places)


@pytest.mark.law("positions/axial", "a score depends on the differences of each axis alone", "bound")
@pytest.mark.parametrize("make", [repeated, dealt])
def test_a_score_depends_on_the_differences_alone(make: Any) -> None:
    rotary, q, k = make(12, 3), drawn(1, 12), drawn(1, 12, seed=1)
    first, second, by = np.array([[3], [1], [4]]), np.array([[1], [5], [9]]), np.array([[7], [-2], [30]])
    here, there, elsewhere = (
        float((rotary.rotate(q, first + a) * rotary.rotate(k, second + b)).sum())
        for a, b in ((0, 0), (by, by), (by, 0))
    )
    assert abs(here - there) < 1e-13
    assert abs(here - elsewhere) > 1e-3


def test_moving_along_one_axis_leaves_the_pairs_of_the_other() -> None:
    x = drawn(1, 8)
    here, there = (repeated(8).rotate(x, np.array([[2], [column]])) for column in (3, 9))
    assert (here[:, [0, 1, 4, 5]] == there[:, [0, 1, 4, 5]]).all()
    assert (here[:, [2, 3, 6, 7]] != there[:, [2, 3, 6, 7]]).all()


def test_one_axis_is_rope() -> None:
    x, at = drawn(5, 8), np.arange(5)
    assert (repeated(8, 1).rotate(x, at[None]) == Rotary.of(8).rotate(x, at)).all()
    assert (dealt(8, 1).rotate(x, at[None]) == Rotary.of(8).rotate(x, at)).all()


def test_patches_are_counted_row_by_row() -> None:
    rows, columns = grid(3, 5)
    assert [(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)] == [
        (n // 5, n % 5) for n in range(15)
    ]
    assert grid(2, 3, 4).shape == (3, 24)
    assert grid(2, 3, 4)[:, 17].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (14, 14)])
def test_centres_lie_halfway_between_the_borders_of_their_cells(rows: int, columns: int) -> None:
    found = centres(rows, columns)
    for n in range(rows * columns):
        for axis, (place, count) in enumerate(((n // columns, rows), (n % columns, columns))):
            left, right = -1 + 2 * place / count, -1 + 2 * (place + 1) / count
            assert abs(found[axis, n] - (left + right) / 2) <= 4 * 2.0**-53


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: repeated(6), r"^width must be a multiple of 2 · axes = 4, got 6$"),
        (lambda: dealt(8, 3), r"^width must be a multiple of 2 · axes = 6, got 8$"),
        (lambda: repeated(4, 0), r"^axes must be an integer >= 1, got 0$"),
        (lambda: repeated(0), r"^width must be an integer >= 2, got 0$"),
        (lambda: repeated(4, base=-1.0), r"^base must be a finite number above 0, got -1\.0$"),
        (lambda: repeated(4, layout="llama"), r"^layout must be 'half' or 'adjacent', got 'llama'$"),  # type: ignore[arg-type]
        (grid, r"^sizes must be a non-empty sequence of integers >= 1, got \(\)$"),
        (lambda: grid(3, 0), r"^sizes\[1\] must be an integer >= 1, got 0$"),
        (lambda: centres(True), r"^sizes\[0\] must be an integer >= 1, got True$"),
    ],
    ids=range(9),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()
