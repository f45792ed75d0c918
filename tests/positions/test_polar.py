"""Polar positions: rows and scores by hand, what phases do, and attention over rows of twice the width."""

import cmath
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

import kvattn
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal
from kvattn.positions.polar import Polar
from kvattn.positions.rotary import Rotary
from kvattn.testing.balls import Ball, agree
from kvattn.testing.heads_by_hand import Bend, Heads, layer_by_hand
from kvattn.testing.laws import stepped
from kvattn.typing import Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

HEADS, KV_HEADS, T, D = 4, 2, 6, 3
BASE = 50.0


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


PHASES = drawn(KV_HEADS, D, seed=5) * 2
POLAR = Polar(Polar.of(D, KV_HEADS, BASE).frequencies, PHASES)


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def theta(c: int) -> float:
    return math.exp(-math.log(BASE) * c / D)


def score(q: Any, k: Any, i: int, j: int, g: int) -> float:
    """The paper's sum for one query and one key of key head g."""
    return math.fsum(
        softplus(float(q[c])) * softplus(float(k[c])) * math.cos((i - j) * theta(c) - PHASES[g, c]) for c in range(D)
    )


def bound(rows: Any, far: int) -> float:
    """A softplus: 20 roundings; angles: 8 of float64 of themselves, cosine and sine 5; the product and roundings 3."""
    u = float(np.finfo(rows.dtype).eps) / 2
    return (24 * u + 2.0**-53 * (5 + 8 * (far + 10))) * (1 + float(np.abs(rows).max()))


PLACES = [0, 1, 2, 5, 30, 900]


@pytest.mark.by_hand("positions/polar")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_equal_arrows_by_hand(dtype: Any) -> None:
    q, k = drawn(HEADS, T, D, dtype=dtype), drawn(KV_HEADS, T, D, dtype=dtype, seed=1)
    found, held = POLAR.queries(q, np.array(PLACES)), POLAR.keys(k, np.array(PLACES))
    assert found.dtype == held.dtype == dtype
    assert found.shape == (HEADS, T, 2 * D)
    for rows, out, ahead in ((q, found, np.zeros((HEADS, D))), (k, held, PHASES)):
        for h in range(len(rows)):
            for n, place in enumerate(PLACES):
                for c in range(D):
                    arrow = cmath.rect(softplus(float(rows[h, n, c])), place * theta(c) + float(ahead[h, c]))
                    assert abs(out[h, n, c] - arrow.real) <= bound(rows, 900)
                    assert abs(out[h, n, c + D] - arrow.imag) <= bound(rows, 900)


