"""What was saved is restored to the bit; what was damaged, cut short or is something else is refused."""

from collections.abc import Callable
from hashlib import sha256
import io
from pathlib import Path
import sys
from typing import Any
from zipfile import ZipFile

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import (
    BlockPool,
    Coded,
    Contiguous,
    KiviCache,
    Paged,
    Ring,
    Summaries,
    Tiered,
    key_value,
    latent,
    saved,
)
from kvattn.caches.flattened import Flat, flatten
from kvattn.caches.saved import restore_npz, restore_safetensors, save_npz, save_safetensors
from kvattn.codecs import Q8_0, Symmetric
from kvattn.codecs.kivi import Kivi
from kvattn.errors import ArgumentError, DtypeError, KvattnError, MissingExtraError, ShapeError
from kvattn.masks import Causal
from kvattn.positions import Rotary
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.caches.codes import layer_of
from tests.caches.kept import KINDS, empty_like, goes_on, paged, readable, same

Save = Callable[[Any, Any], None]
Restore = Callable[[Any, Any], Any]

try:
    import safetensors  # noqa: F401
except ImportError:
    HAVE = False
else:
    HAVE = True

FORMATS = [
    pytest.param(save_npz, restore_npz, id="npz"),
    pytest.param(
        save_safetensors,
        restore_safetensors,
        id="safetensors",
        marks=pytest.mark.skipif(not HAVE, reason="safetensors is not installed"),
    ),
]
both = pytest.mark.parametrize(("save", "restore"), FORMATS)


