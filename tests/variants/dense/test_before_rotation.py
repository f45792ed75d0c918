"""Keys cached before rotation: the layer by hand, query by query, and what the other policies give instead.

``by_hand`` turns one query and every key it meets by the rotation of the query's length, in loops over
`kvattn.testing.balls`, which derive the bound for the very input.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from kvattn.caches.rows import KeyValue
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Padding, Prefix, Window
from kvattn.positions import (
    Alibi,
    DynamicNTK,
    LongRope,
    Rotary,
    linear_rotary,
    llama3_rotary,
    ntk_rotary,
    proportional_rotary,
    yarn_rotary,
)
from kvattn.testing.balls import agree, given
from kvattn.testing.heads_by_hand import cut, drawn, drawn_projections, mix, rms, times, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.before_rotation import BeforeRotation, Unchanging
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.query_key_norm import HeadRmsNorm

T, M, D, DV = 7, 6, 4, 3
Sees = Callable[[int, int], bool]

NTK = DynamicNTK(D, factor=4.0, trained=3, base=100.0)
LONG = LongRope((1.0, 1.5), (2.0, 9.0), trained=4, factor=8.0, base=100.0)
NORM = (np.array([0.5, 1.0, 2.0, 1.5]), np.array([1.0, 3.0, 0.25, 0.5]))


def by_hand(layer: BeforeRotation, x: Array, sees: Sees, norm: bool = False) -> tuple[Any, Any]:
    w = layer.projections
    group, scale = w.heads // w.kv_heads, D**-0.5 if layer.scale is None else layer.scale

    def normed(heads: Any, number: int) -> Any:
        return [rms(row, list(NORM[number]), 1e-6) for row in heads] if norm else heads

    out: list[Any] = []
    logs: list[Any] = []
    for rows in given(x):
        keys = [normed(cut(times(row, w.key), w.kv_heads), 1) for row in rows]
        values = [cut(times(row, w.value), w.kv_heads) for row in rows]
        out.append([])
        logs.append([[] for _ in range(w.heads)])
        for i, row in enumerate(rows):
            rotation = layer.scheme.rotary_at(i + 1)
            mixed = []
            for h, query in enumerate(normed(cut(times(row, w.query), w.heads), 0)):
                seen = [j for j in range(len(rows)) if sees(i, j)]
                near = [turn(keys[j][h // group], j, rotation) for j in seen]
                sink = None if layer.sinks is None else given(layer.sinks)[h]
                found, lse = mix(turn(query, i, rotation), near, [values[j][h // group] for j in seen], scale, sink)
                mixed += found
                logs[-1][h].append(lse)
            out[-1].append(times(mixed, w.output))
    return out, logs


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the same said in sentences."""

    layer: BeforeRotation
    sees: Sees = lambda i, j: j <= i
    norm: bool = False

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.layer.projections.dtype)

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.layer, self.x, self.sees, self.norm)
        return max(agree(found.out, out), agree(found.lse, lse))


W = drawn_projections(4, 2)
SINKS = np.array([0.5, -1.0, 2.0, 0.0])
PLAIN = BeforeRotation(W, NTK, page=2)
EXAMPLES = {
    "dynamic NTK": Example(PLAIN),
    "LongRoPE": Example(replace(PLAIN, scheme=LONG)),
    "adjacent, from feature 2 on": Example(
        replace(PLAIN, scheme=LongRope((1.0,), (7.0,), 2, factor=2.0, layout="adjacent", start=2))
    ),
    "unchanging": Example(replace(PLAIN, scheme=Unchanging(Rotary.of(D)))),
    "linear": Example(replace(PLAIN, scheme=Unchanging(linear_rotary(D, factor=4.0)))),
    "NTK": Example(replace(PLAIN, scheme=Unchanging(ntk_rotary(D, alpha=4.0)))),
    "YaRN": Example(replace(PLAIN, scheme=Unchanging(yarn_rotary(D, factor=4.0, trained=16, base=100.0)))),
    "Llama-3": Example(replace(PLAIN, scheme=Unchanging(llama3_rotary(D, trained=16, base=100.0)))),
    "proportional": Example(replace(PLAIN, scheme=Unchanging(proportional_rotary(D, share=0.5)))),
    "window": Example(replace(PLAIN, mask=Window(3)), lambda i, j: 0 <= i - j < 3),
    "norms before caching": Example(replace(PLAIN, query_key=(HeadRmsNorm(*NORM),)), norm=True),
    "sinks and scale": Example(replace(PLAIN, sinks=SINKS, scale=0.75)),
    "float32": Example(
        BeforeRotation(drawn_projections(3, 3, dtype=np.float32), LONG, Window(5)), lambda i, j: 0 <= i - j < 5
    ),
}


