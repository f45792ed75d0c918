"""Laws that every mask keeps, yours included; each raises AssertionError with a sentence that names the pair.

- `check_blocks`: a block answer is never wrong; LOOK always passes.
- `check_pairs`: the answer for a pair is a boolean that does not depend on who else was asked about.
- `check_rule`: the answers are those of a rule on four plain integers.

Shapes: ``q_positions [T]``, ``k_positions [S]``, in any order, not empty.  NumPy alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kvattn.typing import Answer, Mask, Span, Visible


def check_blocks(mask: Mask, q_positions: Any, k_positions: Any, *, batch: int = 1, heads: int = 1) -> None:
    """Compare block answers with the pairs, for every block of neighbours (of 1, 2, 3 and all, beyond 8 positions).

    Raises
    ------
    AssertionError
        When a block is said to be all visible or all hidden and a pair in it is not.

    Examples
    --------
    >>> from kvattn.masks import Causal, Window
    >>> check_blocks(Causal() & Window(3), range(9), range(9))
    """
    queries, keys = (np.unique(np.asarray(p, np.int64)) for p in (q_positions, k_positions))
    for b in range(batch):
        dense = _dense(mask, b, heads, queries, keys)
        for rows in _runs(len(queries)):
            for columns in _runs(len(keys)):
                q, k = (Span(int(at[0]), int(at[-1])) for at in (queries[rows], keys[columns]))
                answer = mask.block(b, q, k)
                if answer is Answer.LOOK:
                    continue
                wrong = dense[:, rows, columns] != (answer is Answer.ALL)
                if wrong.any():
                    h, i, j = (int(n[0]) for n in np.nonzero(wrong))
                    raise AssertionError(
                        f"{mask!r} answers {answer.name} for queries {q.low} to {q.high} and keys {k.low} to {k.high} "
                        f"of sequence {b}, but head {h} {'hides' if answer is Answer.ALL else 'shows'} "
                        f"key {keys[columns][j]} {'from' if answer is Answer.ALL else 'to'} query {queries[rows][i]}"
                    )


def check_pairs(mask: Mask, q_positions: Any, k_positions: Any, *, batch: int = 1, heads: int = 1) -> None:
    """Compare the answers for all pairs at once with those for one pair at a time.

    Raises
    ------
    AssertionError
        When the answer is not boolean, does not broadcast, or a pair's answer depends on the others.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> check_pairs(Causal(), [3, 4], [4, 0, 3])
    """
    queries, keys = np.asarray(q_positions, np.int64), np.asarray(k_positions, np.int64)
    for b in range(batch):
        dense = _dense(mask, b, heads, queries, keys)
        for h, i, j in np.ndindex(*dense.shape):
            alone = _asked(mask, b, np.array([[[h]]]), queries[i : i + 1, None], keys[j : j + 1])
            if bool(np.asarray(alone).ravel()[0]) != bool(dense[h, i, j]):
                raise AssertionError(
                    f"{mask!r} {'hides' if dense[h, i, j] else 'shows'} key {keys[j]} for query {queries[i]} of "
                    f"sequence {b} and head {h} when asked alone, but not among others"
                )


def check_rule(
    mask: Mask,
    rule: Callable[[int, int, int, int], bool],
    q_positions: Any,
    k_positions: Any,
    *,
    batch: int = 1,
    heads: int = 1,
) -> None:
    """Compare the mask with ``rule(b, h, q, k)``, pair by pair.

    Raises
    ------
    AssertionError
        At the first pair on which they differ.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> check_rule(Causal(), lambda b, h, q, k: k > q, [1], [0, 1])
    Traceback (most recent call last):
    AssertionError: Causal() shows key 0 to query 1 of sequence 0 and head 0, but the rule hides it
    """
    queries, keys = np.asarray(q_positions, np.int64), np.asarray(k_positions, np.int64)
    for b in range(batch):
        dense = _dense(mask, b, heads, queries, keys)
        for h, i, j in np.ndindex(*dense.shape):
            if bool(dense[h, i, j]) != bool(rule(b, h, int(queries[i]), int(keys[j]))):
                does, other = ("shows", "hides") if dense[h, i, j] else ("hides", "shows")
                raise AssertionError(
                    f"{mask!r} {does} key {keys[j]} {'to' if does == 'shows' else 'from'} query {queries[i]} of "
                    f"sequence {b} and head {h}, but the rule {other} it"
                )


def _dense(mask: Mask, b: int, heads: int, queries: Any, keys: Any) -> Visible:
    """Every answer, ``[H, T, S]``."""
    answers = _asked(mask, b, np.arange(heads)[:, None, None], queries[None, :, None], keys[None, None, :])
    return np.broadcast_to(answers, (heads, len(queries), len(keys)))


def _asked(mask: Mask, b: int, h: Any, q: Any, k: Any) -> Visible:
    answers = np.asarray(mask(b, h, q, k))
    shape = np.broadcast_shapes(h.shape, q.shape, k.shape)
    try:
        fits = np.broadcast_shapes(answers.shape, shape) == shape
    except ValueError:
        fits = False
    if answers.dtype != np.bool_ or not fits:
        raise AssertionError(
            f"{mask!r} must answer with booleans that broadcast to {shape}, got {answers.dtype} of {answers.shape}"
        )
    return answers


def _runs(count: int) -> Iterator[slice]:
    """Neighbours in runs of every size, of more than eight in runs of 1, 2, 3 and all, at every start."""
    for size in sorted({1, 2, 3, count} if count > 8 else set(range(1, count + 1))):
        yield from (slice(first, first + size) for first in range(count - size + 1))
