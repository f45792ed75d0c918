"""A layer in loops over balls, with a scheme's score told as a function of one pair: shared by the tests of schemes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from typing import Any, NamedTuple

import numpy as np

from kvattn.counting import Tally, counting
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.testing.heads_by_hand import Row, cut, drawn, drawn_projections, softmax, times
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended, Place
from kvattn.variants.dense.grouped import Grouped

T = 6
PAIRS = 2 * 4 * T * (T + 3)
"""Pairs of two sequences, four heads, T queries and T + 3 keys, which lie in one block."""
CUTS: tuple[tuple[int, ...], ...] = ((), (1, 2, 3, 4, 5), (2, 2, 5))
DTYPES = (np.float64, np.float32)


class Pair(NamedTuple):
    """One query and one key that it sees."""

    b: int
    h: int
    i: int
    j: int
    query: Row
    key: Row
    x: Any

    @property
    def unit(self) -> float:
        """Roundoff of the layer's dtype."""
        return self.query[0].unit

    @property
    def product(self) -> Ball:
        """The usual score."""
        return dot(self.query, self.key) * (1 / math.sqrt(len(self.query)))

    def told(self, value: float, size: float | None = None) -> Ball:
        """A number made in float64 out of numbers up to ``size``, by at most 64 roundings, and rounded once."""
        reach = abs(value) if size is None else size
        return Ball(value, 64 * 2.0**-53 * reach + self.unit * abs(value), self.unit)

    def row(self, values: Any) -> Row:
        """Numbers given in float64 and rounded once."""
        return [self.told(float(value), 0.0) for value in values]


Score = Callable[[Pair], Ball]


def by_hand(w: Any, x: Any, score: Score, sees: Callable[[int, int], bool] = lambda i, j: j <= i) -> tuple[Any, Any]:
    """Nested lists of balls ``[B][T][M]`` and ``[B][Hq][T]``."""
    group, out, logs = w.heads // w.kv_heads, [], []
    for b, rows in enumerate(given(x)):
        held = [cut(times(row, w.key), w.kv_heads) for row in rows]
        kept = [cut(times(row, w.value), w.kv_heads) for row in rows]
        done, lse = [], [[] for _ in range(w.heads)]  # type: ignore[var-annotated]
        for i, row in enumerate(rows):
            mixed: Row = []
            for h, query in enumerate(cut(times(row, w.query), w.heads)):
                seen = [j for j in range(len(rows)) if sees(i, j)]
                scores = [score(Pair(b, h, i, j, query, held[j][h // group], rows)) for j in seen]
                weights, top = softmax(scores)
                mixed += [dot(weights, column) for column in zip(*(kept[j][h // group] for j in seen), strict=True)]
                lse[h].append(top)
            done.append(times(mixed, w.output))
        out.append(done)
        logs.append(lse)
    return out, logs


@dataclass(frozen=True, eq=False)
class Example:
    """A layer and the score of its pairs, told in words."""

    layer: Any
    score: Score

    @property
    def x(self) -> Array:
        return drawn(2, T, self.layer.projections.hidden, seed=9, dtype=self.layer.projections.dtype)

    def gap(self, layer: Any = None) -> float:
        """How far a layer's definition and steps stand from this example's words, in units of what they may."""
        layer = self.layer if layer is None else layer
        out, lse = by_hand(self.layer.projections, self.x, self.score)
        found = [layer.definition(self.x, np.arange(T)), *(stepped(layer, self.x, cuts)[0] for cuts in CUTS)]
        return max(max(agree(each.out, out), agree(each.lse, lse)) for each in found)


def example(mod: Any, score: Score, dtype: Any = np.float64, **others: Any) -> Example:
    """A grouped layer of 4 query heads and 2 key heads with a mod."""
    return Example(Grouped(drawn_projections(4, 2, dtype=dtype), mods=(mod,), page=2, **others), score)


def bent(mod: Any, q: Any, k: Any, heads: int = 1, dtype: Any = np.float64, **others: Any) -> Array:
    """What a mod adds to zero scores: ``[heads, len(q), len(k)]``."""
    place = Place(0, np.arange(heads)[:, None, None], None, np.array(q)[None, :, None], np.array(k)[None, None, :])
    found: Array = mod(np.zeros((heads, len(q), len(k)), dtype), place._replace(**others))
    assert found.dtype == dtype
    return found


def added_cost(layer: Any) -> Tally:
    """What the mods of a layer add to a step of `T` tokens behind 3 cached ones, in two sequences, as counted."""
    x = drawn(2, T + 3, layer.projections.hidden, seed=9, dtype=layer.projections.dtype)
    found = []
    for each in (layer, replace(layer, mods=())):
        _, cache = stepped(each, x[:, :3], ())
        with counting() as tally:
            each.step(cache, x[:, 3:])
            found.append(tally.tally)
    with_mods, without = found
    assert with_mods.pairs_computed == PAIRS
    return Tally(
        matmul=with_mods.matmul - without.matmul,
        arithmetic=with_mods.arithmetic - without.arithmetic,
        transcendental=with_mods.transcendental - without.transcendental,
    )


def full(layer: Any, x: Array) -> Attended:
    """One step of everything."""
    return stepped(layer, x, ())[0]


__all__ = [
    "PAIRS",
    "Tally",
    "added_cost",
    "CUTS",
    "DTYPES",
    "Ball",
    "Example",
    "Pair",
    "T",
    "bent",
    "by_hand",
    "dot",
    "drawn",
    "example",
    "full",
    "total",
]
