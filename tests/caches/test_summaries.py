"""Summaries: always those of the rows held, to the bit, whatever was done before."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
import numpy as np
import pytest

from kvattn.caches import Field, Schema, Summaries, key_value, latent, live_bytes
from kvattn.caches.rows import Latent
from kvattn.caches.snapshots import State
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, PositionError, ShapeError
from kvattn.testing.machines import Known, PagedMachine, encode
from kvattn.typing import Array
from tests.caches.numbered import SCHEMA, rows


def by_hand(keys: Array, size: int) -> list[list[list[list[float]]]]:
    """Least, greatest and mean of each block, ``[3][heads][blocks][width]``, in loops over Python floats."""
    found: list[list[list[list[float]]]] = [[], [], []]
    for head in keys.tolist():
        low, high, mean = [], [], []
        for start in range(0, len(head), size):
            block = head[start : start + size]
            columns = list(zip(*block, strict=True))
            low.append([min(c) for c in columns])
            high.append([max(c) for c in columns])
            totals = list(block[0])
            for row in block[1:]:
                totals = [total + x for total, x in zip(totals, row, strict=True)]
            mean.append([total / len(block) for total in totals])
        for part, each in zip(found, (low, high, mean), strict=True):
            part.append(each)
    return found


class SummariesMachine(PagedMachine):
    """Every verb from any earlier value; the summaries are made anew by hand each time."""

    cache: Any = Summaries
    pages: Sequence[int] = (1, 2, 3, 5)

    def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Any:
        return self.cache.start(schema, size=page, batch=batch, page=4)

    def check(self, known: Known) -> Known:
        super().check(known)
        for b, row in enumerate(known.tokens):
            keys = encode(self.schema, [t for t in row if t is not None])[0]
            got = known.cache.summary(b)
            for name, array, wanted in zip(got._fields, got, by_hand(keys.astype(float), known.page), strict=True):
                assert array.shape == (keys.shape[0], -(-len(row) // known.page), keys.shape[2])
                expected = np.array(wanted, keys.dtype).reshape(array.shape)
                assert array.dtype == keys.dtype
                assert np.array_equal(array, expected), f"{name} of sequence {b} is {array}, not {expected}"
        return known


TestSummaries = SummariesMachine.TestCase


class StaleAfterTruncate(Summaries[Any]):
    """The block that is filling keeps the summary of what was cut."""

    def truncate(self, length: Any) -> Summaries[Any]:
        cut = super().truncate(length)
        filling = zip(cut._filling, self._filling, strict=True)
        return replace(cut, _filling=tuple(old if new is not None and old is not None else new for new, old in filling))


class LosesWhatWasFilling(Summaries[Any]):
    """Every append begins the summary of its last block anew."""

    def _summed(self, state: State | None, filled: int, keys: Array) -> tuple[list[list[Array]], list[Array]]:
        return super()._summed(None, filled, keys)


class SelectsRowsAlone(Summaries[Any]):
    """The rows are reordered, the summaries of the filling blocks are not."""

    def select(self, indices: Any) -> Summaries[Any]:
        found = super().select(indices)
        return replace(found, _filling=tuple(self._filling[b % self.batch] for b in range(found.batch)))


class SwapsLowAndHigh(Summaries[Any]):
    """The least and the greatest are one another."""

    def summary(self, sequence: int) -> Any:
        low, high, mean = super().summary(sequence)
        return type(super().summary(sequence))(high, low, mean)


class DividesByTheWholeBlock(Summaries[Any]):
    """The mean of a block that is filling is taken over its full size."""

    def summary(self, sequence: int) -> Any:
        found = super().summary(sequence)
        return found._replace(mean=(found.mean * self.counts(sequence)[:, None] / self.size).astype(found.mean.dtype))


@pytest.mark.parametrize(
    "wrong",
    [StaleAfterTruncate, LosesWhatWasFilling, SelectsRowsAlone, SwapsLowAndHigh, DividesByTheWholeBlock],
    ids=lambda wrong: wrong.__name__,
)
def test_a_wrong_one_is_rejected(wrong: type[Summaries[Any]]) -> None:
    class Machine(SummariesMachine):
        cache = wrong

    with pytest.raises((AssertionError, KvattnError, ExceptionGroup, IndexError)):
        run_state_machine_as_test(
            Machine, settings=settings(max_examples=200, phases=[Phase.generate], report_multiple_bugs=False)
        )


@pytest.mark.by_hand("caches/summaries")
@pytest.mark.law("caches/summaries", "the same for every cut, and after every rollback", "bits")
@given(
    size=st.integers(1, 9),
    cuts=st.lists(st.tuples(st.sampled_from([0, 1, 2, 7, 8, 9, 10, 40]), st.integers(0, 12)), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
def test_they_are_those_of_the_rows_held(size: int, cuts: list[tuple[int, int]], seed: int) -> None:
    draw = np.random.default_rng(seed)
    cache = Summaries.start(SCHEMA, size=size, page=4)
    held = np.zeros((2, 0, 2))
    for new, back in cuts:
        k, v = draw.normal(size=(1, 2, new, 2)) * 10.0 ** draw.integers(-8, 8), draw.normal(size=(1, 2, new, 1))
        n = max(0, held.shape[1] + new - back)
        cache = cache.append([k, v]).truncate(n)
        held = np.concatenate([held, k[0]], 1)[:, :n]
        for got, wanted in zip(cache.summary(0), by_hand(held, size), strict=True):
            assert got.tolist() == wanted
            assert not got.flags.writeable


@pytest.mark.law("caches/summaries", "no key of a block scores more than its low and high allow", "bits")
@given(size=st.integers(1, 8), length=st.integers(1, 30), seed=st.integers(0, 99))
def test_no_key_scores_more_than_its_block_allows(size: int, length: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    k = draw.integers(-9, 9, (1, 1, length, 3)).astype(float)  # whole numbers: products and sums are exact
    q = draw.integers(-9, 9, 3).astype(float)
    low, high, _ = Summaries.start(latent(3), field="latent", size=size).append([k]).summary(0)
    most = np.maximum(q * low[0], q * high[0]).sum(-1).repeat(size)[:length]
    assert (k[0, 0] @ q <= most).all()


@pytest.mark.law("caches/summaries", "closed form equals count", "integers")
@given(
    size=st.integers(1, 9),
    page=st.sampled_from([1, 4, 256]),
    batch=st.integers(1, 3),
    steps=st.lists(st.sampled_from([0, 1, 2, 8, 9, 40]), max_size=6),
)
def test_closed_form_equals_count(size: int, page: int, batch: int, steps: list[int]) -> None:
    cache = Summaries.start(SCHEMA, size=size, batch=batch, page=page)
    for step in steps:
        with counting() as tally:
            longer = cache.append(rows([list(range(step))] * batch))
        assert tally.tally == cache.append_cost(past=cache.length, new=step, batch=batch)
        cache = longer


@pytest.mark.law("caches/summaries", "a truncate reads at most one block, a select nothing", "integers")
def test_what_is_read_and_shared() -> None:
    cache = Summaries.start(SCHEMA, size=8, page=4).append(rows([list(range(30))]))
    with counting() as tally:
        same = cache.select([0, 0]).truncate(30).truncate([24, 16])
    assert tally.kv_read == tally.kv_copied == tally.kv_written == tally.arithmetic == 0
    assert live_bytes(cache, same) == cache.nbytes
    with counting() as tally:
        cut = cache.truncate(21)
    assert tally.kv_read == 5 * SCHEMA.fields[0].nbytes
    assert tally.arithmetic == 3 * 4 * 4
    assert cut.summary(0).low.shape == (2, 3, 2)
    assert cache.summary(0).low.shape == (2, 4, 2)


def test_ragged_appends_keep_sequences_apart() -> None:
    cache = Summaries.start(latent(1), field="latent", size=2, batch=2)
    new = np.arange(10.0).reshape(2, 1, 5, 1)
    cache = cache.append([new], counts=[5, 0]).append([new], counts=[0, 3])
    assert cache.lengths == (5, 3)
    assert cache.summary(0).mean.ravel().tolist() == [0.5, 2.5, 4.0]
    assert cache.summary(1).mean.ravel().tolist() == [5.5, 7.0]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="field must be one of k, v, got 'q'"):
        Summaries.start(SCHEMA, size=4, field="q")
    with pytest.raises(ArgumentError, match="size must be an integer >= 1, got 0"):
        Summaries.start(SCHEMA, size=0)
    with pytest.raises(DtypeError, match="field latent must be floating to be summarised, got int8"):
        Summaries.start(Schema(Latent, (Field("latent", 1, 4, np.int8),)), size=4, field="latent")
    cache = Summaries.start(key_value(1, 2), size=4).append([np.ones((1, 1, 3, 2))] * 2)
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 3, got 4"):
        cache.truncate(4)
    with pytest.raises(ShapeError, match="v must have shape"):
        cache.append([np.ones((1, 1, 3, 2)), np.ones((1, 1, 2, 2))])
    with pytest.raises(ArgumentError, match="sequence must be"):
        cache.summary(1)
    assert cache.branch() is cache
    assert cache.batch == 1
    assert cache.lengths == (3,)
    with pytest.raises(PositionError, match=r"positions of sequence 0 must be 3 \.\. 3"):
        cache.append([np.ones((1, 1, 1, 2))] * 2, positions=np.array([[4]]))
    assert cache.append([np.ones((1, 1, 1, 2))] * 2, positions=cache.coming(1)).ends == (4,)
