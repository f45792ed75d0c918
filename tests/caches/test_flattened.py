"""A cache taken apart and put together again is the same cache, and parts that do not fit are refused."""

from contextlib import suppress
import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import BlockPool, Layered, Paged, SinkWindow, Snapshots, key_value, latent
from kvattn.caches.flattened import Flat, flatten, rebuilt
from kvattn.caches.rows import placed
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, ShapeError
from tests.caches.kept import KINDS, empty_like, goes_on, paged, readable, same


@pytest.mark.law("caches/flattened", "rebuilt from its parts a cache is the same, and goes on as the same", "bits")
@given(paged())
def test_a_paged_cache_comes_back(cache: Paged[Any]) -> None:
    again = rebuilt(flatten(cache), empty_like(cache))
    assert same(again, cache)
    assert readable(again) == readable(cache)
    assert readable(goes_on(again)) == readable(goes_on(cache))
    assert again.nbytes == cache.nbytes
    assert not set(again.footprint()) & set(cache.footprint())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back(kind: str) -> None:
    cache = KINDS[kind]()
    flat = flatten(cache)
    again = rebuilt(Flat(json.loads(json.dumps(flat.header)), flat.arrays), empty_like(cache))
    assert same(again, cache)
    assert readable(goes_on(again)) == readable(goes_on(cache))
    assert readable(goes_on(again).truncate(again.lengths)) == readable(goes_on(cache).truncate(cache.lengths))


@pytest.mark.by_hand("caches/flattened")
@pytest.mark.no_peer("caches/flattened", "the header is ours")
def test_parts_by_hand() -> None:
    trunk = Paged.start(latent(1), page=2).append([np.arange(5.0).reshape(1, 1, 5, 1)])
    cache = trunk.merge(trunk.truncate(3).append([np.full((1, 1, 1, 1), 9.0)]), trunk.truncate(1)).release(0, [2, 0, 0])
    header, arrays = flatten(cache)
    assert header["tables"] == [[-1, 0, 1], [2, 3], [2]]
    assert header["counts"] == [2, 1, 2, 2]
    assert (header["lengths"], header["page"]) == ([5, 4, 1], 2)
    assert arrays["cache.latent"].ravel().tolist() == [2.0, 3.0, 4.0, 0.0, 1.0, 2.0, 9.0]


def test_rows_that_are_no_part_of_the_value_are_not_there() -> None:
    secret = Paged.start(latent(1), page=4).append([np.full((1, 1, 4, 1), 7.0)])
    header, arrays = flatten(secret.truncate(1))
    assert (header["counts"], arrays["cache.latent"].size) == ([1], 1)


@pytest.mark.law("caches/flattened", "a shared page stands once and is shared again", "integers")
def test_sharing_is_kept_and_counted() -> None:
    cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 6, 2))]).repeat(3)
    with counting() as tally:
        again = rebuilt(flatten(cache), Paged.start(latent(2)))
    assert again.nbytes == cache.nbytes == tally.tally.cache_live
    assert tally.tally.kv_written == 6 * 16
    with counting() as tally:
        goes_on(again.select([0]))
    assert tally.tally.kv_copied == 0  # there is room behind the end, and nobody else is there


@pytest.mark.parametrize(
    ("cache", "like", "words"),
    [
        (Paged.start(latent(2)), Paged.start(latent(3)), "like must store"),
        (Paged.start(latent(2)), Paged.start(latent(2, np.float32)), "like must store"),
        (Paged.start(latent(2)), Paged.start(placed(latent(2))), "like must have the schema"),
        (Paged.start(latent(2)), KINDS["ring"](), "like must be a 'Paged' as in the header, got SinkWindow"),
        (
            KINDS["ring"](),
            SinkWindow.start(latent(2), sinks=0, window=3, rollback=2),
            "like must have sinks, window and rollback [1, 3, 2], got [0, 3, 2]",
        ),
        (KINDS["stack"](), Layered((Paged.start(latent(2)),)), "like must have 4 parts, got 1"),
        (
            KINDS["recurrent"](),
            Snapshots(KINDS["recurrent"]().row, 1, KINDS["recurrent"]().histories),
            "like must have rollback 2, got 1",
        ),
        (
            KINDS["recurrent"](),
            Snapshots.start(KINDS["recurrent"]().row(np.zeros((1, 1, 3)), np.zeros((1, 3), np.float32)), 2),
            "like must have states",
        ),
    ],
    ids=["width", "dtype", "placed", "kind", "sinks", "parts", "rollback", "state"],
)
def test_another_kind_than_expected_is_refused(cache: Any, like: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as said:
        rebuilt(flatten(cache), like)
    assert str(said.value).startswith(words)


def test_other_caches_are_refused() -> None:
    for other in (BlockPool(latent(1), blocks=1), Layered((BlockLengths(),)), None):
        with pytest.raises(ArgumentError, match="cache must be Paged, Static, SinkWindow, Snapshots or Layered, got"):
            flatten(other)


class BlockLengths:
    lengths = (0,)


def cut(flat: Flat, **arrays: Any) -> Flat:
    return Flat(flat.header, {**flat.arrays, **arrays})


def test_arrays_that_are_not_the_headers_are_refused() -> None:
    cache = Paged.start(key_value(1, 2), page=2).append([np.ones((1, 1, 3, 2))] * 2)
    flat, like = flatten(cache), Paged.start(key_value(1, 2))
    k = flat.arrays["cache.k"]
    for broken, error, words in [
        (Flat(flat.header, {"cache.k": k}), ArgumentError, "arrays must hold cache.v, got none"),
        (cut(flat, more=k), ArgumentError, "arrays must be those that the header describes, got more as well"),
        (cut(flat, **{"cache.k": k[:, :2]}), ShapeError, "cache.k must have shape (1, 3, 2) as in the header, got"),
        (cut(flat, **{"cache.k": k.astype("f4")}), DtypeError, "cache.k must have dtype float64 as in the header, got"),
    ]:
        with pytest.raises(error) as said:
            rebuilt(broken, like)
        assert str(said.value).startswith(words)


def leaves(header: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = header.items() if isinstance(header, dict) else enumerate(header) if isinstance(header, list) else ()
    return [path, *(leaf for key, value in inner for leaf in leaves(value, (*path, key)))]


WRONG: st.SearchStrategy[Any] = st.sampled_from(
    [None, -1, 0, 1, 2, 3, 7, 10**30, 0.5, True, "x", [], {}, [1], [[0, 0]]]
)


@given(st.sampled_from(["paged", *KINDS]), st.data())
def test_a_header_that_makes_no_sense_is_refused_in_one_sentence(kind: str, data: st.DataObject) -> None:
    cache = data.draw(paged()) if kind == "paged" else KINDS[kind]()
    flat = flatten(cache)
    header = copy.deepcopy(flat.header)
    path = data.draw(st.sampled_from([leaf for leaf in leaves(header) if leaf]))
    place = header
    for key in path[:-1]:
        place = place[key]
    if data.draw(st.booleans()) and isinstance(place, dict):
        del place[path[-1]]
    else:
        place[path[-1]] = data.draw(WRONG)
    with suppress(KvattnError):  # some changes say another cache, which must then work
        assert readable(goes_on(rebuilt(Flat(header, flat.arrays), empty_like(cache))))
