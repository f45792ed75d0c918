"""Wrong savings and wrong block tables that the checks must reject; the right ones pass the same checks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvattn.caches import Paged, key_value, latent, saved
from kvattn.caches.block_tables import BlockArrays, export_block_table, import_block_table
from kvattn.caches.flattened import Flat, flatten, rebuilt
from kvattn.caches.rows import placed
from kvattn.caches.saved import restore_npz, save_npz
from kvattn.errors import KvattnError
from tests.caches.kept import EMPTY, KINDS, drawn, empty_like, goes_on, readable, returned, same

SCHEMA = key_value(2, 3, 1)


def telling() -> list[Paged[Any]]:
    """Caches in which every part of the state matters."""
    trunk = Paged.start(SCHEMA, page=4).append(drawn(SCHEMA, 1, 9, 0))
    forked = trunk.merge(trunk.truncate(6), trunk.append(drawn(SCHEMA, 1, 2, 1)))
    own = placed(latent(2))
    gaps = Paged.start(own, 2, page=2).append(drawn(own, 2, 7, 2)).evict([[0, 1, 4, 5], [2, 3, 6]]).shift(2)
    return [forked, forked.release(0, [4, 0, 8]), goes_on(gaps), gaps]


def complaints(there_and_back: Callable[[Any], Any]) -> set[str]:
    """What is lost on the way."""
    said = set()
    for cache in telling():
        try:
            again = there_and_back(cache)
            ended = again.truncate([min(n, 4) for n in again.lengths]).ends
            if ended != cache.truncate([min(n, 4) for n in cache.lengths]).ends:
                said.add("ends after truncation")
            if again.nbytes != cache.nbytes:
                said.add("sharing")
            if readable(again) != readable(cache):
                said.add("rows, holes or positions")
            if readable(goes_on(again)) != readable(goes_on(cache)):
                said.add("what comes after")
            if not same(again, cache):
                said.add("parts")
        except KvattnError:
            said.add("refused")
    return said


def through(change: Callable[[Flat], Flat]) -> Callable[[Any], Any]:
    return lambda cache: rebuilt(change(flatten(cache)), empty_like(cache))


def unshared(cache: Any) -> Any:
    """Every sequence is saved by itself."""
    first, *others = [rebuilt(flatten(cache.select([b])), empty_like(cache)) for b in range(cache.batch)]
    return first.merge(*others)


def lost(key: str, value: Any) -> Callable[[Flat], Flat]:
    return lambda flat: Flat({**flat.header, key: value(flat.header)}, flat.arrays)


def zeroed_holes(cache: Any) -> Any:
    """Released pages come back as zeros."""
    parts = cache.parts()
    width = len(parts.rows)
    tables = tuple(tuple(width + n if p < 0 else p for n, p in enumerate(table)) for table in parts.tables)
    zero = tuple(np.zeros((f.heads, parts.page, f.width), f.dtype) for f in cache.schema.stored)
    return Paged.of_parts(cache.schema, parts._replace(tables=tables, rows=(*parts.rows, *(zero,) * 9)))


def through_float32(flat: Flat) -> Flat:
    """Rows are written in half the bytes."""
    return Flat(flat.header, {name: x.astype("f4").astype(x.dtype) for name, x in flat.arrays.items()})


def swapped(flat: Flat) -> Flat:
    """Pages stand in the file in another order than the header says."""
    return Flat(flat.header, {name: np.ascontiguousarray(x[:, ::-1]) for name, x in flat.arrays.items()})


def test_the_right_way_loses_nothing() -> None:
    assert complaints(through(lambda flat: flat)) == set()


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (unshared, "sharing"),
        (zeroed_holes, "rows, holes or positions"),
        (through(through_float32), "rows, holes or positions"),
        (through(swapped), "rows, holes or positions"),
        (through(lost("ends", lambda header: header["lengths"])), "what comes after"),
        (through(lost("marks", lambda header: [[0, 0]] * len(header["marks"]))), "ends after truncation"),
        (through(lost("tables", lambda header: header["tables"][::-1])), "refused"),
    ],
    ids=["unshared", "zeroed holes", "float32", "swapped", "ends", "marks", "tables"],
)
def test_a_way_that_loses_something_is_rejected(wrong: Callable[[Any], Any], complaint: str) -> None:
    assert complaint in complaints(wrong)


def storages(kind: str, there_and_back: Callable[[Any], Any]) -> set[str]:
    """What is lost of a storage on the way."""
    cache = KINDS[kind]()
    try:
        again = there_and_back(cache)
        if readable(again) != readable(cache):
            return {"rows"}
        said = set() if same(again, cache) else {"bytes"}
        if readable(goes_on(again)) != readable(goes_on(cache)):
            said.add("what comes after")
        for length in range(min(cache.lengths)):
            if returned(again, length) != returned(cache, length):
                said.add("how far back")
    except KvattnError:
        return {"refused"}
    return said


def inside(part: str, **changes: Callable[[Any], Any]) -> Callable[[Flat], Flat]:
    """Some entries of the header of a part changed."""

    def change(flat: Flat) -> Flat:
        header = flat.header[part] if part else flat.header
        other = {**header, **{key: value(header[key]) for key, value in changes.items()}}
        return Flat({**flat.header, part: other} if part else other, flat.arrays)

    return change


def summed_in_pairs(cache: Any) -> Any:
    """The sums of blocks are not saved but made again, in the order that NumPy likes."""
    again = rebuilt(flatten(cache), empty_like(cache))
    full = []
    for b in range(cache.batch):
        keys = cache.memory.rows(sequence=b).k
        whole = keys[:, :, : cache.lengths[b] // 4 * 4].reshape(1, 1, -1, 4, 2)
        full.append(np.add(whole[..., 0, :] + whole[..., 1, :], whole[..., 2, :] + whole[..., 3, :]))
    total = np.concatenate(full)
    low, high, _ = (np.concatenate([x.rows(sequence=b)[n] for b in range(3)]) for n, x in enumerate([cache._full] * 3))
    return replace(again, _full=again._full.truncate(0).append([low, high, total]))


def all_in_memory(cache: Any) -> Any:
    """Nothing is put into the file again."""
    return rebuilt(inside("", filed=lambda filed: [])(flatten(cache)), empty_like(cache))


def by_itself(cache: Any) -> Any:
    """Each sequence has a buffer of its own."""
    flat = flatten(cache)
    order = flat.header["buffers"]
    stops = np.cumsum([0, *flat.header["counts"]])
    arrays = {
        name: np.concatenate([x[:, stops[n] : stops[n + 1]] for n in order], axis=1) for name, x in flat.arrays.items()
    }
    header = {**flat.header, "buffers": [*range(len(order))]}
    for name in ("capacities", "counts"):
        header[name] = [flat.header[name][n] for n in order]
    return rebuilt(Flat(header, arrays), empty_like(cache))


def test_the_right_way_loses_nothing_of_any_storage() -> None:
    for kind in EMPTY:
        assert storages(kind, through(lambda flat: flat)) == set(), kind


@pytest.mark.parametrize(
    ("kind", "wrong", "complaint"),
    [
        ("Ring", through(inside("tail", starts=lambda starts: [n + 1 for n in starts])), "rows"),
        ("Ring", through(inside("tail", spans=lambda spans: [[low + 1, high + 1] for low, high in spans])), "refused"),
        ("ChunkedLocal", through(inside("tail", lengths=lambda lengths: [n - 1 for n in lengths])), "refused"),
        ("Contiguous", by_itself, "bytes"),
        ("Contiguous", through(inside("", capacities=lambda sizes: [2 * n for n in sizes])), "rows"),
        ("Contiguous", through(swapped), "rows"),
        ("Summaries", summed_in_pairs, "rows"),
        ("Summaries", through(inside("", filling=lambda numbers: [-1] * len(numbers))), "refused"),
        ("Tiered", all_in_memory, "bytes"),
        ("Coded", through(swapped), "rows"),
        ("KiviCache", through(swapped), "rows"),
        ("KiviCache", through(inside("value_codes", lengths=lambda n: [0] * len(n))), "refused"),
        ("SharedLayers", through(inside("", reads=lambda reads: [0, 1, 1])), "refused"),
    ],
    ids=[
        "later start",
        "spans moved",
        "shorter",
        "unshared",
        "larger room",
        "swapped buffers",
        "sums in pairs",
        "none filling",
        "nothing filed",
        "swapped codes",
        "swapped groups",
        "no values",
        "other reader",
    ],
)
def test_a_way_that_loses_something_of_a_storage_is_rejected(
    kind: str, wrong: Callable[[Any], Any], complaint: str
) -> None:
    assert complaint in storages(kind, wrong)


def changed_bits_let_through(folder: Path) -> int:
    """How many files with one changed bit are restored, whatever to."""
    path, broken = folder / "whole", folder / "broken"
    save_npz(path, telling()[0])
    data, passed = path.read_bytes(), 0
    for place in range(0, len(data), 7):
        broken.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        try:
            restore_npz(broken, Paged.start(SCHEMA))
        except (KvattnError, UnicodeError):
            continue
        passed += 1
    return passed


class NoDigest:
    """A checksum that is the same for everything."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def hexdigest(self) -> str:
        return "0" * 64


