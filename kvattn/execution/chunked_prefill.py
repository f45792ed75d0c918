"""Chunked prefill: a prompt computed in pieces between the decoding steps of others.

    chunk [a, b) attends to everything up to b;  Σ over chunks of visible pairs = those of the whole prompt

Any partition of the prompt gives the same results and leaves the same keys and values, to the bit, since blocks of
keys are aligned to slot 0 and a hidden key adds exactly 0.  Pairs do not change; what grows is reading, as each
chunk reads the keys before it anew.  That is the price for steps of even length: `plan` fills each step up to a
budget of tokens, first with one token for every sequence that decodes, then with the next piece of a prompt.

Shapes: ``q [B, Hq, T, D]``, the last T of ``k [B, Hkv, S, D]``.
Cached per token: as without.  Cost: `chunked_cost`, the sum of the chunks' costs.
Source: Agrawal et al. 2023, SARATHI (arXiv 2308.16369) §4; the budget, decodes first: Agrawal et al. 2024,
Sarathi-Serve (2403.02310) §4.2, alg. 3.

Where libraries differ: a later chunk with a mask from row 0 (sgl-kernel-xpu #196, mlxcel #885), a ring of W rows for
chunks longer than 1 (executorch #20346), the last chunk's padding written (cactus #716).
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from kvattn.arguments import integer, integers
from kvattn.core.accounting import Shape, attend_cost
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.execution.question import Question
from kvattn.typing import Attended, Mask


class Work(NamedTuple):
    """A sequence's share of one step.

    Attributes
    ----------
    sequence
        Its number.
    start, tokens
        Position of its first token in this step, and how many it computes.
    """

    sequence: int
    start: int
    tokens: int

    @property
    def pairs(self) -> int:
        """Pairs that a causal mask shows, per head.

        >>> Work(sequence=0, start=10, tokens=2).pairs
        23
        """
        return self.tokens * self.start + self.tokens * (self.tokens + 1) // 2


def chunked_attend(question: Question, cuts: Sequence[int]) -> Attended:
    """Answer chunk by chunk, each with the keys that are there by then.

    Parameters
    ----------
    question
        What is asked; its queries are the last T of its keys' tokens.
    cuts
        The first query of each chunk but the first, rising.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``, in the bits of the whole.

    Raises
    ------
    ArgumentError
        Cuts that do not rise within the queries; more queries than keys; a mask that shows a chunk what comes later.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> x = np.linspace(0, 1, 5).reshape(1, 1, 5, 1)
    >>> question = Question(x, x, x, mask=Causal())
    >>> bool((chunked_attend(question, [1, 4]).out == question.attend().out).all())
    True
    """
    length, count = question.q.shape[2], question.k.shape[2]
    edges = _edges(cuts, length)
    if length > count:
        raise ArgumentError(f"q must have at most as many tokens as k, {count}, got {length}")
    found = []
    for start, stop in pairwise(edges):
        now, behind = slice(start, stop), count - length + stop
        if question.part(now, slice(behind, count)).visible().any():
            raise ArgumentError(
                f"mask must hide later chunks, got {question.mask!r}, which shows one to queries {start} .. {stop - 1}"
            )
        found.append(question.part(now, slice(0, behind)).attend())
    return Attended(np.concatenate([part.out for part in found], 2), np.concatenate([part.lse for part in found], 2))


def chunked_cost(
    shape: Shape, cuts: Sequence[int], mask: Mask | None, *, softcap: bool = False, sinks: bool = False
) -> Tally:
    """What `chunked_attend` counts, in closed form: positions are slots, ``shape.new`` tokens behind ``shape.past``.

    >>> from kvattn.masks import Causal
    >>> whole, cut = (chunked_cost(Shape(1, 1, 4, 4, 8, past=0, new=6), c, Causal()) for c in ((), (2, 4)))
    >>> whole.pairs_visible == cut.pairs_visible, whole.kv_read, cut.kv_read
    (True, 384, 768)
    """
    if shape.source is not None:
        raise ArgumentError(f"shape must be of a sequence's own keys, source None, got source {shape.source}")
    parts = [
        replace(shape, past=shape.past + start, new=stop - start) for start, stop in pairwise(_edges(cuts, shape.new))
    ]
    return sum((attend_cost(part, mask, softcap=softcap, sinks=sinks) for part in parts), Tally())


def plan(prompts: Sequence[int], answers: Sequence[int], *, budget: int) -> tuple[tuple[Work, ...], ...]:
    """Steps in which so many prompts are read and answered, none above the budget.

    In each step every sequence whose prompt is done computes its newest token; what is left of the budget goes to
    prompts, in order.  The step that ends a prompt brings the first token of its answer.

    Parameters
    ----------
    prompts
        Tokens of each sequence's prompt.
    answers
        Tokens that each is to bring; the last one is not computed on.
    budget
        Tokens in a step, at least one for each sequence.

    Raises
    ------
    ArgumentError
        Lengths below 1 or of different number, a budget below the number of sequences.

    Examples
    --------
    >>> for step in plan([5, 2], [1, 3], budget=4):
    ...     print(*((work.sequence, work.start, work.tokens) for work in step))
    (0, 0, 4)
    (0, 4, 1) (1, 0, 2)
    (1, 2, 1)
    (1, 3, 1)
    """
    prompts, answers = integers("prompts", prompts, 1), integers("answers", answers, 1)
    if len(answers) != len(prompts):
        raise ArgumentError(f"answers must be one for each of {len(prompts)} prompts, got {len(answers)}")
    budget = integer("budget", budget, len(prompts))
    done, steps = [0] * len(prompts), []
    ends = [prompt + answer - 1 for prompt, answer in zip(prompts, answers, strict=True)]
    while done != ends:
        step = [Work(n, at, 1) for n, at in enumerate(done) if prompts[n] <= at < ends[n]]
        left = budget - len(step)
        for n, at in enumerate(done):
            tokens = min(left, prompts[n] - at)
            if tokens > 0:
                step.append(Work(n, at, tokens))
                left -= tokens
        for work in step:
            done[work.sequence] += work.tokens
        steps.append(tuple(step))
    return tuple(steps)


def _edges(cuts: Sequence[int], length: int) -> list[int]:
    edges = [0, *(integers("cuts", cuts, 0) if len(cuts) else ()), length]
    if any(start >= stop for start, stop in pairwise(edges)):
        raise ArgumentError(f"cuts must rise within 1 .. {length - 1}, got {list(cuts)}")
    return edges
