"""What attention costs, in numbers that are worked out by hand here."""

import itertools

import numpy as np
import pytest

from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.counting import Tally, counting
from kvattn.masks import Causal, Padding, Window
from kvattn.typing import Mask

HQ, HKV, D, DV = 6, 2, 5, 3
WIDE = D + DV


def shape(past: int, new: int, batch: int = 1) -> Shape:
    return Shape(HQ, HKV, D, DV, 8, past, new, batch)


@pytest.mark.parametrize(("past", "new"), [(0, 1), (0, 5), (7, 1), (7, 5), (300, 9), (511, 2)])
def test_causal_pairs_are_a_trapezium(past: int, new: int) -> None:
    """Query t of T sees the P + t + 1 keys up to itself: Hq · (T·P + T(T + 1)/2)."""
    cost = attend_cost(shape(past, new, batch=2), Causal())
    assert cost.pairs_visible == 2 * HQ * (new * past + new * (new + 1) // 2)


@pytest.mark.parametrize(("past", "new", "window"), list(itertools.product([0, 2, 3, 4, 9, 300], [1, 5], [1, 3, 4, 5])))
def test_window_pairs_are_summed_one_by_one(past: int, new: int, window: int) -> None:
    cost = attend_cost(shape(past, new), Window(window))
    assert cost.pairs_visible == HQ * sum(min(i + 1, window) for i in range(past, past + new))


@pytest.mark.parametrize(("past", "new"), [(0, 3), (255, 1), (256, 1), (600, 7), (1023, 1), (1024, 1)])
def test_without_a_mask_everything_is_computed(past: int, new: int) -> None:
    """A pair costs 2·(D + Dv); each of a row's blocks of 256 costs 1 + Dv, each span of 1,024 as much and an exp."""
    keys, rows = past + new, HQ * new
    pairs, blocks, spans = rows * keys, rows * -(-keys // 256), rows * -(-keys // 1024)
    assert attend_cost(shape(past, new)) == Tally(
        matmul=2 * pairs * WIDE,
        arithmetic=3 * pairs + (blocks + spans) * (1 + DV) + rows * WIDE,
        transcendental=pairs + spans + rows,
        kv_read=keys * HKV * WIDE * 8,
        pairs_computed=pairs,
        pairs_visible=pairs,
    )


def test_a_short_window_meets_one_block() -> None:
    """P = 1000: the query at 1000 sees 997 .. 1000, in block 3 (768 .. 1000, 233 keys so far)."""
    cost = attend_cost(shape(1000, 1), Window(4))
    assert cost.pairs_computed == HQ * 233
    assert cost.pairs_visible == HQ * 4
    assert cost.matmul == 2 * HQ * 233 * WIDE
    assert cost.kv_read == 233 * HKV * WIDE * 8
    assert cost.transcendental == HQ * (233 + 1 + 1)
    assert cost.arithmetic == HQ * (3 * 233 + 2 + 2 * DV + WIDE)


def test_a_short_window_across_an_edge_meets_two_blocks() -> None:
    """P = 1025: the query at 1025 sees 1022 .. 1025, in block 3 (256 keys) and in block 4 (1024 and 1025)."""
    cost = attend_cost(shape(1025, 1), Window(4))
    assert cost.pairs_computed == HQ * (256 + 2)
    assert cost.pairs_visible == HQ * 4
    assert cost.kv_read == 258 * HKV * WIDE * 8
    assert cost.transcendental == HQ * (258 + 2 + 1)  # an edge of spans, too: block 4 begins the second one


def test_causal_prefill_skips_blocks_above_the_diagonal() -> None:
    """600 tokens, one head each: row tiles 0..255, 256..511 and 512..599 meet 1, 2 and 3 blocks."""
    cost = attend_cost(Shape(1, 1, D, DV, 8, 0, 600), Causal())
    assert cost.pairs_computed == 256 * 256 + 256 * 512 + 88 * 600
    assert cost.pairs_visible == 600 * 601 // 2
    assert cost.transcendental == cost.pairs_computed + 600 + 600  # every row has one span, and a logarithm
    blocks = 256 * 1 + 256 * 2 + 88 * 3
    assert cost.arithmetic == 3 * cost.pairs_computed + (blocks + 600) * (1 + DV) + 600 * WIDE
    assert cost.kv_read == 600 * WIDE * 8  # each block once, however many tiles meet it


def test_softcap_and_sinks_add_theirs() -> None:
    """A softcap: a division, a product and a tanh per pair; a sink: two exps and 2 + Dv operations per row."""
    plain, pairs, rows = attend_cost(shape(3, 2)), HQ * 2 * 5, HQ * 2
    capped, sunk = attend_cost(shape(3, 2), softcap=True), attend_cost(shape(3, 2), sinks=True)
    assert (capped.arithmetic - plain.arithmetic, capped.transcendental - plain.transcendental) == (2 * pairs, pairs)
    assert (sunk.arithmetic - plain.arithmetic, sunk.transcendental - plain.transcendental) == (
        rows * (2 + DV),
        rows * 2,
    )


def test_forgotten_slots_cost_nothing() -> None:
    """Of 600 keys, 100 .. 511 are gone: block 0 holds 100, block 1 none, block 2 holds 88."""
    cost = attend_cost(shape(599, 1), forgotten=(100, 512))
    assert cost.pairs_computed == HQ * 188
    assert cost.kv_read == 188 * HKV * WIDE * 8
    assert cost.transcendental == HQ * (188 + 1 + 1)
    assert cost.arithmetic == HQ * (3 * 188 + (2 + 1) * (1 + DV) + WIDE)


def test_another_source_has_its_own_length() -> None:
    cost = attend_cost(Shape(HQ, HKV, D, DV, 4, past=9, new=2, source=7))
    assert cost.pairs_computed == HQ * 2 * 7
    assert cost.kv_read == 7 * HKV * WIDE * 4


def test_no_queries_and_no_keys_cost_little() -> None:
    assert attend_cost(shape(5, 0)) == Tally()
    nothing = attend_cost(Shape(HQ, HKV, D, DV, 8, 0, 2, source=0))
    assert nothing == Tally(arithmetic=2 * HQ * WIDE, transcendental=2 * HQ)  # scale, divide and log of every row


@pytest.mark.parametrize("mask", [None, Causal(), Window(4), Causal() & Padding([9, 2])])
@pytest.mark.parametrize(("past", "new"), [(0, 3), (254, 4), (1000, 1)])
def test_it_is_what_streaming_counts(mask: Mask | None, past: int, new: int) -> None:
    keys = past + new
    at = np.arange(keys)
    held = [blocks_of(np.ones((HKV, keys, D)), np.ones((HKV, keys, DV)), at) for _ in range(2)]
    asked = np.broadcast_to(at[past:], (2, new))
    with counting() as tally:
        streaming.attend(np.ones((2, HQ, new, D)), asked, held, value_width=DV, mask=mask)
    assert tally.tally == attend_cost(shape(past, new, batch=2), mask)


@pytest.mark.parametrize(("heads", "kv_heads", "new"), [(5, 1, 120), (300, 1, 3), (6, 2, 90), (7, 7, 257)])
def test_so_it_is_where_tiles_end_within_a_group(heads: int, kv_heads: int, new: int) -> None:
    """A tile has about 256 rows and whole tokens; keys of a tile's last token decide what it meets."""
    at = np.arange(200, 200 + new)
    keys = 200 + new
    held = [blocks_of(np.ones((kv_heads, keys, D)), np.ones((kv_heads, keys, DV)), np.arange(keys))]
    with counting() as tally:
        streaming.attend(np.ones((1, heads, new, D)), at[None], held, value_width=DV, mask=Window(9))
    assert tally.tally == attend_cost(Shape(heads, kv_heads, D, DV, 8, 200, new), Window(9))


def test_planted_slips_are_seen() -> None:
    """The formulas above tell a causal triangle without its diagonal, a window of W + 1, and G forgotten."""
    causal = attend_cost(shape(7, 5), Causal())
    assert causal.pairs_visible != HQ * (5 * 7 + 5 * 4 // 2)
    assert attend_cost(shape(9, 5), Window(4)).pairs_visible != attend_cost(shape(9, 5), Window(5)).pairs_visible
    assert attend_cost(Shape(HKV, HKV, D, DV, 8, 7, 5), Causal()).pairs_visible != causal.pairs_visible
