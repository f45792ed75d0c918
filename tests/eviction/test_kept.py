"""The mask of a kept set: its rule by loops, and to the bit what holes in storage give."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.core import streaming
from kvattn.core.pipeline import arguments_of
from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.eviction import Kept
from kvattn.execution import Question
from kvattn.masks import Causal
from kvattn.testing.mask_laws import check_blocks, check_pairs
from tests.eviction.drawn import kept_sets, masked, prompt
from tests.execution.questions import questions

NUMBERS: Any = np.ones((1, 1, 1))


@pytest.mark.by_hand("eviction/kept")
@pytest.mark.no_peer("eviction/kept", "a mask of flags: what it does is compared under eviction/gathered")
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


@pytest.mark.law("eviction/kept", "keeping everything changes nothing", "bits")
@given(questions())
def test_keeping_everything_changes_nothing(question: Question) -> None:
    keep = np.ones(question.k.shape[:3], bool)
    found, wanted = masked(question, keep).attend(), question.attend()
    assert np.array_equal(found.out, wanted.out)
    assert np.array_equal(found.lse, wanted.lse)


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
    ],
    ids=range(4),
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
