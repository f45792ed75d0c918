"""A machine for caches that are values: any earlier value may be used again, and each is read at birth."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
import numpy as np

from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, Schema, key_value, placed
from kvattn.errors import RollbackError
from kvattn.testing.machines.tokens import SCHEMAS, Doubling, Known, Place, Tokens, encode, must, refused

_MOST = 6
"""Sequences of a batch; what would make more is left."""

Line = list[tuple[int | None, Place]]
"""One sequence: by slot the token, None where it was released, and its place."""


class PagedMachine(RuleBasedStateMachine):
    """Append, truncate, branch, select, release, repeat, merge, split, commit, evict and shift, from any earlier value.

    Examples
    --------
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> run_state_machine_as_test(PagedMachine, settings=settings(max_examples=3, stateful_step_count=5))
    """

    values: Bundle[Known] = Bundle("values")
    pages: Sequence[int] = (1, 2, 3, 5, 8, BLOCK)

    def __init__(self) -> None:
        super().__init__()
        self.born: list[Known] = []
        self.next_token = 1
        self.schema: Schema[Any] = key_value(1, 1)

    def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Any:
        """The empty cache under test.

        >>> PagedMachine().start_cache(key_value(1, 2), 1, 4)
        Paged(KeyValue, page=4, lengths=(0,))
        """
        return Paged.start(schema, batch, page)

    def check(self, known: Known) -> Known:
        """Read a value in every way it offers and compare it with its tokens.

        >>> machine = PagedMachine()
        >>> machine.check(Known(machine.start_cache(machine.schema, 1, 4), ((),), 4)).tokens
        ((),)
        """
        cache, tokens, page = known[:3]
        schema = self.schema if known.places is None else placed(self.schema)
        lengths = tuple(len(t) for t in tokens)
        must(tuple(cache.lengths) == lengths, f"lengths must be {lengths}, got {tuple(cache.lengths)}")
        if hasattr(cache, "coming"):
            wanted_next = [[behind[-1], behind[-1] + 1] for behind in self._behind(known)]
            got_next = cache.coming(2).tolist()
            must(got_next == wanted_next, f"the next positions must be {wanted_next}, got {got_next}")
        for b, (row, line) in enumerate(zip(tokens, self._lines(known), strict=True)):
            if hasattr(cache, "positions"):
                wanted_at = [-1 if t is None else place.position for t, place in line]
                must(cache.positions(b).tolist() == wanted_at, f"positions of sequence {b} must be {wanted_at}")
            if None in row:
                refused(lambda b=b: cache.rows(sequence=b), "reading a released row")  # type: ignore[misc]
            else:
                held = [t for t in row if t is not None]
                turned = [place.turned for _, place in line]
                for name, got, wanted in zip(
                    ("k", "v"), cache.rows(sequence=b), self._encode(held, turned), strict=True
                ):
                    if got.dtype != wanted.dtype:
                        raise AssertionError(f"{name} must have dtype {wanted.dtype}, got {got.dtype}")
                    if not np.array_equal(got[0], wanted):
                        raise AssertionError(f"{name} of sequence {b} must hold tokens {held}, got {got[0]}")
                    must(not got.flags.writeable, f"{name} must be read-only")
            if hasattr(cache, "raw_blocks"):
                self._check_blocks(cache.raw_blocks(b), line)
            if hasattr(cache, "pages"):
                serials = cache.pages(b)
                must(len(serials) == -(-len(row) // page), f"{len(row)} tokens must take whole pages, got {serials}")
        if hasattr(cache, "pages") and hasattr(cache, "nbytes"):
            unique = {serial for b in range(len(tokens)) for serial in cache.pages(b)} - {None}
            wanted_bytes = len(unique) * page * schema.nbytes
            must(cache.nbytes == wanted_bytes, f"nbytes must count each page once, {wanted_bytes}, got {cache.nbytes}")
        return known

    def _behind(self, known: Known) -> Sequence[Sequence[int]]:
        """For each sequence the next position at every length that it could be cut back to."""
        return [range(len(row) + 1) for row in known.tokens] if known.places is None else known.behind

    def _lines(self, known: Known) -> list[Line]:
        places = known.places or [[Place(slot) for slot in range(len(row))] for row in known.tokens]
        return [list(zip(row, stand, strict=True)) for row, stand in zip(known.tokens, places, strict=True)]

    def _encode(self, tokens: Sequence[int], turned: Sequence[int]) -> list[Any]:
        """Rows of tokens, of which the keys have been turned on."""
        k, *others = encode(self.schema, tokens)
        return [(k * np.ldexp(1.0, np.array(turned, int))[:, None]).astype(k.dtype), *others]

    def _check_blocks(self, blocks: Sequence[Any], row: Line) -> None:
        starts = [n for n in range(0, len(row), BLOCK) if any(t is not None for t, _ in row[n : n + BLOCK])]
        must([block.start for block in blocks] == starts, f"blocks must start at {starts}")
        for block in blocks:
            part = row[block.start : block.start + BLOCK]
            held = np.array([t is not None for t, _ in part] + [False] * (BLOCK - len(part)))
            must(np.array_equal(held, np.ones(BLOCK, bool) if block.held is None else block.held), "held is wrong")
            at = np.array([place.position for _, place in part] + [0] * (BLOCK - len(part)))
            at[~held] = at[held][0]
            must(np.array_equal(block.positions, at), f"positions of the block at {block.start} are wrong")
            rows = self._encode([t or 0 for t, _ in part], [place.turned for _, place in part])
            for field, got, wanted in zip(self.schema.fields, block.arrays, rows, strict=True):
                full = np.zeros((field.heads, BLOCK, field.width), field.dtype)
                full[:, : len(part)] = wanted
                full[:, ~held] = 0.0
                flat = got.swapaxes(1, 2) if field.keys else got
                must(np.array_equal(flat, full), f"{field.name} of the block at {block.start} is wrong")
                must(got.flags.c_contiguous and not got.flags.writeable, f"{field.name} must be contiguous, read-only")

    def _bear(self, parent: Known, cache: Any, lines: Iterable[Line], behind: Iterable[Sequence[int]]) -> Known:
        lines = list(lines)
        child = Known(cache, tuple(tuple(t for t, _ in line) for line in lines), parent.page)
        if parent.places is not None:
            places = tuple(tuple(place for _, place in line) for line in lines)
            child = child._replace(places=places, behind=tuple(map(tuple, behind)))
        self.check(child)
        self.check(parent)
        self.born.append(child)
        return child

    def _rows(self, batch: int, count: int) -> tuple[KeyValue, list[Tokens]]:
        tokens: list[Tokens] = []
        parts = []
        for _ in range(batch):
            fresh = range(self.next_token, self.next_token + count)
            self.next_token += count
            tokens.append(tuple(fresh))
            parts.append(encode(self.schema, fresh))
        return KeyValue(*(np.stack(field) for field in zip(*parts, strict=True))), tokens

    @initialize(target=values, schema=SCHEMAS, data=st.data())
    def begin(self, schema: Schema[Any], data: st.DataObject) -> Any:
        """Start with nothing, with whole and broken pages, and with sequences of several lengths."""
        self.schema = schema
        begun = []
        for filled in (False, True, True):
            batch = data.draw(st.integers(2 if filled else 1, 3), label="batch")
            page = data.draw(st.sampled_from(tuple(self.pages)), label="page")
            known = self.check(Known(self.start_cache(schema, batch, page), ((),) * batch, page))
            if filled:
                known = self._appended(known, data.draw(st.sampled_from(self._counts(page, 2 * page)), label="tokens"))
            begun.append(known)
        begun[2] = self._truncated(
            begun[2], [data.draw(st.integers(0, len(t)), label="length") for t in begun[2].tokens]
        )
        if hasattr(begun[0].cache, "evict"):
            batch, page = data.draw(st.integers(1, 3), label="batch"), data.draw(st.sampled_from(tuple(self.pages)))
            cache = self.start_cache(placed(schema), batch, page)
            empty = self.check(Known(cache, ((),) * batch, page, ((),) * batch, ((0,),) * batch))
            begun += [empty, self._appended(empty, data.draw(st.sampled_from(self._counts(page, 2 * page))), data)]
        return multiple(*begun, self._released(begun[1], data))

    def _counts(self, page: int, room: int) -> list[int]:
        counts = {0, 1, page - 1, page, page + 1, room, 2 * page + 3}
        return sorted((n for n in counts if n <= 2 * BLOCK), reverse=True)

    @rule(target=values, known=values, data=st.data())
    def append(self, known: Known, data: st.DataObject) -> Known:
        """Add none, one, about a page, or as much as ends at a page's border."""
        counts = self._counts(known.page, -len(known.tokens[0]) % known.page)
        return self._appended(known, data.draw(st.sampled_from(counts), label="tokens"), data)

    @rule(target=values, known=values, data=st.data())
    def append_ragged(self, known: Known, data: st.DataObject) -> Known:
        """Add a number of tokens of its own to every sequence, with padding behind them that holds NaN."""
        if not hasattr(known.cache, "coming"):
            return known
        count = st.sampled_from(self._counts(known.page, -len(known.tokens[0]) % known.page))
        counts = [data.draw(count, label="count") for _ in known.tokens]
        return self._appended(known, max(counts) + data.draw(st.integers(0, 2), label="padding"), data, counts)

    def _appended(
        self, known: Known, count: int, data: st.DataObject | None = None, counts: Sequence[int] | None = None
    ) -> Known:
        rows, tokens = self._rows(len(known.tokens), count)
        more: dict[str, Any] = {}
        if counts is not None:
            more["counts"] = counts
            tokens = [new[:n] for new, n in zip(tokens, counts, strict=True)]
            for array in rows:
                for b, n in enumerate(counts):
                    array[b, :, n:] = np.nan
        behind = self._behind(known)
        at = np.array([ends[-1] for ends in behind])[:, None] + np.arange(count)
        if data is not None and hasattr(known.cache, "coming") and data.draw(st.booleans(), label="say positions"):
            if known.places is not None:
                gaps = [data.draw(st.integers(0, 3), label="gap") for _ in range(min(count, 3))]
                at = at + np.cumsum([*gaps, *[0] * (count - len(gaps))], dtype=int)
            for b, n in enumerate(counts or ()):
                at[b, n:] = -1  # where nothing is real, nothing is read
            more["positions"] = at
        cache = known.cache.append(rows, **more)
        for array in rows:
            array[...] = -1.0  # the caller's memory is the caller's
        if hasattr(cache, "pages"):
            most = sum(1 + -(-(len(t) + count) // known.page) - -(-len(t) // known.page) for t in known.tokens)
            fresh = len(self._serials(cache) - self._serials(known.cache))
            must(fresh <= most, f"append may copy one page per sequence, but {fresh} pages are new")
        lines, later = [], []
        for old, new, places, ends in zip(self._lines(known), tokens, at.tolist(), behind, strict=True):
            lines.append([*old, *((t, Place(place)) for t, place in zip(new, places, strict=False))])
            later.append([*ends, *(place + 1 for place in places[: len(new)])])
        return self._bear(known, cache, lines, later)

    @rule(known=values, excess=st.integers(1, 300))
    def refusals(self, known: Known, excess: int) -> None:
        """Wrong rows, lengths and indices are refused, and nothing is written; any earlier value still holds."""
        k, v = self._rows(len(known.tokens), 2)[0]
        other = np.float32 if v.dtype == np.float64 else np.float64
        rows: dict[str, tuple[Any, ...]] = {
            "rank": (k, v[0]),
            "number of heads": (k, np.concatenate([v, v], 1)),
            "width": (np.concatenate([k, k], 3), v),
            "number of tokens": (k, v[:, :, 1:]),
            "batch": (np.concatenate([k, k]), np.concatenate([v, v])),
            "dtype, object": (k, v.astype(object)),
            "dtype, int": (k.astype(np.int64), v),
            "dtype, the other float": (k, v.astype(other)),
            "number of fields": (k,),
        }
        for fault, wrong in rows.items():
            refused(lambda wrong=wrong: known.cache.append(wrong), f"append with a wrong {fault}")  # type: ignore[misc]
        for length in (-1, -excess, max(len(t) for t in known.tokens) + excess, True, 0.0):
            refused(lambda length=length: known.cache.truncate(length), f"truncate({length!r})")  # type: ignore[misc]
        for indices in ([], [-1], [0, len(known.tokens)], [True], [[0]]):
            refused(lambda indices=indices: known.cache.select(indices), f"select({indices})")  # type: ignore[misc]
        for words, action in self._wrong(known, KeyValue(k, v), excess):
            refused(action, words)
        self.check(known)

    def _wrong(self, known: Known, rows: KeyValue, excess: int) -> Iterable[tuple[str, Callable[[], object]]]:
        """What a cache that has the verbs must refuse."""
        cache, batch, longest = known.cache, len(known.tokens), max(len(t) for t in known.tokens)
        if hasattr(cache, "coming"):
            at = cache.coming(2)
            yield "append at positions of another shape", lambda: cache.append(rows, at[:, :1])
            yield "append at positions that are no integers", lambda: cache.append(rows, at + 0.5)
            yield "append below position 0", lambda: cache.append(rows, at * 0 - excess)
            for counts in ([1] * (batch + 1), [3] * batch, [-excess] * batch, [1.0] * batch, 1):
                yield f"append of {counts} of 2", partial(cache.append, rows, counts=counts)
            if known.places is None:
                yield "append at positions beside the slots", lambda: cache.append(rows, at + excess)
        if hasattr(cache, "repeat"):
            for n in (0, -excess, True, 1.0):
                yield f"repeat({n!r})", partial(cache.repeat, n)
        if hasattr(cache, "merge"):
            other = self.start_cache(self.schema if known.places is not None else placed(self.schema), 1, known.page)
            strange = self.start_cache(key_value(4, 4), 1, known.page)
            longer = self.start_cache(self.schema, 1, known.page + excess)
            for foreign in (other, strange, longer, None, known):
                yield "merge with a foreign cache", partial(cache.merge, foreign)
        if hasattr(cache, "split"):
            for sizes in ([], [batch, 1], [0, batch], [-1, batch + 1], [batch + excess]):
                yield f"split({sizes})", partial(cache.split, sizes)
        if hasattr(cache, "commit"):
            yield "commit behind the end", lambda: cache.commit(longest + excess, [])
            paths: list[Any] = [[longest], [-1], [True], [0.0], 0, [[]] * (batch + 1)]
            for path in paths:
                yield f"commit of {path}", partial(cache.commit, 0, path)
            if longest > 1:
                yield "commit of a path that goes back", lambda: cache.commit(0, [1, 0])
                yield "commit of a node twice", lambda: cache.commit(0, [0, 0])
        if hasattr(cache, "evict"):
            keeps: list[Any] = [
                [[longest]] * batch,
                [[-1]] * batch,
                [[]] * (batch + 1),
                [[True] * (longest + 1)] * batch,
            ]
            for keep in [*keeps, 0]:
                yield f"evict but {keep}", partial(cache.evict, keep)
            ends = cache.ends
            yield "shift below 0", lambda: cache.shift(-max(ends) - excess)
            yield "shift behind the end", lambda: cache.shift(1, start=longest + excess)
            yield "shift by a fraction", lambda: cache.shift(0.5)
            yield "shift of another batch", lambda: cache.shift([1] * (batch + 1))
            yield "a turn of no field", lambda: cache.shift(1, Doubling(), field="q")
            if known.places is None:
                yield "evict without places", lambda: cache.evict([[]] * batch)
                yield "shift without places", lambda: cache.shift(1)

    @rule(target=values, known=values, data=st.data())
    def truncate(self, known: Known, data: st.DataObject) -> Known:
        """Go back to nothing, by one, to a page's border, beside it, or by nothing."""
        shortest, page = min(len(t) for t in known.tokens), known.page
        border = shortest // page * page
        stops = {0, 1, border - 1, border, border + 1, shortest - 1, shortest}
        legal = sorted((n for n in stops if 0 <= n <= shortest), reverse=True)
        return self._truncated(known, data.draw(st.sampled_from(legal), label="length"))

    @rule(target=values, known=values, data=st.data())
    def truncate_each(self, known: Known, data: st.DataObject) -> Known:
        """Go back to a length of its own in every sequence."""
        return self._truncated(known, [data.draw(st.integers(0, len(t)), label="length") for t in known.tokens])

    def _truncated(self, known: Known, length: int | list[int]) -> Known:
        each = length if isinstance(length, list) else [length] * len(known.tokens)
        lines = [line[:n] for line, n in zip(self._lines(known), each, strict=True)]
        lost = [bool(n) and line[-1][0] is None for n, line in zip(each, lines, strict=True)]
        if any(gone and n % known.page for gone, n in zip(lost, each, strict=True)):
            refused(lambda: known.cache.truncate(length), "truncating into a released page")
            return known
        try:
            cache = known.cache.truncate(length)
        except ValueError:
            must(known.places is not None and any(lost), f"truncate({length}) must be done")
            return known  # the position of the token there went with its page
        self._shares(known, cache, "truncate")
        behind = [ends[: n + 1] for n, ends in zip(each, self._behind(known), strict=True)]
        return self._bear(known, cache, lines, behind)

    @rule(target=values, known=values)
    def branch(self, known: Known) -> Known:
        """A second name for the same value."""
        cache = known.cache.branch() if hasattr(known.cache, "branch") else known.cache
        self._shares(known, cache, "branch")
        return self._bear(known, cache, self._lines(known), self._behind(known))

    @rule(target=values, known=values, data=st.data())
    def select(self, known: Known, data: st.DataObject) -> Known:
        """Reorder, repeat and drop sequences."""
        indices = data.draw(st.lists(st.integers(0, len(known.tokens) - 1), min_size=1, max_size=4), label="indices")
        cache = known.cache.select(indices)
        self._shares(known, cache, "select")
        return self._chosen(known, cache, indices)

    def _chosen(self, known: Known, cache: Any, indices: Sequence[int]) -> Known:
        lines, behind = self._lines(known), self._behind(known)
        return self._bear(known, cache, [lines[i] for i in indices], [behind[i] for i in indices])

    @rule(target=values, known=values, n=st.integers(1, 3))
    def repeat(self, known: Known, n: int) -> Known:
        """Every sequence several times."""
        batch = len(known.tokens)
        if not hasattr(known.cache, "repeat") or batch * n > _MOST:
            return known
        cache = known.cache.repeat(n)
        self._shares(known, cache, "repeat")
        return self._chosen(known, cache, [b for b in range(batch) for _ in range(n)])

    @rule(target=values, known=values, others=st.lists(values, min_size=1, max_size=2))
    def merge(self, known: Known, others: list[Known]) -> Known:
        """Join the batches of caches of one kind; of several kinds they do not join."""
        parts = [known, *others]
        if not hasattr(known.cache, "merge") or sum(len(part.tokens) for part in parts) > _MOST:
            return known
        if any(part.page != known.page or (part.places is None) != (known.places is None) for part in others):
            refused(lambda: known.cache.merge(*(part.cache for part in others)), "merge of caches of several kinds")
            return known
        cache = known.cache.merge(*(part.cache for part in others))
        fresh = self._serials(cache).difference(*(self._serials(part.cache) for part in parts))
        must(not fresh, f"merge must copy nothing, but made {len(fresh)} pages")
        lines = [line for part in parts for line in self._lines(part)]
        return self._bear(known, cache, lines, [ends for part in parts for ends in self._behind(part)])

    @rule(target=values, known=values, data=st.data())
    def split(self, known: Known, data: st.DataObject) -> Any:
        """Cut the batch into parts."""
        batch = len(known.tokens)
        if not hasattr(known.cache, "split"):
            return known
        first = data.draw(st.integers(1, batch), label="first")
        sizes = [first] if first == batch else [first, batch - first]
        caches = known.cache.split(sizes)
        must(len(caches) == len(sizes), f"split into {sizes} must give {len(sizes)} caches, got {len(caches)}")
        parts = [range(first), range(first, batch)][: len(sizes)]
        for cache in caches:
            self._shares(known, cache, "split")
        return multiple(*(self._chosen(known, cache, part) for cache, part in zip(caches, parts, strict=True)))

    @rule(target=values, known=values, data=st.data())
    def commit(self, known: Known, data: st.DataObject) -> Any:
        """Append a tree, keep one path of it, and find what appending that path alone leaves.

        Where the token in front of it was released, and tokens keep their positions, nothing says where to go on.
        """
        if not hasattr(known.cache, "commit"):
            return known
        page, batch = known.page, len(known.tokens)
        nodes = data.draw(st.sampled_from(sorted({0, 1, 2, 5, page - 1, page, page + 1} - {-1})), label="nodes")
        nodes = min(nodes, 2 * BLOCK)
        path = sorted(
            data.draw(st.sets(st.integers(0, nodes - 1), max_size=4) if nodes else st.just(set()), label="path")
        )
        paths = [path] * batch
        if data.draw(st.booleans(), label="a path each"):
            paths = [path[: data.draw(st.integers(0, len(path)), label="accepted")] for _ in range(batch)]
        rows, tokens = self._rows(batch, nodes)
        behind = self._behind(known)
        depths = [sum(other < node for other in path) for node in range(nodes)]
        at = np.array([[ends[-1] + depth for depth in depths] for ends in behind], np.int64).reshape(batch, nodes)
        tree = known.cache.append(rows, at) if known.places is not None else known.cache.append(rows)
        lines = []
        later = []
        for line, new, places, ends, accepted in zip(
            self._lines(known), tokens, at.tolist(), behind, paths, strict=True
        ):
            lines.append([*line, *((new[node], Place(places[node])) for node in accepted)])
            later.append([*ends, *(places[node] + 1 for node in accepted)])
        each = zip(known.tokens, paths, strict=True)
        cut = any(row[-1:] == (None,) and accepted[:1] != [0] for row, accepted in each)
        try:
            cache = tree.commit([len(t) for t in known.tokens], path if paths == [path] * batch else paths)
        except RollbackError as error:
            must(cut and known.places is not None, f"commit of {paths} must be done, but: {error}")
            return known
        return self._bear(known, cache, lines, later)

    @rule(target=values, known=values, data=st.data())
    def evict(self, known: Known, data: st.DataObject) -> Known:
        """Forget tokens here and there: all, none, about a page, one in the middle, all but a few."""
        if known.places is None or not hasattr(known.cache, "evict"):
            return known
        keep = [self._keep(line, known.page, data) for line in self._lines(known)]
        as_truth = data.draw(st.booleans(), label="truth values")
        cache = known.cache.evict(
            [[slot in chosen for slot in range(len(t))] for chosen, t in zip(keep, known.tokens, strict=True)]
            if as_truth
            else keep
        )
        lines, later = [], []
        for b, (line, ends, chosen) in enumerate(zip(self._lines(known), self._behind(known), keep, strict=True)):
            lines.append([line[slot] for slot in chosen])
            later.append(self._content(lines[-1], ends[-1]))
            same = next((n for n, slot in enumerate(chosen) if n != slot), len(chosen)) // known.page
            kept = known.cache.pages(b)[:same]
            must(cache.pages(b)[:same] == kept, f"pages before the first change must be shared, {kept}")
        return self._bear(known, cache, lines, later)

    def _keep(self, line: Line, page: int, data: st.DataObject) -> list[int]:
        held = [slot for slot, (t, _) in enumerate(line) if t is not None]
        count = data.draw(st.sampled_from(sorted({0, 1, 2, page - 1, page, page + 1, len(held)})), label="forgotten")
        start = data.draw(st.sampled_from(sorted({0, 1, page - 1, page, max(0, len(held) - count)})), label="from")
        gone = set(held[start : start + max(count, 0)])
        gone |= set(held[1::2]) if data.draw(st.integers(0, 5), label="every other") == 5 else set()
        return [slot for slot in held if slot not in gone]

    def _content(self, line: Line, end: int) -> list[int]:
        """The next position at every length, where tokens say it, and ``end`` at the whole."""
        return [*[0, *(place.position + 1 for _, place in line)][: len(line)], end]

    @rule(target=values, known=values, data=st.data())
    def shift(self, known: Known, data: st.DataObject) -> Known:
        """Move positions on and back, of all tokens or from a slot on, and turn keys with them or not."""
        if known.places is None or not hasattr(known.cache, "shift"):
            return known
        page, lines, behind = known.page, self._lines(known), self._behind(known)
        by = data.draw(st.sampled_from(sorted({0, 1, 2, 3, page - 1, page, page + 1})), label="by")
        by = -by if data.draw(st.booleans(), label="back") else by
        shortest = min(len(line) for line in lines)
        starts = {n for n in (0, 1, page - 1, page, page + 1, shortest) if n <= shortest}
        start = data.draw(st.sampled_from(sorted(starts)), label="start")
        turned = [place.turned + by for line in lines for t, place in line[start:] if t is not None]
        turn = Doubling() if data.draw(st.booleans(), label="turn") and all(abs(n) < 60 for n in turned) else None
        lowest = min(
            [place.position for line in lines for t, place in line[start:] if t is not None]
            + [ends[-1] for ends in behind]
        )
        if lowest + by < 0:
            refused(lambda: known.cache.shift(by, turn, start=start), f"shift of position {lowest} by {by}")
            return known
        cache = known.cache.shift(by, turn, start=start)
        moved = [
            [
                (t, Place(place.position + by, place.turned + by * (turn is not None)) if slot >= start else place)
                for slot, (t, place) in enumerate(line)
            ]
            for line in lines
        ]
        later = [self._content(line, ends[-1] + by) for line, ends in zip(moved, behind, strict=True)]
        return self._bear(known, cache, moved, later)

    @rule(target=values, known=values, data=st.data())
    def release(self, known: Known, data: st.DataObject) -> Known:
        """Forget whole pages in the middle."""
        return self._released(known, data)

    def _released(self, known: Known, data: st.DataObject) -> Known:
        if not hasattr(known.cache, "release"):
            return known
        shortest = min(len(t) for t in known.tokens)
        edges = {0, 1, known.page - 1, known.page, known.page + 1, shortest // known.page * known.page, shortest}
        edge = st.sampled_from(sorted((n for n in edges if 0 <= n <= shortest), key=lambda n: (n % known.page == 0, n)))
        start, stop = sorted((data.draw(edge, label="start"), data.draw(edge, label="stop")))
        first, last = -(-start // known.page) * known.page, stop // known.page * known.page
        lines = [
            [(None if first <= slot < last else t, place) for slot, (t, place) in enumerate(line)]
            for line in self._lines(known)
        ]
        cache = known.cache.release(start, stop)
        self._shares(known, cache, "release")
        return self._bear(known, cache, lines, self._behind(known))

    def _serials(self, cache: Any) -> set[int]:
        return {serial for b in range(len(cache.lengths)) for serial in cache.pages(b) if serial is not None}

    def _shares(self, known: Known, cache: Any, verb: str) -> None:
        if hasattr(cache, "pages"):
            fresh = self._serials(cache) - self._serials(known.cache)
            must(not fresh, f"{verb} must copy nothing, but made {len(fresh)} pages")

    def teardown(self) -> None:
        """Read every value once more."""
        for known in self.born:
            self.check(known)
