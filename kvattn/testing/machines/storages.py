"""How one machine drives caches of every kind: a `Storage` is a value, what differs is said in its fields.

To drive another cache like one of these, replace what starts it::

    MINE = replace(RING, start=lambda sizes, batch: MyRing(sizes.window, sizes.rollback, batch))

The cache needs ``lengths``, ``append``, ``truncate``, ``select`` and ``rows(sequence=)``; every other verb is driven
where the cache has it, and must be refused in one sentence where the storage says that it ``refuses``.
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from kvattn.caches import (
    ChunkedLocal,
    Coded,
    Contiguous,
    KeyValue,
    KiviCache,
    Layered,
    Paged,
    Ring,
    SharedLayers,
    SinkWindow,
    Snapshots,
    Static,
    Summaries,
    Tiered,
    placed,
)
from kvattn.codecs import Kivi, Symmetric
from kvattn.errors import KvattnError
from kvattn.testing.machines.marked import Entry, Line, compare, marked, schema_of
from kvattn.testing.machines.pooled import Pooled
from kvattn.testing.machines.tokens import must
from kvattn.typing import Array


class Sizes(NamedTuple):
    """What a cache is started with, as far as its kind asks for it."""

    page: int = 4
    window: int = 4
    rollback: int = 1
    sinks: int = 1
    dtype: Any = np.float64


class Given(NamedTuple):
    """What is appended: for each sequence its line before, and the new entries.

    Attributes
    ----------
    lines, new
        For each sequence.
    keywords
        Positions and counts, where the machine says them.
    dtype, tokens
        Of the rows, and how many there are of each sequence; those behind ``new`` are padding and hold NaN.
    """

    lines: Sequence[Line]
    new: Sequence[Sequence[Entry]]
    keywords: Mapping[str, Any]
    dtype: Any
    tokens: int

    def rows(self, layer: int = 0) -> KeyValue:
        """Marked rows ``[B, 2, T, width]``.

        >>> Given([Line()], [[Entry(1, 0, 5, 0)]], {}, np.float64, 2).rows().v[0, 0, :, 1]
        array([ 5., nan])
        """
        parts = []
        for entries in self.new:
            padding = self.tokens - len(entries)
            parts.append([np.pad(x, ((0, 0), (0, padding), (0, 0))) for x in marked(entries, self.dtype, layer)])
            for x in parts[-1]:
                x[:, len(entries) :] = np.nan
        return KeyValue(*(np.stack(each) for each in zip(*parts, strict=True)))


class Memory(NamedTuple):
    """How far a storage may go back, derived from its page of the reference and not from its code.

    Attributes
    ----------
    begin
        What is noted of sequence b at the start: ``begin(sizes, b)``.
    after
        What is noted once tokens ``first .. last - 1`` were appended: ``after(note, sizes, first, last)``.
    back
        What is noted once it went back to n tokens: ``back(note, n)``.
    returns
        Whether it must go back to n tokens, must not, or may do either: ``returns(note, sizes, n)``.
    edges
        Lengths at which that changes: ``edges(note)``.
    """

    begin: Callable[[Sizes, int], Any]
    after: Callable[[Any, Sizes, int, int], Any]
    back: Callable[[Any, int], Any]
    returns: Callable[[Any, Sizes, int], bool | None]
    edges: Callable[[Any], Sequence[int]]


Sight = Callable[[int], AbstractSet[int]]
"""Slots that the query at a position may see, itself included."""

EVERYTHING = Memory(
    begin=lambda sizes, b: None,
    after=lambda note, *_: note,
    back=lambda note, n: note,
    returns=lambda note, sizes, n: True,
    edges=lambda note: (),
)
"""The memory of a storage that forgets nothing."""


def forgets(sees: Callable[[Sizes, int], AbstractSet[int]]) -> Memory:
    """The memory of a storage that keeps what is in sight of the last ``rollback`` tokens: a length it has promised.

    >>> forgets(lambda sizes, query: {query}).after(0, Sizes(rollback=2), first=9, last=10)
    7
    """
    return Memory(
        lambda sizes, b: 0,
        lambda note, sizes, first, last: max(note, first - sizes.rollback) if last > first else note,
        min,
        lambda note, sizes, n: True if n >= note or len(sees(sizes, n)) <= 1 else None,
        lambda note: (note - 1, note),
    )


def _in_window(sizes: Sizes, query: int) -> AbstractSet[int]:
    return frozenset(range(max(0, query - sizes.window + 1), query + 1))


def _in_chunk(sizes: Sizes, query: int) -> AbstractSet[int]:
    return frozenset(range(query - query % sizes.window, query + 1))


def _sinks_and_window(sizes: Sizes, query: int) -> AbstractSet[int]:
    return frozenset(range(min(sizes.sinks, query + 1))) | _in_window(sizes, query)


def _appended(cache: Any, given: Given) -> Any:
    """``cache.append`` of the rows; the memory that they lay in is written over.

    >>> from kvattn.caches import Paged
    >>> given = Given([Line()], [[Entry(1, 0, 5, 0)]], {}, np.float64, 1)
    >>> _appended(Paged.start(schema_of(float)), given).lengths
    (1,)
    """
    rows = given.rows()
    later = cache.append(rows, **given.keywords)
    for array in rows:
        array[...] = -1.0  # the caller's memory is the caller's
    return later


def _no_sights(_cache: Any, _sizes: Sizes) -> Sequence[tuple[Any, Sight]]:
    """Nothing of the cache forgets.

    >>> _no_sights(None, Sizes())
    ()
    """
    return ()


def _never_full(_cache: Any, _counts: Sequence[int]) -> bool:
    """There is always room.

    >>> _never_full(None, [1 << 40])
    False
    """
    return False


@dataclass(frozen=True, kw_only=True)
class Storage:
    """One kind of cache, and what it must do.

    Attributes
    ----------
    name
        Of the kind.
    start
        The empty cache of so many sequences: ``start(sizes, batch)``.
    append
        The cache with more tokens: ``append(cache, given)``.
    check
        Compare one sequence with its line: ``check(cache, sequence, line)``.
    sights
        For a cache that forgets: each part that does, and what a query sees of it; ``sights(cache, sizes)``.
    memory
        How far it may go back.
    ragged, placed
        Whether sequences take different numbers of tokens at once, and whether tokens keep positions of their own.
    saves
        Whether it can be saved; what cannot must be refused.
    remakes
        Whether going back may make a page: where a window begins anew, where a summary is filled again.
    refuses
        Verbs that the cache has and must refuse.
    full
        Whether an append of so many tokens to each sequence must be refused for want of room: ``full(cache, counts)``.

    Examples
    --------
    >>> from kvattn.caches import Paged
    >>> mine = Storage(name="mine", start=lambda sizes, batch: Paged.start(schema_of(sizes.dtype), batch, sizes.page))
    >>> mine.start(Sizes(page=2), 3).lengths, mine.memory is EVERYTHING
    ((0, 0, 0), True)
    """

    name: str
    start: Callable[[Sizes, int], Any]
    append: Callable[[Any, Given], Any] = _appended
    check: Callable[[Any, int, Line], None] = compare
    sights: Callable[[Any, Sizes], Sequence[tuple[Any, Sight]]] = _no_sights
    memory: Memory = EVERYTHING
    ragged: bool = False
    placed: bool = False
    saves: bool = True
    remakes: bool = False
    refuses: frozenset[str] = field(default_factory=frozenset)
    full: Callable[[Any, Sequence[int]], bool] = _never_full


def _sight(sees: Callable[[Sizes, int], AbstractSet[int]]) -> Callable[[Any, Sizes], Sequence[tuple[Any, Sight]]]:
    return lambda cache, sizes: ((cache, partial(sees, sizes)),)


_NO_PLACES = frozenset({"evict", "shift"})

PAGED = Storage(
    name="paged",
    start=lambda sizes, batch: Paged.start(schema_of(sizes.dtype), batch, sizes.page),
    ragged=True,
    refuses=_NO_PLACES,
)
"""Pages whose slots are positions."""

PLACED = Storage(
    name="placed",
    start=lambda sizes, batch: Paged.start(placed(schema_of(sizes.dtype)), batch, sizes.page),
    ragged=True,
    placed=True,
)
"""Pages whose tokens keep positions of their own: they can be evicted and shifted."""

CONTIGUOUS = Storage(
    name="contiguous",
    start=lambda sizes, batch: Contiguous.start(schema_of(sizes.dtype), batch, sizes.page),
    ragged=True,
)
"""One growing buffer for each sequence."""

TIERED = Storage(
    name="tiered",
    start=lambda sizes, batch: Tiered.start(
        schema_of(sizes.dtype), recent=sizes.page // 2, batch=batch, page=sizes.page
    ),
    ragged=True,
)
"""Older pages in a file."""

RING = Storage(
    name="ring",
    start=lambda sizes, batch: Ring.start(
        schema_of(sizes.dtype), window=sizes.window, rollback=sizes.rollback, batch=batch, page=sizes.page
    ),
    sights=_sight(_in_window),
    memory=forgets(_in_window),
    remakes=True,
)
"""The last tokens."""

CHUNKED = Storage(
    name="chunked",
    start=lambda sizes, batch: ChunkedLocal.start(
        schema_of(sizes.dtype), size=sizes.window, rollback=sizes.rollback, batch=batch, page=sizes.page
    ),
    sights=_sight(_in_chunk),
    memory=forgets(_in_chunk),
    remakes=True,
)
"""The chunk that is being written."""

SINKS = Storage(
    name="sinks",
    start=lambda sizes, batch: SinkWindow.start(
        schema_of(sizes.dtype),
        sinks=sizes.sinks,
        window=sizes.window,
        rollback=sizes.rollback,
        batch=batch,
        page=sizes.page,
    ),
    check=partial(compare, spills=True),
    sights=_sight(_sinks_and_window),
    # It drops whole pages and goes back into none, though a window of 1 needs nothing of them.
    memory=forgets(lambda sizes, query: _sinks_and_window(sizes, query) | {max(0, query - 1)}),
)
"""The first tokens and the last ones."""

CODED = Storage(
    name="coded",
    start=lambda sizes, batch: Coded.start(
        schema_of(sizes.dtype), keys=Symmetric(8), values=Symmetric(8), batch=batch, page=sizes.page
    ),
    ragged=True,
)
"""Codes of 8 bits, which keep marked rows to the bit."""


def _residual(sizes: Sizes) -> int:
    return 2 * sizes.window


def _settled(sizes: Sizes, tokens: int) -> int:
    return max(0, tokens - 1) // _residual(sizes) * _residual(sizes)


def _check_kivi(cache: Any, sequence: int, line: Line) -> None:
    compare(cache, sequence, line, slack=0.25)  # a scale is kept in float16: 127 · 2^-11, for two tokens or channels
    must(cache.settled[sequence] == line.note, f"{line.note} tokens must be codes, got {cache.settled[sequence]}")


KIVI = Storage(
    name="kivi",
    start=lambda sizes, batch: KiviCache.start(
        schema_of(sizes.dtype), Kivi(bits=8, group=2, residual=_residual(sizes)), batch=batch, page=sizes.page
    ),
    check=_check_kivi,
    memory=Memory(
        lambda sizes, b: 0,
        lambda note, sizes, first, last: max(note, _settled(sizes, last)),
        lambda note, n: note if n else 0,
        lambda note, sizes, n: not 0 < n < note,
        lambda note: (note - 1, note),
    ),
    remakes=True,
)
"""Older tokens as codes of two tokens or channels, the newest whole."""


def _check_summaries(cache: Any, sequence: int, line: Line) -> None:
    compare(cache, sequence, line)
    entries: Any = line.entries
    keys = marked(entries, cache.memory.schema.fields[0].dtype).k
    cuts = range(0, len(entries), cache.size)
    summary = cache.summary(sequence)
    must(summary.low.shape[1] == len(cuts), f"{len(entries)} tokens must have {len(cuts)} summaries")
    for n, start in enumerate(cuts):
        block = keys[:, start : start + cache.size]
        for name, got, wanted in (
            ("low", summary.low, block.min(1)),
            ("high", summary.high, block.max(1)),
            ("mean", summary.mean, block.sum(1) / block.dtype.type(block.shape[1])),
        ):
            if not np.array_equal(got[:, n], wanted):
                raise AssertionError(f"{name} of block {n} must be {wanted}, got {got[:, n]}")


SUMMARIES = Storage(
    name="summaries",
    start=lambda sizes, batch: Summaries.start(schema_of(sizes.dtype), size=sizes.window, batch=batch, page=sizes.page),
    check=_check_summaries,
    ragged=True,
    remakes=True,
)
"""Rows, and the least, greatest and mean key of each block."""

SOURCE_OWNER = 900_000
"""Owners from here on wrote sources that are only read."""


def _source(sizes: Sizes, sequence: int) -> tuple[Entry, ...]:
    return tuple(Entry(1, n, SOURCE_OWNER + sequence, n) for n in range(sizes.window + sequence % 2))


def _start_static(sizes: Sizes, batch: int) -> Static[KeyValue]:
    sources = [_source(sizes, b) for b in range(batch)]
    given = Given([], sources, {}, sizes.dtype, max(map(len, sources)))
    return Static.start(schema_of(sizes.dtype), given.rows(), lengths=[len(s) for s in sources], page=sizes.page)


def _advanced(cache: Any, given: Given) -> Any:
    try:
        cache.append(given.rows())
    except KvattnError:
        return cache.advance(given.tokens)
    raise AssertionError("a source must not grow, but append was taken")


def _check_static(cache: Any, sequence: int, line: Line) -> None:
    source: tuple[Entry, ...] = line.note
    compare(cache, sequence, Line(source, tuple(range(len(source) + 1)), line.past))


STATIC = Storage(
    name="static",
    start=_start_static,
    append=_advanced,
    check=_check_static,
    memory=EVERYTHING._replace(begin=_source),
    refuses=frozenset({"append"}),
)
"""A source that is only read, and how many tokens were decoded from it."""


class State(NamedTuple):
    """A recurrent state and the last inputs of a convolution, ``[B, 3]`` and ``[B, 2, 2]``."""

    s: Array
    inputs: Array


def state_of(entries: Sequence[Entry | None], dtype: Any = np.float64) -> State:
    """The state after some tokens of one sequence: every token and its place in the line change it.

    >>> state_of([Entry(1, 0, 5, 0), Entry(1, 1, 5, 1)]).inputs[0]
    array([[5., 0.],
           [5., 1.]])
    """
    told, inputs = 0, [[0, 0], [0, 0]]
    for n, entry in enumerate(entries):
        if entry is not None:
            told = (told * 31 + entry.owner * 101 + entry.place * 7 + n + 1) % 9973
            inputs = [inputs[1], [entry.owner, entry.place]]
    return State(np.array([[len(entries), told, told % 97]], dtype), np.array([inputs], dtype))


def _handed(new: int) -> int:
    """How many states the machine hands in for so many tokens."""
    return new if new % 2 else min(new, 1)


def _recurred(cache: Any, given: Given) -> Any:
    wholes = [(*line.entries, *new) for line, new in zip(given.lines, given.new, strict=True)]
    states = []
    for back in reversed(range(_handed(given.tokens))):
        each = [state_of(whole[: len(whole) - back], given.dtype) for whole in wholes]
        states.append(State(*(np.concatenate(x) for x in zip(*each, strict=True))))
    later = cache.append(states, tokens=given.tokens)
    for state in states:
        for array in state:
            array[...] = -1.0
    return later


def _check_state(cache: Any, sequence: int, line: Line) -> None:
    must(set(cache.remembered(sequence)) == line.note, f"states of lengths {sorted(line.note)} must be kept")
    for length, state in cache.histories[sequence]:
        wanted = state_of(line.entries[:length], state.arrays[0].dtype)
        for got, x in zip(state.arrays, wanted, strict=True):
            if not np.array_equal(got, x[0]):
                raise AssertionError(f"the state of {length} tokens must be {x[0]}, got {got}: another's")
    for got, x in zip(cache.state, state_of(line.entries, cache.state.s.dtype), strict=True):
        if not np.array_equal(got[sequence], x[0]):
            raise AssertionError(f"the present state must be {x[0]}, got {got[sequence]}")
        must(not got.flags.writeable, "states must be read-only")


def _start_snapshots(sizes: Sizes, batch: int) -> Snapshots[State]:
    empty = state_of((), sizes.dtype)
    return Snapshots.start(State(*(np.repeat(x, batch, 0) for x in empty)), rollback=sizes.rollback)


def _kept(note: AbstractSet[int], sizes: Sizes, first: int, last: int) -> AbstractSet[int]:
    if last == first:
        return note
    taken = {last - back for back in range(min(_handed(last - first), sizes.rollback + 1))}
    return frozenset({n for n in note if n >= last - sizes.rollback} | taken)


SNAPSHOTS = Storage(
    name="snapshots",
    start=_start_snapshots,
    append=_recurred,
    check=_check_state,
    memory=Memory(
        lambda sizes, b: frozenset({0}),
        _kept,
        lambda note, n: frozenset(m for m in note if m <= n),
        lambda note, sizes, n: n in note,
        sorted,
    ),
)
"""Recurrent states of fixed size, with those to which they can go back."""


def _layered(sizes: Sizes, batch: int) -> Layered:
    return Layered((PAGED.start(sizes, batch), SINKS.start(sizes, batch)))


def _check_layers(cache: Any, sequence: int, line: Line) -> None:
    for layer, part in enumerate(cache.parts):
        compare(part, sequence, line, layer=layer, spills=True)


LAYERED = Storage(
    name="layered",
    start=_layered,
    append=lambda cache, given: cache.append([given.rows(layer) for layer in range(len(cache.parts))]),
    check=_check_layers,
    sights=lambda cache, sizes: SINKS.sights(cache.parts[1], sizes),
    memory=SINKS.memory,
)
"""Pages and a window with sinks, of two layers, forward and back together."""

_READS = (0, 1, 0, 1, 1)


def _check_shared(cache: Any, sequence: int, line: Line) -> None:
    for layer, part in enumerate(_READS):
        compare(cache.layer(layer), sequence, line, layer=part, spills=True)
        must(cache.owns(layer) == (layer < len(cache.memory.parts)), f"layer {layer} must read part {part}")


SHARED = Storage(
    name="shared",
    start=lambda sizes, batch: SharedLayers(_layered(sizes, batch), _READS),
    append=lambda cache, given: cache.append([given.rows(layer) for layer in range(len(cache.memory.parts))]),
    check=_check_shared,
    sights=lambda cache, sizes: SINKS.sights(cache.memory.parts[1], sizes),
    memory=SINKS.memory,
)
"""Five layers that read the caches of two."""


def _out_of_blocks(cache: Any, counts: Sequence[int]) -> bool:
    size = cache.pool.size
    needed = sum(
        -(-(n + new) // size) - -(-n // size) + bool(new and n % size)
        for n, new in zip(cache.lengths, counts, strict=True)
    )
    return bool(needed > cache.pool.free_blocks)


POOLED = Storage(
    name="pooled",
    start=lambda sizes, batch: Pooled.start(schema_of(sizes.dtype), batch, sizes.page),
    ragged=True,
    saves=False,
    full=_out_of_blocks,
)
"""Sequences of a mutable pool with counts of references: verbs fork first, and a name that is dropped is freed."""

STORAGES = (
    PAGED,
    PLACED,
    CONTIGUOUS,
    TIERED,
    RING,
    CHUNKED,
    SINKS,
    CODED,
    KIVI,
    SUMMARIES,
    STATIC,
    SNAPSHOTS,
    LAYERED,
    SHARED,
    POOLED,
)
"""All kinds of cache that kvattn has."""
