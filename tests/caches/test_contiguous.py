"""One growing buffer: the same rows as a list, whoever extends what, at an amortised cost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
import numpy as np
import pytest

from kvattn.caches import Contiguous, Paged, Schema, key_value, latent, live_bytes, placed
from kvattn.caches.pages import Page
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, PositionError, ShapeError
from kvattn.testing.machines import PagedMachine
from kvattn.typing import Array
from tests.caches.numbered import SCHEMA, rows


class ContiguousMachine(PagedMachine):
    """Every verb from any earlier value, beside plain lists of tokens; pages are the room at first."""

    cache: Any = Contiguous

    def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Any:
        return self.cache.start(schema, batch, page)


TestContiguous = ContiguousMachine.TestCase


class DoublingLosesTheLastRow(Contiguous[Any]):
    """The copy into the larger buffer stops one row early."""

    def _extended(self, buffer: Page | None, length: int, rows: Sequence[Array]) -> tuple[Page, int]:
        stop = length + rows[0].shape[1]
        if buffer is None or stop <= buffer.size:
            return super()._extended(buffer, length, rows)
        twin = Page(self.schema, 2 * stop)
        twin.claim(0, stop)
        twin.write(0, [x[:, :-1] for x in buffer.read(0, length)])
        twin.write(length, rows)
        return twin, length


class WritesOverOlderValues(Contiguous[Any]):
    """A buffer that somebody else has extended is written over."""

    def _extended(self, buffer: Page | None, length: int, rows: Sequence[Array]) -> tuple[Page, int]:
        if buffer is not None:
            buffer.filled = min(buffer.filled, length)
        return super()._extended(buffer, length, rows)


class WritesBehindTheWrongEnd(Contiguous[Any]):
    """New rows go behind the buffer's end, not this value's."""

    def _extended(self, buffer: Page | None, length: int, rows: Sequence[Array]) -> tuple[Page, int]:
        stop = length + rows[0].shape[1]
        if buffer is not None and buffer.filled > length and buffer.filled + rows[0].shape[1] <= buffer.size:
            at = buffer.filled
            buffer.claim(at, at + stop - length)
            buffer.write(at, rows)
            return buffer, 0
        return super()._extended(buffer, length, rows)


class ForgetsOneTooFew(Contiguous[Any]):
    """Every sequence but the first keeps a token, whatever was asked."""

    def truncate(self, length: Any) -> Contiguous[Any]:
        cut = super().truncate(length)
        return replace(
            cut, lengths=tuple(max(1, n) if b else n for n, b in zip(cut.lengths, self.lengths, strict=True))
        )


@pytest.mark.parametrize(
    "wrong",
    [DoublingLosesTheLastRow, WritesOverOlderValues, WritesBehindTheWrongEnd, ForgetsOneTooFew],
    ids=lambda wrong: wrong.__name__,
)
def test_a_wrong_one_is_rejected(wrong: type[Contiguous[Any]]) -> None:
    class Machine(ContiguousMachine):
        cache = wrong
        pages = (1, 2, 3)

    with pytest.raises((AssertionError, KvattnError, ExceptionGroup, IndexError)):
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=200, phases=[Phase.generate], report_multiple_bugs=False)
        )


def grown(cls: type[Contiguous[Any]], room: int, steps: Sequence[int]) -> None:
    """Append in steps and compare counts with the closed form, and sums with the amortised bound."""
    cache, written, copied = cls.start(SCHEMA, 1, room), 0, 0
    for step in steps:
        with counting() as tally:
            longer = cache.append(rows([list(range(step))]))
        assert tally.tally == cache.append_cost(past=cache.length, new=step), f"at {cache.length} + {step}"
        written, copied = written + tally.kv_written, copied + tally.kv_copied
        cache = longer
        (capacity,) = cache.capacities
        assert cache.length <= capacity
        assert capacity in {0, room} or cache.length > capacity // 2
    assert copied < 2 * written or not written
    assert cache.nbytes == cache.capacities[0] * SCHEMA.nbytes
    assert cache.padded == (cache.capacities[0] - cache.length) * SCHEMA.nbytes


@pytest.mark.law(
    "caches/contiguous", "closed form equals count, and fewer rows are copied than twice those appended", "integers"
)
@given(room=st.integers(1, 9), steps=st.lists(st.sampled_from([0, 1, 2, 3, 8, 9, 17]), max_size=20))
def test_its_cost_is_amortised_and_counted(room: int, steps: list[int]) -> None:
    grown(Contiguous, room, steps)


def test_growing_by_just_what_is_needed_is_rejected() -> None:
    class GrowsByOne(Contiguous[Any]):
        def _extended(self, buffer: Page | None, length: int, rows: Sequence[Array]) -> tuple[Page, int]:
            stop = length + rows[0].shape[1]
            if buffer is None or stop <= buffer.size:
                return super()._extended(buffer, length, rows)
            twin = Page(self.schema, stop)
            twin.claim(0, stop)
            twin.write(0, buffer.read(0, length))
            twin.write(length, rows)
            return twin, length

    with pytest.raises(AssertionError):
        grown(GrowsByOne, 1, [1] * 10)


@pytest.mark.by_hand("caches/contiguous")
def test_it_holds_what_a_list_holds() -> None:
    cache, tokens = Contiguous.start(SCHEMA, room=3), []
    capacities: list[int] = []
    for token in range(14):
        tokens.append(token)
        cache = cache.append(rows([[token]]))
        capacities += cache.capacities
        assert cache.rows().v[0, 0, :, 0].tolist() == [-0.25 - t for t in tokens]
    assert capacities == [3, 3, 3, 6, 6, 6, 12, 12, 12, 12, 12, 12, 24, 24]


@pytest.mark.law("caches/contiguous", "blocks are those of pages", "bits")
@given(
    steps=st.lists(st.sampled_from([0, 1, 255, 256, 257, 300]), min_size=1, max_size=4),
    room=st.sampled_from([1, 3, 64, 256, 300]),
)
def test_blocks_are_those_of_pages(steps: list[int], room: int) -> None:
    one: Any = Contiguous.start(SCHEMA, 2, room)
    two: Any = Paged.start(SCHEMA, 2)
    for step in steps:
        new = rows([list(range(step)), list(range(1000, 1000 + step))])
        one, two = one.append(new, counts=[step, step // 2]), two.append(new, counts=[step, step // 2])
        for b in range(2):
            for x, y in zip(one.blocks(b), two.blocks(b), strict=True):
                assert (x.start, x.key_count) == (y.start, y.key_count)
                assert all(np.array_equal(p, q) for p, q in ((x.k, y.k), (x.v, y.v), (x.positions, y.positions)))
                assert x.k.flags.c_contiguous
                assert not x.k.flags.writeable


@pytest.mark.law(
    "caches/contiguous", "branch, truncate and select copy nothing; extending twice copies the buffer once", "integers"
)
def test_what_is_copied() -> None:
    with counting() as tally:
        cache = Contiguous.start(SCHEMA, room=8).append(rows([[1, 2, 3, 4, 5]]))
        pair = cache.branch().truncate(3).select([0, 0])
        assert tally.kv_copied == 0
        assert live_bytes(cache, pair) == 8 * SCHEMA.nbytes
        one, two = cache.append(rows([[6]])), cache.append(rows([[7]]))
    assert tally.kv_copied == 5 * SCHEMA.nbytes
    assert live_bytes(cache, one, two) == tally.cache_live == 16 * SCHEMA.nbytes
    assert one.rows().v[0, 0, -1, 0] == -6.25
    assert two.rows().v[0, 0, -1, 0] == -7.25
    assert pair.padded == 5 * SCHEMA.nbytes


def test_bad_arguments_are_refused() -> None:
    cache = Contiguous.start(SCHEMA, room=2).append(rows([[1, 2, 3]]))
    with pytest.raises(ArgumentError, match="room must be an integer >= 1, got 0"):
        Contiguous.start(SCHEMA, room=0)
    with pytest.raises(ArgumentError, match="schema must not be placed, since slots are positions here"):
        Contiguous.start(placed(SCHEMA))
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 3, got 4"):
        cache.truncate(4)
    with pytest.raises(DtypeError, match="k must have dtype float64"):
        cache.append([x.astype(np.float32) for x in rows([[4]])])
    with pytest.raises(ShapeError, match="v must have shape"):
        cache.append([rows([[4]]).k, rows([[4, 5]]).v])
    with pytest.raises(ArgumentError, match=r"counts\[0\] must be an integer in 0 \.\. 1, got 2"):
        cache.append(rows([[4]]), counts=[2])
    with pytest.raises(ArgumentError, match="length must be the same for all sequences"):
        cache.select([0, 0]).truncate([1, 2]).rows()
    with pytest.raises(ArgumentError, match="schema must have keys k and values v"):
        Contiguous.start(latent(2)).append([np.ones((1, 1, 1, 2))]).blocks(0)
    assert Contiguous.start(key_value(1, 2)).blocks(0) == ()
    assert cache.lengths == (3,)
    with pytest.raises(PositionError, match=r"positions of sequence 0 must be 3 \.\. 3"):
        cache.append(rows([[4]]), positions=np.array([[4]]))
    assert cache.append(rows([[4]]), positions=cache.coming(1)).ends == (4,)
