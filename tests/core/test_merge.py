"""Merging parts of the keys gives attention over all of them: a commutative monoid, within a derived bound."""

from collections.abc import Callable
from itertools import pairwise
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.core.merge import base2_from_natural, merge, merge_cost, natural_from_base2
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Window
from kvattn.testing.balls import Ball, agree, dot, total
from kvattn.typing import Array, Attended

T, D, DV = 3, 4, 2


def part(seed: int, empty: bool = False, dtype: Any = np.float64) -> Attended:
    """Rows as attention leaves them; an empty one is 0 and -inf."""
    random = np.random.default_rng(seed)
    out, lse = random.normal(size=(2, T, DV)).astype(dtype), (random.normal(size=(2, T)) * 5).astype(dtype)
    if empty:
        out[:, 1], lse[:, 1] = 0, -np.inf
    return Attended(out, lse)


def by_hand(*parts: Attended) -> tuple[Any, Any]:
    """The formula in scalars that carry their rounding bound; a row that no part sees is 0 and -inf."""
    shape = parts[0].lse.shape
    out, lse = np.empty((*shape, parts[0].out.shape[-1]), object), np.empty(shape, object)
    unit = float(np.finfo(parts[0].lse.dtype).eps) / 2
    for place in np.ndindex(*shape):
        seen = [p for p in parts if p.lse[place] > -math.inf]
        logs = [Ball(float(p.lse[place]), 0.0, unit) for p in seen]
        if not seen:
            out[place], lse[place] = Ball(0.0), Ball(-math.inf)
            continue
        top = max(logs, key=lambda ball: ball.value)
        weights = [(log - top).exp() for log in logs]
        whole = total(weights)
        for d in range(out.shape[-1]):
            out[(*place, d)] = dot(weights, [Ball(float(p.out[(*place, d)]), 0.0, unit) for p in seen]) / whole
        lse[place] = top + whole.log()
    return out, lse


def distance(found: Attended, parts: tuple[Attended, ...]) -> float:
    out, lse = by_hand(*parts)
    return max(agree(found.out, out), agree(found.lse, lse))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_it_equals_the_formula_by_hand(count: int, dtype: Any) -> None:
    parts = tuple(part(n, empty=n % 2 == 0, dtype=dtype) for n in range(count))
    merged = merge(*parts)
    assert merged.out.dtype == merged.lse.dtype == dtype
    assert distance(merged, parts) <= 1


def twice(a: Attended, b: Attended) -> Attended:
    """Mutant: adds outputs that are normalised already."""
    found = merge(a, b)
    return Attended(a.out + b.out, found.lse)


def mean(a: Attended, b: Attended) -> Attended:
    """Mutant: every part weighs the same."""
    return Attended((a.out + b.out) / 2, merge(a, b).lse)


def base2(a: Attended, b: Attended) -> Attended:
    """Mutant: takes the natural log for one to base 2."""
    return merge(a._replace(lse=a.lse * math.log(2)), b._replace(lse=b.lse * math.log(2)))


def largest(a: Attended, b: Attended) -> Attended:
    """Mutant: forgets the log of the sum."""
    return Attended(merge(a, b).out, np.maximum(a.lse, b.lse))


@pytest.mark.parametrize("mutant", [twice, mean, base2, largest])
def test_wrong_merges_are_rejected(mutant: Callable[[Attended, Attended], Attended]) -> None:
    parts = part(1), part(2)
    assert distance(mutant(*parts), parts) > 2


def test_it_is_commutative() -> None:
    """Two parts to the bit; three within rounding, since a sum's order changes."""
    a, b, c = part(1), part(2, empty=True), part(3)
    for left, right in zip(merge(a, b), merge(b, a), strict=True):
        assert left.tobytes() == right.tobytes()
    assert distance(merge(c, a, b), (a, b, c)) <= 1


def test_it_is_associative() -> None:
    """Within the bound: a part that is merged already carries its own rounding, 2^-53 · (8 + |lse|) at most.

    For merged numbers of size |out| <= 4 and |lse| <= 16: out moves by at most 2·(error of lse)·|out| +
    (error of out), each under 40u; both sides: under 1000u.
    """
    a, b, c = part(1), part(2, empty=True), part(3)
    for left, right in zip(merge(merge(a, b), c), merge(a, merge(b, c)), strict=True):
        assert np.abs(left - right).max() <= 1000 * 2.0**-53


@pytest.mark.parametrize("garbage", [0.0, np.nan, np.inf, -np.inf])
def test_nothing_is_the_identity_whatever_it_holds(garbage: float) -> None:
    """To the bit: a part that sees no key has weight 0, and its out is not read."""
    a = part(1, empty=True)
    nothing = Attended(np.full_like(a.out, garbage), np.full_like(a.lse, -np.inf))
    for merged in (merge(a, nothing), merge(nothing, a), merge(nothing, a, nothing)):
        assert np.array_equal(merged.out, a.out)
        assert np.array_equal(merged.lse, a.lse)
    none = merge(nothing, nothing)
    assert np.array_equal(none.out, np.zeros_like(a.out))
    assert np.isneginf(none.lse).all()