@pytest.mark.by_hand("variants/dense/before_rotation")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_definition_equals_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    assert example.gap(example.layer.definition(example.x, np.arange(T))) <= 1


@pytest.mark.by_hand("variants/dense/before_rotation")
@pytest.mark.parametrize("cuts", [(), (1, 2, 3, 4, 5, 6), (3, 3, 4), (5,)])
@pytest.mark.parametrize("name", EXAMPLES)
def test_steps_equal_by_hand(name: str, cuts: tuple[int, ...]) -> None:
    example = EXAMPLES[name]
    found, _ = stepped(example.layer, example.x, cuts)
    assert found.out.dtype == found.lse.dtype == example.x.dtype
    assert example.gap(found) <= 1


@dataclass(frozen=True)
class Renamed:
    """Mutant: another rotation for each length."""

    of: Callable[[int], Rotary]

    def rotary_at(self, length: int) -> Rotary:
        return self.of(length)


MUTANTS: dict[str, Any] = {
    "one token late": Renamed(lambda n: NTK.rotary_at(n - 1)),
    "one token early": Renamed(lambda n: NTK.rotary_at(n + 1)),
    "never scaled": Renamed(lambda n: NTK.rotary_at(0)),
    "by the end": Renamed(lambda n: NTK.rotary_at(T)),
    "other layout": Renamed(lambda n: replace(NTK, layout="adjacent").rotary_at(n)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_rotations_are_rejected(name: str) -> None:
    example = EXAMPLES["dynamic NTK"]
    mutant = replace(example.layer, scheme=MUTANTS[name])
    assert example.gap(stepped(mutant, example.x, (2,))[0]) > 1e6
    assert example.gap(mutant.definition(example.x, np.arange(T))) > 1e6


class KeysAsTheyAre(BeforeRotation):
    """Mutant: keys are not turned when read."""

    def _turned(self, b: int, block: Any, turn: Rotary, at: Any) -> Any:
        return block


class KeysOfTheFirstRun(BeforeRotation):
    """Mutant: keys turn by the length at which the sequence began."""

    def _turned(self, b: int, block: Any, turn: Rotary, at: Any) -> Any:
        return super()._turned(b, block, self.scheme.rotary_at(1), at)


class RowsForPositions(BeforeRotation):
    """Mutant: keys turn by a row number that lags behind their position."""

    def _turned(self, b: int, block: Any, turn: Rotary, at: Any) -> Any:
        return super()._turned(b, block._replace(positions=np.maximum(block.positions - 3, 0)), turn, at)


@pytest.mark.parametrize("kind", [KeysAsTheyAre, KeysOfTheFirstRun, RowsForPositions])
def test_wrong_keys_are_rejected(kind: type[BeforeRotation]) -> None:
    example = EXAMPLES["dynamic NTK"]
    mutant = kind(**{field.name: getattr(example.layer, field.name) for field in fields(BeforeRotation)})
    assert example.gap(stepped(mutant, example.x, (2,))[0]) > 1e6


def test_keys_are_cached_unturned() -> None:
    x = EXAMPLES["dynamic NTK"].x
    _, cache = stepped(PLAIN, x, (2, 5))
    assert np.array_equal(cache.rows().k, W.keys(x))
    assert cache.rows().k.shape == (2, 2, T, D)


@pytest.mark.law(
    "variants/dense/before_rotation", "each query equals it under the frozen rotation of its length", "bound"
)
@pytest.mark.parametrize("scheme", [NTK, LONG])
def test_each_query_is_that_of_a_layer_whose_rotation_is_frozen_at_its_length(scheme: Any) -> None:
    """Bound: both are one computation in another order of turning; 100 roundings of numbers below 10."""
    x = EXAMPLES["dynamic NTK"].x
    found, _ = stepped(replace(PLAIN, scheme=scheme), x, (4,))
    for t in range(T):
        frozen = Grouped(W, query_key=(scheme.rotary_at(t + 1),))
        wanted = frozen.definition(x[:, : t + 1], np.arange(t + 1))
        assert np.abs(found.out[:, t] - wanted.out[:, t]).max() < 1e-12
        assert np.abs(found.lse[:, :, t] - wanted.lse[:, :, t]).max() < 1e-12


def test_one_rotation_for_all_lengths_is_the_layer_that_caches_turned_keys() -> None:
    x, rotary = EXAMPLES["dynamic NTK"].x, yarn_rotary(D, factor=4.0, trained=16, base=100.0)
    before, _ = stepped(replace(PLAIN, scheme=Unchanging(rotary)), x, (3,))
    after, _ = stepped(Grouped(W, query_key=(rotary,)), x, (2, 5))
    assert before.out.tobytes() == after.out.tobytes()
    assert before.lse.tobytes() == after.lse.tobytes()


def as_servers_do(scheme: Any, x: Array, cuts: tuple[int, ...]) -> Attended:
    """Another policy: a step's queries and new keys turn by the step's last length, and the cache keeps them so."""
    cache, parts = Grouped(W).start(len(x)), []
    for start, stop in zip((0, *cuts), (*cuts, x.shape[1]), strict=True):
        attended, cache = Grouped(W, query_key=(scheme.rotary_at(stop),)).step(cache, x[:, start:stop])
        parts.append(attended)
    return Attended(*(np.concatenate([part[n] for part in parts], axis=1 + n) for n in range(2)))


def recomputed_each_step(scheme: Any, x: Array, cuts: tuple[int, ...]) -> Attended:
    """Another policy: the whole sequence by the rotation of the step's last length, nothing cached."""
    parts = []
    for start, stop in zip((0, *cuts), (*cuts, x.shape[1]), strict=True):
        whole = Grouped(W, query_key=(scheme.rotary_at(stop),)).definition(x[:, :stop], np.arange(stop))
        parts.append((whole.out[:, start:], whole.lse[:, :, start:]))
    return Attended(*(np.concatenate([part[n] for part in parts], axis=1 + n) for n in range(2)))


def apart(one: Attended, other: Attended) -> Any:
    """How far two results are from each other at each token."""
    return np.abs(one.out - other.out).max(axis=(0, 2))


@pytest.mark.parametrize(("scheme", "trained"), [(NTK, 3), (LONG, 4)])
def test_other_policies_depend_on_the_cut_and_are_other_functions(scheme: Any, trained: int) -> None:
    x = EXAMPLES["dynamic NTK"].x
    one_by_one = tuple(range(1, T))
    ours, _ = stepped(replace(PLAIN, scheme=scheme), x, ())
    for policy in (as_servers_do, recomputed_each_step):
        assert apart(policy(scheme, x, ()), policy(scheme, x, one_by_one)).max() > 1e-3
    # decoded one by one, stale keys show as soon as the length passes the trained one
    assert apart(as_servers_do(scheme, x, one_by_one), ours)[:trained].max() < 1e-12
    assert apart(as_servers_do(scheme, x, one_by_one), ours)[trained:].min() > 1e-3
    # in one go, the early tokens turn by a length that they never had, and the last by its own
    assert apart(as_servers_do(scheme, x, ()), ours)[1:trained].min() > 1e-3
    assert apart(as_servers_do(scheme, x, ()), ours)[-1] < 1e-12
    # recomputing at each token is our function: what it costs is the difference
    assert apart(recomputed_each_step(scheme, x, one_by_one), ours).max() < 1e-12


@pytest.mark.law("positions/dynamic_ntk", "frozen at one length, every cut is the same", "bits")
@pytest.mark.law("positions/longrope", "frozen at one length, every cut is the same", "bits")
@pytest.mark.parametrize("scheme", [NTK, LONG])
def test_a_rotation_frozen_for_the_sequence_is_exact(scheme: Any) -> None:
    x, layer = EXAMPLES["dynamic NTK"].x, Grouped(W, query_key=(scheme.rotary_at(T),))
    whole, _ = stepped(layer, x, ())
    for cuts in ((1, 2, 3, 4, 5, 6), (4,), (2, 2, 5)):
        cut_up, _ = stepped(layer, x, cuts)
        assert whole.out.tobytes() == cut_up.out.tobytes()


SCALINGS = {
    "linear_interpolation": linear_rotary(D, factor=4.0),
    "ntk": ntk_rotary(D, alpha=4.0),
    "yarn": yarn_rotary(D, factor=4.0, trained=16, base=100.0),
    "llama3": llama3_rotary(D, trained=16, base=100.0),
    "proportional": proportional_rotary(D, share=0.5),
    "dynamic_ntk": NTK.rotary_at(20),
    "longrope": LONG.rotary_at(20),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_a_whole_cache_moves(name: str) -> None:
    """Turned keys shifted by 5 and the tokens before dropped: what follows is as if the text had begun there."""
    x, layer, by = EXAMPLES["dynamic NTK"].x, Grouped(W, query_key=(SCALINGS[name],)), 5
    _, held = stepped(layer, x[:, :4], ())
    rows = held.rows()
    moved = layer.start(2).append(KeyValue(np.zeros_like(W.keys(x[:, :by])), np.zeros_like(W.values(x[:, :by]))))
    moved = moved.append(KeyValue(SCALINGS[name].shift(rows.k, np.arange(4) * 0 + by), rows.v))
    shown = replace(layer, mask=Window(4))
    found, _ = shown.step(moved, x[:, 4:5])  # at position 9 it sees positions 6 to 9, which were 1 to 4
    wanted, _ = stepped(shown, x[:, :5], ())
    assert np.abs(found.out[:, 0] - wanted.out[:, 4]).max() < 1e-12
    stale = layer.start(2).append(KeyValue(np.zeros((2, 2, by, D)), np.zeros((2, 2, by, DV)))).append(rows)
    assert np.abs(shown.step(stale, x[:, 4:5])[0].out[:, 0] - wanted.out[:, 4]).max() > 1e-3


def test_sequences_of_different_lengths_turn_by_their_own() -> None:
    x = EXAMPLES["dynamic NTK"].x
    _, cache = stepped(PLAIN, x[:, :5], ())
    ragged = cache.truncate([1, 4])
    found, after = PLAIN.step(ragged, x[:, 5:])
    assert after.lengths == (3, 6)
    for b, length in enumerate((1, 4)):
        alone, _ = PLAIN.step(cache.select([b]).truncate(length), x[b : b + 1, 5:])
        assert found.out[b].tobytes() == alone.out[0].tobytes()


def test_a_mask_that_differs_between_sequences_is_asked_for_the_right_one() -> None:
    x = EXAMPLES["dynamic NTK"].x
    layer = replace(PLAIN, mask=Causal() & Padding(starts=[0, 2]))
    found, _ = stepped(layer, x, (2, 5))
    wanted = layer.definition(x, np.arange(T))
    assert np.abs(found.out - wanted.out).max() < 1e-12
    assert (found.lse[1, :, :2] == -np.inf).all()
    assert np.isfinite(found.lse[0]).all()


def test_what_is_turned_is_counted_and_a_block_that_nobody_sees_is_not_turned() -> None:
    layer = BeforeRotation(drawn_projections(2, 1), NTK, Window(4))
    past, pairs = 600, D // 2
    cost, plain = (one.cost(past=past, new=2) for one in (layer, Grouped(drawn_projections(2, 1), Window(4))))
    turned = (past + 2) - 512  # two queries, each its own length: the keys of the third block, twice
    assert cost.transcendental - plain.transcendental == 2 * pairs * (2 * turned + 2)
    assert cost.kv_read == 2 * plain.kv_read
    with counting() as tally:
        cache = layer.start().append(KeyValue(np.zeros((1, 1, past, D)), np.zeros((1, 1, past, DV))))
        before = tally.tally
        _, _after = layer.step(cache, np.ones((1, 2, M)))
        assert tally.transcendental - before.transcendental == cost.transcendental


def test_up_to_the_trained_length_there_is_one_run() -> None:
    scheme = DynamicNTK(D, 2.0, trained=100)
    layer, plain = BeforeRotation(W, scheme), Grouped(W, query_key=(scheme.rotary_at(1),))
    assert layer.cost(past=0, new=100) == plain.cost(past=0, new=100)
    assert layer.cost(past=0, new=101).kv_read == 100 * 2 * (D + DV) * 8 + 101 * 2 * (D + DV) * 8 + 2 * (D + DV) * 8


class Doubled:
    """A finish."""

    def finish(self, mixed: Array, x: Array, positions: Any) -> Any:
        return 2 * mixed


CHANGES: dict[str, Any] = {
    "projections": drawn_projections(4, 1),
    "scheme": LONG,
    "mask": Window(2),
    "query_key": (HeadRmsNorm(*NORM),),
    "finish": (Doubled(),),
    "mods": (Alibi.of(4),),
    "scale": 1.25,
    "softcap": 0.5,
    "sinks": SINKS,
    "page": 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_the_page(name: str) -> None:
    x = EXAMPLES["dynamic NTK"].x
    other: BeforeRotation = replace(PLAIN, **{name: CHANGES[name]})
    same_definition = np.array_equal(PLAIN.definition(x, np.arange(T)).out, other.definition(x, np.arange(T)).out)
    same_steps = np.array_equal(stepped(PLAIN, x, (2,))[0].out, stepped(other, x, (2,))[0].out)
    assert same_definition == same_steps == (name == "page")
    assert set(CHANGES) == {field.name for field in fields(BeforeRotation)}


X = np.ones((1, 2, M))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "rank": (
        lambda: PLAIN.step(PLAIN.start(), np.ones((2, M))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=1, M=6, got \(2, 6\)$",
    ),
    "dtype": (
        lambda: PLAIN.definition(X.astype(np.float32), np.arange(2)),
        DtypeError,
        r"^x must have the dtype of the weights, float64, got float32$",
    ),
    "a rotation": (
        lambda: replace(PLAIN, scheme=Rotary.of(2)),  # type: ignore[arg-type]
        ArgumentError,
        r"^scheme must have rotary_at\(length\), got Rotary\(.*; one rotation for all lengths is Unchanging\(rotary\)$",
    ),
    "no rotation": (
        lambda: Unchanging(NTK),  # type: ignore[arg-type]
        ArgumentError,
        r"^rotary must be a Rotary, got DynamicNTK\(",
    ),
    "a class": (
        lambda: replace(PLAIN, scheme=DynamicNTK),  # type: ignore[arg-type]
        ArgumentError,
        r"^scheme must have rotary_at\(length\), got <class",
    ),
    "a scheme too wide": (
        lambda: replace(PLAIN, scheme=Unchanging(Rotary.of(6))).step(PLAIN.start(), X),
        ShapeError,
        r"^x must have room for 6 features from start=0 on, got 4 features$",
    ),
    "a cut inside a prefix": (
        lambda: stepped(replace(PLAIN, mask=Causal() | Prefix(3)), X, (1,)),
        PositionError,
        r"^x must begin where no earlier token sees further",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def test_no_tokens_give_no_rows() -> None:
    found, cache = PLAIN.step(PLAIN.start(2), np.zeros((2, 0, M)))
    assert found.out.shape == (2, 0, M)
    assert found.lse.shape == (2, 4, 0)
    assert cache.lengths == (0, 0)
    assert PLAIN.definition(np.zeros((2, 0, M)), np.arange(0)).out.shape == (2, 0, M)