def scores_of(polar: Polar, q: Any, k: Any, at: Any) -> Any:
    """``[Hq, T, T]``."""
    keys = np.repeat(polar.keys(k, at), HEADS // KV_HEADS, axis=0)
    return polar.queries(q, at) @ keys.swapaxes(-1, -2)


def wanted_scores(q: Any, k: Any) -> Any:
    return np.array(
        [
            [[score(q[h, i], k[h // 2, j], PLACES[i], PLACES[j], h // 2) for j in range(T)] for i in range(T)]
            for h in range(HEADS)
        ]
    )


@pytest.mark.by_hand("positions/polar")
def test_scores_are_the_papers_sum() -> None:
    q, k = drawn(HEADS, T, D), drawn(KV_HEADS, T, D, seed=1)
    assert np.abs(scores_of(POLAR, q, k, np.array(PLACES)) - wanted_scores(q, k)).max() < 1e-11


class Signed(Polar):
    """Mutant: queries are ahead, too."""

    def queries(self, q: Any, positions: Any) -> Any:
        return Polar(self.frequencies, np.repeat(self.phases, 2, axis=0)).keys(q, positions)


class Rotated(Polar):
    """Mutant: RoPE's magnitudes, with their sign."""

    def queries(self, q: Any, positions: Any) -> Any:
        inverse = np.log(np.expm1(np.abs(q) + 1e-9))
        return np.sign(np.concatenate([q, q], -1)) * Polar.queries(self, inverse, positions)


MUTANTS = {
    "phases behind": Polar(POLAR.frequencies, -PHASES),
    "no phases": Polar(POLAR.frequencies, 0 * PHASES),
    "heads exchanged": Polar(POLAR.frequencies, PHASES[::-1]),
    "frequencies of pairs": Polar(tuple(f**2 for f in POLAR.frequencies), PHASES),
    "queries ahead too": Signed(POLAR.frequencies, PHASES),
    "signed magnitudes": Rotated(POLAR.frequencies, PHASES),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_another_arrow_is_rejected(name: str) -> None:
    q, k = drawn(HEADS, T, D), drawn(KV_HEADS, T, D, seed=1)
    assert np.abs(scores_of(MUTANTS[name], q, k, np.array(PLACES)) - wanted_scores(q, k)).max() > 1e-2


@pytest.mark.by_hand("positions/polar")
def test_attention_over_arrows_equals_by_hand() -> None:
    q, k, v, at = drawn(1, HEADS, T, D), drawn(1, KV_HEADS, T, D, seed=1), drawn(1, KV_HEADS, T, 2, seed=2), PLACES
    scale = 1 / math.sqrt(D)
    rows: Any = {"q_positions": np.array(at), "k_positions": np.array(at)}
    found = kvattn.attend(
        POLAR.queries(q, np.array(at)), POLAR.keys(k, np.array(at)), v, mask=Causal(), scale=scale, **rows
    )
    for h in range(HEADS):
        for i in range(T):
            shares = [math.exp(scale * score(q[0, h, i], k[0, h // 2, j], at[i], at[j], h // 2)) for j in range(i + 1)]
            mix = sum(share * v[0, h // 2, j] for j, share in enumerate(shares)) / math.fsum(shares)
            assert np.abs(found.out[0, h, i] - mix).max() < 1e-11
            assert abs(found.lse[0, h, i] - math.log(math.fsum(shares))) < 1e-11


def weights(dtype: Any = np.float64) -> Projections:
    m, dv = 5, 2
    shapes = (m, HEADS * D), (m, KV_HEADS * D), (m, KV_HEADS * dv), (HEADS * dv, m)
    query, key, value, output = (drawn(*shape, seed=n, dtype=dtype) * dtype(0.5) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, HEADS, KV_HEADS)


def lengths_of(ball: Ball) -> Ball:
    """A softplus: its exponential, sum and logarithm, or its comparison and log1p; slope below 1."""
    return ball.through(softplus, 1.0) + Ball(0.0, 24 * ball.unit * (1 + abs(ball.value)), ball.unit)


def gap(found: Attended, x: Any) -> float:
    def arrows(ahead: Any) -> Bend:
        def bend(i: int, heads: Heads) -> Heads:
            out = []
            for h, head in enumerate(heads):
                row, unit = [lengths_of(a) for a in head], head[0].unit
                angles = [i * theta(c) + float(ahead[h, c]) for c in range(D)]
                errors = [unit + 2.0**-53 * (8 + 16 * (abs(angle) + 10)) for angle in angles]
                cosines = [Ball(math.cos(a), e, unit) for a, e in zip(angles, errors, strict=True)]
                sines = [Ball(math.sin(a), e, unit) for a, e in zip(angles, errors, strict=True)]
                out.append([a * b for a, b in zip(row * 2, cosines + sines, strict=True)])
            return out

        return bend

    out, lse = layer_by_hand(
        weights(x.dtype.type), x, queries=arrows(np.zeros((HEADS, D))), keys=arrows(PHASES), scale=D**-0.5
    )
    return max(agree(found.out, out), agree(found.lse, lse))


@pytest.mark.by_hand("positions/polar")
@pytest.mark.parametrize("cuts", [None, (), (1, 2, 3, 4, 5), (2, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_layer_equals_by_hand(cuts: tuple[int, ...] | None, dtype: Any) -> None:
    layer, x = Grouped(weights(dtype), query_key=(POLAR,), page=2), drawn(1, T, 5, seed=9, dtype=dtype)
    found = layer.definition(x, np.arange(T)) if cuts is None else stepped(layer, x, cuts)[0]
    assert found.out.dtype == dtype
    assert gap(found, x) <= 1


@pytest.mark.parametrize("mutant", [MUTANTS["phases behind"], MUTANTS["no phases"], MUTANTS["heads exchanged"]])
def test_a_layer_with_other_arrows_is_rejected(mutant: Polar) -> None:
    x = drawn(1, T, 5, seed=9)
    wrong = Grouped(weights(), query_key=(mutant,))
    assert gap(wrong.definition(x, np.arange(T)), x) > 2


def test_a_token_caches_twice_the_features() -> None:
    layer = Grouped(weights(), query_key=(POLAR,), page=2)
    _, cache = stepped(layer, drawn(1, T, 5), ())
    assert cache.nbytes == T * KV_HEADS * (2 * D + 2) * 8


@pytest.mark.law("positions/polar", "a chunk is the slice of the whole", "bits")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_chunk_equals_the_slice_of_the_whole_to_the_bit(dtype: Any) -> None:
    polar, at = Polar.of(7, 2), np.arange(3, 73)
    rows = drawn(2, 70, 7, dtype=dtype)
    for verb in (polar.queries, polar.keys):
        whole = verb(rows, at)
        for size in (1, 2, 3, 8, 33):
            parts = [verb(rows[:, n : n + size], at[n : n + size]) for n in range(0, 70, size)]
            assert np.concatenate(parts, axis=1).tobytes() == whole.tobytes()


@pytest.mark.law("positions/polar", "a score depends on the difference of positions alone", "bound")
@given(st.integers(0, 10**5), st.integers(0, 10**5), st.integers(-(10**5), 10**5))
def test_a_score_depends_on_the_difference_alone(i: int, j: int, by: int) -> None:
    q, k = drawn(KV_HEADS, 1, D), drawn(KV_HEADS, 1, D, seed=1)
    here, there = ((POLAR.queries(q, np.array([i + d])) * POLAR.keys(k, np.array([j + d]))).sum(-1) for d in (0, by))
    angles = 2.0**-53 * (abs(i) + abs(j) + abs(i + by) + abs(j + by) + 40)
    assert np.abs(here - there).max() <= 4 * D * 10 * (2 * angles + 64 * 2.0**-53)


@pytest.mark.law("positions/polar", "content turns no angle", "bound")
def test_content_turns_no_angle() -> None:
    """Unlike in RoPE: whatever the row, its arrows point where its position says."""
    for rows in (drawn(1, T, D), -7 * drawn(1, T, D, seed=3)):
        found = POLAR.queries(rows, np.arange(T))
        wanted = np.exp(1j * np.arange(T)[:, None] * np.array(POLAR.frequencies))
        arrows = found[..., :D] + 1j * found[..., D:]
        assert np.allclose(arrows / np.abs(arrows), wanted, rtol=0, atol=1e-14)


def test_it_is_rope_of_rows_without_second_halves() -> None:
    x, at = drawn(1, T, D), np.arange(T)
    lengths = np.log1p(np.exp(x))
    rope = Rotary(POLAR.frequencies).rotate(np.concatenate([lengths, 0 * lengths], axis=-1), at)
    assert np.allclose(POLAR.queries(x, at), rope, rtol=0, atol=1e-14)


def test_frequencies_are_the_papers() -> None:
    assert np.allclose(Polar.of(D, 1, BASE).frequencies, [theta(c) for c in range(D)], rtol=1e-14, atol=0)
    assert not Polar.of(D, 2).phases.any()
    assert Polar.of(D, 2).phases.shape == (2, D)


def test_phases_are_read_once() -> None:
    phases = PHASES.copy()
    polar = Polar(POLAR.frequencies, phases)
    phases += 1
    assert (polar.phases == PHASES).all()
    assert not polar.phases.flags.writeable


@pytest.mark.law("positions/polar", "cost is count", "integers")
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_the_cost_is_what_is_counted(tokens: int) -> None:
    at = np.arange(tokens)[None, None].repeat(2, 0)
    for heads, side, own in ((HEADS, "queries", 1), (KV_HEADS, "keys", KV_HEADS)):
        with counting() as counted:
            getattr(POLAR, side)(drawn(2, heads, tokens, D), at)
        assert counted.tally == getattr(POLAR, f"{side}_cost")(tokens=2 * tokens, heads=heads, width=D)
        assert counted.transcendental == 2 * tokens * D * (2 * heads + 2 * own)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Polar((), [[]]), ArgumentError, r"^frequencies must be a non-empty sequence of finite numbers, got"),  # type: ignore[arg-type]
        (lambda: Polar((1.0,), [0.0]), ShapeError, r"^phases must have shape \[Hkv, D\] with D=1, got \(1,\)$"),  # type: ignore[arg-type]
        (
            lambda: Polar((1.0,), [[0.0, 1.0]]),  # type: ignore[arg-type]
            ShapeError,
            r"^phases must have shape \[Hkv, D\] with D=1, got \(1, 2\)$",
        ),
        (lambda: Polar((1.0,), [["x"]]), DtypeError, r"^phases must be an array of real numbers, got dtype <U1$"),  # type: ignore[arg-type]
        (lambda: Polar.of(0, 1), ArgumentError, r"^width must be an integer >= 1, got 0$"),
        (lambda: Polar.of(2, 0), ArgumentError, r"^kv_heads must be an integer >= 1, got 0$"),
        (lambda: POLAR.queries(drawn(2, 4), np.arange(2)), ShapeError, r"^q must have 3 features, got 4$"),
        (
            lambda: POLAR.keys(drawn(3, 2, 3), np.arange(2)),
            ShapeError,
            r"^k must have shape \[\.\.\., Hkv=2, T, D\], got \(3, 2, 3\)$",
        ),
        (
            lambda: POLAR.keys(drawn(2, 2, 3), np.zeros((2, 2), int)),
            ShapeError,
            r"^positions must have one entry for all heads, got shape \(2, 2\)$",
        ),
        (
            lambda: POLAR.queries(drawn(2, 3), np.arange(3)),
            ShapeError,
            r"^positions must broadcast to q.shape\[:-1\], which is \(2,\), got \(3,\)$",
        ),
        (
            lambda: POLAR.queries(np.ones((2, 3), int), np.arange(2)),
            DtypeError,
            r"^q must be floating-point, got int64$",
        ),
        (
            lambda: POLAR.queries(drawn(1, 3), np.array([True])),
            PositionError,
            r"^positions must be numbers, got dtype bool$",
        ),
    ],
    ids=range(12),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
