"""A paged cache tells its parts, and only parts that fit make a cache (`Paged.parts`, `Paged.of_parts`)."""

from typing import Any

from hypothesis import given, settings
from hypothesis.stateful import rule, run_state_machine_as_test
import numpy as np
import pytest

from kvattn.caches import Paged, latent
from kvattn.caches.paged_parts import PagedParts
from kvattn.caches.rows import placed
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.testing.machines import PagedMachine
from kvattn.testing.machines.tokens import Known
from tests.caches.kept import goes_on, paged, readable, same

SCHEMA = latent(1)
PARTS = Paged.start(SCHEMA, 2, page=2).append([np.arange(10.0).reshape(2, 1, 5, 1)], counts=[5, 3]).parts()


@pytest.mark.law("caches/paged_parts", "parts put together are the same cache, on pages of its own", "bits")
@given(paged())
def test_parts_put_together_are_the_same(cache: Paged[Any]) -> None:
    again = Paged.of_parts(cache.schema, cache.parts())
    assert same(again, cache)
    assert readable(goes_on(again)) == readable(goes_on(cache))
    for length in range(min(cache.lengths) + 1):
        if all(cache.held(b).all() for b in range(cache.batch)):
            assert readable(goes_on(again.truncate(length))) == readable(goes_on(cache.truncate(length)))


def test_taking_apart_copies_nothing_and_putting_together_writes_each_page_once() -> None:
    cache = Paged.start(SCHEMA, page=4).append([np.ones((1, 1, 6, 1))]).repeat(3)
    with counting() as tally:
        parts = cache.parts()
    assert tally.tally == Tally()
    assert not any(x.flags.writeable for rows in parts.rows for x in rows)
    with counting() as tally:
        again = Paged.of_parts(SCHEMA, parts)
    assert tally.tally == Tally(kv_written=6 * 8, cache_live=64, cache_peak=64)
    assert again.pages(0) == again.pages(2)


def test_the_truncated_length_after_eviction_is_remembered() -> None:
    schema = placed(SCHEMA)
    cache = Paged.start(schema).append([np.arange(6.0).reshape(1, 1, 6, 1)]).evict([[0, 1, 2]])
    assert cache.ends == (6,)
    again = Paged.of_parts(schema, goes_on(cache).parts())
    assert again.truncate(3).ends == (6,)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"page": 0}, ArgumentError, "page must be an integer >= 1, got 0"),
        ({"page": 3}, ArgumentError, "tables[0] must name 2 pages for 5 tokens, got 3"),
        ({"lengths": (), "ends": (), "marks": (), "tables": ()}, ArgumentError, "lengths must be a non-empty"),
        ({"lengths": (5, -1)}, ArgumentError, "lengths[1] must be an integer >= 0, got -1"),
        ({"lengths": (5,), "ends": (5,)}, ArgumentError, "parts must hold lengths, ends, marks and tables that fit"),
        ({"ends": (5, 4)}, ArgumentError, "parts must hold lengths, ends, marks and tables that fit each other, got"),
        ({"marks": ((0, 0), (4, 0))}, ArgumentError, "marks[1] must be an integer in 0 .. 3, got 4"),
        ({"marks": ((0, -1), (0, 0))}, ArgumentError, "marks[0] must be an integer >= 0, got -1"),
        ({"tables": ((0, 1, 2), (3,))}, ArgumentError, "tables[1] must name 2 pages for 3 tokens, got 1"),
        ({"tables": ((0, 1, 5), (3, 4))}, ArgumentError, "tables[0] must be an integer in 0 .. 4, got 5"),
        ({"tables": ((0, 1, -1), (3, 4))}, ArgumentError, "tables[0] must be an integer in 0 .. 4, got -1"),
        ({"tables": ((-2, 1, 2), (3, 4))}, ArgumentError, "tables[0] must be an integer in -1 .. 4, got -2"),
        ({"tables": ((0, 2, 4), (3, 4))}, ArgumentError, "tables[0] must name pages of enough rows"),
        ({"tables": ((0, 1, 2), (1, 4))}, ArgumentError, "tables[1] must name pages of enough rows"),
        ({"rows": ((),) * 5}, ShapeError, "rows[0] must have 1 entries (latent), got 0"),
        ({"rows": ((np.ones((2, 1)),),) * 5}, ArgumentError, "tokens of rows[0] must be an integer in 1 .. 2, got 0"),
        (
            {"rows": ((np.ones((1, 3, 1)),),) * 5},
            ArgumentError,
            "tokens of rows[0] must be an integer in 1 .. 2",
        ),
        (
            {"rows": ((np.ones((1, 2, 2)),),) * 5},
            ShapeError,
            "latent of rows[0] must have shape [1, 2, 1], got (1, ",
        ),
        ({"rows": ((np.ones((1, 2, 1), "f4"),),) * 5}, DtypeError, "latent of rows[0] must have dtype float64"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    assert Paged.of_parts(SCHEMA, PARTS).lengths == (5, 3)
    with pytest.raises(error) as said:
        Paged.of_parts(SCHEMA, PARTS._replace(**change))
    assert str(said.value).startswith(words)


def test_positions_below_0_are_refused() -> None:
    parts = Paged.start(placed(SCHEMA)).append([np.ones((1, 1, 1, 1))]).parts()
    broken = parts._replace(rows=((parts.rows[0][0], parts.rows[0][1] - 1),))
    assert isinstance(broken, PagedParts)
    with pytest.raises(PositionError, match=r"positions of rows\[0\] must be at least 0, got -1"):
        Paged.of_parts(placed(SCHEMA), broken)


class RestoringMachine(PagedMachine):
    """The machine of paged caches, in which any value may go through its parts before it goes on."""

    @rule(target=PagedMachine.values, known=PagedMachine.values)
    def restore(self, known: Known) -> Known:
        again = Paged.of_parts(known.cache.schema, known.cache.parts())
        return self.check(known._replace(cache=again))


def test_the_machine_does_not_tell_a_cache_from_its_parts() -> None:
    run_state_machine_as_test(RestoringMachine, settings=settings(max_examples=25, stateful_step_count=15))
