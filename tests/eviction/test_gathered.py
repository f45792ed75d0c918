"""Attention to kept rows moved together: masked attention within the bound, and a layer's cache that is evicted."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value, placed
from kvattn.core import streaming
from kvattn.errors import ShapeError
from kvattn.eviction import Kept, attend_kept, kept_slots, negative_norms, protect, shared, top
from kvattn.execution import Question
from kvattn.masks import Causal
from kvattn.positions import Rotary
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.eviction.drawn import kept_sets, masked, prompt
from tests.execution.questions import distance, distance_by_hand, questions


@pytest.mark.by_hand("eviction/gathered")
@pytest.mark.law("eviction/gathered", "attention to kept rows moved together equals masked attention", "bound")
@given(questions(), st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0]))
def test_kept_rows_give_masked_attention(question: Question, seed: int, share: float) -> None:
    keep = kept_sets(seed, question.k.shape[:3], share)
    oracle = masked(question, keep)
    found = attend_kept(question, keep)
    assert distance(found, oracle, 2) <= 1
    assert distance_by_hand(found, oracle) <= 1
    assert distance_by_hand(oracle.attend(), oracle) <= 1


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


@pytest.mark.law("eviction/gathered", "keeping everything changes nothing", "bits")
@given(questions())
def test_keeping_everything_changes_nothing(question: Question) -> None:
    keep = np.ones(question.k.shape[:3], bool)
    found, wanted = attend_kept(question, keep), question.attend()
    assert np.array_equal(found.out, wanted.out)
    assert np.array_equal(found.lse, wanted.lse)


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


def test_a_kept_set_of_another_shape_is_refused() -> None:
    words = r"^keep must have shape \[B, Hkv, S\] with B=2, Hkv=2, S=9, got \(2, 2, 8\)$"
    with pytest.raises(ShapeError, match=words):
        attend_kept(prompt(0), np.ones((2, 2, 8), bool))
