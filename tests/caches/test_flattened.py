"""A cache taken apart and put together again is the same cache, and parts that do not fit are refused."""

from collections.abc import Callable
from contextlib import suppress
import copy
from dataclasses import replace
import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import (
    BlockPool,
    ChunkedLocal,
    KiviCache,
    Layered,
    Paged,
    Ring,
    SinkWindow,
    Snapshots,
    Summaries,
    Tiered,
    key_value,
    latent,
)
from kvattn.caches.flattened import Flat, flatten, rebuilt
from kvattn.caches.rows import placed
from kvattn.codecs import Symmetric
from kvattn.codecs.kivi import Kivi
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, ShapeError
from tests.caches.kept import EMPTY, KINDS, empty_like, goes_on, paged, readable, returned, same, stored


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
    assert returned(goes_on(again), again.lengths) == returned(goes_on(cache), cache.lengths)
    assert again.nbytes == cache.nbytes


@pytest.mark.law("caches/flattened", "rebuilt from its parts any storage is the same, and goes on as the same", "bits")
@pytest.mark.parametrize("kind", EMPTY)
@given(data=st.data())
def test_any_storage_comes_back_whatever_was_done(kind: str, data: st.DataObject) -> None:
    cache = data.draw(stored(kind))
    again = rebuilt(flatten(cache), EMPTY[kind]())
    assert readable(again) == readable(cache)
    assert readable(goes_on(again)) == readable(goes_on(cache))
    for length in {0, *(max(0, n - back) for n in cache.lengths for back in range(4))}:
        if length <= min(cache.lengths):
            assert returned(again, length) == returned(cache, length)
            assert returned(goes_on(again), length) == returned(goes_on(cache), length)
    assert not set(again.footprint()) & set(cache.footprint())


@pytest.mark.parametrize("kind", EMPTY)
def test_another_schema_is_refused(kind: str) -> None:
    like = EMPTY[kind](1, 4)
    with pytest.raises(ArgumentError, match=r"like must (store|have)"):
        rebuilt(flatten(KINDS[kind]()), like)
    assert readable(like) == readable(EMPTY[kind](1, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_every_other_kind_is_refused(kind: str) -> None:
    flat = flatten(KINDS[kind]())
    for other in KINDS:
        like = empty_like(KINDS[other]())
        if other != kind:
            with pytest.raises(ArgumentError, match=f"like must be a '{flat.header['kind']}' as in the header, got "):
                rebuilt(flat, like)


SIZES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "Ring": (lambda like: Ring.start(latent(2), window=4, rollback=2), "window and rollback [3, 2], got [4, 2]"),
    "ChunkedLocal": (
        lambda like: ChunkedLocal.start(latent(2, np.float32), size=3, rollback=0),
        "size and rollback [3, 1], got [3, 0]",
    ),
    "Summaries": (lambda like: Summaries.start(key_value(1, 2), size=3), "field and size ['k', 4], got ['k', 3]"),
    "Tiered": (lambda like: replace(like, recent=3), "recent 2, got 3"),
    "Tiered pages": (lambda like: Tiered.start(like.memory.schema, recent=2, page=4), "page 2, got 4"),
    "Coded": (lambda like: replace(like, values=Symmetric(8)), "rows, keys and values ["),
    "KiviCache": (
        lambda like: KiviCache.start(key_value(1, 4), Kivi(bits=4, group=2, residual=8)),
        "kivi Kivi(bits=4, group=2, residual=4), got Kivi(bits=4, group=2, residual=8)",
    ),
    "SharedLayers": (lambda like: replace(like, reads=(0, 1, 1)), "reads [0, 1, 0], got [0, 1, 1]"),
}


@pytest.mark.parametrize("case", SIZES)
def test_other_sizes_and_codecs_are_refused(case: str) -> None:
    kind, (other, words) = case.split(maxsplit=1)[0], SIZES[case]
    with pytest.raises(ArgumentError) as said:
        rebuilt(flatten(KINDS[kind]()), other(EMPTY[kind]()))
    assert str(said.value).startswith(f"like must have {words}")


def told(kind: str) -> tuple[dict[str, Any], Flat]:
    """The header that names pages, wherever it stands, and the whole of which it is a part."""
    flat = flatten(KINDS[kind]())
    flat = Flat(copy.deepcopy(flat.header), flat.arrays)
    inner: Any = flat.header
    while not {"tables", "buffers"} & inner.keys():
        inner = next(inner[name] for name in ("tail", "memory", "key_groups", "parts") if name in inner)
        inner = inner[0] if isinstance(inner, list) else inner
    return inner, flat


@pytest.mark.parametrize("kind", EMPTY)
@pytest.mark.parametrize("wrong", [99, "another place", "too few"])
def test_foreign_tables_are_refused(kind: str, wrong: Any) -> None:
    header, flat = told(kind)
    if "buffers" in header:
        header["buffers"] = header["buffers"][1:] if wrong == "too few" else [99] * 3
    elif wrong == 99:
        header["tables"][0][-1] = 99
    elif wrong == "too few":
        header["tables"][0] = header["tables"][0][1:]
    else:
        header["tables"][0] = header["tables"][0][::-1]
    like = EMPTY[kind]()
    before = readable(like)
    with pytest.raises(ArgumentError) as said:
        rebuilt(flat, like)
    assert str(said.value).startswith(("tables[", "buffers must", "header must hold a buffer"))
    assert readable(like) == before


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("KiviCache", "recent", {"starts": [9, 9, 9]}, "header must tell of codes for whole residuals of 4"),
        ("Summaries", "full", {"lengths": [1, 1, 1]}, "parts must hold lengths, ends, marks and tables that fit"),
        ("Summaries", "filling", [0, -1, 0], "header must hold sums of (2, 2, 2) full blocks"),
        ("Tiered", "out", [9, 0, 0], "out[0] must be an integer in 0 .. 5, got 9"),
        ("Tiered", "filed", [0, 99], "filed must be an integer in 0 .."),
        ("Contiguous", "capacities", [16, 9], "buffers[1] must be one with 9 rows, of 2 doubled, got 9 in a room of 9"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(kind: str, name: str, value: Any, words: str) -> None:
    flat = flatten(KINDS[kind]())
    header = copy.deepcopy(flat.header)
    header[name] = {**header[name], **value} if isinstance(value, dict) else value
    with pytest.raises(ArgumentError) as said:
        rebuilt(Flat(header, flat.arrays), EMPTY[kind]())
    assert str(said.value).startswith(words)


def test_what_lay_in_a_file_goes_to_the_file_of_the_expected_one(tmp_path: Path) -> None:
    schema = latent(1)
    cache = Tiered.start(schema, recent=2, page=2).append([np.arange(9.0).reshape(1, 1, 9, 1)])
    like = Tiered.start(schema, recent=2, page=2, directory=tmp_path)
    again = rebuilt(flatten(cache), like)
    assert (again.path, again.stored, again.nbytes) == (like.path, cache.stored, cache.nbytes)
    assert again.path.parent == tmp_path
    assert again.path.stat().st_size == cache.path.stat().st_size
    del cache
    assert again.rows().latent.ravel().tolist() == [*range(9)]
    like.path.unlink()
    with pytest.raises(ArgumentError, match=r"file .* of this cache must hold its 3 pages"):
        rebuilt(flatten(Tiered.start(schema, recent=2, page=2)), like)


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
        with pytest.raises(ArgumentError, match="cache must be a storage that can be flattened, such as Paged, got"):
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
