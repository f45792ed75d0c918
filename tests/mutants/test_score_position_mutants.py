"""Laws against schemes on scores that break them: each mutant fails its law, the scheme itself passes.

What a scheme computes is compared with words by hand in ``tests/positions``; here are the mistakes that only a cache
shows: rows counted within the call, a length where a position belongs, sums that start again, neighbours that are felt.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from kvattn.positions.distance_table import DistanceTable
from kvattn.positions.fire import Fire
from kvattn.testing.choices import Recorded
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.testing.zoo import ZOO
from kvattn.typing import Array, Place
from kvattn.variants.dense.forgetting import Forgetting

SEEDS = range(12)


def fails(law: str, case: Case) -> bool:
    try:
        LAWS[law](case)
    except LawError:
        return True
    return False


def broken(case: Case, change: Callable[[Any], Any]) -> Case:
    layer = change(case.variant)
    return replace(case, variant=layer, twin=change(case.twin), alone=lambda _: layer)


def rejects(law: str, name: str, change: Callable[[Any], Any]) -> bool:
    assert holds(law, name)
    return any(fails(law, broken(case, change)) for case in drawn(name))


@cache
def drawn(name: str) -> list[Case]:
    return [ZOO[name](Recorded(seed=seed)) for seed in SEEDS]


@cache
def holds(law: str, name: str) -> bool:
    return not any(fails(law, case) for case in drawn(name))


def bent_by(wrong: Callable[[Any, Array, Place], Array]) -> Callable[[Any], Any]:
    """A layer whose scheme is bent by a mistake."""

    def change(layer: Any) -> Any:
        right = layer.mods[0]

        def mod(scores: Array, place: Place) -> Array:
            return wrong(right, scores, place)

        return replace(layer, mods=(mod,))

    return change


def rows_of_the_call(right: Any, scores: Array, place: Place) -> Array:
    """Queries are counted from the first row of the call."""
    at = place.q_positions - place.q_positions.min()
    return np.asarray(right(scores, place._replace(q_positions=at)))


def longest_of_the_call(right: Fire, scores: Array, place: Place) -> Array:
    """ψ of the last position of the call, for every row: the matrix that a training script makes."""
    last = int(place.q_positions.max())
    shifted = place._replace(
        q_positions=np.full_like(place.q_positions, last),
        k_positions=place.k_positions - place.q_positions + last,
    )
    return right(scores, shifted)


def columns_of_the_block(right: Any, scores: Array, place: Place) -> Array:
    """Keys are counted from the first column of the block."""
    at = place.k_positions - place.k_positions.min()
    return np.asarray(right(scores, place._replace(k_positions=at)))


def felt_by_neighbours(right: Any, scores: Array, place: Place) -> Array:
    """The last row of a call is rounded up once."""
    found = np.asarray(right(scores, place)).copy()
    last = place.q_positions == place.q_positions.max()
    alone = np.unique(place.q_positions).size == 1
    return found if alone else np.where(last, np.nextafter(found, np.inf, dtype=found.dtype), found)


def keys_of_the_neighbour(right: Any, scores: Array, place: Place) -> Array:
    """Position meets the content of the key before."""
    assert place.keys is not None
    return np.asarray(right(scores, place._replace(keys=np.roll(place.keys, 1, axis=-1))))


RELATIVE = ["t5_buckets", "kerple", "sandwich", "fire", "shaw", "transformer_xl", "disentangled", "grid_bias"]


@pytest.mark.parametrize("name", RELATIVE)
def test_rows_counted_within_the_call_are_noticed(name: str) -> None:
    assert rejects("decode_is_recompute", name, bent_by(rows_of_the_call))


@pytest.mark.parametrize("name", RELATIVE)
def test_a_row_that_feels_its_neighbours_is_noticed(name: str) -> None:
    assert rejects("decode_is_recompute", name, bent_by(felt_by_neighbours))


@pytest.mark.parametrize("name", ["t5_buckets", "shaw"])
def test_columns_counted_within_the_block_are_noticed(name: str) -> None:
    """Only a second block shows it: a definition has one."""
    assert rejects("step_is_definition", name, bent_by(columns_of_the_block))


def test_a_length_where_a_position_belongs_is_noticed() -> None:
    assert rejects("decode_is_recompute", "fire", bent_by(longest_of_the_call))


def test_position_that_meets_another_key_is_noticed() -> None:
    assert rejects("step_is_definition", "disentangled", bent_by(keys_of_the_neighbour))


def test_all_rows_in_one_product_are_noticed() -> None:
    """A plain product takes another kernel for one row than for many."""
    table = DistanceTable(np.random.default_rng(0).standard_normal((1, 40, 64)))
    queries = np.random.default_rng(1).standard_normal((1, 24, 64))

    def plain(rows: Array) -> Array:
        return np.asarray(rows @ table.vectors[0].T)

    def ours(rows: Array) -> Array:
        at = np.zeros((1, 1, 1), np.int64)
        place = Place(0, at, None, np.full((1, rows.shape[1], 1), 39), np.arange(39, -1, -1)[None, None])
        return table.with_queries(rows, place)

    assert np.allclose(plain(queries), ours(queries), rtol=0, atol=1e-12)
    for row in range(24):
        assert np.array_equal(ours(queries[:, row : row + 1])[:, 0], ours(queries)[:, row])
    assert any(not np.array_equal(plain(queries[:, row : row + 1])[:, 0], plain(queries)[:, row]) for row in range(24))


def as_mutant(kind: type[Forgetting]) -> Callable[[Any], Any]:
    def change(layer: Any) -> Any:
        return kind(**{name: getattr(layer, name) for name in Forgetting.__dataclass_fields__})

    return change


class Restarted(Forgetting):
    """The running sum starts again at 0 in every step."""

    def _fade(self, cache: Any, x: Array) -> Array:
        return super()._fade(self.start(len(x)), x)


class Remembering(Forgetting):
    """The last sum is kept beside the cache, and not taken back with it."""

    def _fade(self, cache: Any, x: Array) -> Array:
        fade = super()._fade(self.start(len(x)), x)
        if max(cache.lengths) and getattr(self, "kept", fade).shape == fade[:, -1:].shape:
            fade = fade + getattr(self, "kept", 0.0)
        if x.shape[1]:
            object.__setattr__(self, "kept", fade[:, -1:])
        return fade


class Backwards(Forgetting):
    """The sum is the whole one less what comes later: right in exact numbers, and late tokens are felt."""

    def _fade(self, cache: Any, x: Array) -> Array:
        fade = super()._fade(cache, x)
        each = np.diff(fade, axis=1, prepend=0.0)
        later = each[:, ::-1].cumsum(axis=1)[:, ::-1] - each
        return np.asarray(each.sum(axis=1, keepdims=True) - later)


class Together(Forgetting):
    """All sequences go on from the sum of the first."""

    def _fade(self, cache: Any, x: Array) -> Array:
        fade = super()._fade(cache, x)
        return fade + (fade[:1, :1] - fade[:, :1])


class Single(Forgetting):
    """Sums are rounded to float32 on their way."""

    def _fade(self, cache: Any, x: Array) -> Array:
        return super()._fade(cache, x).astype(np.float32).astype(np.float64)


class Uncounted(Forgetting):
    """Reading the sums is not counted."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Any:
        found = super().cost(past=past, new=new, batch=batch)
        return replace(found, kv_read=found.kv_read - 8 * self.projections.heads * (past + new) * batch)


@pytest.mark.parametrize(
    ("mutant", "law"),
    [
        (Restarted, "decode_is_recompute"),
        (Remembering, "rollback_forgets"),
        (Remembering, "branches_are_isolated"),
        (Backwards, "the_future_is_invisible"),
        (Backwards, "decode_is_recompute"),
        (Together, "batch_mates_are_invisible"),
        (Single, "step_is_definition"),
        (Uncounted, "cost_is_count"),
    ],
)
def test_a_wrong_running_sum_is_noticed(mutant: Any, law: str) -> None:
    assert rejects(law, "forgetting", as_mutant(mutant))
