"""Two tiers: the same bits wherever a row lies, each page out once, and no file left behind."""

from collections.abc import Callable, Sequence
import gc
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Field, KeyValue, Paged, Schema, Tiered, key_value, live_bytes, placed
from kvattn.caches._filed import File, FiledPage
from kvattn.caches.pages import Page
from kvattn.caches.tiered import Moved
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, PositionError
from kvattn.masks import Causal
from kvattn.testing.machines import Known, PagedMachine
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.caches.driven import failures
from tests.caches.numbered import SCHEMA, rows


class TieredMachine(PagedMachine):
    """Every verb from any earlier value; pages go out as soon as they are whole, or one page later."""

    pages: Sequence[int] = (1, 2, 3, 256)

    def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Any:
        return Tiered.start(schema, recent=page if page > 1 else 0, batch=batch, page=page)

    def check(self, known: Known) -> Known:
        super().check(known)
        cache = known.cache
        assert cache.nbytes + cache.stored == live_bytes(cache.memory)
        assert cache.path.exists()
        return known


TestTiered = TieredMachine.TestCase


def _mixes_pages(self: File, index: int) -> int:
    return max(0, index - 1) * self.stride


def _reads_the_next_field(self: File, page: FiledPage) -> Any:
    return tuple(np.roll(x, 1) for x in LOOK(self, page))


def _gives_a_place_away(self: FiledPage, file: File, index: int, size: int, nbytes: int) -> None:
    MADE(self, file, index, size, nbytes)
    file.free.append(index)


def _takes_any_twin(self: File, page: Page) -> Any:
    return next(iter(self.twins.values()), None) or STORE(self, page)


