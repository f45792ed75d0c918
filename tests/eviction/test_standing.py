"""Policies that evict at every step: the masked oracle, any cut, old values, and how far back one can go."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ShapeError
from kvattn.eviction import HeavyHitters, Standing, Tova, decode, probabilities, untouched, witness
from kvattn.eviction.standing import Decoded, Stepwise
from kvattn.execution import Question
from kvattn.typing import Attended
from tests.eviction.drawn import alone, fresh, prompt, prompts

POLICIES = st.sampled_from([HeavyHitters(2, 2), HeavyHitters(0, 3), HeavyHitters(3, 0), Tova(3), Tova(1)])


def run(policy: Stepwise, question: Question, cuts: tuple[int, ...] = ()) -> Decoded:
    """Decode a prompt from nothing, in parts that end at the cuts; the parts are joined."""
    batch, kv_heads, length = question.k.shape[:3]
    standing = fresh(question)
    out, lse, seen = np.zeros_like(question.attend().out), np.zeros(question.q.shape[:3], question.q.dtype), []
    start = 0
    for stop in (*cuts, length):
        part = decode(policy, standing, question.part(slice(start, stop), slice(0, stop)))
        out[:, :, start:stop], lse[:, :, start:stop] = part.answer
        shown = np.zeros((batch, kv_heads, stop - start, length), bool)
        shown[..., :stop] = part.seen
        seen.append(shown)
        standing, start = part.standing, stop
    return Decoded(Attended(out, lse), standing, np.concatenate(seen, axis=2))


def same(one: Decoded, other: Decoded) -> bool:
    pairs = zip((*one.answer, *one.standing, one.seen), (*other.answer, *other.standing, other.seen), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.by_hand("eviction/standing")
@pytest.mark.law("eviction/standing", "the answer is masked attention with the sets that were kept", "bits")
@given(prompts(), POLICIES)
def test_the_answer_is_masked_attention(question: Question, policy: Stepwise) -> None:
    found = run(policy, question)
    wanted = witness(question, found.seen).attend()
    assert np.array_equal(found.answer.out, wanted.out)
    assert np.array_equal(found.answer.lse, wanted.lse)


@pytest.mark.law("eviction/standing", "any cut of the sequence keeps the same keys", "bits")
@given(prompts(), POLICIES, st.integers(0, 10), st.integers(0, 10))
def test_any_cut_keeps_the_same(question: Question, policy: Stepwise, one: int, other: int) -> None:
    length = question.q.shape[2]
    cuts = tuple(sorted((min(one, length), min(other, length))))
    assert same(run(policy, question), run(policy, question, cuts))


@pytest.mark.law("eviction/standing", "an old value goes on as if nothing had come behind it", "bits")
@given(prompts(), POLICIES)
def test_old_values_go_on(question: Question, policy: Stepwise) -> None:
    """Rollback: what was evicted since is still in the old value, and its own arrays never change."""
    half = question.q.shape[2] // 2
    before = decode(policy, fresh(question), question.part(slice(0, half), slice(0, half)))
    held = Standing(before.standing.kept.copy(), before.standing.totals.copy())
    rest = question.part(slice(half, None))
    first = decode(policy, before.standing, rest)
    decode(policy, before.standing, replace(rest, q=-rest.q))
    again = decode(policy, before.standing, rest)
    assert same(first, again)
    assert all(np.array_equal(a, b) for a, b in zip(before.standing, held, strict=True))


def test_a_new_value_cannot_go_back() -> None:
    """The key that was kept at length 3 is gone at length 4: cutting the flags does not bring it back."""
    question = prompt(7, batch=1, kv_heads=1, length=8)
    policy = HeavyHitters(1, 1)
    lengths = [run(policy, question.part(slice(0, n), slice(0, n))).standing.kept[0, 0] for n in range(9)]
    assert any(not np.array_equal(lengths[n + 1][:n], lengths[n]) for n in range(8))


@pytest.mark.law("eviction/standing", "batch mates are invisible", "bits")
@given(prompts(), POLICIES)
def test_batch_mates_are_invisible(question: Question, policy: Stepwise) -> None:
    whole = run(policy, question)
    for b in range(question.q.shape[0]):
        single = run(policy, alone(question, b))
        assert np.array_equal(single.seen[0], whole.seen[b])
        assert np.array_equal(single.answer.out[0], whole.answer.out[b])


@given(prompts(), st.sampled_from([HeavyHitters(9, 9), Tova(99)]))
def test_a_large_budget_keeps_everything(question: Question, policy: Stepwise) -> None:
    found = run(policy, question)
    assert found.standing.kept.all()
    assert np.array_equal(found.answer.out, question.attend().out)


@given(prompts(), POLICIES)
def test_evicted_rows_are_never_read_again(question: Question, policy: Stepwise) -> None:
    """NaN in what is gone changes nothing that comes behind."""
    half = question.q.shape[2] // 2
    before = decode(policy, fresh(question), question.part(slice(0, half), slice(0, half)))
    gone = np.concatenate(
        [~before.standing.kept, np.zeros((*question.k.shape[:2], question.q.shape[2] - half), bool)], 2
    )
    rest = question.part(slice(half, None))
    spoilt = replace(
        rest,
        k=np.where(gone[..., None], np.nan, rest.k),
        v=np.where(gone[..., None], np.nan, rest.v),
        dtype=rest.q.dtype,
    )
    assert same(decode(policy, before.standing, spoilt), decode(policy, before.standing, rest))


def test_each_query_sees_itself_before_anything_goes() -> None:
    found = run(Tova(1), prompt(1))
    assert found.seen[:, :, np.arange(9), np.arange(9)].all()


def test_the_oracle_is_not_full_attention() -> None:
    question = prompt(1)
    assert not np.allclose(run(HeavyHitters(1, 1), question).answer.out, question.attend().out, rtol=0, atol=1e-2)


def test_the_mask_of_the_layer_holds_too() -> None:
    question = prompt(1)
    wanted = witness(question, np.ones((2, 2, 1, 9), bool))
    assert np.array_equal(wanted.visible(), question.visible())
    assert not witness(replace(question, mask=None), np.zeros((2, 2, 1, 9), bool)).visible().any()
    assert np.array_equal(probabilities(wanted), probabilities(question))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: decode(Tova(1), untouched(1, 2), prompt(0)),
            r"^standing must be of \[B, Hkv, S - T\] = \(2, 2, 0\), got \(1, 2, 0\)$",
        ),
        (
            lambda: witness(prompt(0), np.ones((2, 2, 3, 9), bool)),
            r"^seen must have shape \[B, Hkv, T, S\] with T=1 or T=9, got \(2, 2, 3, 9\)$",
        ),
        (
            lambda: witness(prompt(0), np.ones((2, 2, 1, 8), bool)),
            r"^seen must have shape \[B, Hkv, S\] with B=2, Hkv=2, S=9, got \(2, 2, 8\)$",
        ),
        (
            lambda: Tova(1).observe(untouched(1, 1), np.ones((1, 1, 2))),
            r"^row must have shape \[1, Hq, 1\], got \(1, 1, 2\)$",
        ),
    ],
    ids=range(4),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        call()
