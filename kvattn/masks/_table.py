"""An array ``[B, H, T, S]`` looked up by position: what `Explicit` and `Bias` have in common.

Without positions, position ``i`` is row ``i``.  With them, `Table` finds the row that stands at a
position; a position that stands at no row raises instead of reading a neighbour.  No loop runs over
pairs: rows are found once per query and once per key, and one fancy index fetches the pairs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.errors import PositionError, ShapeError
from kvattn.typing import Indices, Positions


@dataclass(frozen=True, eq=False)
class Rows:
    """Which row of an axis stands at a position, per sequence."""

    name: str
    count: int
    known: Positions | None
    at: Indices | None

    @classmethod
    def of(cls, name: str, count: int, positions: Any) -> "Rows":
        """Index ``positions``, ``[count]`` or ``[B, count]``; None: position i is row i."""
        if positions is None:
            return cls(name, count, None, None)
        given = np.asarray(positions)
        if given.ndim not in (1, 2) or given.shape[-1] != count:
            raise ShapeError(f"{name} must have shape [{count}] or [B, {count}] like the array, got {given.shape}")
        if given.dtype.kind not in "iu" and given.size:
            raise PositionError(f"{name} must be integers, got {given.dtype}")
        known, inverse = np.unique(given.astype(np.int64), return_inverse=True)
        inverse = inverse.reshape(1 if given.ndim == 1 else len(given), count)
        at = np.full((len(inverse), len(known)), -1)
        np.put_along_axis(at, inverse, np.arange(count)[None], 1)
        held = (at >= 0).sum(1)
        if (held != count).any():
            raise PositionError(f"{name} must not repeat a position, got {given.shape} of which {held.min()} differ")
        return cls(name, count, known, at)

    def find(self, b: Indices | int, positions: Positions) -> Indices:
        """The row of each position; ``b`` broadcasts against ``positions``."""
        positions = np.asarray(positions)
        if self.known is None or self.at is None:
            if self.count == 1:
                return np.zeros_like(positions)
            missing = (positions < 0) | (positions >= self.count)
            rows = positions
        elif not self.known.size:
            missing, rows = np.ones(positions.shape, np.bool_), positions
        else:
            place = np.minimum(np.searchsorted(self.known, positions), len(self.known) - 1)
            rows = self.at[select(b, len(self.at), self.name), place]
            missing = (rows < 0) | (self.known[place] != positions)
        if missing.any():
            lost = int(np.broadcast_to(positions, missing.shape)[missing][0])
            where = f"0 to {self.count - 1}" if self.known is None else f"the {self.count} that were given"
            raise PositionError(f"{self.name} must be among the rows of the array, {where}, got {lost}")
        return rows

    def within(self, b: int, low: int, high: int) -> slice | Indices | None:
        """The rows of every position from ``low`` to ``high``, or None unless each has one."""
        if self.known is None or self.at is None:
            if self.count == 1:
                return slice(0, 1)
            return slice(low, high + 1) if low >= 0 and high < self.count else None
        first, last = np.searchsorted(self.known, (low, high + 1))
        rows = self.at[select(b, len(self.at), self.name), first:last]
        rows = rows[rows >= 0]
        if len(rows) != high - low + 1:
            return None
        return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows


@dataclass(frozen=True, eq=False)
class Table:
    """A read-only array over pairs, with the rows of its two last axes."""

    array: np.ndarray[Any, np.dtype[Any]]
    q_rows: Rows
    k_rows: Rows
    key: tuple[Any, ...] = field(repr=False)

    @classmethod
    def of(cls, name: str, array: Any, q_positions: Any, k_positions: Any) -> "Table":
        """Copy ``array``, ``[T, S]`` or ``[B|1, H|1, T, S]``, and index its rows."""
        held = np.array(array)
        if held.ndim not in (2, 4):
            raise ShapeError(f"{name} must have shape [T, S] or [B, H, T, S], got {held.shape}")
        held = held.reshape((1, 1, *held.shape) if held.ndim == 2 else held.shape)
        held.flags.writeable = False
        q_rows = Rows.of("q_positions", held.shape[2], q_positions)
        k_rows = Rows.of("k_positions", held.shape[3], k_positions)
        places = tuple(None if p is None else _frozen(np.asarray(p, np.int64)) for p in (q_positions, k_positions))
        return cls(held, q_rows, k_rows, (held, *places))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Any:
        """The array's entry for every pair, the four arguments broadcasting."""
        batch, heads, rows, columns = self.array.shape
        q_at, k_at = self.q_rows.find(b, q_positions), self.k_rows.find(b, k_positions)
        row = (select(b, batch, "b") * heads + select(h, heads, "h")) * rows + q_at
        return self.array.reshape(-1).take(row * columns + k_at)

    def block(self, b: int, q: tuple[int, int], k: tuple[int, int]) -> Any:
        """``[H, rows, columns]`` for two spans, or None where a position between is not in the array."""
        q_at, k_at = self.q_rows.within(b, *q), self.k_rows.within(b, *k)
        if q_at is None or k_at is None:
            return None
        return self.array[int(select(b, self.array.shape[0], "b"))][:, q_at][:, :, k_at]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return all(_same(mine, theirs) for mine, theirs in zip(self.key, other.key, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(None if part is None else (part.shape, part.tobytes()) for part in self.key))

    def __str__(self) -> str:
        shown = [f"<{self.array.dtype} {list(self.array.shape)}>"]
        shown += [f"{rows.name}=<{rows.count}>" for rows in (self.q_rows, self.k_rows) if rows.known is not None]
        return ", ".join(shown)


def select(index: Indices | int, count: int, name: str) -> Indices:
    """``index`` on an axis of ``count``; an axis of one serves every index."""
    found = np.asarray(index)
    if count == 1:
        return np.zeros_like(found)
    lost = (found < 0) | (found >= count)
    if lost.any():
        raise ShapeError(f"{name} must be from 0 to {count - 1} for an array of that size, got {found[lost][0]}")
    return found


def _same(mine: Any, theirs: Any) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return bool(mine.dtype == theirs.dtype and np.array_equal(mine, theirs))


def _frozen(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array
