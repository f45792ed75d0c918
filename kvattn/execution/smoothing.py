"""Smoothed keys (SageAttention): a constant vector taken off all keys changes no weight, and helps small integers.

    softmax_j(scale · q · (k_j - μ)) = softmax_j(scale · q · k_j),      lse = lse' + scale · q · μ

Every score of a row moves by the same ``scale · q · μ``, which the softmax does not see.  Keys of trained models
often share a large offset, a few channels wide; with the mean as μ what is left fits the range of 8-bit integers
better.  A softcap would see the shift, and so does a mod that does more than add; a sink is a logit of its own and is
merged after the lse has been moved back.

Shapes: ``k [B, Hkv, S, D]``, ``μ [B, Hkv, D]``.
Cached per token: a key, raw; or, smoothed, with one μ per head kept for ever: a new mean would change old rows.
Cost: ``S · D`` subtractions and as many additions for the mean, ``2 · D`` per query for the lse.
Source: Zhang et al. 2024, SageAttention (arXiv 2410.02367) §4.2.

Where libraries differ: the mean is over all keys of a call, hidden and padded ones too; here over the keys that some
query sees, so that nothing behind the mask matters.
"""

from dataclasses import replace
import math

import numpy as np

from kvattn.core.merge import merge
from kvattn.errors import ArgumentError
from kvattn.execution.question import Question
from kvattn.typing import Array, Attended, Visible


def smoothed_attend(question: Question, offset: Array | None = None) -> Attended:
    """Answer with an offset taken off the keys.

    Parameters
    ----------
    question
        What is asked, without a softcap; its mods must only add.
    offset
        ``[B, Hkv, D]``; `mean_key` unless given.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``, of the raw keys.

    Raises
    ------
    ArgumentError
        A softcap, which is not blind to a shift; an offset of another shape.

    Examples
    --------
    >>> x = np.linspace(5, 6, 4).reshape(1, 1, 4, 1)
    >>> found = smoothed_attend(Question(x, x, x))
    >>> bool(np.allclose(found.lse, Question(x, x, x).attend().lse, rtol=1e-14))
    True
    """
    if question.softcap is not None:
        raise ArgumentError(f"softcap must be None, as it sees a shift of the scores, got {question.softcap}")
    batch, kv_heads, _, width = question.k.shape
    mu = mean_key(question) if offset is None else np.asarray(offset, question.k.dtype)
    if mu.shape != (batch, kv_heads, width):
        raise ArgumentError(f"offset must have shape [B, Hkv, D] = {(batch, kv_heads, width)}, got {mu.shape}")
    found = replace(question.without_sinks(), k=question.k - mu[:, :, None]).attend()
    scale = 1.0 / math.sqrt(width) if question.scale is None else question.scale
    spread = np.repeat(mu, question.q.shape[1] // kv_heads, axis=1)[:, :, None]
    moved = found.lse + scale * (question.q * spread).sum(axis=-1)
    return merge(Attended(found.out, moved), question.of_sinks())


def mean_key(question: Question) -> Array:
    """The mean over the keys that some query sees, ``[B, Hkv, D]``; 0 where there are none.

    >>> x = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    >>> mean_key(Question(x, x, x)).ravel()
    array([2.])
    """
    batch, kv_heads, count, _ = question.k.shape
    rows = question.q.shape[1] * question.q.shape[2] // kv_heads
    seen: Visible = np.asarray(question.visible().reshape(batch, kv_heads, rows, count).any(axis=2))
    total = np.where(seen[..., None], question.k, 0.0).sum(axis=2)
    mean: Array = total / np.maximum(seen.sum(axis=-1), 1)[..., None]
    return mean.astype(question.k.dtype, copy=False)


def int8_round_trip(rows: Array) -> Array:
    """Rows as 8-bit integers with one scale each, and back: ``round(127 x / max|x|) · max|x| / 127``.

    >>> int8_round_trip(np.array([[1.0, 254.0], [100.4, 127.0]]))
    array([[  0., 254.],
           [100., 127.]])
    """
    largest = np.abs(rows).max(axis=-1, keepdims=True, initial=0.0)
    step = np.where(largest == 0.0, 1.0, largest / 127.0).astype(rows.dtype, copy=False)
    held: Array = np.rint(rows / step) * step
    return held
