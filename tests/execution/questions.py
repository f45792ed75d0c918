"""Small questions that Hypothesis draws, their answers by hand, and how close a form must come."""

import math
from typing import Any

from hypothesis import strategies as st
import numpy as np

from kvattn.execution import Question
from kvattn.masks import Causal, Document, Sink, Window
from kvattn.positions.alibi import Alibi
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.testing.tolerance import Arithmetic, bounds
from kvattn.typing import Array, Attended, Place

MASKS = (None, Causal(), Window(3), Causal() & (Window(2) | Sink(1)), ~Causal())


@st.composite
def questions(
    draw: st.DrawFn,
    *,
    square: bool = False,
    masks: Any = MASKS,
    softcaps: tuple[float | None, ...] = (None, 2.0),
    most: int = 9,
    dtypes: tuple[Any, ...] = (np.float64, np.float32),
) -> Question:
    """At least two features at once; sizes that differ; keys anywhere, queries among and behind them."""
    batch, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    keys = draw(st.integers(1 if square else 0, most))
    queries = keys if square else draw(st.integers(1, 5))
    heads, width, value_width = kv_heads * group, 5, 3
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    first = draw(st.sampled_from([0, 7]))
    at = first + np.arange(keys)
    asked = at if square else first + keys - queries + np.arange(queries)
    mask = draw(st.sampled_from(masks))
    if draw(st.booleans()) and first == 0 and (square or keys >= queries):
        documents = Document(np.sort(random.integers(0, 2, (batch, max(keys, 1))), axis=1))
        mask = documents if mask is None else mask & documents
    return Question(
        random.normal(size=(batch, heads, queries, width)) * 2,
        random.normal(size=(batch, kv_heads, keys, width)),
        random.normal(size=(batch, kv_heads, keys, value_width)),
        mask=mask,
        mods=draw(st.sampled_from([(), (Alibi.of(heads),)])),
        scale=draw(st.sampled_from([None, 0.7])),
        softcap=draw(st.sampled_from(softcaps)),
        sinks=random.normal(size=heads) if draw(st.booleans()) else None,
        q_positions=asked,
        k_positions=at,
        dtype=draw(st.sampled_from(dtypes)),
    )


def by_hand(question: Question) -> tuple[Any, Any]:
    """Attention in scalars that carry their rounding bound: loops over sequences, heads, queries, keys, features."""
    sizes = question.sizes
    group, scale = sizes["Hq"] // sizes["Hkv"], question.scale or 1 / math.sqrt(sizes["D"])
    q, k, v = (given(x) for x in (question.q, question.k, question.v))
    unit = float(np.finfo(question.q.dtype).eps) / 2
    out = np.empty((*question.q.shape[:3], sizes["Dv"]), object)
    lse = np.empty(question.q.shape[:3], object)
    for b, h, t in np.ndindex(*lse.shape):
        here, seen = int(question.q_positions[b, t]), []
        for s in range(sizes["S"]):
            there = int(question.k_positions[b, s])
            if question.mask is not None and not question.mask(b, h, np.array([here]), np.array([there]))[0]:
                continue
            score = dot(q[b][h][t], k[b][h // group][s]) * scale
            if question.softcap is not None:
                score = (score / question.softcap).tanh() * question.softcap
            for mod in question.mods:
                assert isinstance(mod, Alibi)
                score = score + Ball(mod.slopes[h], 0.0, unit) * float(there - here)
            seen.append((score, v[b][h // group][s]))
        logits = [score for score, _ in seen] + (
            [] if question.sinks is None else [Ball(float(question.sinks[h]), 0.0, unit)]
        )
        if not logits:
            out[b, h, t], lse[b, h, t] = Ball(0.0), Ball(-math.inf)
            continue
        top = max(logits, key=lambda ball: ball.value)
        weights = [(logit - top).exp() for logit in logits]
        whole = total(weights)
        for d in range(sizes["Dv"]):
            out[b, h, t, d] = dot(weights[: len(seen)], [value[d] for _, value in seen]) / whole
        lse[b, h, t] = top + whole.log()
    return out, lse


def distance_by_hand(found: Attended, question: Question) -> float:
    """How far from `by_hand`, in units of what its bound allows."""
    out, lse = by_hand(question)
    return max(agree(found.out, out), agree(found.lse, lse))


def bias_of(question: Question) -> Array:
    """What the mods add, ``[B, Hq, T, S]``."""
    batch, heads, length, _ = question.q.shape
    bias = np.zeros((batch, heads, length, question.k.shape[2]))
    for b in range(batch):
        at = question.q_positions[b][None, :, None], question.k_positions[b][None, None, :]
        for mod in question.mods:
            bias[b] = mod(bias[b], Place(b, np.arange(heads)[:, None, None], None, *at))
    return bias


def distance(found: Attended, question: Question, parts: int = 1, wanted: Attended | None = None) -> float:
    """How far from the streaming answer, in units of twice the worst case of an online softmax of so many tiles.

    A part that is merged brings its own lse, whose rounding ``u·|lse|`` the worst case counts once for the row: it
    is taken once more for each part.
    """
    wanted = question.attend() if wanted is None else wanted
    dtype = str(question.q.dtype)
    worst = bounds(
        question.q,
        question.k,
        question.v,
        arithmetic=Arithmetic(dtype, tiles=8 + 2 * parts),
        scale=question.scale,
        softcap=question.softcap,
        bias=bias_of(question) if question.mods else None,
        visible=question.visible(),
        sinks=question.sinks,
    )
    if found.out.shape != wanted.out.shape or found.lse.shape != wanted.lse.shape:
        return math.inf
    unit = float(np.finfo(question.q.dtype).eps) / 2
    size = np.where(np.isneginf(wanted.lse), 0.0, np.abs(wanted.lse))
    carried = parts * unit * (size + 8)
    largest = np.abs(np.where(np.isfinite(question.v), question.v, 0)).max(initial=0.0)
    allowed_out = 2 * worst.worst + (carried * largest)[..., None]
    allowed_lse = 2 * worst.lse_worst + carried
    with np.errstate(invalid="ignore"):
        same = found.lse == wanted.lse
        out = np.abs(found.out - wanted.out) / np.maximum(allowed_out, 1e-300)
        lse = np.where(same, 0.0, np.abs(found.lse - wanted.lse) / np.maximum(allowed_lse, 1e-300))
    worst_seen = max(out.max(initial=0.0), lse.max(initial=0.0))
    return math.inf if math.isnan(worst_seen) else float(worst_seen)
