"""Looking ahead: where a sequence may be cut when a mask shows later keys to earlier queries.

A step answers for its queries once.  A cut at P, behind P tokens, is legal when no query before it sees
a key behind it:

    cut at P is legal   ⇔   no visible(q, k) with q < P <= k < P + T

At legal cuts cached decoding equals recomputation to the bit; at others the earlier answers were
those of a shorter text, so the step is refused.  Causal masks may be cut anywhere; a prefix
(`kvattn.masks.prefix`) not inside the prefix; blocks (`kvattn.masks.block_wise`) at their borders;
an encoder's window nowhere: its text comes in one step.  ``None`` and ``Everything()`` say nothing about
which keys a query sees: they mean "every key held at its step", and may be cut.

Cost: one block answer for a causal mask; pairs are looked at only where a mask is not certain, at most
the P · T that the step itself would look at.  Nothing is counted.

Where libraries differ: transformers' PaliGemma and Gemma-3 make a prefix two-sided within one call, so
that a chunked prefill computes another function in silence.
"""

from collections.abc import Sequence

import numpy as np

from kvattn.errors import PositionError
from kvattn.masks.combine import Everything
from kvattn.typing import Answer, Mask, Span, Visible

_SIDE = 256


def check_cut(mask: Mask | None, lengths: Sequence[int], new: int, heads: int) -> None:
    """Refuse a step that begins where an earlier query would have seen further.

    Parameters
    ----------
    mask
        The layer's; None is never refused.
    lengths
        Tokens that each sequence's cache has answered for.
    new
        T: tokens of the step.
    heads
        Hq.

    Raises
    ------
    PositionError
        When a query of an earlier step sees a key of this one.

    Examples
    --------
    >>> from kvattn.masks import Causal, Prefix
    >>> check_cut(Causal() | Prefix(4), [4], 1, heads=1)
    >>> check_cut(Causal() | Prefix(4), [2], 3, heads=1)
    Traceback (most recent call last):
    kvattn.errors.PositionError: x must begin where no earlier token sees further, but Causal() | Prefix(4) \
shows position 3 to position 0: positions 0 to 3 must come in one step, got a step that begins at 2
    """
    if mask is None or isinstance(mask, Everything):
        return
    for b, past in enumerate(lengths):
        pair = first_ahead(mask, b, past, new, heads)
        if pair is not None:
            query, key = pair
            raise PositionError(
                f"x must begin where no earlier token sees further, but {mask!r} shows position {key} to position "
                f"{query}: positions {query} to {key} must come in one step, got a step that begins at {past}"
            )


def first_ahead(mask: Mask, b: int, past: int, new: int, heads: int) -> tuple[int, int] | None:
    """The first query before ``past`` that sees a key from there on, and the last such key; None at a legal cut.

    Parameters
    ----------
    mask
        Answers for pairs and blocks.
    b
        Number of the sequence.
    past, new
        The cut, and how many keys come behind it.
    heads
        Hq.

    Examples
    --------
    >>> from kvattn.masks import Causal, BlockWise
    >>> first_ahead(BlockWise(4, Causal()), 0, past=6, new=9, heads=1)
    (4, 7)
    """
    if past == 0 or new == 0 or mask.block(b, Span(0, past - 1), Span(past, past + new - 1)) is Answer.NONE:
        return None
    head = np.arange(heads)[:, None, None]
    for first in range(0, past, _SIDE):
        q = np.arange(first, min(first + _SIDE, past))
        found: tuple[int, int] | None = None
        for start in range(past, past + new, _SIDE):
            k = np.arange(start, min(start + _SIDE, past + new))
            if mask.block(b, Span(int(q[0]), int(q[-1])), Span(int(k[0]), int(k[-1]))) is Answer.NONE:
                continue
            answers = mask(b, head, q[None, :, None], k[None, None, :])
            seen: Visible = np.any(np.broadcast_to(answers, (heads, len(q), len(k))), axis=0)
            rows = np.flatnonzero(seen.any(axis=1))
            if rows.size and (found is None or q[rows[0]] <= found[0]):
                found = int(q[rows[0]]), int(k[np.flatnonzero(seen[rows[0]])[-1]])
        if found is not None:
            return found
    return None
