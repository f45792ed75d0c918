import numpy as np
import pytest

from kvattn.caches.blocks import blocks_of
from kvattn.caches.paged import Paged
from kvattn.caches.rows import latent
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.counting import counting
from kvattn.errors import ShapeError
from kvattn.masks import Causal, Window
from kvattn.positions import Rotary
from kvattn.typing import Mask
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.compressed.latent_rows import (
    check_rotation,
    latent_blocks,
    query_and_row,
    query_and_row_cost,
    turned,
    turned_cost,
)

ROTARY = Rotary.of(2)


def weights() -> LatentProjections:
    rng = np.random.default_rng(1)
    draw = rng.standard_normal
    return LatentProjections(
        draw((4, 3)), draw(3), draw((4, 2)), draw((3, 10)), draw((3, 6)), draw((4, 14)), draw((6, 4)), heads=2
    )


@pytest.mark.parametrize("page", [256, 7])
def test_a_row_is_a_key_and_its_first_numbers_a_value(page: int) -> None:
    rows = np.random.default_rng(0).standard_normal((1, 1, 300, 5))
    cache = Paged.start(latent(5), page=page).append([rows])
    found = latent_blocks(cache.raw_blocks(0), value_width=3)
    wanted = blocks_of(rows[0], rows[0, :, :, :3], np.arange(300))
    for a, b in zip(found, wanted, strict=True):
        assert a.start == b.start
        assert a.key_count == b.key_count
        assert a.k.flags.c_contiguous
        assert a.v.flags.c_contiguous
        assert np.array_equal(a.k, b.k)
        assert np.array_equal(a.v, b.v)


@pytest.mark.parametrize(("mask", "keys"), [(None, 300), (Causal(), 300), (Causal() & Window(3), 44)])
def test_a_row_is_read_once(mask: Mask | None, keys: int) -> None:
    rng = np.random.default_rng(0)
    rows, q = rng.standard_normal((1, 300, 5)), rng.standard_normal((1, 4, 2, 5))
    at = np.arange(298, 300)[None]
    cache = Paged.start(latent(5)).append([rows[None]])
    with counting() as tally:
        found = streaming.attend(q, at, [latent_blocks(cache.raw_blocks(0), 3)], value_width=3, mask=mask)
    plain = streaming.attend(q, at, [blocks_of(rows, rows[:, :, :3], np.arange(300))], value_width=3, mask=mask)
    assert np.array_equal(found.out, plain.out)
    assert tally.tally == attend_cost(Shape(4, 1, 5, 3, 8, past=298, new=2, inside=True), mask)
    assert tally.kv_read == keys * 5 * 8  # one of two blocks holds the window


def test_query_and_row_fit_each_other() -> None:
    w, x = weights(), np.random.default_rng(2).standard_normal((3, 5, 4))
    at = np.arange(15).reshape(3, 5)
    q, row = query_and_row(w, ROTARY, x, x, at)
    assert q.shape == (3, 2, 5, 5)
    assert row.shape == (3, 1, 5, 5)
    nope, rope = w.queries(x)
    k = np.concatenate(
        [w.expand(w.latents(x))[0], np.repeat(ROTARY.rotate(w.rope_keys(x), at)[:, None], 2, axis=1)], axis=-1
    )
    long = np.concatenate([nope, ROTARY.rotate(rope, at[:, None])], axis=-1)
    np.testing.assert_allclose(q @ row.swapaxes(2, 3), long @ k.swapaxes(2, 3), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rotation", [None, ROTARY])
def test_the_closed_forms_are_what_is_counted(rotation: Rotary | None) -> None:
    w, x, at = weights(), np.ones((3, 5, 4)), np.zeros((3, 5), int)
    with counting() as tally:
        query_and_row(w, rotation, x, x, at)
    assert tally.tally == query_and_row_cost(w, rotation, 15)
    with counting() as tally:
        turned(rotation, np.ones((3, 2, 5, 2)), at[:, None])
    assert tally.tally == turned_cost(rotation, 15, 2)


def test_a_rotation_wider_than_the_rope_part_is_refused() -> None:
    check_rotation(weights(), ROTARY)
    check_rotation(weights(), None)
    with pytest.raises(ShapeError, match="rotation must turn features of 2 in key_rope, got 4 features"):
        check_rotation(weights(), Rotary.of(4))
