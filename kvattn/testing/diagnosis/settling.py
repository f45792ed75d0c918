"""In what a target computes: how fine its answers are, and which bounds hold for it.

What a target does is best read in wide numbers, where weights of 1e-5 can be told from 0; in 16 bits only large faults
show.  So a check in 16 bits reads in wide numbers first, where the target takes them and answers as finely, and then
compares in 16 bits.  *As finely* is read from the output at queries q, q(1 + ε), q(1 + 2ε), q(1 + 3ε): its third
difference is of the order ε³ where numbers are wide, and of the order of the roundoff where they are not.

Bounds are those of the finest arithmetic on the list that explains a few cases; a later case beyond them is given to
the coarser ones before it counts as a failure, and the report says so.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kvattn.testing.arithmetic import (
    BFLOAT16_PURE,
    BFLOAT16_SOFTMAX,
    BFLOAT16_TENSOR_CORE,
    FLOAT16_PURE,
    FLOAT16_SOFTMAX,
    FLOAT16_TENSOR_CORE,
    Arithmetic,
)
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, LOUD, RANDOM, Recipe, Sizes

CANDIDATES = {
    "float64": (Arithmetic("float64"), Arithmetic("float64", tiles=0, merges=1), Arithmetic("float32")),
    "float32": (Arithmetic("float32"), Arithmetic("float32", tiles=0, merges=1)),
    "float16": (FLOAT16_TENSOR_CORE, FLOAT16_SOFTMAX, FLOAT16_PURE),
    "bfloat16": (BFLOAT16_TENSOR_CORE, BFLOAT16_SOFTMAX, BFLOAT16_PURE),
}
"""Arithmetics that a target may have, by the dtype of its inputs; the finest first."""

WORDS = {
    Arithmetic("float32"): "float32 throughout",
    **{Arithmetic(x, tiles=0, merges=1): f"probabilities taken as exp(s - lse) in {x}" for x in ("float64", "float32")},
    **dict.fromkeys((FLOAT16_TENSOR_CORE, BFLOAT16_TENSOR_CORE), "float32 scores and sums, 16-bit weights"),
    **dict.fromkeys((FLOAT16_SOFTMAX, BFLOAT16_SOFTMAX), "16 bits between the operations, float32 sums"),
    **dict.fromkeys((FLOAT16_PURE, BFLOAT16_PURE), "16 bits throughout, running sums too"),
}
"""How a report calls them."""

NARROW = ("float16", "bfloat16")

_STEP = 2.0**-8
_SMOOTH = 2.0**-15


def reading_dtype(lab: Lab) -> str:
    """Return the dtype in which to read what a target does: the lab's own, unless that is narrow and a wide one works.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> reading_dtype(Lab(planted(), dtype="float16")), reading_dtype(Lab(planted(), dtype="float32"))
    ('float64', 'float32')
    """
    if lab.dtype not in NARROW:
        return lab.dtype
    asked = lab.dtype
    try:
        for lab.dtype in ("float64", "float32"):
            if _answers_finely(lab):
                return lab.dtype
    finally:
        lab.dtype = asked
    return asked


def _answers_finely(lab: Lab) -> bool:
    case = lab.case(Sizes(2, 6, 2, 5, 11, 26, 26), DRAWN, RANDOM)
    try:
        rows = [lab.see(replace(case, edits=(f"q = q * (1 + {n} / 256)",))) for n in range(4)]
    except Refused:
        return False
    if any(row.dtype not in ("float64", "float32") for row in rows):
        return False
    third = np.diff([row.out for row in rows], 3, axis=0)
    return bool(np.abs(third).max() <= _SMOOTH * np.abs(rows[0].out).max())


def settle(lab: Lab, candidates: Sequence[Arithmetic] = ()) -> None:
    """Take the finest arithmetic whose bounds explain a few cases; the finest of all where none does.

    Parameters
    ----------
    lab
        Its ``arithmetic`` and ``coarser`` are set.
    candidates
        Finest first; if empty, what `CANDIDATES` has for the lab's dtype, or for that of the answers, the narrower.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def single(q, k, v):
    ...     s = (q @ np.swapaxes(k, 2, 3)).astype(np.float32) / np.float32(q.shape[3] ** 0.5)
    ...     e = np.exp(s - s.max(-1, keepdims=True))
    ...     return (e / e.sum(-1, keepdims=True)) @ v.astype(np.float32)
    >>> lab = Lab(target_of(single), grouped=False)
    >>> settle(lab)
    >>> lab.arithmetic.compute
    'float32'
    """
    sizes = [Sizes(2, 6, 2, 5, n, 26, 26) for n in (7, 40)] + [Sizes(1, 2, 1, 3, 150, 26, 26)]
    cases = [lab.case(size, scores, RANDOM) for size in sizes for scores in (DRAWN, LOUD)]
    order = list(CANDIDATES)
    narrower = max(lab.dtype, lab.see(cases[0]).dtype, key=lambda name: order.index(name) if name in order else -1)
    known = tuple(candidates or CANDIDATES[narrower])
    for n, lab.arithmetic in enumerate(known):
        lab.coarser = known[n + 1 :]
        if max(lab.compare(case).ratio for case in cases) <= 1:
            _say(lab, n > 0)
            break
    else:
        lab.arithmetic, lab.coarser = known[0], known[1:]
    if narrower not in NARROW:  # wide numbers stay wide
        lab.coarser = tuple(x for x in lab.coarser if not candidates and x.compute == lab.arithmetic.compute)


def explain(lab: Lab, recipe: Recipe) -> bool:
    """Say whether a coarser arithmetic explains a case that the lab's own does not; if so, take it from now on.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(rounded={"exp": "float16"}))
    >>> lab.coarser = (Arithmetic("float16"),)
    >>> explain(lab, lab.case(Sizes(), DRAWN, RANDOM)), lab.arithmetic.compute, lab.coarser
    (True, 'float16', ())
    """
    kept, coarser = lab.arithmetic, lab.coarser
    for n, candidate in enumerate(coarser):
        lab.arithmetic = candidate
        if lab.compare(recipe).ratio <= 1:
            lab.coarser = coarser[n + 1 :]
            _say(lab, True)
            return True
    lab.arithmetic = kept
    return False


def _say(lab: Lab, coarser: bool) -> None:
    if coarser:
        words = WORDS.get(lab.arithmetic, f"{lab.arithmetic.compute} throughout")
        lab.notes.append(f"It takes {lab.dtype} and answers as finely as {words}; the bounds are for that")