LOOK, MADE, STORE = File.look, FiledPage.__init__, File.store


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (File, "offset", _mixes_pages),
        (File, "look", _reads_the_next_field),
        (FiledPage, "__init__", _gives_a_place_away),
        (File, "store", _takes_any_twin),
        (FiledPage, "claim", lambda self, start, stop: True),
    ],
    ids=["mixes pages", "rolls rows", "gives a place away", "takes any twin", "lets others write"],
)
def test_a_wrong_one_is_rejected(owner: Any, name: str, wrong: Callable[..., Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(owner, name, wrong)
    found = failures(TieredMachine, 50)
    assert found
    assert all(isinstance(error, (AssertionError, AttributeError, KvattnError)) for error in found)


@pytest.mark.law("caches/tiered", "a layer over two tiers equals the layer over pages in memory", "bits")
@settings(suppress_health_check=list(HealthCheck))
@given(
    recent=st.sampled_from([0, 1, 7, 8, 9, 256]),
    page=st.sampled_from([1, 8, 256]),
    dtype=st.sampled_from([np.float64, np.float32]),
    cuts=st.lists(st.tuples(st.sampled_from([0, 1, 7, 8, 9, 300]), st.integers(0, 20)), min_size=1, max_size=4),
)
def test_a_layer_over_two_tiers_equals_the_layer_over_pages(
    recent: int, page: int, dtype: Any, cuts: list[tuple[int, int]]
) -> None:
    draw = np.random.default_rng(3)
    q, k, v, o = (draw.normal(size=shape).astype(dtype) for shape in ((12, 8), (12, 4), (12, 6), (12, 12)))
    layer = Grouped(Projections(q, k, v, o, heads=4, kv_heads=2), Causal())
    paged = layer.start(2)
    both = Tiered.start(paged.schema, recent=recent, batch=2, page=page)
    for new, back in cuts:
        x = draw.normal(size=(2, new, 12)).astype(dtype)
        wanted, paged = layer.step(paged, x)
        got, both = layer.step(both, x)
        assert np.array_equal(got.out, wanted.out)
        assert np.array_equal(got.lse, wanted.lse)
        n = max(0, paged.length - back)
        paged, both = paged.truncate(n), both.truncate(n)


@pytest.mark.by_hand("caches/tiered")
def test_what_lies_where_can_be_counted_by_hand() -> None:
    cache, found = Tiered.start(SCHEMA, recent=3, page=2), []
    row = SCHEMA.nbytes
    for token in range(9):
        cache = cache.append(rows([[token]]))
        found.append((cache.nbytes // row, cache.stored // row, cache.moved.out // row))
    # page n goes out once token 2 n + 4 is there: then three tokens lie behind its last
    assert found == [(2, 0, 0), (2, 0, 0), (4, 0, 0), (4, 0, 0), (4, 2, 2), (4, 2, 2), (4, 4, 4), (4, 4, 4), (4, 6, 6)]
    assert cache.rows().v[0, 0, :, 0].tolist() == [-0.25 - t for t in range(9)]
    assert cache.moved == Moved(6 * row, 6 * row)


@pytest.mark.law("caches/tiered", "a page goes out once, whoever shares it, and its memory is free", "integers")
def test_a_page_goes_out_once() -> None:
    with counting() as tally:
        cache = Tiered.start(SCHEMA, recent=4, page=4).append(rows([list(range(8))]))
        beams = cache.select([0, 0, 0])
        grown = beams.append(rows([[1], [2], [3]]))
        again = cache.append(rows([[4, 5, 6, 7, 8, 9]]))
    page = 4 * SCHEMA.nbytes
    assert cache.moved.out == 2 * page  # the first when the eight came, the second by `again`
    assert tally.kv_copied == 2 * page
    assert grown.stored == cache.stored == page
    assert again.stored == 2 * page
    del cache, beams, grown
    gc.collect()
    assert tally.cache_live == again.nbytes == 2 * page


@pytest.mark.law("caches/tiered", "appending inside a page of the file copies its rows to memory", "integers")
def test_appending_behind_a_rollback_into_the_file() -> None:
    cache = Tiered.start(SCHEMA, recent=0, page=4).append(rows([list(range(12))]))
    cut = cache.truncate(6)
    assert (cut.nbytes, cut.moved.back) == (0, 0)
    with counting() as tally:
        grown = cut.append(rows([[70]]))
    assert tally.kv_copied == 2 * SCHEMA.nbytes
    assert [-int(x) for x in grown.rows().v[0, 0, :, 0]] == [0, 1, 2, 3, 4, 5, 70]
    assert [-int(x) for x in cache.rows().v[0, 0, :, 0]] == list(range(12))


def test_a_place_is_used_again_but_not_while_an_array_reads_it() -> None:
    root = Tiered.start(SCHEMA, recent=0, page=256)
    cache = root.append(rows([list(range(256))]))
    (block,) = cache.blocks(0)
    kept = block.k.copy()
    assert not block.k.flags.writeable
    del cache
    other = root.append(rows([list(range(1000, 1256))]))
    assert np.array_equal(block.k, kept)
    size = root.path.stat().st_size
    del block
    gc.collect()
    third = root.append(rows([list(range(2000, 2256))]))
    assert root.path.stat().st_size == size
    assert -int(other.rows().v[0, 0, 0, 0]) == 1000
    assert -int(third.rows().v[0, 0, 0, 0]) == 2000


def test_the_file_goes_with_the_last_value(tmp_path: Path) -> None:
    cache = Tiered.start(SCHEMA, recent=0, page=2, directory=tmp_path).append(rows([list(range(9))]))
    assert [p.name for p in tmp_path.iterdir()] == [cache.path.name]
    part = cache.truncate(4)
    blocks = part.blocks(0)
    del cache
    assert part.path.exists()
    assert part.rows().v.shape == (1, 2, 4, 1)
    del part
    gc.collect()
    assert not list(tmp_path.iterdir())
    assert blocks[0].key_count == 4


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_file_that_vanished_is_said_to_have(damage: str, tmp_path: Path) -> None:
    cache = Tiered.start(SCHEMA, recent=2, page=2, directory=tmp_path).append(rows([list(range(9))]))
    if damage == "removed":
        cache.path.unlink()
    else:
        cache.path.write_bytes(b"")
    for action in (cache.rows, lambda: cache.blocks(0), lambda: cache.append(rows([[1]]))):
        with pytest.raises(
            ArgumentError, match=r"file kvattn-.*\.pages of this cache must hold its 3 pages, 384 bytes, but"
        ):
            action()
    assert -int(cache.rows(6, 9).v[0, 0, 0, 0]) == 6  # what lies in memory is there
    assert cache.lengths == (9,)


def test_any_row_can_go_out() -> None:
    schema = Schema(KeyValue, (Field("k", 1, 3, np.int8, keys=True), Field("v", 2, 1, np.float16)))
    draw = np.random.default_rng(0)
    k, v = draw.integers(-128, 128, (1, 1, 7, 3)).astype(np.int8), draw.normal(size=(1, 2, 7, 1)).astype(np.float16)
    for each in (schema, placed(schema)):
        cache = Tiered.start(each, recent=0, page=3).append([k, v])
        assert cache.stored == 6 * each.nbytes
        found = cache.rows()
        assert np.array_equal(found.k, k)
        assert np.array_equal(found.v, v)
        assert np.array_equal(cache.memory.positions(0), np.arange(7))
        assert cache.truncate(5).memory.ends == (5,)


def test_nan_and_signed_zeros_keep_their_bits() -> None:
    odd = np.array([np.nan, -0.0, np.inf, 5e-324]).reshape(1, 1, 2, 2)
    v = np.frombuffer(np.array([0x7FF8000000000123, 0x8000000000000000], np.uint64).tobytes()).reshape(1, 1, 2, 1)
    schema = key_value(1, 2, 1)
    one, two = Paged.start(schema, page=2), Tiered.start(schema, recent=0, page=2)
    for x, y in zip(one.append([odd, v]).rows(), two.append([odd, v]).rows(), strict=True):
        assert x.tobytes() == y.tobytes()


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="recent must be an integer >= 0, got -1"):
        Tiered.start(SCHEMA, recent=-1)
    with pytest.raises(ArgumentError, match=r"directory must be a folder in which a file can be made, got .*nowhere"):
        Tiered.start(SCHEMA, recent=0, directory=tmp_path / "nowhere")
    cache = Tiered.start(SCHEMA, recent=0, page=2, directory=tmp_path).append(rows([[1, 2, 3]]))
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 3, got 4"):
        cache.truncate(4)
    with pytest.raises(DtypeError, match="k must have dtype float64"):
        cache.append([x.astype(np.float32) for x in rows([[4]])])
    with pytest.raises(ArgumentError, match="indices must be a row of at least one sequence number"):
        cache.select([])
    assert cache.branch() is cache
    assert (cache.length, cache.batch) == (3, 1)
    assert Moved(1, 2).back == 2
    with pytest.raises(PositionError, match=r"positions of sequence 0 must be 3 \.\. 3"):
        cache.append(rows([[4]]), positions=np.array([[4]]))
    assert cache.append(rows([[4]]), positions=cache.coming(1)).ends == (4,)
