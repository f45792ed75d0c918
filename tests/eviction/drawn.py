"""Questions, kept sets and loops that the tests of eviction share."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
import numpy as np

from kvattn.eviction import Kept, Standing, untouched
from kvattn.execution import Question
from kvattn.masks import Causal
from kvattn.typing import Array, Visible

Rows = list[list[float]]


def prompt(
    seed: int, *, batch: int = 2, kv_heads: int = 2, group: int = 3, length: int = 9, dtype: Any = np.float64
) -> Question:
    """A causal prompt of random rows, all sizes different."""
    random = np.random.default_rng(seed)
    shapes = (batch, kv_heads * group, length, 5), (batch, kv_heads, length, 5), (batch, kv_heads, length, 4)
    q, k, v = (random.normal(size=shape) * 1.5 for shape in shapes)
    return Question(q, k, v, mask=Causal(), dtype=dtype)


@st.composite
def prompts(draw: st.DrawFn) -> Question:
    """Prompts of 1 to 10 tokens, one to three heads of either kind, either dtype."""
    return prompt(
        draw(st.integers(0, 2**16)),
        batch=draw(st.integers(1, 2)),
        kv_heads=draw(st.integers(1, 3)),
        group=draw(st.integers(1, 3)),
        length=draw(st.integers(1, 10)),
        dtype=draw(st.sampled_from([np.float64, np.float32])),
    )


def kept_sets(seed: int, shape: tuple[int, ...], share: float = 0.5) -> Visible:
    """Random kept sets, ``[B, Hkv, S]``; none at share 0, all at 1."""
    return np.random.default_rng(seed).random(shape) < share


def masked(question: Question, keep: Any) -> Question:
    """The oracle: all rows, and a mask that hides what was evicted."""
    group = question.q.shape[1] // question.k.shape[1]
    mask = Kept(keep, group, question.k_positions[0])
    return replace(question, mask=mask if question.mask is None else mask & question.mask)


def alone(question: Question, b: int) -> Question:
    """One sequence of a question."""
    return replace(
        question,
        q=question.q[b : b + 1],
        k=question.k[b : b + 1],
        v=question.v[b : b + 1],
        q_positions=question.q_positions[b : b + 1],
        k_positions=question.k_positions[b : b + 1],
    )


def fresh(question: Question) -> Standing:
    """Before the first token of a prompt."""
    batch, kv_heads = question.k.shape[:2]
    return untouched(batch, kv_heads, question.q.dtype)


def best(scores: list[float], budget: int) -> list[int]:
    """The slots of the highest scores by repeated search; equal ones: the lowest slot."""
    left = list(range(len(scores)))
    found: list[int] = []
    while left and len(found) < budget:
        winner = left[0]
        for slot in left:
            if scores[slot] > scores[winner]:
                winner = slot
        left.remove(winner)
        found.append(winner)
    return sorted(found)


def listed(keep: Visible) -> list[list[list[int]]]:
    """Kept slots as nested lists."""
    return [[[slot for slot, stays in enumerate(head) if stays] for head in sequence] for sequence in keep.tolist()]


def near(found: Array, wanted: Any, dtype: Any = np.float64) -> bool:
    """Equal within 64 units of float64, or of float32 where that was computed in; scores here are of size 1."""
    return bool(np.allclose(found, np.array(wanted), rtol=0, atol=64 * float(np.finfo(dtype).eps)))