class FirstHalf(NoDigest):
    """A checksum over the first bytes only."""

    def hexdigest(self) -> str:
        return f"{sum(self.data[: len(self.data) // 2]):064x}"


@pytest.mark.parametrize("digest", [NoDigest, FirstHalf])
def test_a_checksum_that_checks_too_little_is_rejected(digest: type, tmp_path: Path) -> None:
    assert changed_bits_let_through(tmp_path) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved, "sha256", digest)
        assert changed_bits_let_through(tmp_path) > 0


def test_writing_into_the_old_file_is_rejected(tmp_path: Path) -> None:
    def in_place(path: Any, data: bytes) -> None:
        with Path(path).open("wb") as file:
            file.write(data[: len(data) // 2])
            vars(saved)["fsync"](file.fileno())
            file.write(data[len(data) // 2 :])

    def full(_: int) -> None:
        raise OSError("no space left")

    for replaced, kept in ((saved._replaced, True), (in_place, False)):
        save_npz(tmp_path / "file", telling()[0])
        old = (tmp_path / "file").read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(saved, "fsync", full)
            patch.setattr(saved, "_replaced", replaced)
            with pytest.raises(OSError, match="no space left"):
                save_npz(tmp_path / "file", telling()[0])
        assert ((tmp_path / "file").read_bytes() == old) == kept


def padded_with_0(found: BlockArrays[Any]) -> BlockArrays[Any]:
    return found._replace(table=np.maximum(found.table, 0))


def one_column_on(found: BlockArrays[Any]) -> BlockArrays[Any]:
    return found._replace(table=np.roll(found.table, 1, axis=1))


def heads_first(found: BlockArrays[Any]) -> BlockArrays[Any]:
    k = found.blocks.k
    return found._replace(blocks=found.blocks._replace(k=k.swapaxes(1, 2).reshape(k.shape)))


def longest_for_all(found: BlockArrays[Any]) -> BlockArrays[Any]:
    return found._replace(lengths=np.full_like(found.lengths, found.lengths.max()))


@pytest.mark.parametrize("wrong", [padded_with_0, one_column_on, heads_first, longest_for_all])
def test_wrong_block_tables_are_rejected(wrong: Callable[[BlockArrays[Any]], BlockArrays[Any]]) -> None:
    cache = telling()[1]

    def back(found: BlockArrays[Any]) -> bool:
        try:
            return readable(import_block_table(SCHEMA, *found)) == readable(cache)
        except KvattnError:
            return False

    assert back(export_block_table(cache))
    assert not back(wrong(export_block_table(cache)))
