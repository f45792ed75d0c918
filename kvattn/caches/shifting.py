"""Moving the positions of tokens that a paged cache holds, and turning their keys on where they were turned already.

Rows before the first token that moves keep their pages; the others are written again with their new positions.  Where
keys were rotated at their positions, whatever `Turn` says turns them on by the difference: that is turning at the new
position, up to rounding.

Cost: what is written again is charged as ``kv_copied``, pages from the first that changes on.

Source: shifting behind sinks is Xiao et al. 2023 (StreamingLLM, 2309.17453) section 3.2; that rotations add up is Su
et al. 2021 (RoFormer, 2104.09864) section 3.2.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.caches.batches import per_sequence
from kvattn.caches.moving import needs_places
from kvattn.caches.rows import R
from kvattn.caches.tables import Table, alter
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, PositionError, ShapeError
from kvattn.typing import Array, Positions

if TYPE_CHECKING:
    from kvattn.caches.paged import Paged


class Turn(Protocol):
    """What moves keys that are turned already to other positions, as `kvattn.positions.Rotary` does."""

    def shift(self, x: Array, by: Positions) -> Array:
        """Return rows ``[heads, n, width]`` moved ``by`` positions on."""


def shift(
    cache: "Paged[R]",
    by: int | Sequence[int],
    turn: Turn | None = None,
    *,
    start: int | Sequence[int] = 0,
    field: str = "k",
) -> "Paged[R]":
    """What `kvattn.caches.paged.Paged.shift` gives: tokens from slot ``start`` on moved ``by`` positions.

    >>> from kvattn.caches import Paged, latent, placed
    >>> held = Paged.start(placed(latent(1))).append([np.arange(3.0).reshape(1, 1, 3, 1)])
    >>> shift(held, 4, start=1).positions(0)
    array([0, 5, 6])
    """
    needs_places(cache, "shift")
    names = [f.name for f in cache.schema.fields]
    if turn is not None and field not in names:
        raise ArgumentError(f"field must be one of {', '.join(names)}, got {shown(field)}")
    starts = per_sequence("start", start, cache.lengths)
    ways = list(by) if isinstance(by, Iterable) and np.ndim(cast(Any, by)) == 1 else [by] * cache.batch
    if len(ways) != cache.batch:
        raise ArgumentError(f"by must be one integer or one for each of {cache.batch} sequences, got {shown(by)}")
    steps = [integer("by", each) for each in ways]
    for b, (step, first) in enumerate(zip(steps, starts, strict=True)):
        there = cache.positions(b)[first:]
        lowest = min([int(n) for n in there[cache.held(b)[first:]]] + [cache.ends[b]])
        if lowest + step < 0:
            raise PositionError(f"by must not move position {lowest} of sequence {b} below 0, got {step}")
    tables: list[Table] = []
    written = 0
    for table, length, step, first in zip(cache._tables, cache.lengths, steps, starts, strict=True):
        if step and first < length:
            change = _shifted(step, turn, names.index(field) if turn is not None else 0)
            other, more = alter(cache.schema, cache.page, table, length, first, change)
            tables.append(other)
            written += more
        else:
            tables.append(table)
    charge(Tally(kv_copied=written * cache.schema.nbytes))
    ends = tuple(end + step for end, step in zip(cache.ends, steps, strict=True))
    marks = tuple(zip(cache.lengths, ends, strict=True))
    return replace(cache, ends=ends, _marks=marks, _tables=tuple(tables))


def _shifted(step: int, turn: Turn | None, place: int) -> Callable[[list[Array]], list[Array]]:
    """What `alter` puts in the place of rows: their positions moved, and the field at ``place`` turned on."""

    def change(rows: list[Array]) -> list[Array]:
        moved = [*rows[:-1], rows[-1] + step]
        if turn is not None:
            turned = np.asarray(turn.shift(rows[place], np.array(step)))
            if turned.shape != rows[place].shape or turned.dtype != rows[place].dtype:
                raise ShapeError(
                    f"turn must keep shape and dtype, {rows[place].shape} and {rows[place].dtype}, "
                    f"got {turned.shape} and {turned.dtype}"
                )
            moved[place] = turned
        return moved

    return change
