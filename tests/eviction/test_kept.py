"""Attention to kept rows and masked attention to all: to the bit in place, within the bound when moved together."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value, placed
from kvattn.core import streaming
from kvattn.core.pipeline import arguments_of
from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.eviction import Kept, attend_kept, kept_slots, negative_norms, protect, shared, top
from kvattn.execution import Question
from kvattn.masks import Causal
from kvattn.positions import Rotary
from kvattn.testing.mask_laws import check_blocks, check_pairs
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.eviction.drawn import kept_sets, prompt
from tests.execution.questions import distance, distance_by_hand, questions

NUMBERS: Any = np.ones((1, 1, 1))


def masked(question: Question, keep: Any) -> Question:
    """The oracle: all rows, and a mask that hides what was evicted."""
    group = question.q.shape[1] // question.k.shape[1]
    mask = Kept(keep, group, question.k_positions[0])
    return replace(question, mask=mask if question.mask is None else mask & question.mask)


@pytest.mark.by_hand("eviction/kept")
@pytest.mark.no_peer("eviction/kept", "a law between two of our own computations, each of which has peers")
@pytest.mark.law("eviction/kept", "attention to kept rows moved together equals masked attention", "bound")
@given(questions(), st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0]))
def test_kept_rows_give_masked_attention(question: Question, seed: int, share: float) -> None:
    keep = kept_sets(seed, question.k.shape[:3], share)
    oracle = masked(question, keep)
    found = attend_kept(question, keep)
    assert distance(found, oracle, 2) <= 1
    assert distance_by_hand(found, oracle) <= 1
    assert distance_by_hand(oracle.attend(), oracle) <= 1


@pytest.mark.law("eviction/kept", "rows that are gone but left their slots equal masked attention", "bits")
@pytest.mark.parametrize("length", [9, 255, 256, 257, 600])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_holes_give_masked_attention_to_the_bit(length: int, share: float) -> None:
    question = prompt(length, kv_heads=1, length=length).part(slice(length - 5, length))
    keep = kept_sets(length, question.k.shape[:3], share)
    blocks = []
    for b in range(2):
        whole = blocks_of(question.k[b], question.v[b], question.k_positions[b])
        blocks.append([_with_holes(block, keep[b, 0, block.start : block.start + BLOCK]) for block in whole])
    found = streaming.attend(
        question.q, question.q_positions, blocks, value_width=question.v.shape[3], **arguments_of(question)
    )
    wanted = masked(question, keep).attend()
    assert np.array_equal(found.out, wanted.out)
    assert np.array_equal(found.lse, wanted.lse)


def _with_holes(block: KeyBlock, keep: Any) -> KeyBlock:
    """What storage would hand out: evicted columns are zero and not held."""
    held = np.zeros(BLOCK, bool)
    held[: len(keep)] = keep
    positions = block.positions.copy()
    if held.any():
        positions[~held] = positions[held][0]
    return block._replace(k=block.k * held, v=block.v * held[:, None], positions=positions, held=held)


def test_moved_together_is_not_to_the_bit() -> None:
    """The law above says bound and means it: other blocks, another order of additions."""
    question = prompt(0, batch=1, kv_heads=1, length=600).part(slice(590, 600))
    keep = kept_sets(0, question.k.shape[:3])
    assert not np.array_equal(attend_kept(question, keep).out, masked(question, keep).attend().out)


def test_evicted_rows_are_never_read() -> None:
    question = prompt(5)
    keep = kept_sets(5, question.k.shape[:3])
    spoilt = replace(
        question,
        k=np.where(keep[..., None], question.k, np.nan),
        v=np.where(keep[..., None], question.v, np.nan),
    )
    for one, other in (
        (attend_kept(spoilt, keep), attend_kept(question, keep)),
        (masked(spoilt, keep).attend(), masked(question, keep).attend()),
    ):
        assert np.array_equal(one.out, other.out)
        assert np.array_equal(one.lse, other.lse)


@pytest.mark.law("eviction/kept", "keeping everything changes nothing", "bits")
@given(questions())
def test_keeping_everything_changes_nothing(question: Question) -> None:
    keep = np.ones(question.k.shape[:3], bool)
    for found in (masked(question, keep).attend(), attend_kept(question, keep)):
        assert np.array_equal(found.out, question.attend().out)
        assert np.array_equal(found.lse, question.attend().lse)


def test_each_sequence_and_head_has_its_own_set() -> None:
    keep = np.zeros((2, 2, 4), bool)
    keep[0, 0, 1] = keep[0, 1, 2] = keep[1, 0, 3] = True
    mask = Kept(keep, group=3)
    b, h = np.arange(2)[:, None, None, None], np.arange(6)[:, None, None]
    seen = mask(b, h, np.array([[9]]), np.arange(6))
    assert seen.shape == (2, 6, 1, 6)
    for sequence in range(2):
        for head in range(6):
            wanted = [*keep[sequence, head // 3], True, True]
            assert seen[sequence, head, 0].tolist() == wanted


def test_positions_need_not_be_slots() -> None:
    mask = Kept(np.array([[[True, False, True]]]), positions=[3, 7, 9])
    assert mask(0, 0, np.array([[9]]), np.array([3, 7, 9, 4, 10])).tolist() == [[True, False, True, True, True]]
    assert Kept(np.zeros((1, 1, 0), bool))(0, 0, np.array([[9]]), np.array([3])).all()


@given(st.integers(0, 999), st.sampled_from([0.1, 0.9]))
def test_blocks_are_answered_as_pairs_are(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    at = np.sort(random.choice(40, 20, replace=False))
    mask = Kept(kept_sets(seed, (2, 2, 20), share), 1, at)
    check_blocks(mask, [9], range(45), batch=2, heads=2)
    check_pairs(mask, [9], range(45), batch=2, heads=2)


def test_a_layers_cache_is_evicted_and_goes_on() -> None:
    """A Grouped layer's cache, through `Paged.evict`: positions and rotations stay, the oracle is the masked layer."""
    random = np.random.default_rng(0)
    w = Projections(
        random.normal(size=(8, 12)),
        random.normal(size=(8, 6)),
        random.normal(size=(8, 4)),
        random.normal(size=(8, 8)),
        heads=4,
        kv_heads=2,
    )
    rotary = Rotary.of(2)
    layer = Grouped(w, query_key=(rotary,))
    x = random.normal(size=(2, 14, 8))
    past, new = x[:, :9], x[:, 9:]
    _, cache = layer.step(layer.start(2), past)
    keys = cache.rows().k
    keep = top(protect(shared(negative_norms(keys)), first=1, last=2), 5)

    held = Paged.start(placed(key_value(2, w.width, w.value_width)), 2).append(cache.rows())
    less = held.evict([slots[0] for slots in kept_slots(keep)])
    at = less.coming(new.shape[1])
    assert at.tolist() == [[9, 10, 11, 12, 13]] * 2
    q, k = (rotary.rotate(rows, at[:, None]) for rows in (w.queries(new), w.keys(new)))
    grown = less.append(KeyValue(k, w.values(new)))
    blocks = [grown.blocks(b) for b in range(2)]
    mixed = streaming.attend(q, at, blocks, value_width=w.value_width, mask=Causal())

    wanted, _ = replace(layer, mask=Causal() & Kept(keep, group=2)).step(cache, new)
    assert np.allclose(w.outputs(mixed.out), wanted.out, rtol=0, atol=1e-13)
    assert np.allclose(mixed.lse, wanted.lse, rtol=0, atol=1e-13)
    assert not np.allclose(layer.step(cache, new)[0].out, wanted.out, rtol=0, atol=1e-3)
    assert held.lengths == (9, 9)  # the old value has every row
    assert np.array_equal(held.rows().k, keys)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Kept(NUMBERS), DtypeError, r"^keep must be boolean, True = stays, got float64$"),
        (lambda: Kept(np.ones(3, bool)), ShapeError, r"^keep must have shape \[B, Hkv, S\], got \(3,\)$"),
        (
            lambda: Kept(np.ones((1, 1, 2), bool), positions=[4, 4]),
            PositionError,
            r"^positions must increase from slot to slot, got some that do not$",
        ),
        (
            lambda: Kept(np.ones((1, 1, 2), bool))(0, 3, np.array([0]), np.array([0])),
            ShapeError,
            r"^h must be of the 1 sequences or key/value heads that keep tells of, got 3$",
        ),
        (
            lambda: attend_kept(prompt(0), np.ones((2, 2, 8), bool)),
            ShapeError,
            r"^keep must have shape \[B, Hkv, S\] with B=2, Hkv=2, S=9, got \(2, 2, 8\)$",
        ),
    ],
    ids=range(5),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_it_is_a_value() -> None:
    keep = np.ones((1, 1, 2), bool)
    mask = Kept(keep)
    keep[...] = False
    assert mask.keep.all()
    assert not mask.keep.flags.writeable
    assert repr(mask & Causal()) == "Kept(<2 of [1, 1, 2]>, group=1) & Causal()"
