"""A model of a cache in lists, which is right unless it is given a habit: what caches are known to do wrong.

`Habit` has one field for each thing; a model with one changed field, `Model`, is a hypothesis about a cache that
fails.  `suspects` lists them with the class and the parameters that the finding will have.  The model holds rows in
Python lists and knows nothing of how any cache stores them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.conformance.adapter import Capabilities, Part, Seen
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array

KEPT_FIELDS = ("k", "v")

PAGES = range(2, 18)
"""Sizes of pages that are told apart."""

OTHERS = {"tile": "tiled", "first": "of sequence 0", "batch": "of the old batch"}
"""What a select may do to the fields that it does not reorder, in words."""


OVERLONG = {
    "cut": "and what is then too long is cut behind the next rows",
    "hidden": "and what is then too long is shown only up to the length",
}
"""What becomes of the field that a rollback leaves, in words."""

CALLS = ("any number", "one token", "several tokens")
"""Appends that are told apart, by how many tokens they bring."""


@dataclass(frozen=True)
class Habit:
    """What a cache does; the defaults are right.

    Attributes
    ----------
    rollback_extra
        Tokens that a rollback takes back beyond those asked for.
    rollback_all_at_zero
        A rollback of 0 empties the cache, as ``x[:-0]`` does.
    rollback_fields
        Which of ``"k"``, ``"v"`` a rollback shortens.
    overlong
        What becomes of rows beyond the length, where it shortens one of them: nothing if empty, ``"cut"`` behind those
        of the next append, ``"hidden"`` for as long as the length does not reach them.
    spare_page
        A rollback to the border of a page of so many tokens keeps the page behind it, and the next append begins yet
        another; 0 for none.
    reversed_heads, reversed_calls
        Which of ``"k"``, ``"v"`` come with their heads in reversed order; in appends of ``"any number"``, of
        ``"one token"``, of ``"several tokens"``.
    odd_keeps
        Tokens that are left after a rollback of fewer than none, of more than there are or of more than is declared;
        -1 for the right number.
    selected_fields
        Which of them a select reorders.
    unselected
        Which sequences the other fields have after a select: ``"stay"``, the old ones, the last repeated where there
        are too few; ``"tile"``, the old ones again and again; ``"first"``, the first for all; ``"batch"``, as before.
    inverse_select, select_in_place
        A select puts row i where i says, instead of taking it from there; reads rows that it has written already.
    window_extra
        Rows that a window keeps beyond the W - 1 that the next query needs beside its own.
    early_eviction
        After an append only W rows are left, though its first queries see further.
    unturned
        Once a window has wrapped, rows come in the order of their slots.
    shared_page
        Branches write into the same partly filled page of so many tokens; 0 for none.
    shared_all
        A branch is the same cache.
    stale_start
        A new cache of the same batch goes on with the rows of the last one.
    head
        Every head gets the rows of this one; -1 for its own.
    swapped
        Keys come as values and values as keys.
    dropped
        Which token of an append onto a cache that is not empty is lost: ``"first"``, ``"last"``, ``"all but last"``.
    clamped, clamped_length
        Tokens beyond the capacity overwrite the last slot, without a word; and the length stays at the capacity.
    source_grows
        A source takes the rows of later appends too.
    said_extra
        Tokens that the cache says it holds beyond those it does.
    batch_row
        Rows of every sequence are those of this one; -1 for its own.
    page_order
        Pages of so many tokens come in reversed order; 0 for right.
    lost_at_page
        The last token of every full page of so many tokens is lost; 0 for none.
    rollback_skips, select_skips
        The part that a rollback, a select, leaves as it is; -1 for none.
    late_offset
        Parts behind the first say a length that they read when the first had taken the new tokens already.

    Examples
    --------
    >>> Habit().rollback_extra
    0
    """

    rollback_extra: int = 0
    rollback_all_at_zero: bool = False
    rollback_fields: tuple[str, ...] = KEPT_FIELDS
    odd_keeps: int = -1
    selected_fields: tuple[str, ...] = KEPT_FIELDS
    unselected: str = "stay"
    inverse_select: bool = False
    select_in_place: bool = False
    window_extra: int = 0
    early_eviction: bool = False
    unturned: bool = False
    shared_page: int = 0
    shared_all: bool = False
    stale_start: bool = False
    head: int = -1
    swapped: bool = False
    dropped: str = ""
    clamped: bool = False
    clamped_length: bool = False
    source_grows: bool = False
    said_extra: int = 0
    batch_row: int = -1
    page_order: int = 0
    lost_at_page: int = 0
    rollback_skips: int = -1
    select_skips: int = -1
    late_offset: bool = False
    overlong: str = ""
    spare_page: int = 0
    reversed_heads: tuple[str, ...] = ()
    reversed_calls: str = "any number"


class Suspect(NamedTuple):
    """A habit, the class that it belongs to, its parameters, and a sentence."""

    fault_class: str
    parameters: dict[str, Any]
    words: str
    habit: Habit


def suspects(can: Capabilities) -> Iterator[Suspect]:
    """Every hypothesis that what is declared lets one see.

    >>> [one.fault_class for one in suspects(Capabilities())][:3]
    ['crop-rollback', 'crop-rollback', 'crop-rollback']
    """
    plain = Habit()
    for extra in (1, -1, 2):
        words = f"A rollback takes back {abs(extra)} token{'s' * (abs(extra) > 1)} too {'many' if extra > 0 else 'few'}"
        yield Suspect("crop-rollback", {"extra": extra}, words, replace(plain, rollback_extra=extra))
    yield Suspect(
        "crop-rollback",
        {"zero": "empties"},
        "A rollback of 0 tokens empties the cache",
        replace(plain, rollback_all_at_zero=True),
    )
    for fields, what in ((("k",), "keys only"), (("v",), "values only"), ((), "nothing")):
        words = f"A rollback shortens {what}"
        yield Suspect("crop-rollback", {"shortens": what}, words, replace(plain, rollback_fields=fields))
        for rest, told in OVERLONG.items() if fields else ():
            habit = replace(plain, rollback_fields=fields, overlong=rest)
            yield Suspect("crop-rollback", {"shortens": what, "rest": rest}, f"{words}, {told}", habit)
        words = f"A select reorders {what}"
        yield Suspect("beam-reorder", {"reorders": what}, words, replace(plain, selected_fields=fields))
        for others, told in OTHERS.items() if can.select and can.resize else ():
            habit = replace(plain, selected_fields=fields, unselected=others)
            yield Suspect("beam-reorder", {"reorders": what, "others": told}, f"{words}, others {told}", habit)
    yield Suspect(
        "beam-reorder",
        {"indices": "inverse"},
        "A select sends rows where it should fetch them",
        replace(plain, inverse_select=True),
    )
    yield Suspect(
        "beam-reorder",
        {"indices": "in place"},
        "A select takes rows that it has written over already",
        replace(plain, select_in_place=True),
    )
    if any(part.window for part in can.parts):
        for extra in (-1, -2):
            words = f"The window keeps W - {-extra} rows, its newest counted"
            yield Suspect("window-cache", {"extra": extra}, words, replace(plain, window_extra=extra))
        yield Suspect(
            "window-cache",
            {"evicts": "before all queries have read"},
            "An append leaves W rows before its first queries have seen theirs",
            replace(plain, early_eviction=True),
        )
        yield Suspect(
            "ring-wrap",
            {"order": "slots"},
            "After the wrap rows come in the order of their slots",
            replace(plain, unturned=True),
        )
        yield Suspect(
            "ring-wrap",
            {"order": "slots", "evicts": "before all queries have read"},
            "After the wrap rows come in the order of their slots, W of them, also where several queries came",
            replace(plain, unturned=True, early_eviction=True),
        )
    yield Suspect("block-ownership", {"shares": "all"}, "A branch is the same cache", replace(plain, shared_all=True))
    words = f"Branches write into the same buffer, or into the same pages of more than {PAGES[-1]} tokens"
    yield Suspect("block-ownership", {"shares": "buffer"}, words, replace(plain, shared_page=1 << 10))
    for page in PAGES:
        words = f"Branches write into the same partly filled page of {page} tokens"
        yield Suspect("block-ownership", {"page": page}, words, replace(plain, shared_page=page))
        words = (
            f"A rollback to the border of a page of {page} tokens keeps the page behind it, and tokens go to the next"
        )
        yield Suspect(
            "crop-rollback", {"page": page, "keeps": "one page too many"}, words, replace(plain, spare_page=page)
        )
        words = f"Pages of {page} tokens come in reversed order"
        yield Suspect("paged-table", {"page": page, "order": "reversed"}, words, replace(plain, page_order=page))
        words = f"The last token of a full page of {page} tokens is lost"
        yield Suspect(
            "paged-table", {"page": page, "loses": "last of a page"}, words, replace(plain, lost_at_page=page)
        )
    yield Suspect(
        "stale-state",
        {"start": "keeps rows"},
        "A new cache begins with the rows of the last one",
        replace(plain, stale_start=True),
    )
    for head in range(HEADS):
        yield Suspect("gqa-map", {"head": head}, f"Every head has the rows of head {head}", replace(plain, head=head))
    for heads in (("k", "v"), ("k",), ("v",)):
        for calls in CALLS:
            words = f"Heads of {' and '.join(heads)} come in reversed order in appends of {calls}"
            parameters = {"heads": "reversed", "of": [*heads], "appends": calls}
            yield Suspect("gqa-map", parameters, words, replace(plain, reversed_heads=heads, reversed_calls=calls))
    yield Suspect(
        "quantised-kv", {"fields": "swapped"}, "Keys come as values, values as keys", replace(plain, swapped=True)
    )
    for which in ("first", "last", "all but last"):
        words = f"Of several tokens onto a cache that is not empty the {which} is lost".replace(
            "last is", "last are", which == "all but last"
        )
        yield Suspect("chunked-prefill", {"loses": which}, words, replace(plain, dropped=which))
    if can.capacity is not None:
        yield Suspect(
            "ring-wrap",
            {"overflow": "overwrites the last"},
            "A token beyond the capacity overwrites the last",
            replace(plain, clamped=True),
        )
        yield Suspect(
            "ring-wrap",
            {"overflow": "overwrites the last", "says": "capacity"},
            "A token beyond the capacity overwrites the last, and the length stays",
            replace(plain, clamped=True, clamped_length=True),
        )
    if any(part.source for part in can.parts):
        yield Suspect(
            "cross-cache",
            {"grows": True},
            "The source takes the rows of every append",
            replace(plain, source_grows=True),
        )
    for number in range(len(can.parts)) if len(can.parts) > 1 else ():
        words = f"A rollback leaves part {number} as it is"
        if not can.parts[number].source:
            yield Suspect("crop-rollback", {"skips_part": number}, words, replace(plain, rollback_skips=number))
        words = f"A select leaves part {number} as it is"
        yield Suspect("beam-reorder", {"skips_part": number}, words, replace(plain, select_skips=number))
    if len(can.parts) > 1:
        yield Suspect(
            "shared-kv-layers",
            {"offset": "after the source"},
            "Parts behind the first read a length to which the new tokens were added already",
            replace(plain, late_offset=True),
        )
    for extra in (1, -1):
        yield Suspect(
            "byte-count", {"length": extra}, f"It says {extra:+d} token than it holds", replace(plain, said_extra=extra)
        )
    for row in (0, 1):
        yield Suspect(
            "batch-row-state",
            {"row": row},
            f"Every sequence gets the rows of sequence {row}",
            replace(plain, batch_row=row),
        )


@dataclass
class Lane:
    """Rows of one field of one sequence: cells that hold a row each, and the pages that hold the cells.

    >>> Lane().cells
    []
    """

    cells: list[list[Any]] = field(default_factory=list)
    pages: dict[int, dict[int, list[Any]]] = field(default_factory=dict)

    def copied(self) -> "Lane":
        """A lane of its own, on the same cells and pages.

        >>> Lane([[1]]).copied().cells
        [[1]]
        """
        return Lane(list(self.cells), dict(self.pages))

    def add(self, row: Any, page: int) -> None:
        """Put a row at the end; into the cell that its page has there already, where pages are shared.

        >>> lane = Lane()
        >>> lane.add("row", 0)
        >>> lane.cells
        [['row']]
        """
        place = len(self.cells)
        cell = self.pages.setdefault(place // page, {}).setdefault(place % page, []) if page else []
        cell[:] = [row]
        self.cells.append(cell)

    def put(self, row: Any, place: int, page: int) -> None:
        """Put a row into the last page, into a new one where its place is the first of a page.

        >>> lane = Lane()
        >>> lane.put("row", 0, 2)
        >>> lane.cells
        [['row'], []]
        """
        if not place % page:
            self.cells += [[] for _ in range(page)]
        self.cells[len(self.cells) - page + place % page] = [row]


@dataclass
class Memory:
    """Lanes of one cache, by part and field and sequence, and how many tokens it has taken.

    >>> Memory.empty(1, 2).lanes[0]["k"]
    [Lane(cells=[], pages={}), Lane(cells=[], pages={})]
    """

    lanes: list[dict[str, list[Lane]]]
    length: int = 0

    @staticmethod
    def empty(parts: int, batch: int) -> "Memory":
        """No rows.

        >>> Memory.empty(1, 1).length
        0
        """
        return Memory([{f: [Lane() for _ in range(batch)] for f in KEPT_FIELDS} for _ in range(parts)])

    def copied(self) -> "Memory":
        """Lists of its own.

        >>> Memory.empty(1, 1).copied().length
        0
        """
        return Memory(
            [{f: [lane.copied() for lane in each[f]] for f in KEPT_FIELDS} for each in self.lanes], self.length
        )


class Model:
    """A cache in lists, with one habit: an adapter for `kvattn.testing.cache_diagnosis.observing.observe`.

    Parameters
    ----------
    can
        What the cache that it stands for declares.
    habit
        What it does wrong.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> session = Session(Model(Capabilities(), Habit()))
    >>> session.follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    def __init__(self, can: Capabilities, habit: Habit) -> None:
        self.capabilities, self.habit = can, habit
        self._last: Memory | None = None

    def start(self, batch: int) -> Memory:
        """An empty cache.

        >>> Model(Capabilities(), Habit()).start(2).length
        0
        """
        memory = Memory.empty(len(self.capabilities.parts), batch)
        if self.habit.stale_start and self._last is not None and len(self._last.lanes[0]["k"]) == batch:
            memory = self._last.copied()
        self._last = memory
        return memory

    def append(self, cache: Memory, k: Array, v: Array) -> tuple[Memory, Sequence[Seen]]:
        """Rows at the end of every lane, and what attention would see.

        Raises
        ------
        MemoryError
            Beyond the capacity, where the habit is not to say so.
        ValueError
            Rows of another batch.

        Examples
        --------
        >>> rows = np.zeros((1, 2, 3, 64))
        >>> Model(Capabilities(), Habit()).append(Model(Capabilities(), Habit()).start(1), rows, rows)[1][0].length
        3
        """
        can, habit = self.capabilities, self.habit
        count, before = k.shape[2], cache.length
        if can.capacity is not None and before + count > can.capacity and not habit.clamped:
            raise MemoryError("full")
        if any(len(lanes[name]) != len(k) for lanes in cache.lanes for name in KEPT_FIELDS):
            raise ValueError("rows of another batch")
        memory = cache if habit.shared_all else cache.copied()
        memory.length = before + count
        for part, lanes in zip(can.parts, memory.lanes, strict=True):
            if part.source and lanes["k"][0].cells and not habit.source_grows:
                continue
            for name, given in zip(KEPT_FIELDS, (k, v), strict=True):
                turned = name in habit.reversed_heads and habit.reversed_calls in {CALLS[0], CALLS[1 + (count > 1)]}
                self._add(lanes[name], given[:, ::-1] if turned else given, before)
                if habit.overlong == "cut":
                    for lane in lanes[name]:
                        del lane.cells[memory.length :]
        seen = [self._seen(memory, number, count) for number in range(len(can.parts))]
        for part, lanes in zip(can.parts, memory.lanes, strict=True):
            if part.window and habit.window_extra < 0:
                for lane in (lane for name in KEPT_FIELDS for lane in lanes[name]):
                    for place in range(
                        part.sinks, max(part.sinks, len(lane.cells) - part.window + 1 - habit.window_extra)
                    ):
                        lane.cells[place] = []
        self._last = memory
        return memory, seen

    def _add(self, lanes: list[Lane], given: Array, before: int) -> None:
        habit, count = self.habit, given.shape[2]
        taken = list(range(count))
        if before and count > 1 and habit.dropped:
            taken = {"first": taken[1:], "last": taken[:-1], "all but last": taken[-1:]}[habit.dropped]
        most = self.capabilities.capacity
        for b, lane in enumerate(lanes):
            source = given[habit.batch_row if 0 <= habit.batch_row < len(lanes) else b]
            for t in taken:
                if habit.clamped and most is not None and len(lane.cells) >= most:
                    lane.cells[most - 1] = [source[:, t]]
                elif habit.spare_page:
                    lane.put(source[:, t], before + t, habit.spare_page)
                else:
                    lane.add(source[:, t], habit.shared_page)

    def _seen(self, memory: Memory, number: int, count: int) -> Seen:
        part, habit = self.capabilities.parts[number], self.habit
        fields = []
        for name in KEPT_FIELDS:
            most = memory.length if habit.overlong or habit.spare_page else None
            lanes = [lane.cells[:most] for lane in memory.lanes[number][name]]
            array: Array = np.zeros((len(lanes), HEADS, max(map(len, lanes), default=0), WIDTH))
            for b, cells in enumerate(lanes):
                for place, cell in enumerate(cells):
                    if cell:
                        array[b, :, place] = cell[0]
            fields.append(array)
        keys, values = fields[::-1] if habit.swapped else fields
        if habit.head >= 0:
            keys, values = (np.repeat(x[:, habit.head : habit.head + 1], HEADS, axis=1) for x in (keys, values))
        keys, values = (self._ordered(x, part, count) for x in (keys, values))
        if number == habit.rollback_skips:
            return Seen(keys, values)  # it may count for itself, or be told by the others
        late = count if habit.late_offset and number else 0
        told = memory.length + habit.said_extra + late
        if habit.clamped_length and self.capabilities.capacity is not None:
            told = min(told, self.capabilities.capacity)
        return Seen(keys, values, length=told)

    def _ordered(self, rows: Array, part: Part, count: int) -> Array:
        habit, length = self.habit, rows.shape[2]
        if part.window and habit.early_eviction and count > 1:
            rows[:, :, part.sinks : max(part.sinks, length - part.window)] = 0
        if part.window and habit.unturned and length > part.window:
            kept = np.arange(length - part.window, length)
            slots = np.empty(part.window, np.int64)
            slots[kept % part.window] = kept  # which row lies in each slot
            rows[:, :, kept] = rows[:, :, slots]
        if habit.page_order and length > habit.page_order:
            pages = [rows[:, :, n : n + habit.page_order] for n in range(0, length, habit.page_order)]
            rows = np.concatenate(pages[::-1], axis=2)
        if habit.lost_at_page:
            rows[:, :, habit.lost_at_page - 1 :: habit.lost_at_page] = 0
        return rows

    def rollback(self, cache: Memory, tokens: int) -> Memory:
        """The newest rows taken back.

        >>> Model(Capabilities(), Habit()).rollback(Model(Capabilities(), Habit()).start(1), 0).length
        0
        """
        habit = self.habit
        memory = cache if habit.shared_all else cache.copied()
        taken = tokens + habit.rollback_extra if tokens else tokens
        if not tokens and habit.rollback_all_at_zero:
            taken = cache.length
        left = max(cache.length - max(taken, 0), 0)
        if habit.odd_keeps >= 0 and not 0 <= tokens <= self._deepest(cache):
            left = habit.odd_keeps
        for number, (part, lanes) in enumerate(zip(self.capabilities.parts, memory.lanes, strict=True)):
            if not part.source and number != habit.rollback_skips:
                for lane in (lane for name in habit.rollback_fields for lane in lanes[name]):
                    page = habit.spare_page
                    del lane.cells[(left // page + 1) * page if page else left :]
                    lane.cells += [[] for _ in range(left - len(lane.cells))]
                    if habit.shared_page:
                        whole = -(-left // habit.shared_page)
                        lane.pages = {n: page for n, page in lane.pages.items() if n < whole}
        memory.length = left if habit.rollback_fields else cache.length
        self._last = memory
        return memory

    def _deepest(self, cache: Memory) -> int:
        most = self.capabilities.rollback
        return cache.length if most is None else min(most, cache.length)

    def select(self, cache: Memory, indices: Sequence[int]) -> Memory:
        """Sequences reordered.

        >>> len(Model(Capabilities(), Habit()).select(Model(Capabilities(), Habit()).start(2), [0]).lanes[0]["k"])
        1
        """
        habit, memory = self.habit, cache.copied()
        batch, chosen = len(memory.lanes[0]["k"]), list(indices)
        if habit.inverse_select and sorted(chosen) == list(range(batch)):
            chosen = [chosen.index(b) for b in range(batch)]
        if habit.select_in_place and len(chosen) == batch:
            rows = list(range(batch))
            for place, index in enumerate(chosen):
                rows[place] = rows[index]
            chosen = rows
        for number, lanes in enumerate(memory.lanes):
            for name in KEPT_FIELDS:
                others = {
                    "stay": [min(b, batch - 1) for b in range(len(chosen))],
                    "tile": [b % batch for b in range(len(chosen))],
                    "first": [0] * len(chosen),
                    "batch": range(batch),
                }[habit.unselected]
                selected = name in habit.selected_fields and number != habit.select_skips
                picked = chosen if selected else others
                lanes[name] = [lanes[name][i].copied() for i in picked]
        self._last = memory
        return memory

    def branch(self, cache: Memory) -> Memory:
        """Another cache with the same rows.

        >>> Model(Capabilities(), Habit()).branch(Model(Capabilities(), Habit()).start(1)).length
        0
        """
        return cache if self.habit.shared_all else cache.copied()
