"""Chunked prefill: any partition gives the bits of the whole; plans are complete, in order and within budget."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.core.accounting import Shape
from kvattn.counting import counting
from kvattn.errors import ArgumentError
from kvattn.execution import Question, Work, chunked_attend, chunked_cost, plan
from kvattn.masks import Causal, Sink, Window
from tests.execution.questions import distance_by_hand, questions

MASKS = (Causal(), Window(3), Causal() & (Window(2) | Sink(1)))


def cuts_of(length: int) -> st.SearchStrategy[list[int]]:
    return st.sets(st.integers(1, max(length - 1, 1)), max_size=4).map(lambda s: sorted(n for n in s if n < length))


@pytest.mark.by_hand("execution/chunked_prefill")
@pytest.mark.law("execution/chunked_prefill", "any partition gives the whole", "bits")
@given(questions(masks=MASKS), st.data())
def test_any_partition_gives_the_bits_of_the_whole(question: Question, data: st.DataObject) -> None:
    if question.q.shape[2] > question.k.shape[2]:
        question = question.part(slice(question.q.shape[2] - question.k.shape[2], None))
    if not question.q.shape[2]:
        return
    cuts = data.draw(cuts_of(question.q.shape[2]))
    found, wanted = chunked_attend(question, cuts), question.attend()
    assert np.array_equal(found.out, wanted.out)
    assert np.array_equal(found.lse, wanted.lse)
    assert distance_by_hand(found, question) <= 1


@pytest.mark.parametrize("cuts", [[1], [255, 256, 257], [300, 599], list(range(1, 600, 37))])
def test_across_blocks_too(cuts: list[int]) -> None:
    random = np.random.default_rng(5)
    q, k, v = (random.normal(size=(1, h, 600, 8)) for h in (2, 1, 1))
    question = Question(q, k, v, mask=Window(300))
    found, wanted = chunked_attend(question, cuts), question.attend()
    assert np.array_equal(found.out, wanted.out)
    assert np.array_equal(found.lse, wanted.lse)


@pytest.mark.law(
    "execution/chunked_prefill", "closed form equals the count; pairs do not depend on the cuts", "integers"
)
@given(st.integers(0, 5), st.integers(1, 8), st.sampled_from(MASKS), st.booleans(), st.data())
def test_pairs_stay_and_costs_add(past: int, new: int, mask: Any, sinks: bool, data: st.DataObject) -> None:
    q, k, v = np.ones((2, 4, new, 5)), np.ones((2, 2, past + new, 5)), np.ones((2, 2, past + new, 3))
    question = Question(q, k, v, mask=mask, sinks=np.zeros(4) if sinks else None)
    cuts = data.draw(cuts_of(new))
    with counting() as cut:
        chunked_attend(question, cuts)
    with counting() as whole:
        question.attend()
    shape = Shape(4, 2, 5, 3, 8, past, new, batch=2)
    assert cut.tally == chunked_cost(shape, cuts, mask, sinks=sinks)
    assert whole.tally == chunked_cost(shape, [], mask, sinks=sinks)
    assert cut.pairs_visible == whole.pairs_visible == question.visible().sum()
    edges = [0, *cuts, new]
    assert isinstance(mask, Causal) is False or cut.kv_read == sum(2 * 2 * 8 * 8 * (past + stop) for stop in edges[1:])


LENGTHS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 5)), min_size=1, max_size=5)


@pytest.mark.law(
    "execution/chunked_prefill", "a plan computes each token once, in order, within the budget", "integers"
)
@given(LENGTHS, st.integers(0, 9))
def test_a_plan_is_complete_in_order_and_within_budget(lengths: list[tuple[int, int]], spare: int) -> None:
    prompts, answers = zip(*lengths, strict=True)
    budget = len(prompts) + spare
    steps = plan(prompts, answers, budget=budget)
    done = [0] * len(prompts)
    pairs = 0
    for number, step in enumerate(steps):
        assert 0 < sum(work.tokens for work in step) <= budget
        decoding = {n for n, at in enumerate(done) if prompts[n] <= at < prompts[n] + answers[n] - 1}
        assert decoding <= {work.sequence for work in step}, "a sequence that decodes is never kept waiting"
        if any(at < prompt for at, prompt in zip(done, prompts, strict=True)):
            waiting = sum(prompt - at for at, prompt in zip(done, prompts, strict=True) if at < prompt)
            assert sum(work.tokens for work in step) == min(budget, len(decoding) + waiting), number
        for work in step:
            assert work.start == done[work.sequence]
            assert work.tokens == 1 or work.start + work.tokens <= prompts[work.sequence]
            done[work.sequence] += work.tokens
            pairs += sum(range(work.start + 1, work.start + work.tokens + 1))
    whole = [prompt + answer - 1 for prompt, answer in lengths]
    assert done == whole
    assert pairs == sum(n * (n + 1) // 2 for n in whole) == sum(work.pairs for step in steps for work in step)


def test_a_plan_by_hand() -> None:
    """Budget 4: a prompt of 6 and one of 3; the second decodes while nothing else is left."""
    assert plan([6, 3], [2, 3], budget=4) == (
        (Work(0, 0, 4),),
        (Work(0, 4, 2), Work(1, 0, 2)),
        (Work(0, 6, 1), Work(1, 2, 1)),
        (Work(1, 3, 1),),
        (Work(1, 4, 1),),
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q: chunked_attend(q, [0]), r"^cuts must rise within 1 \.\. 3, got \[0\]$"),
        (lambda q: chunked_attend(q, [2, 2]), r"^cuts must rise within 1 \.\. 3, got \[2, 2\]$"),
        (lambda q: chunked_attend(q, [4]), r"^cuts must rise within 1 \.\. 3, got \[4\]$"),
        (
            lambda q: chunked_attend(q.part(keys=slice(0, 3)), [1]),
            "^q must have at most as many tokens as k, 3, got 4$",
        ),
        (
            lambda q: chunked_attend(Question(q.q, q.k, q.v, mask=~Causal()), [2]),
            r"^mask must hide later chunks, got ~Causal\(\), which shows one to queries 0 \.\. 1$",
        ),
        (
            lambda q: chunked_cost(Shape(1, 1, 1, 1, 8, 0, 4, source=4), [], None),
            "^shape must be of a sequence's own keys, source None, got source 4$",
        ),
        (lambda q: plan([3, 2], [1], budget=4), "^answers must be one for each of 2 prompts, got 1$"),
        (lambda q: plan([3, 2], [1, 1], budget=1), "^budget must be an integer >= 2, got 1$"),
        (lambda q: plan([0], [1], budget=1), r"^prompts\[0\] must be an integer >= 1, got 0$"),
    ],
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    x = np.ones((1, 1, 4, 1))
    with pytest.raises(ArgumentError, match=words):
        call(Question(x, x, x, mask=Causal()))
