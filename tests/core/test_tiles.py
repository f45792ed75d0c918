"""Tiles share out every row once, list the blocks that it may see, and do not show in the result."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.core.tiles import ROW_LIMIT, Tile, cut, score_rows, workers
from kvattn.masks import Causal, Window


def tiles_of(batch: int, kv_heads: int, group: int, length: int, past: int = 0, mask: Any = None) -> list[Tile]:
    keys = past + length
    held = [blocks_of(np.ones((kv_heads, keys, 2)), np.ones((kv_heads, keys, 2)), np.arange(keys))] * batch
    asked = np.broadcast_to(np.arange(past, keys), (batch, length))
    return cut(asked, held, kv_heads, group, length, mask)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 300))
def test_every_row_of_every_head_is_in_one_tile(batch: int, kv_heads: int, group: int, length: int) -> None:
    seen = np.zeros((batch, kv_heads, group * length), int)
    for tile in tiles_of(batch, kv_heads, group, length):
        assert 0 < tile.rows.stop - tile.rows.start <= ROW_LIMIT
        seen[tile.batch, tile.heads, tile.rows] += 1
    assert (seen == 1).all()


def test_blocks_are_listed_as_the_mask_answers() -> None:
    """300 queries at 300 .. 599 over 600 keys: tile 0 has 300 .. 555, tile 1 has 556 .. 599."""
    first, second = tiles_of(1, 1, 1, 300, past=300, mask=Causal())
    assert [(block.start, look) for block, look in first.blocks] == [(0, False), (256, True), (512, True)]
    assert [(block.start, look) for block, look in second.blocks] == [(0, False), (256, False), (512, True)]
    first, second = tiles_of(1, 1, 1, 300, past=300, mask=Window(40))
    assert [(block.start, look) for block, look in first.blocks] == [(256, True), (512, True)]
    assert [block.start for block, _ in second.blocks] == [512]


def test_without_a_mask_nothing_is_looked_at() -> None:
    (tile,) = tiles_of(1, 1, 1, 2, past=598)
    assert [(block.start, look) for block, look in tile.blocks] == [(0, False), (256, False), (512, False)]


@pytest.mark.parametrize("part", [slice(0, 14), slice(0, 2), slice(4, 12), slice(12, 14)])
def test_row_t_times_g_plus_g_is_head_g_at_token_t(part: slice) -> None:
    """Hkv=3 heads, G=2, T=7: row 5 is the second head of the group at token 2."""
    some = np.random.default_rng(0).normal(size=(3, 2, 7, 4))
    rows = score_rows(some, part)
    count = part.stop - part.start
    assert rows.shape == (3, 8 * -(-count // 8), 4)
    for head in range(3):
        for number in range(count):
            token, member = divmod(part.start + number, 2)
            assert np.array_equal(rows[head, number], some[head, member, token])
    assert (rows[:, count:] == 0).all()


def test_few_tiles_and_little_work_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert workers(tiles_of(1, 1, 1, 300), width=2) == 1  # 2 tiles, 300 · 3 blocks at most: under 4 million
    assert workers(tiles_of(1, 1, 1, 9)[:1], width=10**6) == 1
    assert workers([], width=64) == 1


def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = tiles_of(1, 2, 1, 600)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert workers(tiles, width=128) == len(tiles) == 6
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert workers(tiles, width=128) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert workers(tiles, width=128) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert workers(tiles, width=128) == 1


def attend(length: int = 40) -> Any:
    random = np.random.default_rng(1)
    q = random.normal(size=(2, 6, length, 5))
    k, v = random.normal(size=(2, 2, 2, length, 5))
    at = np.arange(length)
    held = [blocks_of(k[b], v[b], at) for b in range(2)]
    return streaming.attend(q, np.stack([at, at]), held, value_width=5, mask=Causal())


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_do_not_show(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    plain = attend()
    monkeypatch.setattr(streaming, "workers", lambda tiles, width: threads)
    for one, other in zip(plain, attend(), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("limit", [8, 16, 256, 1024])
def test_the_size_of_tiles_does_not_show(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    plain = attend(300)
    monkeypatch.setattr("kvattn.core.tiles.ROW_LIMIT", limit)
    for one, other in zip(plain, attend(300), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_block_left_out_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a tile that forgets its first block."""

    def forgetful(*arguments: Any) -> list[Tile]:
        return [tile._replace(blocks=tile.blocks[1:] or tile.blocks) for tile in cut(*arguments)]

    plain = attend(300)
    monkeypatch.setattr(streaming, "cut", forgetful)
    assert not np.array_equal(plain.out, attend(300).out)
