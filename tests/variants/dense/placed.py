"""Layers with placed pairs by hand: each pair's query turns by the distance between the two places, its key not at all.

That is another algebra than the layer's, which turns queries and keys to their places.  A place up to ``FAR`` costs a
turn 4·FAR roundings of its angle, on either side of the product, and the second turn some roundings of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kvattn.testing.balls import Ball, agree, dot, given
from kvattn.testing.heads_by_hand import Row, cut, drawn, mix, times, turn
from kvattn.typing import Array, Attended
from kvattn.variants.dense.placed import Placed

T, FAR = 11, 24

Distance = Callable[[int, int], int]
"""Of a query's place and a key's, by their positions."""


def turned(query: Row, distance: int, layer: Placed) -> Row:
    """A query turned by a distance, with the bound of a query and a key turned to two places."""
    size = sum(abs(ball.value) for ball in query)
    extra = (16 * query[0].unit + 8 * FAR * 2.0**-53) * size
    return [Ball(ball.value, ball.error + extra, ball.unit) for ball in turn(query, distance, layer.rotary)]


def by_hand(layer: Placed, x: Array, distance: Distance, window: int | None = None) -> tuple[Any, Any]:
    """Outputs ``[B][T][M]`` and lse ``[B][Hq][T]``; a window hides older keys."""
    w = layer.projections
    group, scale = w.heads // w.kv_heads, w.width**-0.5 if layer.scale is None else layer.scale
    out: list[Any] = []
    logs: list[Any] = []
    for rows in given(x):
        keys = [cut(times(row, w.key), w.kv_heads) for row in rows]
        values = [cut(times(row, w.value), w.kv_heads) for row in rows]
        out.append([])
        logs.append([[] for _ in range(w.heads)])
        for i, row in enumerate(rows):
            mixed: Row = []
            for h, query in enumerate(cut(times(row, w.query), w.heads)):
                seen = [j for j in range(i + 1) if window is None or i - j < window]
                scores = [[dot(turned(query, distance(i, j), layer), keys[j][h // group])] for j in seen]
                sink = None if layer.sinks is None else given(layer.sinks)[h]
                one = [Ball(1.0, 0.0, query[0].unit)]
                found, lse = mix(one, scores, [values[j][h // group] for j in seen], scale, sink)
                mixed += found
                logs[-1][h].append(lse)
            out[-1].append(times(mixed, w.output))
    return out, logs


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the distance between the places of a pair as a sentence."""

    layer: Placed
    distance: Distance
    window: int | None = None

    @property
    def x(self) -> Any:
        return drawn(2, T, self.layer.projections.hidden, seed=9, dtype=self.layer.projections.dtype)

    @cached_property
    def wanted(self) -> tuple[Any, Any]:
        return by_hand(self.layer, self.x, self.distance, self.window)

    def gap(self, found: Attended) -> float:
        out, lse = self.wanted
        return max(agree(found.out, out), agree(found.lse, lse))
