"""What came back from an append, compared row by row with what must be there; the worst row is told."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kvattn.testing.conformance.adapter import Part, Seen
from kvattn.testing.conformance.lines import CacheFault, Line
from kvattn.testing.conformance.rows import HEADS, SLACK, Name, Token, read, write
from kvattn.typing import Array

_TELLING = (
    "alias after branch",
    "wrong owner",
    "stale after rollback",
    "resurrected row",
    "mangled row",
    "lost row",
    "wrong order",
)
"""Of several wrong rows, which one is told: a row that came from elsewhere says more than those that it displaced."""


class Comparison(NamedTuple):
    """One part of a cache after an append, beside its lines."""

    line: Line
    before: int  # tokens that were there before the append
    part: Part
    where: str

    def compare(self, seen: Seen) -> None:
        """Raise a `CacheFault` unless every query sees its rows, and the numbers beside them are right."""
        keys, values = np.asarray(seen.keys), np.asarray(seen.values)
        batch, length, rows = len(self.line.held), self.line.length, keys.shape[2] if keys.ndim == 4 else 0
        for name, array in (("keys", keys), ("values", values)):
            if array.ndim != 4 or array.shape[:3] != (batch, HEADS, rows):
                raise CacheFault("mangled row", f"{name}{self.where} came as {array.shape} for a batch of {batch}")
        described = seen.positions if seen.visible is None else seen.visible
        if described is not None and np.shape(described)[-1] != rows:
            raise CacheFault(
                "rows do not fit the mask",
                f"the mask{self.where} describes {np.shape(described)[-1]} rows, and {rows} came back",
            )
        ordered = np.arange(rows) + (0 if self.part.source else length - rows)
        places = np.asarray(ordered if seen.positions is None else seen.positions, np.float64)
        for field_number, array in enumerate((keys, values)):
            for b in range(batch):
                if seen.visible is None:
                    self._in_place(b, field_number, places, array[b])
                    if seen.positions is None and not self.part.source:
                        self._in_front(b, field_number, places, array[b])
                else:
                    for head in range(HEADS):
                        self._in_sight(b, head, field_number, read(array[b, head]), np.asarray(seen.visible))
        if seen.length is not None and seen.length != length:
            raise CacheFault("wrong length", f"the cache{self.where} holds {length} tokens and says {seen.length}")

    def _wanted(self, b: int, query: int) -> tuple[Token, ...]:
        held, part = self.line.held[b], self.part
        if part.source:
            return held.source
        first = 0 if part.window is None else query - part.window + 1
        return tuple(t for t in held.tokens[: query + 1] if t.position >= first or t.position < part.sinks)

    def _in_place(self, b: int, field_number: int, places: Array, rows: Array) -> None:
        """Each row that some query must see is where the mask takes it to be."""
        last = self._wanted(b, self.line.length - 1)
        wanted = sorted({*self._wanted(b, self.before), *last, *self.line.held[b].tokens[self.before :]})
        if self.part.source:
            wanted = list(last)
        if self.part.source:
            self._no_more(b, field_number, rows, len(last))
        index = {int(position): place for place, position in enumerate(places)}
        taken = [index.get(token.position) for token in wanted]
        there = np.array([place for place in taken if place is not None], np.int64)
        if len(there) == len(wanted):
            with np.errstate(invalid="ignore"):
                if (np.abs(rows[:, there] - write(wanted, heads=HEADS, field=field_number)) <= SLACK).all():
                    return
        for head in range(HEADS):
            names = [*read(rows[head]), "nothing"]
            found = [(token, names[-1 if place is None else place]) for token, place in zip(wanted, taken, strict=True)]
            faults = [
                self._fault(b, head, field_number, token, name)
                for token, name in found
                if name != Name(*token, head, field_number)
            ]
            if faults:
                raise min(faults, key=lambda fault: _TELLING.index(fault.kind))

    def _no_more(self, b: int, field_number: int, rows: Array, count: int) -> None:
        """Every query sees all of a source, so nothing may stand behind what its first append wrote."""
        for head in range(HEADS):
            for name in read(rows[head, count:]):
                if name != "nothing" and self.line.held[b].source:
                    what = ("keys", "values")[field_number]
                    raise CacheFault(
                        "row out of sight", f"behind the {count} {what}{self.where} of the source comes {name}"
                    )

    def _in_front(self, b: int, field_number: int, places: Array, rows: Array) -> None:
        """Where the newest row is the last, rows in front of the oldest token are attended to as well."""
        nearest = -len(rows[0]) if self.part.window is None else self.before - self.part.window + 1
        front = (places < 0) & (places >= nearest)
        for head in range(HEADS) if front.any() else ():
            for name in read(rows[head, front]):
                if name == "nothing":
                    continue
                what = f"{len(places)} {('keys', 'values')[field_number]} of sequence {b}, head {head}{self.where}"
                told = f"{what} came back for {self.line.length} tokens"
                if isinstance(name, str):
                    raise CacheFault("mangled row", f"{told}, {name} in front")
                kind = self._kind(b, head, field_number, Token(-1, -1, b), name, None)
                kind = "row out of sight" if kind == "wrong order" else kind
                raise CacheFault(kind, f"{told}, in front token {name.number} of sequence {name.owner}")

    def _in_sight(self, b: int, head: int, field_number: int, names: Sequence[Name | str], visible: Array) -> None:
        """Each query sees its rows, in any order, and no other."""
        for query, shown in zip(range(self.before, self.line.length), visible, strict=True):
            wanted = {Name(*token, head, field_number): token for token in self._wanted(b, query)}
            seen = [name for name, show in zip(names, shown, strict=True) if show]
            extra = [name for name in seen if name not in wanted] + [n for n in wanted if seen.count(n) > 1]
            lost = [token for name, token in wanted.items() if name not in seen]
            if extra:
                token = lost[0] if lost else self.line.held[b].tokens[query]
                raise self._fault(b, head, field_number, token, extra[0], query)
            if lost:
                raise self._fault(b, head, field_number, lost[0], "nothing", query)

    def _fault(
        self, b: int, head: int, field_number: int, wanted: Token, name: Name | str, query: int | None = None
    ) -> CacheFault:
        what = ("key", "value")[field_number]
        place = f"{what} {wanted.position} of sequence {b}, head {head}{self.where}"
        if query is not None:
            place += f", for the query at {query},"
        if isinstance(name, str):
            return CacheFault("lost row" if name == "nothing" else "mangled row", f"{place} must be there, got {name}")
        kind = self._kind(b, head, field_number, wanted, name, query)
        who = f"{('key', 'value')[name.field]} {name.position} of sequence {name.owner}, head {name.head}"
        return CacheFault(kind, f"{place} must be token {wanted.number}, got token {name.number}: {who}")

    def _kind(self, b: int, head: int, field_number: int, wanted: Token, name: Name, query: int | None) -> str:
        held = self.line.held[b].source if self.part.source else self.line.held[b].tokens
        if (name.head, name.field) != (head, field_number):
            return "mangled row"
        if name.number not in self.line.history:
            return "alias after branch"
        if name.token in held:
            return "wrong order" if query is None else "row out of sight"
        if name.owner != wanted.owner or any(name.token in other.tokens for other in self.line.held):
            return "wrong owner"
        return "stale after rollback" if name.position == wanted.position else "resurrected row"
