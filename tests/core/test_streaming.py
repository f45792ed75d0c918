"""The running softmax against the definition, behind masks that hide NaN, and within its memory."""

from dataclasses import dataclass
import math
import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

import kvattn
from kvattn.caches.blocks import BLOCK, blocks_of
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.counting import Tally, counting
from kvattn.masks import Causal, Sink, Window
from kvattn.positions import Alibi
from kvattn.testing.choices import Recorded, numbers, pick
from kvattn.testing.strategies import Drawn
from kvattn.testing.tolerance import Arithmetic, bounds
from kvattn.typing import Array, Attended, Mask, Place, Visible


def visible(mask: Mask | None, heads: int, at: np.ndarray, where: np.ndarray) -> Visible:
    """``[B, Hq, T, S]``, True where the mask lets a query see a key."""
    shape = (len(at), heads, at.shape[1], where.shape[1])
    if mask is None:
        return np.ones(shape, np.bool_)
    h = np.arange(heads)[:, None, None]
    rows = [mask(b, h, at[b][None, :, None], where[b][None, None, :]) for b in range(len(at))]
    return np.stack([np.broadcast_to(row, shape[1:]) for row in rows])


def close(found: Attended, wanted: Attended, allowed: Array, lse_allowed: Array) -> bool:
    """Whether two results lie within twice a worst-case bound of each other: each may err once."""
    with np.errstate(invalid="ignore"):
        out = np.abs(found.out - wanted.out) <= 2 * allowed
        lse = (found.lse == wanted.lse) | (np.abs(found.lse - wanted.lse) <= 2 * lse_allowed)
    return bool(out.all() and lse.all())


@given(st.data())
def test_streaming_is_the_definition_within_the_worst_case_bound(data: st.DataObject) -> None:
    choices = Drawn(data.draw)
    dtype = pick(choices, (np.float64, np.float32), "dtype")
    batch, kv_heads, group = (choices.integer(1, 2, name) for name in ("B", "Hkv", "G"))
    length, held = choices.integer(1, 12, "T"), choices.integer(1, 40, "S") + 250 * choices.integer(0, 1, "block")
    width, value_width = choices.integer(1, 9, "D"), choices.integer(1, 9, "Dv")
    heads = kv_heads * group
    q = numbers(choices, (batch, heads, length, width), dtype, "q", spread=2.0)
    k = numbers(choices, (batch, kv_heads, held, width), dtype, "k")
    v = numbers(choices, (batch, kv_heads, held, value_width), dtype, "v")
    sinks = numbers(choices, (heads,), dtype, "sinks") if choices.integer(0, 1, "sinks") else None
    softcap = pick(choices, (None, 1.5), "softcap")
    masks: tuple[Mask, ...] = (Causal(), Causal() & Window(3), Causal() & (Window(2) | Sink(1)))
    mask = pick(choices, masks, "mask")
    at = np.broadcast_to(np.arange(held - length, held), (batch, length))
    where = np.broadcast_to(np.arange(held), (batch, held))

    found = streaming.attend(
        q,
        at,
        [blocks_of(k[b], v[b], where[b]) for b in range(batch)],
        value_width=value_width,
        mask=mask,
        softcap=softcap,
        sinks=sinks,
    )
    wanted = definition(q, k, v, q_positions=at, k_positions=where, mask=mask, softcap=softcap, sinks=sinks)
    seen = visible(mask, heads, at, where)
    arithmetic = Arithmetic(np.dtype(dtype).name)
    limit = bounds(q, k, v, arithmetic=arithmetic, softcap=softcap, visible=seen, sinks=sinks)

    assert close(found, wanted, limit.worst, limit.lse_worst)


def test_the_bound_rejects_a_scale_of_the_next_width_and_a_key_too_many() -> None:
    choices = Recorded(seed=1)
    q, k, v = (numbers(choices, (1, 2, 9, 8), np.float64, name) for name in "qkv")
    at = np.arange(9)[None]
    wanted = definition(q, k, v, q_positions=at, k_positions=at, mask=Causal() & Window(3))
    seen = visible(Causal() & Window(3), 2, at, at)
    limit = bounds(q, k, v, arithmetic=Arithmetic("float64"), visible=seen)

    def attended(mask: Mask, scale: float) -> Attended:
        held = [blocks_of(k[0], v[0], at[0])]
        return streaming.attend(q, at, held, value_width=8, mask=mask, scale=scale)

    assert close(attended(Causal() & Window(3), 8**-0.5), wanted, limit.worst, limit.lse_worst)
    assert not close(attended(Causal() & Window(3), 9**-0.5), wanted, limit.worst, limit.lse_worst)
    assert not close(attended(Causal() & Window(4), 8**-0.5), wanted, limit.worst, limit.lse_worst)


