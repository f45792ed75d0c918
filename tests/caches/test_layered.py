"""Caches of several layers go forward and back together, or not at all."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.caches import Paged, SinkWindow, Static, key_value, latent, live_bytes
from kvattn.caches.layered import Layered
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, RollbackError, ShapeError

ONE, TWO = latent(2), latent(3)


def rows(count: int, width: int = 2, start: int = 0, batch: int = 2) -> Any:
    return [np.arange(start, start + batch * count * width).astype(float).reshape(batch, 1, count, width)]


def begun(count: int = 5) -> Layered:
    empty = Layered((Paged.start(ONE, 2, page=2), Paged.start(TWO, 2, page=4)))
    return empty.append([rows(count), rows(count, 3)])


def read(cache: Layered) -> list[Any]:
    return [part.rows().latent for part in cache.parts]


def test_every_part_takes_its_own_rows() -> None:
    cache = begun(2).append([rows(3, start=50), rows(3, 3, start=70)])
    assert cache.lengths == (5, 5)
    assert (cache.length, cache.batch) == (5, 2)
    for found, width, first, second in zip(
        read(cache), (2, 3), rows(2) + rows(2, 3), rows(3, start=50) + rows(3, 3, start=70), strict=True
    ):
        assert found.shape == (2, 1, 5, width)
        assert np.array_equal(found, np.concatenate([first, second], axis=2))


def test_rolling_back_and_choosing_reach_every_part() -> None:
    cache = begun()
    whole = read(cache)
    for found, kept in zip(read(cache.truncate(3)), whole, strict=True):
        assert np.array_equal(found, kept[:, :, :3])
    for found, kept in zip(read(cache.select([1, 1, 0])), whole, strict=True):
        assert np.array_equal(found, kept[[1, 1, 0]])
    assert cache.truncate([1, 4]).lengths == (1, 4)
    assert all(np.array_equal(now, then) for now, then in zip(read(cache), whole, strict=True))


@pytest.mark.law("caches/layered", "branch, truncate and select move no byte", "integers")
def test_branch_truncate_and_select_move_no_byte() -> None:
    cache = begun()
    with counting() as tally:
        others = cache.branch(), cache.truncate(3), cache.select([0, 0])
    assert tally.tally == Tally()
    assert live_bytes(cache, *others) == cache.nbytes == sum(part.nbytes for part in cache.parts)


def test_a_page_in_two_parts_counts_once() -> None:
    part = Paged.start(ONE, page=4).append(rows(3, batch=1))
    assert Layered((part, part.select([0]))).nbytes == part.nbytes


def test_the_most_forgetful_part_says_how_far_back() -> None:
    schema = key_value(1, 2)
    held = [np.ones((1, 1, 40, 2))] * 2
    window = (
        SinkWindow.start(schema, sinks=0, window=2, rollback=1, page=1).append(held).append([x[:, :, :1] for x in held])
    )
    cache = Layered((Paged.start(schema).append([np.ones((1, 1, 41, 2))] * 2), window))
    assert cache.truncate(40).length == 40
    with pytest.raises(RollbackError):
        cache.truncate(3)
    assert cache.length == 41


def test_a_source_that_never_grows_is_a_part_too() -> None:
    source = Static.start(ONE, rows(7, batch=1)).advance(2)
    cache = Layered((Paged.start(TWO).append(rows(2, 3, batch=1)), source))
    assert cache.truncate(1).parts[1].memory is source.memory
    with pytest.raises(ArgumentError, match="rows must not be appended to a static cache"):
        cache.append([rows(1, 3, batch=1), rows(1, batch=1)])


@pytest.mark.law("caches/layered", "all parts change, or none", "bits")
def test_a_part_that_refuses_stops_all_before_any_has_written() -> None:
    cache = begun()
    with counting() as tally:
        with pytest.raises(ShapeError, match="latent must have shape"):
            cache.append([rows(1), rows(1, 4)])
        with pytest.raises(DtypeError, match="latent must have dtype float64, got float32"):
            cache.append([rows(1), [x.astype(np.float32) for x in rows(1, 3)]])
    assert tally.tally == Tally()
    assert cache.lengths == (5, 5)
    with counting() as tally:
        cache.append([rows(1), rows(1, 3)])
    assert tally.kv_copied == 0  # the room behind the end is still free


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no part": (lambda: Layered(()), r"^parts must be caches of the same tokens, at least one, got lengths \[\]$"),
    "lengths": (
        lambda: Layered((Paged.start(ONE), Paged.start(ONE).append(rows(1, batch=1)))),
        r"^parts must be caches of the same tokens, at least one, got lengths \[\(0,\), \(1,\)\]$",
    ),
    "batches": (
        lambda: Layered((Paged.start(ONE), Paged.start(ONE, 2))),
        r"^parts must be caches of the same tokens, at least one, got lengths \[\(0,\), \(0, 0\)\]$",
    ),
    "parts": (lambda: begun().append([rows(1)]), r"^rows must be given for each of 2 parts, got 1$"),
    "tokens": (
        lambda: begun().append([rows(1), rows(2, 3)]),
        r"^rows must be of the same number of tokens for every part, got \[1, 2\]$",
    ),
    "length": (lambda: begun().truncate(6), r"^length must be an integer in 0 \.\. 5, got 6$"),
    "indices": (lambda: begun().select([2]), r"^each of indices must be an integer in 0 \.\. 1, got 2$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, words = BAD[name]
    with pytest.raises(ArgumentError, match=words):
        call()