def small() -> Paged[Any]:
    trunk = Paged.start(latent(1, np.float32), page=2).append([np.arange(3, dtype=np.float32).reshape(1, 1, 3, 1)])
    return trunk.merge(trunk.truncate(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.mark.law("caches/saved", "restored equals saved: rows, positions, holes, sharing; and goes on so", "bits")
@both
@given(data=st.data())
def test_a_paged_cache_comes_back(save: Save, restore: Restore, folder: Path, data: st.DataObject) -> None:
    cache = data.draw(paged())
    save(folder / "cache", cache)
    again = restore(folder / "cache", empty_like(cache))
    assert same(again, cache)
    assert readable(again) == readable(cache)
    assert readable(goes_on(again)) == readable(goes_on(cache))


@both
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back(save: Save, restore: Restore, kind: str, tmp_path: Path) -> None:
    cache = KINDS[kind]()
    save(tmp_path / "cache", cache)
    again = restore(str(tmp_path / "cache"), empty_like(cache))
    assert same(again, cache)
    assert readable(goes_on(again)) == readable(goes_on(cache))


@pytest.mark.law("caches/saved", "decoding from a restored cache equals decoding from the saved one", "bits")
@both
def test_decoding_goes_on(save: Save, restore: Restore, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    query, key, value, output = (rng.normal(size=shape) for shape in ((6, 8), (6, 4), (6, 3), (6, 6)))
    layer = Grouped(Projections(query, key, value, output, heads=2, kv_heads=1), Causal(), (Rotary.of(4),), page=4)
    x = rng.normal(size=(2, 11, 6))
    _, cache = layer.step(layer.start(2), x[:, :6])
    save(tmp_path / "cache", cache)
    warm, _ = layer.step(restore(tmp_path / "cache", layer.start()), x[:, 6:])
    assert np.array_equal(warm.out, layer.step(cache, x[:, 6:])[0].out)
    assert np.array_equal(warm.out, layer.step(layer.start(2), x)[0].out[:, 6:])


STEPPED: dict[str, tuple[int | None, Any]] = {
    "Contiguous": (None, lambda schema, batch: Contiguous.start(schema, batch=batch, room=4)),
    "Tiered": (None, lambda schema, batch: Tiered.start(schema, recent=2, batch=batch, page=4)),
    "Ring": (5, lambda schema, batch: Ring.start(schema, window=5, rollback=1, batch=batch, page=4)),
    "Summaries": (None, lambda schema, batch: Summaries.start(schema, size=3, batch=batch, page=4)),
    "Coded": (None, lambda schema, batch: Coded.start(schema, keys=Q8_0(), values=Symmetric(4), batch=batch, page=4)),
    "KiviCache": (None, lambda schema, batch: KiviCache.start(schema, Kivi(4, 4, 8), batch=batch, page=8)),
}


@pytest.mark.parametrize("kind", STEPPED)
def test_decoding_goes_on_over_every_storage_that_a_layer_steps(kind: str, tmp_path: Path) -> None:
    window, start = STEPPED[kind]
    layer, x = layer_of(4, window, np.float64), np.random.default_rng(5).normal(size=(2, 17, 6))
    schema = layer.start().schema
    _, cache = layer.step(start(schema, 2), x[:, :13])
    save_npz(tmp_path / "cache", cache)
    warm, again = layer.step(restore_npz(tmp_path / "cache", start(schema, 1)), x[:, 13:])
    cold, later = layer.step(cache, x[:, 13:])
    assert warm.out.tobytes() == cold.out.tobytes()
    assert readable(again) == readable(later)


@pytest.mark.by_hand("caches/saved")
@pytest.mark.peer("caches/saved", "numpy.load", "equal")
def test_numpy_reads_the_file_by_hand(tmp_path: Path) -> None:
    save_npz(tmp_path / "cache.npz", small())
    with np.load(tmp_path / "cache.npz", allow_pickle=False) as file:
        assert sorted(file.files) == ["cache.latent", "header"]
        assert file["cache.latent"].tolist() == [[[0.0], [1.0], [2.0]]]
        told = file["header"].tobytes().decode()
    assert told.startswith('{"format":"kvattn cache","version":1,"cache":{"kind":"Paged","schema":{"row":"Latent"')
    assert '"lengths":[3,2]' in told
    assert '"tables":[[0,1],[0]]' in told


@pytest.mark.peer("caches/saved: safetensors", "safetensors.safe_open", "equal")
@pytest.mark.skipif(not HAVE, reason="safetensors is not installed")
def test_safetensors_reads_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    save_safetensors(tmp_path / "cache.safetensors", small())
    with safe_open(tmp_path / "cache.safetensors", framework="numpy") as file:
        assert list(file.keys()) == ["cache.latent"]
        assert file.get_tensor("cache.latent").tolist() == [[[0.0], [1.0], [2.0]]]
        assert set(file.metadata()) == {"kvattn", "sha256"}


def refused(restore: Restore, path: Path) -> str:
    with pytest.raises(KvattnError) as said:
        restore(path, Paged.start(latent(1, np.float32)))
    assert "\n" not in str(said.value)
    return str(said.value)


@pytest.mark.law("caches/saved", "a file cut short at any byte is refused", "integers")
@both
def test_a_file_that_is_cut_short_anywhere_is_refused(save: Save, restore: Restore, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    save(whole, small())
    data = whole.read_bytes()
    for end in range(len(data)):
        broken.write_bytes(data[:end])
        assert refused(restore, broken).startswith("path must be a cache that kvattn saved, whole, got broken with")
    broken.write_bytes(data + b"\0")
    refused(restore, broken)
    assert same(restore(whole, Paged.start(latent(1, np.float32))), small())


@pytest.mark.law("caches/saved", "a file with any one bit changed is refused", "integers")
@both
def test_a_file_with_any_one_bit_changed_is_refused(save: Save, restore: Restore, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    save(whole, small())
    data = whole.read_bytes()
    for place in range(len(data)):
        # the checksum of an npz is over its bytes, that of safetensors over what they say: there every bit is tried
        for bit in range(8) if save is save_safetensors else (place % 8,):
            broken.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
            refused(restore, broken)


@both
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_of_any_kind_is_refused_and_nothing_else_is_touched(
    save: Save, restore: Restore, kind: str, tmp_path: Path
) -> None:
    whole, broken, rng = tmp_path / "whole", tmp_path / "broken", np.random.default_rng(6)
    cache, like = KINDS[kind](), empty_like(KINDS[kind]())
    before = readable(cache), readable(like), getattr(like, "moved", None)
    save(whole, cache)
    data = whole.read_bytes()
    for place in rng.integers(0, len(data), 40).tolist():
        for content in (data[:place], data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]):
            broken.write_bytes(content)
            with pytest.raises(KvattnError) as said:
                restore(broken, like)
            assert "\n" not in str(said.value)
    assert (readable(cache), readable(like), getattr(like, "moved", None)) == before
    assert same(restore(whole, like), cache)


@both
@given(data=st.data())
def test_changed_bits_of_larger_files_are_refused(
    save: Save, restore: Restore, folder: Path, data: st.DataObject
) -> None:
    schema = key_value(2, 16)
    whole = folder / "large"
    save(whole, Paged.start(schema, page=16).append([np.ones((1, 2, 50, 16))] * 2))
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if bytes(content) != whole.read_bytes():
        (folder / "broken").write_bytes(content)
        with pytest.raises(KvattnError):
            restore(folder / "broken", Paged.start(schema))


@both
def test_files_of_others_are_refused(save: Save, restore: Restore, tmp_path: Path) -> None:
    for content in (b"", b"\0" * 300, b"PK\x05\x06" + bytes(18), b"{}", bytes(range(256)) * 2):
        (tmp_path / "other").write_bytes(content)
        refused(restore, tmp_path / "other")
    np.savez(tmp_path / "plain.npz", k=np.ones(3))
    refused(restore, tmp_path / "plain.npz")
    with pytest.raises(FileNotFoundError):
        restore(tmp_path / "none", small())


@both
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VERSION", 2, "version 2 where this kvattn reads 1"),
        ("VERSION", True, "version True where this kvattn reads 1"),
        ("FORMAT", "another cache", "no header that says 'kvattn cache'"),
    ],
)
def test_another_magic_or_version_is_refused(
    save: Save, restore: Restore, name: str, value: Any, words: str, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved, name, value)
        save(tmp_path / "file", small())
    assert refused(restore, tmp_path / "file").endswith(f"got file with {words}")


@both
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda k: {}, ArgumentError, "arrays must hold cache.latent"),
        (lambda k: {"cache.latent": k, "more": k}, ArgumentError, "arrays must be those that the header describes"),
        (lambda k: {"cache.latent": k[:, 1:]}, ShapeError, "cache.latent must have shape"),
        (lambda k: {"cache.latent": k.astype("f8")}, DtypeError, "cache.latent must have dtype"),
    ],
    ids=["missing", "extra", "shape", "dtype"],
)
def test_arrays_that_are_not_the_headers_are_refused(
    save: Save, restore: Restore, change: Any, error: type[KvattnError], words: str, tmp_path: Path
) -> None:
    flat = flatten(small())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved, "flatten", lambda _: Flat(flat.header, change(flat.arrays["cache.latent"])))
        save(tmp_path / "file", small())
    with pytest.raises(error, match=words):
        restore(tmp_path / "file", Paged.start(latent(1, np.float32)))