@given(st.data())
def test_nothing_behind_a_mask_matters_not_even_nan(data: st.DataObject) -> None:
    choices = Drawn(data.draw)
    rng = np.random.default_rng(choices.integer(0, 99, "seed"))
    held = choices.integer(2, 20, "S") + 250 * choices.integer(0, 1, "block")
    q, k, v = (rng.standard_normal((1, 2, held, 4)) for _ in range(3))
    keep = rng.random((held, held)) < 0.5
    hidden = ~keep.any(axis=0) | (np.arange(held) == choices.integer(0, held - 1, "hidden"))
    keep[:, hidden] = False
    plain = kvattn.attend(q, k, v, mask=keep)
    for poison in (np.nan, np.inf, -np.inf, 1e300):
        spoiled_k, spoiled_v = k.copy(), v.copy()
        spoiled_k[:, :, hidden] = spoiled_v[:, :, hidden] = poison
        found = kvattn.attend(q, spoiled_k, spoiled_v, mask=keep)

        assert plain.out.tobytes() == found.out.tobytes()
        assert plain.lse.tobytes() == found.lse.tobytes()


def test_a_nan_value_reaches_the_rows_that_see_it_and_no_others() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, 5, 3)) for _ in range(3))
    spoiled = v.copy()
    spoiled[0, 0, 2, 1] = np.nan
    plain, found = (kvattn.attention(q, k, x, mask=Causal())[0, 0] for x in (v, spoiled))
    reached = np.zeros((5, 3), np.bool_)
    reached[2:, 1] = True

    np.testing.assert_array_equal(np.isnan(found), reached)
    assert plain[~reached].tobytes() == found[~reached].tobytes()


def test_infinite_values_mix_as_ieee_says() -> None:
    values = np.array([[[[1.0], [np.inf]]], [[[-np.inf], [np.inf]]]])
    q = k = np.zeros((2, 1, 2, 1))

    np.testing.assert_array_equal(kvattn.attention(q, k, values)[:, 0, 0, 0], [np.inf, np.nan])


def test_a_row_that_sees_no_key_is_zero_and_with_a_sink_its_lse_is_the_sink() -> None:
    x = np.ones((1, 1, 2, 2))
    nothing = kvattn.attend(x, x, x, mask=np.zeros((2, 2), np.bool_))
    sunk = kvattn.attend(x, x, x, mask=np.zeros((2, 2), np.bool_), sinks=[0.25])

    assert not nothing.out.any()
    assert not sunk.out.any()
    assert (nothing.lse == -np.inf).all()
    np.testing.assert_allclose(sunk.lse, 0.25, rtol=0, atol=1e-16)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    q = np.array([[[[1e3]]]])
    k = np.array([[[[-1e3], [0.0], [1e3]]]])
    v = np.array([[[[1.0], [2.0], [3.0]]]])
    out, lse = kvattn.attend(q, k, v)

    assert out.item() == 3.0
    assert lse.item() == 1e6


def test_the_order_of_pipeline_stages_is_scale_softcap_bias_mask_sinks() -> None:
    s, cap, bias, sink = 1.7, 2.0, 0.3, -0.4
    first = cap * math.tanh(0.5 * s / cap) + bias
    second = cap * math.tanh(0.5 * 2 * s / cap) + bias
    total = math.exp(first) + math.exp(second) + math.exp(sink)
    q, k = np.array([[[[s]]]]), np.array([[[[1.0], [2.0], [5.0]]]])
    v = np.array([[[[1.0], [10.0], [100.0]]]])
    keep = np.array([[True, True, False]])
    out, lse = kvattn.attend(q, k, v, scale=0.5, softcap=cap, bias=[[bias] * 3], mask=keep, sinks=[sink])

    assert math.isclose(out.item(), (math.exp(first) + 10 * math.exp(second)) / total, rel_tol=1e-14)
    assert math.isclose(lse.item(), math.log(total), rel_tol=1e-14)


