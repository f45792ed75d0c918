"""Selection: scores and a budget become the set of keys that stay.

    keep[b, h]  =  the budget keys of highest score;  equal scores: the lowest slot

A scorer says what a key is worth, a budget says how many stay, and either goes with any other.  A key
that a policy always keeps, a sink or a recent one, has the score +inf.  The kept set is a set: a key is in
it once, and its slots are read in increasing order whatever the order of the scores.

Shapes: ``scores [B, Hkv, S]``, ``keep [B, Hkv, S]`` boolean; a budget is one integer or ``[B, Hkv]``.
All sequences have S slots; ragged ones are decided one by one.  Cached per token: nothing.
Source: the order of ties is kvattn's convention for every top-k.

Where libraries differ: ``torch.topk`` leaves the order of ties open, and kvpress stores the kept keys in
the order of their scores; attention does not see the order, positions do.  Always-kept keys have
``max(scores) + 1`` in kvpress, the maximum over the whole batch.
"""

from typing import Any

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.axes import sizes
from kvattn.errors import ArgumentError, ShapeError
from kvattn.typing import Array, Indices, Positions, Visible


def top(scores: Array, budget: int | Indices) -> Visible:
    """Keep the keys of highest score in each head.

    Parameters
    ----------
    scores
        ``[B, Hkv, S]``, no NaN; +inf is always kept.
    budget
        How many keys stay, for all heads or ``[B, Hkv]``; S or more keeps everything.

    Returns
    -------
    array
        ``[B, Hkv, S]`` boolean, exactly ``min(budget, S)`` True in each row.

    Raises
    ------
    ArgumentError
        A budget below 0 or below the number of keys that are always kept; scores that are NaN.
    ShapeError
        Scores or budgets of another shape.

    Examples
    --------
    >>> top(np.array([[[3.0, 1.0, 3.0, 3.0]]]), 2).astype(int)
    array([[[1, 0, 1, 0]]])
    """
    check_scores(scores)
    length = scores.shape[2]
    kept = np.minimum(budgets_of(budget, scores.shape[:2]), length)
    always = np.isposinf(scores).sum(axis=2)
    if (always > kept).any():
        at = tuple(int(n) for n in np.argwhere(always > kept)[0])
        raise ArgumentError(
            f"budget must be at least {always[at]}, the keys of head {at[1]} that are always kept, got {kept[at]}"
        )
    order = np.argsort(-scores, axis=2, kind="stable")
    keep = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(keep, order, np.arange(length) < kept[..., None], axis=2)
    return keep


def budgets_of(budget: Any, shape: tuple[int, ...]) -> Indices:
    """One integer for all heads, or ``[B, Hkv]`` of them, as ``[B, Hkv]``.

    >>> budgets_of(3, (1, 2)), budgets_of([[1, 2]], (1, 2))
    (array([[3, 3]]), array([[1, 2]]))
    """
    if np.ndim(budget) == 0:
        return np.full(shape, integer("budget", budget, 0), np.int64)
    given = np.asarray(budget)
    if given.shape != shape:
        raise ShapeError(f"budget must be one integer or have shape [B, Hkv] = {shape}, got {given.shape}")
    if given.dtype.kind not in "iu" or (given < 0).any():
        raise ArgumentError(f"budget must be integers >= 0, got {shown(given)} of {given.dtype}")
    return given.astype(np.int64)


def protect(scores: Array, *, first: int = 0, last: int = 0) -> Array:
    """The same scores with +inf for the first and the last keys, which then always stay.

    >>> protect(np.zeros((1, 1, 5)), first=1, last=2)
    array([[[inf,  0.,  0., inf, inf]]])
    """
    check_scores(scores)
    first, last = integer("first", first, 0), integer("last", last, 0)
    slots = np.arange(scores.shape[2])
    held: Array = np.where((slots < first) | (slots >= scores.shape[2] - last), np.inf, scores)
    return held.astype(scores.dtype, copy=False)


def shared(scores: Array) -> Array:
    """The mean over key/value heads, given to each: all heads then keep the same tokens.

    >>> shared(np.array([[[1.0, 4.0], [3.0, 2.0]]]))
    array([[[2., 3.],
            [2., 3.]]])
    """
    check_scores(scores)
    total = np.zeros((scores.shape[0], 1, scores.shape[2]), scores.dtype)
    for h in range(scores.shape[1]):
        total += scores[:, h : h + 1]
    return np.repeat(total / scores.shape[1], scores.shape[1], axis=1)


def kept_slots(keep: Visible) -> Positions:
    """The kept slots in increasing order, ``[B, Hkv, n]``, where every head keeps as many.

    Raises
    ------
    ShapeError
        When heads keep different numbers of keys.

    Examples
    --------
    >>> kept_slots(np.array([[[True, False, True]]]))
    array([[[0, 2]]])
    """
    sizes(("keep", keep, "B Hkv S"))
    counts = keep.sum(axis=2)
    if counts.size and (counts != counts.flat[0]).any():
        raise ShapeError(f"keep must have as many keys in every head, got {sorted({*counts.ravel().tolist()})}")
    return np.nonzero(keep)[2].reshape(*keep.shape[:2], -1)


def check_scores(scores: Array) -> None:
    """Refuse what is not ``[B, Hkv, S]`` numbers.

    >>> check_scores(np.full((1, 1, 1), np.nan))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: scores must be numbers, got NaN
    """
    sizes(("scores", scores, "B Hkv S"))
    if np.isnan(scores).any():
        raise ArgumentError("scores must be numbers, got NaN")