def sealed(entries: dict[str, bytes]) -> bytes:
    """An npz with a right checksum and whatever in it."""
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.comment = bytes(78)
    whole = file.getvalue()[:-78]
    return whole + b"kvattn sha256 " + sha256(whole).hexdigest().encode()


class Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Trap, "sprung", True)


def test_no_pickle_is_ever_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Trap()], object), allow_pickle=True)
    header = io.BytesIO()
    np.save(header, np.frombuffer(b"{}", np.uint8))
    for entries in (
        {"header.npy": header.getvalue(), "cache.latent.npy": file.getvalue()},
        {"header.npy": file.getvalue()},
    ):
        (tmp_path / "trap").write_bytes(sealed(entries))
        assert "no plain arrays (Object arrays cannot be loaded" in refused(restore_npz, tmp_path / "trap")
    assert not Trap.sprung


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "no header"),
        ({"header.npy": b"no array"}, "an entry that is no array"),
        ({"header": b"raw"}, "an entry that is no array"),
    ],
)
def test_sealed_nonsense_is_refused(entries: dict[str, bytes], words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(sealed(entries))
    assert words in refused(restore_npz, tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no archive at all"])
def test_a_sealed_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.ones(3))
    for whole in (content, array.getvalue()):
        (tmp_path / "file").write_bytes(whole + b"kvattn sha256 " + sha256(whole).hexdigest().encode())
        refused(restore_npz, tmp_path / "file")


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"[" * 100_000, b'{"format":"kvattn cache","version":1}'])
def test_a_header_that_is_no_header_is_refused(text: bytes, tmp_path: Path) -> None:
    header = io.BytesIO()
    np.save(header, np.frombuffer(text, np.uint8))
    (tmp_path / "file").write_bytes(sealed({"header.npy": header.getvalue()}))
    assert "header" in refused(restore_npz, tmp_path / "file")


@pytest.mark.law("caches/saved", "a saving that fails leaves the old file as it was", "bits")
@both
@pytest.mark.parametrize("step", ["fsync", "replace", "kind"])
def test_a_saving_that_fails_leaves_the_old_file(save: Save, restore: Restore, step: str, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    save(path, small())
    old = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        if step == "fsync":
            patch.setattr(saved, "fsync", full)
        if step == "replace":
            patch.setattr(Path, "replace", full)
        with pytest.raises(ArgumentError if step == "kind" else OSError):
            save(path, BlockPool(latent(1), blocks=1) if step == "kind" else goes_on(small()))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    save(path, goes_on(small()))
    assert list(tmp_path.iterdir()) == [path]
    assert restore(path, Paged.start(latent(1, np.float32))).lengths == (6, 5)


def test_the_same_cache_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_npz(tmp_path / name, small())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_other_byte_orders_are_npz_only(tmp_path: Path) -> None:
    cache = Paged.start(latent(2, ">f4")).append([np.arange(4, dtype=">f4").reshape(1, 1, 2, 2)])
    save_npz(tmp_path / "file", cache)
    assert same(restore_npz(tmp_path / "file", empty_like(cache)), cache)
    with pytest.raises(DtypeError, match=r"cache\.latent must have a dtype of the format"):
        save_safetensors(tmp_path / "file", cache)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"anything")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "safetensors", None)
        for action in (
            lambda: save_safetensors(tmp_path / "new", small()),
            lambda: restore_safetensors(tmp_path / "file", small()),
        ):
            with pytest.raises(MissingExtraError, match="safetensors must be installed for this format"):
                action()
    assert not (tmp_path / "new").exists()
