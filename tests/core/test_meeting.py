"""A tile meets a block: bent in order, hidden by mask or empty column, mixed without NaN from behind."""

from typing import Any

import numpy as np
import pytest

from kvattn.caches.blocks import KeyBlock, blocks_of
from kvattn.core.meeting import bend, bytes_of, mix, seen_pairs, widened
from kvattn.core.pipeline import Pipeline
from kvattn.masks import Causal
from kvattn.typing import Place


def block_of(keys: int, heads: int = 2, width: int = 3, value_width: int = 5, dtype: Any = np.float64) -> KeyBlock:
    draws = np.random.default_rng(0)
    k, v = (draws.normal(size=(heads, keys, n)).astype(dtype) for n in (width, value_width))
    return blocks_of(k, v, np.arange(keys))[0]


def place_of(block: KeyBlock, queries: int = 8) -> Place:
    heads, at = np.arange(2)[:, None, None], np.arange(queries)[None, :, None]
    return Place(0, heads, None, at, block.positions[None, None, :])


def test_the_cap_comes_before_the_mods_and_mods_in_order() -> None:
    scores = np.full((2, 8, 256), 3.0)
    mods = (lambda s, place: s + 1.0, lambda s, place: s * place.heads)
    bend(scores, Pipeline(None, mods, 1.0, 2.0, None), place_of(block_of(4)))
    capped = 2.0 * np.tanh(1.5)
    assert np.allclose(scores[0], 0.0)
    assert np.allclose(scores[1], capped + 1.0, rtol=1e-15)


@pytest.mark.parametrize("keys", [1, 255, 256])
@pytest.mark.parametrize("mask", [None, Causal()])
def test_pairs_are_seen_where_a_key_is_held_and_the_mask_agrees(keys: int, mask: Any) -> None:
    block = block_of(keys)
    seen = seen_pairs(block, mask, place_of(block))
    if seen is None:
        assert keys == 256
        assert mask is None
        return
    for i in range(8):
        for j in range(256):
            found = np.broadcast_to(seen, (2, 8, 256))[:, i, j]
            assert (found == (j < keys and (mask is None or j <= i))).all()


def test_bytes_are_those_of_held_keys_values_and_notes() -> None:
    block = block_of(7, dtype=np.float32)
    assert bytes_of(block) == 7 * 2 * (3 + 5) * 4
    assert bytes_of(block._replace(inside=True)) == 7 * 2 * 3 * 4
    assert bytes_of(block._replace(notes=np.zeros((6, 256)))) == 7 * (2 * (3 + 5) * 4 + 6 * 8)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 16])
def test_values_are_widened_with_zeros_to_eights(width: int) -> None:
    values = np.ones((2, 4, width))
    wide = widened(values)
    assert wide.shape[2] % 8 == 0
    assert wide.shape[2] - width < 8
    assert (wide[..., :width] == 1).all()
    assert not wide[..., width:].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_careful_way_keeps_hidden_values_out_and_seen_ones_in(bad: float) -> None:
    block = block_of(20)
    values = widened(block.v)
    keep = np.broadcast_to(np.arange(256) <= np.arange(8)[:, None], (2, 8, 256))
    weights = np.where(keep, 0.25, 0.0)
    spoiled = values.copy()
    spoiled[1, 5] = bad
    plain, found = np.empty((2, 8, 8)), np.empty((2, 8, 8))
    mix(weights, values, keep, False, plain)
    with np.errstate(invalid="ignore"):
        mix(weights, spoiled, keep, True, found)
    assert found[:, :5].tobytes() == plain[:, :5].tobytes()
    assert found[0].tobytes() == plain[0].tobytes()
    assert not np.isfinite(found[1, 5:]).any()
    with np.errstate(invalid="ignore"):
        mix(weights, spoiled, keep, False, found)  # mutant: without care, every row of the head is spoiled
    assert np.isnan(found[1, 0]).all()
