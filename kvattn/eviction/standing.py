"""Standing: what a policy that evicts at every step has kept and counted so far, as a value.

    attend first:  query i sees kept ∪ {i};   then the policy looks at its row and evicts

A decision depends on the attention over what was still there, so the kept set is a fold over tokens: any
cut of the sequence gives the same one, to the bit.  Eviction cannot be undone from the new value: a key
that is gone now may have been there at the length one wants to go back to.  The old value has it: as long
as somebody holds the `Standing` of that length, and a cache whose pages are still shared with it, going
back is exact.

Shapes: ``kept`` and ``totals [B, Hkv, S]`` over all slots that ever were.
Cached per token: a flag and a number per key/value head, beside the key and the value.
Cost: per step the attention to the kept keys, and its probabilities once more.
Source: the loops of Zhang et al. 2023 (arXiv 2306.14048) and of Oren et al. 2024 (2401.06104).
"""

from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike

from kvattn.axes import sizes
from kvattn.errors import ShapeError
from kvattn.eviction.observed import probabilities
from kvattn.execution.question import Question
from kvattn.masks.explicit import Explicit
from kvattn.typing import Array, Attended, Visible


class Standing(NamedTuple):
    """What is left, and what it has been worth.

    Attributes
    ----------
    kept
        ``[B, Hkv, S]``: which of the slots so far are still there.
    totals
        ``[B, Hkv, S]``: what a policy has added up, 0 where it is gone.
    """

    kept: Visible
    totals: Array


class Stepwise(Protocol):
    """A policy that decides after every token."""

    def observe(self, standing: Standing, row: Array) -> Standing:
        """What is left after a query that gave ``row [B, Hq, S + 1]`` to the slots so far and to its own key."""


class Decoded(NamedTuple):
    """What some steps gave.

    Attributes
    ----------
    answer
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.
    standing
        What is left behind them.
    seen
        ``[B, Hkv, T, S]``: which keys were still there for each query, before the mask.
    """

    answer: Attended
    standing: Standing
    seen: Visible


def untouched(batch: int, kv_heads: int, dtype: DTypeLike = np.float64) -> Standing:
    """Before the first token.

    >>> untouched(1, 2).kept.shape
    (1, 2, 0)
    """
    return Standing(np.zeros((batch, kv_heads, 0), np.bool_), np.zeros((batch, kv_heads, 0), dtype))


def decode(policy: Stepwise, standing: Standing, question: Question) -> Decoded:
    """Attend token by token, and let the policy evict behind each.

    Parameters
    ----------
    policy
        `kvattn.eviction.HeavyHitters` or `kvattn.eviction.Tova`.
    standing
        What earlier steps left of the first S - T slots; it stays valid.
    question
        T queries, and S keys of which the last T are theirs; evicted rows are never read.

    Raises
    ------
    ShapeError
        When standing is of other slots, sequences or heads than the question.

    Examples
    --------
    >>> from kvattn.eviction import Tova
    >>> x = np.zeros((1, 1, 5, 1))
    >>> decode(Tova(2), untouched(1, 1), Question(x, x, x)).seen[0, 0].astype(int)
    array([[1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 1, 1, 0, 0],
           [1, 1, 0, 1, 0],
           [1, 1, 0, 0, 1]])
    """
    bound = sizes(("q", question.q, "B Hq T D"), ("k", question.k, "B Hkv S D"))
    wanted = bound["B"], bound["Hkv"], bound["S"] - bound["T"]
    if standing.kept.shape != wanted:
        raise ShapeError(f"standing must be of [B, Hkv, S - T] = {wanted}, got {standing.kept.shape}")
    out = np.zeros((*question.q.shape[:3], question.v.shape[3]), question.q.dtype)
    lse = np.zeros(question.q.shape[:3], question.q.dtype)
    seen = np.zeros((bound["B"], bound["Hkv"], bound["T"], bound["S"]), np.bool_)
    own = np.ones((bound["B"], bound["Hkv"], 1), np.bool_)
    for t in range(bound["T"]):
        here = np.concatenate([standing.kept, own], axis=2)
        slots = here.shape[2]
        one = witness(question.part(slice(t, t + 1), slice(0, slots)), here[:, :, None])
        out[:, :, t : t + 1], lse[:, :, t : t + 1] = one.attend()
        seen[:, :, t, :slots] = here
        standing = policy.observe(standing, probabilities(one)[:, :, 0])
    return Decoded(Attended(out, lse), standing, seen)


def witness(question: Question, seen: Visible) -> Question:
    """The same question with a mask that hides what was evicted: the oracle of every policy.

    Parameters
    ----------
    question
        T queries and S keys.
    seen
        ``[B, Hkv, T, S]``, which keys were there for each query; T may be 1 for all.

    Examples
    --------
    >>> x = np.zeros((1, 1, 2, 1))
    >>> witness(Question(x, x, x), np.array([[[[True, False]]]])).attend().lse
    array([[[0., 0.]]])
    """
    bound = sizes(("q", question.q, "B Hq T D"), ("k", question.k, "B Hkv S D"))
    if seen.ndim != 4 or seen.shape[2] not in (1, bound["T"]):
        raise ShapeError(f"seen must have shape [B, Hkv, T, S] with T=1 or T={bound['T']}, got {seen.shape}")
    sizes(("k", question.k, "B Hkv S D"), ("seen", seen[:, :, 0], "B Hkv S"))
    spread = np.broadcast_to(seen, (*seen.shape[:2], bound["T"], bound["S"]))
    whole = np.repeat(spread, bound["Hq"] // bound["Hkv"], axis=1)
    mask = Explicit(whole, question.q_positions, question.k_positions)
    return replace(question, mask=mask if question.mask is None else mask & question.mask)
