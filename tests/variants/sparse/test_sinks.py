"""Sinks and window, kept and re-indexed, against the whole layer by hand.

``by_hand`` loops over `kvattn.testing.balls`, which derive the bound for the very input.  A re-indexed
step softmaxes sinks and window apart and merges; so does ``by_hand`` when asked, for the bound of that form.
"""

import cmath
from collections.abc import Callable
from dataclasses import replace
import itertools
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, RollbackError, ShapeError
from kvattn.masks import Window
from kvattn.positions import Rotary
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.sparse.sinks import KeptSinks, ReindexedSinks

T, M, D, DV = 9, 3, 4, 2
Layer = KeptSinks | ReindexedSinks
Kind = type[KeptSinks] | type[ReindexedSinks]
KINDS: list[Kind] = [KeptSinks, ReindexedSinks]


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def weights(heads: int = 4, kv_heads: int = 2, dtype: Any = np.float64) -> Projections:
    shapes = (M, heads * D), (M, kv_heads * D), (M, kv_heads * DV), (heads * DV, M)
    query, key, value, output = (drawn(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, heads, kv_heads)


def columns(matrix: Array) -> list[list[Ball]]:
    return [list(column) for column in zip(*given(matrix), strict=True)]


def turn(row: list[Ball], position: int, rotation: Rotary | None) -> list[Ball]:
    """Pairs as complex numbers; an angle is off by 4·|angle| roundings of float64, cosine and sine by 8."""
    out, pairs = list(row), len(row) // 2
    for n in range(pairs if rotation is not None else 0):
        angle = position * 10000.0 ** (-2 * n / len(row))
        unit = row[0].unit
        error = unit + 2.0**-53 * (8 + 4 * abs(angle))
        turned = cmath.rect(1.0, angle)
        cosine, sine = Ball(turned.real, error, unit), Ball(turned.imag, error, unit)
        a, b = row[n], row[n + pairs]
        out[n], out[n + pairs] = a * cosine - b * sine, a * sine + b * cosine
    return out


def softmax(terms: list[Ball], values: list[list[Ball]]) -> tuple[list[Ball], Ball]:
    top = max(terms, key=lambda term: term.value)
    shares = [(term - top).exp() for term in terms]
    whole = total(shares)
    return [dot(shares, [value[d] for value in values]) / whole for d in range(DV)], top + whole.log()


def by_hand(layer: Layer, x: Array, places: list[int] | None = None, apart: bool = False) -> tuple[Any, Any]:
    """Gather what each query sees, give everything its position, turn, softmax, mix; sinks apart if asked."""
    w, n, size = layer.projections, layer.sinks, layer.window
    wq, wk, wv, wo = (columns(matrix) for matrix in (w.query, w.key, w.value, w.output))
    out, lse = [], []
    for sequence in given(x):
        at = list(range(len(sequence))) if places is None else places
        mixed: list[list[Ball]] = [[] for _ in sequence]
        logs: list[list[Ball]] = []
        for h in range(w.heads):
            g = h // (w.heads // w.kv_heads)
            logs.append([])
            for row, i in zip(sequence, at, strict=True):
                seen = sorted(j for j in at if j <= i and (j < n or i - j < size))
                number = dict(zip(seen, range(len(seen)), strict=True)) if isinstance(layer, ReindexedSinks) else {}
                query = turn([dot(row, wq[h * D + d]) for d in range(D)], number.get(i, i), layer.rotation)
                parts: dict[bool, tuple[list[Ball], list[list[Ball]]]] = {}
                for j in seen:
                    token = sequence[at.index(j)]
                    key = turn([dot(token, wk[g * D + d]) for d in range(D)], number.get(j, j), layer.rotation)
                    terms, values = parts.setdefault(apart and j < n, ([], []))
                    terms.append(dot(query, key) * (1 / math.sqrt(D)))
                    values.append([dot(token, wv[g * DV + d]) for d in range(DV)])
                found = [softmax(*part) for part in parts.values()]
                if len(found) > 1:
                    found = [softmax([log for _, log in found], [mix for mix, _ in found])]
                mixed[at.index(i)] += found[0][0]
                logs[h].append(found[0][1])
        out.append([[dot(row, column) for column in wo] for row in mixed])
        lse.append(logs)
    return out, lse


def gap(found: Attended, wanted: tuple[Any, Any]) -> float:
    return max(agree(found.out, wanted[0]), agree(found.lse, wanted[1]))


def x_of(layer: Layer, batch: int = 1, length: int = T) -> Any:
    return drawn(batch, length, M, seed=9, dtype=layer.projections.dtype.type)


CASES = [
    *({"sinks": n, "window": size, "rotation": Rotary.of(D)} for n, size in itertools.product([0, 1, 3], [1, 2, 3])),
    {"sinks": 2, "window": T - 1, "rotation": Rotary.of(D)},
    {"sinks": 2, "window": T, "rotation": Rotary.of(D)},
    {"sinks": T, "window": 1, "rotation": Rotary.of(D)},
    {"sinks": T + 1, "window": T + 1, "rotation": Rotary.of(D)},
    {"sinks": 2, "window": 3},
    {"sinks": 2, "window": 3, "rotation": Rotary.of(D), "page": 1, "rollback": 2},
    {"sinks": 2, "window": 3, "rotation": Rotary.of(D), "projections": weights(3, 1)},
    {"sinks": 2, "window": 3, "rotation": Rotary.of(D), "projections": weights(2, 2, np.float32), "page": 2},
]


@pytest.mark.by_hand("variants/sparse/sinks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_definition_and_steps_equal_by_hand(kind: Kind, case: dict[str, Any]) -> None:
    layer: Layer = kind(**{"projections": weights(), **case})
    x = x_of(layer)
    assert gap(layer.definition(x, np.arange(T)), by_hand(layer, x)) <= 1
    wanted = by_hand(layer, x, apart=kind is ReindexedSinks)
    for cuts in ((), tuple(range(1, T)), (4, 4, 7)):
        found, _ = stepped(layer, x, cuts)
        assert found.out.dtype == x.dtype
        assert gap(found, wanted) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_a_batch_are_computed_each_for_itself(kind: Kind) -> None:
    layer = kind(weights(), sinks=1, window=2, rotation=Rotary.of(D))
    x = x_of(layer, batch=3, length=5)
    assert gap(layer.definition(x, np.arange(5)), by_hand(layer, x)) <= 1
    assert gap(stepped(layer, x, (2,))[0], by_hand(layer, x, apart=kind is ReindexedSinks)) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_definition_takes_positions_in_any_order(kind: Kind) -> None:
    layer = kind(weights(), sinks=1, window=3, rotation=Rotary.of(D))
    x, places = x_of(layer, length=5), [3, 0, 4, 2, 1]
    assert gap(layer.definition(x, np.array(places)), by_hand(layer, x, places)) <= 1


MUTANTS: dict[str, Callable[[Layer], Layer]] = {
    "window W + 1": lambda layer: replace(layer, window=layer.window + 1),
    "window W - 1": lambda layer: replace(layer, window=layer.window - 1),
    "a sink too many": lambda layer: replace(layer, sinks=layer.sinks + 1),
    "a sink too few": lambda layer: replace(layer, sinks=layer.sinks - 1),
    "not turned": lambda layer: replace(layer, rotation=None),
    "the other kind": lambda layer: OTHER[type(layer)](layer.projections, layer.sinks, layer.window, layer.rotation),
}
OTHER: dict[type, Kind] = {KeptSinks: ReindexedSinks, ReindexedSinks: KeptSinks}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_layers_are_rejected(kind: Kind, name: str) -> None:
    layer: Layer = kind(weights(), sinks=2, window=3, rotation=Rotary.of(D))
    x = x_of(layer)
    wrong = MUTANTS[name](layer)
    assert gap(wrong.definition(x, np.arange(T)), by_hand(layer, x)) > 2
    assert gap(stepped(wrong, x, (4,))[0], by_hand(layer, x, apart=True)) > 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sinks", "window"), [(0, 1), (1, 1), (0, 3), (2, 3), (4, 2)])
def test_a_query_sees_its_sinks_and_its_window(kind: Kind, sinks: int, window: int) -> None:
    """With all scores 0 the denominator counts keys."""
    layer = kind(weights(), sinks=sinks, window=window)
    found, _ = stepped(layer, np.zeros((1, T, M)), (5,))
    seen = [sum(j < sinks or i - j < window for j in range(i + 1)) for i in range(T)]
    assert np.exp(found.lse[0, 0]).round(9).tolist() == seen


def test_reindexed_is_kept_until_anything_is_forgotten() -> None:
    """Up to position n + W - 1 nothing lies between sinks and window; from n + W on the sinks move along."""
    n, size = 2, 3
    kept = KeptSinks(weights(), n, size, Rotary.of(D))
    moved = ReindexedSinks(weights(), n, size, Rotary.of(D))
    x = x_of(kept)
    apart = np.abs(stepped(kept, x, ())[0].out - stepped(moved, x, ())[0].out).max(axis=(0, 2))
    assert apart[: n + size].max() < 1e-13
    assert apart[n + size :].min() > 1e-3
    defined = np.abs(kept.definition(x, np.arange(T)).out - moved.definition(x, np.arange(T)).out).max(axis=(0, 2))
    assert defined[: n + size].max() < 1e-13
    assert defined[n + size :].min() > 1e-3


def test_without_rotation_the_two_are_one() -> None:
    kept, moved = KeptSinks(weights(), 2, 3), ReindexedSinks(weights(), 2, 3)
    x = x_of(kept)
    assert np.abs(stepped(kept, x, ())[0].out - stepped(moved, x, ())[0].out).max() < 1e-13


def test_distances_to_sinks_stay_bounded_only_when_reindexed() -> None:
    """Two sinks, then the same token for ever: re-indexed, nothing changes any more; kept, the sinks turn away."""
    x = np.concatenate([drawn(1, 2, M), np.repeat(drawn(1, 1, M, seed=1), 300, axis=1)], axis=1)
    moved, _ = stepped(ReindexedSinks(weights(), 2, 4, Rotary.of(D)), x, (100,))
    kept, _ = stepped(KeptSinks(weights(), 2, 4, Rotary.of(D)), x, (100,))
    spread = [float(np.ptp(out[0, 6:], axis=0).max()) for out in (moved.out, kept.out)]
    assert spread[0] < 1e-11  # angles up to 300 are rounded to 300 u
    assert spread[1] > 1e-2


def test_without_sinks_it_is_a_sliding_window() -> None:
    x = x_of(KeptSinks(weights(), 0, 3))
    plain = Grouped(weights(), Window(3), (Rotary.of(D),))
    wanted = stepped(plain, x, ())[0]
    assert stepped(KeptSinks(weights(), 0, 3, Rotary.of(D)), x, (2, 5))[0].out.tobytes() == wanted.out.tobytes()
    assert np.abs(stepped(ReindexedSinks(weights(), 0, 3, Rotary.of(D)), x, ())[0].out - wanted.out).max() < 1e-13


CHANGES: dict[str, Any] = {
    "projections": weights(4, 1),
    "sinks": 3,
    "window": 2,
    "rotation": Rotary.of(D, base=10.0),
    "rollback": 4,
    "page": 2,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_page_and_rollback(kind: Kind, name: str) -> None:
    """How far one may go back, and how rows are stored, must not show."""
    layer = kind(weights(), sinks=2, window=3, rotation=Rotary.of(D))
    other, x = replace(layer, **{name: CHANGES[name]}), x_of(layer)
    same_definition = np.array_equal(layer.definition(x, np.arange(T)).out, other.definition(x, np.arange(T)).out)
    same_steps = np.array_equal(stepped(layer, x, (2,))[0].out, stepped(other, x, (2,))[0].out)
    assert same_definition == same_steps == (name in ("page", "rollback"))
    assert set(CHANGES) == set(kind.__dataclass_fields__)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rollback", [0, 2])
def test_what_is_carried_into_a_step_is_bounded(kind: Kind, rollback: int) -> None:
    """n + W - 1 rows of Hkv·(D + Dv) numbers, rollback more, and the token just decoded; with pages of one row."""
    layer = kind(weights(), sinks=2, window=3, rotation=Rotary.of(D), rollback=rollback, page=1)
    per_token = 2 * (D + DV) * 8
    _, cache = stepped(layer, x_of(layer, length=40), tuple(range(1, 40)))
    assert cache.lengths == (40,)
    assert cache.nbytes == (2 + 3 - 1 + rollback + 1) * per_token
    with counting() as tally:
        layer.step(cache, x_of(layer, length=1))
    reads = 1 if kind is KeptSinks else 2  # sinks and window share block 0, which is read for each part
    assert tally.kv_read == reads * (2 + 3 - 1 + rollback + 1) * per_token
    assert tally.pairs_visible == 4 * (2 + 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rollback", [0, 1, 3])
def test_rolling_back_is_exact_as_far_as_was_asked_for_and_no_farther(kind: Kind, rollback: int) -> None:
    layer = kind(weights(), sinks=1, window=3, rotation=Rotary.of(D), rollback=rollback, page=2)
    x = x_of(layer, length=12)
    plain, _ = stepped(layer, x, ())
    _, cache = stepped(layer, x, tuple(range(1, 12)))
    least = 11 - rollback  # the last append began at 11
    for length in range(least, 13):
        again, _ = layer.step(cache.truncate(length), x[:, length:])
        assert np.array_equal(again.out, plain.out[:, length:])
    words = (
        rf"^length of sequence 0 must be at least {least} \(or at most 1\), got {least - 1}: slots 1 \.\. {least - 3} "
    )
    with pytest.raises(RollbackError, match=words):
        cache.truncate(least - 1)
    with pytest.raises(RollbackError, match=rf"got 2: slots 1 \.\. {least - 3} have been forgotten$"):
        cache.truncate(2)
    fresh, _ = layer.step(cache.truncate(1), x[:, 1:])
    assert np.array_equal(fresh.out, plain.out[:, 1:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_no_tokens_changes_nothing(kind: Kind) -> None:
    layer = kind(weights(), sinks=1, window=2, rotation=Rotary.of(D), page=1)
    for cache in (layer.start(), stepped(layer, x_of(layer), (3,))[1]):
        found, after = layer.step(cache, np.zeros((1, 0, M)))
        assert (found.out.shape, found.lse.shape) == ((1, 0, M), (1, 4, 0))
        assert (after.lengths, after.nbytes) == (cache.lengths, cache.nbytes)
    assert layer.definition(np.zeros((1, 0, M)), np.arange(0)).out.shape == (1, 0, M)


BAD: dict[str, tuple[Callable[[Kind], Any], type[Exception], str]] = {
    "window 0": (lambda kind: kind(weights(), 1, 0), ArgumentError, r"^window must be an integer >= 1, got 0$"),
    "sinks -1": (lambda kind: kind(weights(), -1, 2), ArgumentError, r"^sinks must be an integer >= 0, got -1$"),
    "a window of 2.0": (lambda kind: kind(weights(), 1, 2.0), ArgumentError, r"^window must be an integer >= 1, got 2"),  # type: ignore[arg-type]
    "sinks True": (lambda kind: kind(weights(), True, 2), ArgumentError, r"^sinks must be an integer >= 0, got True$"),
    "rollback": (
        lambda kind: kind(weights(), 1, 2, rollback=-1),
        ArgumentError,
        r"^rollback must be an integer >= 0, got -1$",
    ),
    "page": (lambda kind: kind(weights(), 1, 2, page=0), ArgumentError, r"^page must be an integer >= 1, got 0$"),
    "no sequence": (
        lambda kind: kind(weights(), 1, 2).start(0),
        ArgumentError,
        r"^batch must be an integer >= 1, got 0$",
    ),
    "rank": (
        lambda kind: kind(weights(), 1, 2).step(kind(weights(), 1, 2).start(), np.ones((2, M))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=1, M=3, got \(2, 3\)$",
    ),
    "batch": (
        lambda kind: kind(weights(), 1, 2).step(kind(weights(), 1, 2).start(2), np.ones((1, 2, M))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=2, M=3, got \(1, 2, 3\)$",
    ),
    "dtype": (
        lambda kind: kind(weights(), 1, 2).definition(np.ones((1, 2, M), np.float32), np.arange(2)),
        DtypeError,
        r"^x must have the dtype of the weights, float64, got float32$",
    ),
    "positions": (
        lambda kind: kind(weights(), 1, 2).definition(np.ones((1, 2, M)), np.arange(3)),
        ShapeError,
        r"^positions must have shape \[2\] or \[1, 2\], got \(3,\)$",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(kind: Kind, name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call(kind)
