"""xPos: fading pairs by hand, alone and in a layer, how far it reaches, and what a shift of the centre does."""

from decimal import Decimal, getcontext
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.positions.rotary import Rotary
from kvattn.positions.xpos import XPos
from kvattn.testing.balls import Ball, agree
from kvattn.testing.heads_by_hand import Bend, Heads, layer_by_hand, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

getcontext().prec = 40
T, M, HEADS, KV_HEADS, D, DV = 6, 5, 4, 2, 6, 3
LAYOUTS: Any = ["half", "adjacent"]


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def factor(k: int, position: int, period: int, origin: int, width: int = D) -> float:
    """ζ_k to the power (position - origin) / period, to 40 digits, from the paper's words."""
    zeta = (Decimal(2 * k) / Decimal(width) + Decimal("0.4")) / Decimal("1.4")
    return float((zeta.ln() * (Decimal(position - origin) / Decimal(period))).exp())


def pair(k: int, layout: str, width: int = D) -> tuple[int, int]:
    return (k, k + width // 2) if layout == "half" else (2 * k, 2 * k + 1)


def by_hand(x: Any, positions: list[int], side: str, layout: str, period: int, origin: int) -> list[list[float]]:
    out = x.astype(np.float64).tolist()
    for row, place in zip(out, positions, strict=True):
        for k in range(D // 2):
            size = factor(k, place, period, origin)
            for n in pair(k, layout):
                row[n] = row[n] * size if side == "queries" else row[n] / size
    return list(out)


def allowed(x: Any, wanted: Any, positions: list[int], period: int, origin: int) -> Any:
    """Relative: ζ has 3 roundings, each times the exponent; the exponent one times its size and ln ζ; the power 4; then
    the factor and the product are rounded to the dtype."""
    u = float(np.finfo(x.dtype).eps) / 2
    exponents = np.abs(np.array(positions)[:, None] - origin) / period
    return (2 * u + 2.0**-53 * (8 + exponents * (3 + 1.3))) * np.abs(wanted)


PLACES = [0, 1, 2, 511, 512, 4000]


@pytest.mark.by_hand("positions/xpos")
@pytest.mark.parametrize("side", ["queries", "keys"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("period", "origin"), [(512, 0), (300, 2000)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pairs_fade_as_by_hand(side: str, layout: Any, period: int, origin: int, dtype: Any) -> None:
    x = drawn(len(PLACES), D + 1, dtype=dtype)
    found = getattr(XPos.of(D, layout, period, origin), side)(x, np.array(PLACES))
    wanted = np.array(by_hand(x, PLACES, side, layout, period, origin))
    assert found.dtype == dtype
    assert (np.abs(found - wanted) <= allowed(x, wanted, PLACES, period, origin)).all()
    assert (found[:, D] == x[:, D]).all()


MUTANTS = {
    "keys fade too": lambda x, at: XPos.of(D).keys(x, at),
    "layout": lambda x, at: XPos.of(D, "adjacent").queries(x, at),
    "period": lambda x, at: XPos.of(D, period=511.0).queries(x, at),
    "origin": lambda x, at: XPos.of(D, origin=1).queries(x, at),
    "γ left out": lambda x, at: XPos(tuple((k + 1) / 4 for k in range(3))).queries(x, at),
    "exponent over r/2": lambda x, at: XPos(tuple((k / D + 0.4) / 1.4 for k in range(3))).queries(x, at),
    "backwards": lambda x, at: XPos(XPos.of(D).decays[::-1]).queries(x, at),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_another_fading_is_rejected(name: str) -> None:
    x = drawn(len(PLACES), D)
    wanted = np.array(by_hand(x, PLACES, "queries", "half", 512, 0))
    assert (np.abs(XPos.of(D).queries(x, np.array(PLACES)) - wanted) <= allowed(x, wanted, PLACES, 512, 0)).all()
    beyond = np.abs(MUTANTS[name](x, np.array(PLACES)) - wanted) > 1e6 * allowed(x, wanted, PLACES, 512, 0)
    assert beyond.any()


def weights(dtype: Any = np.float64) -> Projections:
    shapes = (M, HEADS * D), (M, KV_HEADS * D), (M, KV_HEADS * DV), (HEADS * DV, M)
    query, key, value, output = (drawn(*shape, seed=n, dtype=dtype) * dtype(0.5) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, HEADS, KV_HEADS)


def gap(found: Attended, x: Any, layout: str, period: int, origin: int) -> float:
    def bend(sign: int) -> Bend:
        def bent(i: int, heads: Heads) -> Heads:
            out = []
            for head in (turn(head, i, Rotary.of(D, layout=layout)) for head in heads):  # type: ignore[arg-type]
                row, unit = list(head), head[0].unit
                for k in range(D // 2):
                    size = factor(k, sign * (i - origin), period, 0)
                    ball = Ball(size, size * (unit + 2.0**-53 * (8 + 5 * abs(i - origin) / period)), unit)
                    for n in pair(k, layout):
                        row[n] = row[n] * ball
                out.append(row)
            return out

        return bent

    out, lse = layer_by_hand(weights(x.dtype.type), x, queries=bend(1), keys=bend(-1))
    return max(agree(found.out, out), agree(found.lse, lse))


def layer_of(layout: Any, period: float, origin: int, dtype: Any = np.float64) -> Grouped:
    return Grouped(weights(dtype), query_key=(Rotary.of(D, layout=layout), XPos.of(D, layout, period, origin)), page=2)


@pytest.mark.by_hand("positions/xpos")
@pytest.mark.parametrize(("layout", "period", "origin"), [("half", 5, 0), ("adjacent", 5, 0), ("half", 2, 3)])
@pytest.mark.parametrize("cuts", [None, (), (1, 2, 3, 4, 5), (2, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_layer_equals_by_hand(
    layout: Any, period: int, origin: int, cuts: tuple[int, ...] | None, dtype: Any
) -> None:
    layer, x = layer_of(layout, period, origin, dtype), drawn(1, T, M, seed=9, dtype=dtype)
    found = layer.definition(x, np.arange(T)) if cuts is None else stepped(layer, x, cuts)[0]
    assert found.out.dtype == dtype
    assert gap(found, x, layout, period, origin) <= 1


def test_a_layer_without_fading_is_rejected() -> None:
    x = drawn(1, T, M, seed=9)
    plain = Grouped(weights(), query_key=(Rotary.of(D),)).definition(x, np.arange(T))
    assert gap(plain, x, "half", 5, 0) > 2


@pytest.mark.law("positions/xpos", "a score depends on the difference of positions alone", "bound")
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(-3000, 3000), st.sampled_from(LAYOUTS))
def test_a_score_depends_on_the_difference_alone(q: int, k: int, by: int, layout: Any) -> None:
    """Bound: factors relative 40u, angles u·|angle| for each of four, times the sum of the sizes of the terms."""
    rotary, faded, x, y = Rotary.of(8, layout=layout), XPos.of(8, layout), drawn(1, 8), drawn(1, 8, seed=1)

    def terms(d: int) -> Any:
        at, of = np.array([q + d]), np.array([k + d])
        return faded.queries(rotary.rotate(x, at), at) * faded.keys(rotary.rotate(y, of), of)

    here, there = terms(0), terms(by)
    sizes = max(float(np.abs(part).max()) for part in (here, there))
    largest = max(sizes, max(factor(p, q - k, 512, 0, 8) for p in range(4)) * float(np.abs(x).max() * np.abs(y).max()))
    angles = 2.0**-53 * (abs(q) + abs(k) + abs(q + by) + abs(k + by))
    assert abs(float(here.sum()) - float(there.sum())) <= 16 * largest * (2 * angles + 100 * 2.0**-52)


@pytest.mark.law("positions/xpos", "the origin cannot be seen in a layer", "bound")
def test_the_origin_cannot_be_seen() -> None:
    x = drawn(1, T, M)
    here, there = (layer_of("half", 5.0, origin, np.float64).definition(x, np.arange(T)).out for origin in (0, 40))
    assert np.abs(here - there).max() < 1e-13


def test_a_centre_that_moves_with_the_call_mixes_two_origins() -> None:
    """x-transformers and torchscale centre each call: its queries then meet keys that were cached around another
    centre, and the scores are off by ζ to the power of the distance of the centres."""
    rotary, at = Rotary.of(D), np.arange(8)
    x, y = drawn(8, D), drawn(8, D, seed=1)

    def scores(query_origin: int, key_origin: int) -> Any:
        q = XPos.of(D, period=8.0, origin=query_origin).queries(rotary.rotate(x, at), at)
        return q[7:] @ XPos.of(D, period=8.0, origin=key_origin).keys(rotary.rotate(y, at), at).T

    assert np.allclose(scores(4, 4), scores(0, 0), rtol=0, atol=1e-13)
    assert np.abs(scores(4, 3) - scores(0, 0)).max() > 0.05
    # undone by hand for a single pair: one more ζ for each period between the centres
    one, other = (XPos((0.5,), period=1.0, origin=n) for n in (4, 3))
    ones = np.ones((1, 2))
    assert one.queries(ones, at[:1]) == pytest.approx(2 * other.queries(ones, at[:1]))


@pytest.mark.law("positions/xpos", "rotation and fading commute", "bound")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotation_and_fading_commute(layout: Any) -> None:
    rotary, faded, x, at = Rotary.of(D, layout=layout), XPos.of(D, layout), drawn(T, D), np.arange(T) * 100
    one = faded.queries(rotary.rotate(x, at), at)
    assert np.allclose(one, rotary.rotate(faded.queries(x, at), at), rtol=0, atol=1e-14)
    other = XPos.of(D, "adjacent" if layout == "half" else "half")
    assert not np.allclose(rotary.rotate(other.queries(x, at), at), other.queries(rotary.rotate(x, at), at), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_up_to_its_reach_rows_keep_their_digits(dtype: Any) -> None:
    faded, limits = XPos.of(D, period=8.0, origin=10), np.finfo(dtype)
    reach = faded.reach(dtype)
    small, tenth = np.full((2, D), limits.eps, dtype), np.array([10 + reach, 10 - reach])
    for side in (faded.queries, faded.keys):
        rows = side(small, tenth)
        assert np.isfinite(rows).all()
        assert (np.abs(rows) >= limits.tiny * (1 - 1e-3)).all()
        for beyond in (11 + reach, 9 - reach):
            with pytest.raises(
                PositionError,
                match=rf"^positions must be within {reach} of origin=10 in {np.dtype(dtype)}, got {beyond}$",
            ):
                side(small[:1], np.array([beyond]))
    assert reach == math.floor((math.log(limits.eps) - math.log(limits.tiny)) * 8 / -math.log(0.4 / 1.4))


def test_what_does_not_fade_reaches_everywhere() -> None:
    assert XPos((1.0,)).reach() == 2**62
    assert (XPos((1.0,)).queries(np.ones((1, 2)), np.array([2**40])) == 1).all()


@pytest.mark.law("positions/xpos", "cost is count", "integers")
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_the_cost_is_what_is_counted(tokens: int) -> None:
    at = np.arange(tokens)[None, None].repeat(2, 0)
    for heads, side in ((HEADS, "queries"), (KV_HEADS, "keys")):
        with counting() as counted:
            getattr(XPos.of(D), side)(drawn(2, heads, tokens, D), at)
        assert counted.tally == getattr(XPos.of(D), f"{side}_cost")(tokens=2 * tokens, heads=heads, width=D)
        assert counted.transcendental == 2 * tokens * 3
        assert counted.arithmetic == 2 * tokens * heads * D + 2 * tokens * 2


ONES = np.ones((2, D))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: XPos(()), ArgumentError, r"^decays must be a non-empty sequence of finite numbers, got \(\)$"),
        (lambda: XPos((0.5, 0.0)), ArgumentError, r"^decays\[1\] must be a finite number above 0, got 0\.0$"),
        (lambda: XPos((0.5,), "gptj"), ArgumentError, r"^layout must be 'half' or 'adjacent', got 'gptj'$"),  # type: ignore[arg-type]
        (lambda: XPos((0.5,), period=0.0), ArgumentError, r"^period must be a finite number above 0, got 0\.0$"),
        (lambda: XPos((0.5,), origin=0.5), ArgumentError, r"^origin must be an integer, got 0\.5$"),  # type: ignore[arg-type]
        (lambda: XPos.of(5), ArgumentError, r"^width must be even, got 5$"),
        (lambda: XPos.of(8).queries(ONES, np.arange(2)), ShapeError, r"^q must have room for 8 features, got 6$"),
        (
            lambda: XPos.of(6).keys(ONES, np.arange(3)),
            ShapeError,
            r"^positions must broadcast to k.shape\[:-1\], which is \(2,\), got \(3,\)$",
        ),
        (
            lambda: XPos.of(6).keys(ONES, np.array([0.5, 1.0])),
            PositionError,
            r"^positions must be integers, got dtype float64$",
        ),
        (
            lambda: XPos.of(6).queries(ONES.astype(int), np.arange(2)),
            DtypeError,
            r"^q must be floating-point, got int64$",
        ),
    ],
    ids=range(10),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
