"""Tables of pages as numbers and rows, and back: each page once, with the rows of it that are somebody's."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from kvattn.caches.pages import Page
from kvattn.caches.rows import Schema
from kvattn.counting import Tally, charge
from kvattn.typing import Array


class Used(NamedTuple):
    """Slots ``low .. high - 1`` of a page, which some sequence has tokens in; no page where it was released."""

    page: Page | None
    low: int
    high: int


class Apart(NamedTuple):
    """For each sequence the numbers of its pages, -1 where one was released; and the pages, in that order."""

    tables: tuple[tuple[int, ...], ...]
    pages: tuple[Used, ...]

    def rows(self) -> tuple[tuple[Array, ...], ...]:
        """What is held of every page, ``[heads, tokens, width]`` per stored field."""
        return tuple(tuple(page.read(low, high)) for page, low, high in self.pages if page is not None)


def apart(sequences: Iterable[Iterable[Used]]) -> Apart:
    """Number the pages of some sequences; of a page that several have, everything that one of them uses."""
    numbers: dict[int, int] = {}
    known: list[Used] = []
    tables = []
    for sequence in sequences:
        row = []
        for use in sequence:
            if use.page is None:
                row.append(-1)
                continue
            number = numbers.setdefault(use.page.serial, len(known))
            if number == len(known):
                known.append(use)
            known[number] = Used(use.page, min(use.low, known[number].low), max(use.high, known[number].high))
            row.append(number)
        tables.append(tuple(row))
    return Apart(tuple(tables), tuple(known))


def together(schema: Schema[Any], size: int, low: int, rows: Sequence[Array]) -> Page:
    """A page of its own with rows ``[heads, tokens, width]`` per stored field from slot ``low`` on."""
    page, count = Page(schema, size), rows[0].shape[1]
    page.claim(0, low + count)
    page.write(low, rows)
    charge(Tally(kv_written=count * schema.nbytes))
    return page