def test_far_apart_parts_neither_overflow_nor_lose_the_larger() -> None:
    near, far = part(1), part(2)
    merged = merge(near._replace(lse=near.lse + 1000), far._replace(lse=far.lse - 1000))
    assert np.array_equal(merged.out, near.out)
    assert np.array_equal(merged.lse, near.lse + 1000)


def attended(q: Array, k: Array, v: Array, first: int, window: int) -> Attended:
    """Keys at positions first, first + 1, …; queries at 4, 8, 12; a window of so many keys."""
    at = np.arange(first, first + k.shape[1])
    asked = np.array([[4, 8, 12]])
    return streaming.attend(q, asked, [blocks_of(k, v, at)], value_width=DV, mask=Window(window))


@given(
    st.integers(0, 14),
    st.lists(st.integers(0, 14), max_size=4),
    st.integers(1, 16),
    st.sampled_from([np.float64, np.float32]),
    st.integers(0, 2**16),
)
def test_any_split_of_the_keys_gives_the_whole(keys: int, cuts: list[int], window: int, dtype: Any, seed: int) -> None:
    """Empty parts, and parts that some rows do not see, too.

    A score of D terms is off by e <= (D + 2)·u·Σ|q||k|/sqrt(D) on either side; a weight by the factor
    1 ± (2e + n·u) with n <= S + 3·parts + 20 + 2·(range of the scores, twice the largest) operations on
    its way.  So out is off by that times the largest |v|, lse by e + n·u, and both sides round.
    """
    random = np.random.default_rng(seed)
    q, k, v = (random.normal(size=(1, h, n, d)).astype(dtype) for h, n, d in ((4, T, D), (2, keys, D), (2, keys, DV)))
    edges = [0, *sorted(min(cut, keys) for cut in cuts), keys]
    parts = [attended(q, k[0, :, a:b], v[0, :, a:b], a, window) for a, b in pairwise(edges)]
    merged, whole = merge(*parts), attended(q, k[0], v[0], 0, window)
    u = float(np.finfo(dtype).eps) / 2
    weight = np.einsum("bhtd,bhsd->bhts", np.abs(q), np.abs(k).repeat(2, 1)).max(initial=0.0) / math.sqrt(D)
    e = (D + 2) * u * weight
    n = keys + 3 * len(parts) + 20 + 2 * weight
    assert np.array_equal(np.isneginf(merged.lse), np.isneginf(whole.lse))
    seen = ~np.isneginf(whole.lse)
    assert np.abs(merged.out - whole.out).max() <= 2 * (2 * e + n * u) * np.abs(v).max(initial=0.0)
    assert np.abs(merged.lse[seen] - whole.lse[seen]).max(initial=0.0) <= 2 * (e + n * u)


def test_bases_convert_there_and_back() -> None:
    natural = np.array([0.0, math.log(8), -np.inf, 700.0])
    assert base2_from_natural(natural)[:3].tolist() == pytest.approx([0.0, 3.0, -math.inf])
    assert natural_from_base2(base2_from_natural(natural)).tolist() == pytest.approx(natural.tolist(), rel=1e-15)
    assert natural_from_base2(np.array([1.0], np.float32)).dtype == np.float32
    assert base2_from_natural(np.array([1.0], np.float32)).dtype == np.float32


def test_what_it_costs_is_counted() -> None:
    """For each row and part an exp, a subtraction, a comparison, an addition and 2·Dv; in the end log, +, and Dv."""
    with counting() as tally:
        merge(part(1), part(2), part(3))
    rows = 2 * T
    assert tally.transcendental == rows * (3 + 1)
    assert tally.arithmetic == rows * (3 * (1 + 1 + 1 + 2 * DV) + 1 + DV)
    assert tally.tally == merge_cost(rows, parts=3, width=DV)


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ((), ArgumentError, r"^merge must be given at least one part, got none$"),
        (
            (part(1), Attended(np.zeros((2, T, DV + 1)), np.zeros((2, T)))),
            ShapeError,
            r"^out of part 1 must have shape \[2, 3, 2\], got \(2, 3, 3\)$",
        ),
        (
            (part(1), Attended(np.zeros((2, T, DV)), np.zeros(T))),
            ShapeError,
            r"^lse of part 1 must have shape \[2, 3\], got \(3,\)$",
        ),
        (
            (Attended(np.zeros((T, DV)), np.zeros(T + 1)),),
            ShapeError,
            r"^out of part 0 must have shape \[4, 2\], got \(3, 2\)$",
        ),
        (
            (Attended(np.array(1.0), np.array(0.0)),),
            ShapeError,
            r"^out of part 0 must have shape \[\.\.\., T, Dv\], got \(\)$",
        ),
        (
            (part(1), part(2, dtype=np.float32)),
            DtypeError,
            r"^part 1 must have the dtypes of part 0, float64 and float64, got float32 and float32$",
        ),
        (
            (Attended(np.ones((T, DV), int), np.zeros(T, int)),),
            DtypeError,
            r"^part 0 must be floating-point, got int64 and int64$",
        ),
    ],
)
def test_bad_parts_are_named(parts: tuple[Attended, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        merge(*parts)
