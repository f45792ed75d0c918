"""A machine for caches that are values: any earlier value may be used again, and each is read at birth."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
import numpy as np

from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, Schema, key_value
from kvattn.testing.machines.tokens import SCHEMAS, Known, Tokens, encode, must, refused


class PagedMachine(RuleBasedStateMachine):
    """Append, truncate, branch, select and release, from any earlier value.

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
        cache, tokens, page = known
        lengths = tuple(len(t) for t in tokens)
        must(tuple(cache.lengths) == lengths, f"lengths must be {lengths}, got {tuple(cache.lengths)}")
        for b, row in enumerate(tokens):
            if None in row:
                refused(lambda b=b: cache.rows(sequence=b), "reading a released row")  # type: ignore[misc]
            else:
                held = [t for t in row if t is not None]
                for name, got, wanted in zip(
                    ("k", "v"), cache.rows(sequence=b), encode(self.schema, held), strict=True
                ):
                    must(got.dtype == wanted.dtype, f"{name} must have dtype {wanted.dtype}, got {got.dtype}")
                    must(
                        np.array_equal(got[0], wanted), f"{name} of sequence {b} must hold tokens {held}, got {got[0]}"
                    )
                    must(not got.flags.writeable, f"{name} must be read-only")
            if hasattr(cache, "raw_blocks"):
                self._check_blocks(cache.raw_blocks(b), row)
            if hasattr(cache, "pages"):
                serials = cache.pages(b)
                must(len(serials) == -(-len(row) // page), f"{len(row)} tokens must take whole pages, got {serials}")
        if hasattr(cache, "pages") and hasattr(cache, "nbytes"):
            unique = {serial for b in range(len(tokens)) for serial in cache.pages(b)} - {None}
            wanted_bytes = len(unique) * page * self.schema.nbytes
            must(cache.nbytes == wanted_bytes, f"nbytes must count each page once, {wanted_bytes}, got {cache.nbytes}")
        return known

    def _check_blocks(self, blocks: Sequence[Any], row: Tokens) -> None:
        starts = [n for n in range(0, len(row), BLOCK) if any(t is not None for t in row[n : n + BLOCK])]
        must([block.start for block in blocks] == starts, f"blocks must start at {starts}")
        for block in blocks:
            part = row[block.start : block.start + BLOCK]
            held = np.array([t is not None for t in part] + [False] * (BLOCK - len(part)))
            must(np.array_equal(held, np.ones(BLOCK, bool) if block.held is None else block.held), "held is wrong")
            must(np.array_equal(block.positions[held], block.start + held.nonzero()[0]), "positions are wrong")
            rows = encode(self.schema, [t or 0 for t in part])
            for field, got, wanted in zip(self.schema.fields, block.arrays, rows, strict=True):
                full = np.zeros((field.heads, BLOCK, field.width), field.dtype)
                full[:, : len(part)] = wanted
                full[:, ~held] = 0.0
                flat = got.swapaxes(1, 2) if field.keys else got
                must(np.array_equal(flat, full), f"{field.name} of the block at {block.start} is wrong")
                must(got.flags.c_contiguous and not got.flags.writeable, f"{field.name} must be contiguous, read-only")

    def _bear(self, parent: Known, cache: Any, tokens: Sequence[Tokens]) -> Known:
        child = self.check(Known(cache, tuple(tokens), parent.page))
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
        lengths = [data.draw(st.integers(0, len(t)), label="length") for t in begun[2].tokens]
        begun[2] = self._truncated(begun[2], lengths, [t[:n] for t, n in zip(begun[2].tokens, lengths, strict=True)])
        return multiple(*begun, self._released(begun[1], data))

    def _counts(self, page: int, room: int) -> list[int]:
        counts = {0, 1, page - 1, page, page + 1, room, 2 * page + 3}
        return sorted((n for n in counts if n <= 2 * BLOCK), reverse=True)

    @rule(target=values, known=values, data=st.data())
    def append(self, known: Known, data: st.DataObject) -> Known:
        """Add none, one, about a page, or as much as ends at a page's border."""
        counts = self._counts(known.page, -len(known.tokens[0]) % known.page)
        return self._appended(known, data.draw(st.sampled_from(counts), label="tokens"))

    def _appended(self, known: Known, count: int) -> Known:
        rows, tokens = self._rows(len(known.tokens), count)
        cache = known.cache.append(rows)
        for array in rows:
            array[...] = -1.0  # the caller's memory is the caller's
        if hasattr(cache, "pages"):
            most = sum(1 + -(-(len(t) + count) // known.page) - -(-len(t) // known.page) for t in known.tokens)
            fresh = len(self._serials(cache) - self._serials(known.cache))
            must(fresh <= most, f"append may copy one page per sequence, but {fresh} pages are new")
        return self._bear(known, cache, [old + new for old, new in zip(known.tokens, tokens, strict=True)])

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
        self.check(known)

    @rule(target=values, known=values, data=st.data())
    def truncate(self, known: Known, data: st.DataObject) -> Known:
        """Go back to nothing, by one, to a page's border, beside it, or by nothing."""
        shortest, page = min(len(t) for t in known.tokens), known.page
        border = shortest // page * page
        stops = {0, 1, border - 1, border, border + 1, shortest - 1, shortest}
        legal = sorted((n for n in stops if 0 <= n <= shortest), reverse=True)
        length = data.draw(st.sampled_from(legal), label="length")
        tokens = [t[:length] for t in known.tokens]
        return self._truncated(known, length, tokens)

    @rule(target=values, known=values, data=st.data())
    def truncate_each(self, known: Known, data: st.DataObject) -> Known:
        """Go back to a length of its own in every sequence."""
        lengths = [data.draw(st.integers(0, len(t)), label="length") for t in known.tokens]
        return self._truncated(known, lengths, [t[:n] for t, n in zip(known.tokens, lengths, strict=True)])

    def _truncated(self, known: Known, length: int | list[int], tokens: list[Tokens]) -> Known:
        if any(len(t) % known.page and t[-1] is None for t in tokens):
            refused(lambda: known.cache.truncate(length), "truncating into a released page")
            return self._bear(known, known.cache, known.tokens)
        cache = known.cache.truncate(length)
        self._shares(known, cache, "truncate")
        return self._bear(known, cache, tokens)

    @rule(target=values, known=values)
    def branch(self, known: Known) -> Known:
        """A second name for the same value."""
        cache = known.cache.branch() if hasattr(known.cache, "branch") else known.cache
        self._shares(known, cache, "branch")
        return self._bear(known, cache, known.tokens)

    @rule(target=values, known=values, data=st.data())
    def select(self, known: Known, data: st.DataObject) -> Known:
        """Reorder, repeat and drop sequences."""
        indices = data.draw(st.lists(st.integers(0, len(known.tokens) - 1), min_size=1, max_size=4), label="indices")
        cache = known.cache.select(indices)
        self._shares(known, cache, "select")
        return self._bear(known, cache, [known.tokens[i] for i in indices])

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
        tokens = [tuple(None if first <= slot < last else t for slot, t in enumerate(row)) for row in known.tokens]
        cache = known.cache.release(start, stop)
        self._shares(known, cache, "release")
        return self._bear(known, cache, tokens)

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