def test_positions_alone_decide_not_row_numbers() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 4, 6, 3)) for _ in range(3))
    order = rng.permutation(6)
    bias = Alibi.of(4)
    plain = kvattn.attend(q, k, v, mask=Causal() & Window(4), bias=bias)
    moved = kvattn.attend(
        q[:, :, ::-1],
        k[:, :, order],
        v[:, :, order],
        mask=Causal() & Window(4),
        bias=bias,
        q_positions=np.arange(6)[::-1] + 100,
        k_positions=order + 100,
    )

    np.testing.assert_allclose(moved.out[:, :, ::-1], plain.out, rtol=0, atol=1e-14)


def test_memory_does_not_grow_with_queries_times_keys() -> None:
    length = 8192
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 1, length, 8)) for _ in range(3))
    kvattn.attention(q[:, :, :8], k[:, :, :8], v[:, :, :8])
    tracemalloc.start()
    out = kvattn.attention(q, k, v, mask=Causal() & Window(600))
    peak = tracemalloc.get_traced_memory()[1] - out.nbytes
    tracemalloc.stop()

    # keys turned once, and for two threads a few tiles of 256 rows by 256 keys: nothing like 512 MB of scores
    tile = 8 * 256 * BLOCK
    assert peak < k.nbytes + v.nbytes + 2 * 8 * tile


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257])
def test_lengths_around_a_block_and_none_at_all(length: int) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((1, 1, length, 3)) for _ in range(3))
    at = np.arange(length)[None]
    found = kvattn.attend(q, k, v, mask=Causal())
    wanted = definition(q, k, v, q_positions=at, k_positions=at, mask=Causal())

    assert found.out.shape == wanted.out.shape
    np.testing.assert_allclose(found.out, wanted.out, rtol=0, atol=1e-14)


@dataclass(frozen=True)
class Notes:
    """A mod that adds a query's first note times a key's note, and the product of the rows that it is shown."""

    def __call__(self, scores: Array, place: Place) -> Array:
        assert place.queries is not None
        assert place.keys is not None
        assert place.query_notes is not None
        assert place.key_notes is not None
        head_notes = place.key_notes[place.heads[..., 0]]  # [h, rows, columns]
        rows = np.einsum("hrd,hdc->hrc", place.queries, place.keys)
        bent: Array = (scores + rows + place.query_notes[..., :1] * head_notes).astype(scores.dtype)
        return bent

    def cost(self, *, pairs: int, width: int) -> Tally:
        return Tally(matmul=2 * pairs * width, arithmetic=2 * pairs)


def test_mods_read_rows_and_notes_by_token_and_head() -> None:
    """Streaming and definition show a mod the same rows, keys and notes, whatever block or tile they lie in."""
    batch, heads, kv_heads, length = 2, 4, 2, 300
    draw = np.random.default_rng(5)
    q, k, v = (draw.normal(size=(batch, h, length, 3)) for h in (heads, kv_heads, kv_heads))
    beside, notes = draw.normal(size=(batch, heads, length, 2)), draw.normal(size=(batch, heads, length))
    at = np.tile(np.arange(length), (batch, 1))
    blocks = []
    for b in range(batch):
        padded = np.zeros((heads, 512))
        padded[:, :length] = notes[b]
        plain = blocks_of(k[b], v[b], at[b])
        blocks.append([block._replace(notes=padded[:, block.start : block.start + 256]) for block in plain])
    arguments: dict[str, Any] = {"mask": Causal(), "mods": (Notes(),), "query_notes": beside}
    with counting() as tally:
        found = streaming.attend(q, at, blocks, value_width=3, **arguments)
        counted = tally.tally
    wanted = definition(q, k, v, q_positions=at, k_positions=at, key_notes=notes, **arguments)
    # scores stay below 50 and err by a dozen roundings: exponentials by 600 u = 7e-14, the mix by a few times that
    np.testing.assert_allclose(found.out, wanted.out, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.lse, wanted.lse, rtol=1e-12, atol=1e-13)
    shape = Shape(heads, kv_heads, 3, 3, 8, past=0, new=length, batch=batch)
    assert counted == attend_cost(shape, Causal(), mods=(Notes(),), notes=heads * 8)
    assert counted.matmul == 2 * counted.pairs_computed * (3 + 3 + 3)
