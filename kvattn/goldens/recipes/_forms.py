"""kvattn's answers in several forms: in one piece, in tiles, from a paged cache, as a layer that steps.

A layer takes hidden states and a recipe has queries, keys and values: so hidden states are these, side by side, and
the projections pick them apart again, which is exact: all but one term of each sum are 0.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value, placed
from kvattn.core import streaming
from kvattn.core.definition import definition
from kvattn.goldens.recipe import Ours
from kvattn.one_liners import attend
from kvattn.typing import Array, Attended
from kvattn.variants.dense.projections import Projections

Arrays = Mapping[str, Any]
Parameters = Mapping[str, Any]


class Asked(NamedTuple):
    """What attention is asked for: its arrays, and mask, mods and the rest by name."""

    q: Array
    k: Array
    v: Array
    q_positions: Any
    k_positions: Any
    how: dict[str, Any]
    beside: dict[str, Any] = {}  # noqa: RUF012 never changed; outputs that are there already


def attention_forms(asked: Callable[[Arrays, Parameters], Asked]) -> dict[str, Ours]:
    """Attention in one piece, streamed, query by query, and from a cache of small pages."""

    def answer(function: Callable[[Asked], Attended]) -> Ours:
        def ours(inputs: Arrays, parameters: Parameters) -> dict[str, Any]:
            call = asked(inputs, parameters)
            return {**function(call)._asdict(), **call.beside}

        return ours

    forms = {"streamed": _streamed, "definition": _defined, "query by query": _one_by_one, "paged": _paged}
    return {name: answer(function) for name, function in forms.items()}


def _at(call: Asked) -> tuple[Any, Any]:
    batch, _, length, _ = call.q.shape
    held = call.k.shape[2]
    q_at = np.arange(held - length, held) if call.q_positions is None else np.asarray(call.q_positions)
    k_at = np.arange(held) if call.k_positions is None else np.asarray(call.k_positions)
    return np.broadcast_to(q_at, (batch, length)), np.broadcast_to(k_at, (batch, held))


def _streamed(call: Asked) -> Attended:
    how = dict(call.how)
    mods = how.pop("mods", ()) or None
    q_at, k_at = _at(call)
    return attend(call.q, call.k, call.v, q_positions=q_at, k_positions=k_at, bias=mods, **how)


def _defined(call: Asked) -> Attended:
    q_at, k_at = _at(call)
    return definition(call.q, call.k, call.v, q_positions=q_at, k_positions=k_at, **call.how)


def _one_by_one(call: Asked) -> Attended:
    q_at, k_at = _at(call)
    rows = [
        _streamed(call._replace(q=call.q[:, :, t : t + 1], q_positions=q_at[:, t : t + 1], k_positions=k_at))
        for t in range(call.q.shape[2])
    ]
    return Attended(*(np.concatenate(parts, axis=2) for parts in zip(*rows, strict=True)))


def _paged(call: Asked) -> Attended:
    q_at, k_at = _at(call)
    batch, heads, held, width = call.k.shape
    cache = Paged.start(placed(key_value(heads, width, call.v.shape[3])), batch, page=4)
    for first in range(0, held, 3):
        part = slice(first, first + 3)
        cache = cache.append(KeyValue(call.k[:, :, part], call.v[:, :, part]), positions=k_at[:, part])
    blocks = [cache.blocks(b) for b in range(batch)]
    return streaming.attend(call.q, q_at, blocks, value_width=call.v.shape[3], **call.how)


class Worn(NamedTuple):
    """A layer over arrays that are there already: its input, and where the wanted columns of its output lie."""

    layer: Any
    x: Array
    heads: int
    value_width: int
    finish: Callable[[Array], Array] | None = None


def layer_forms(
    worn: Callable[[Arrays, Parameters], Worn], *, whole: bool = False, lse: bool = True
) -> dict[str, Ours]:
    """A layer's definition, one step, steps of one token and in pieces; only the first two where a cut is not legal."""

    def answer(function: Callable[[Worn], Attended]) -> Ours:
        def ours(inputs: Arrays, parameters: Parameters) -> dict[str, Any]:
            made = worn(inputs, parameters)
            attended = function(made)
            batch, length = made.x.shape[:2]
            out = attended.out[..., : made.heads * made.value_width]
            found = {"out": out.reshape(batch, length, made.heads, made.value_width).swapaxes(1, 2)}
            return {**found, "lse": attended.lse} if lse else found

        return ours

    def stepped(cuts: Callable[[int], Sequence[int]]) -> Callable[[Worn], Attended]:
        def run(made: Worn) -> Attended:
            cache, found, edges = made.layer.start(len(made.x)), [], [0, *cuts(made.x.shape[1]), made.x.shape[1]]
            for first, last in pairwise(edges):
                attended, cache = made.layer.step(cache, made.x[:, first:last])
                found.append(attended)
            return Attended(
                np.concatenate([part.out for part in found], axis=1),
                np.concatenate([part.lse for part in found], axis=2),
            )

        return run

    forms = {
        "definition": answer(lambda made: made.layer.definition(made.x, np.arange(made.x.shape[1]))),
        "one step": answer(stepped(lambda length: ())),
    }
    if not whole:
        forms |= {
            "one by one": answer(stepped(lambda length: range(1, length))),
            "in pieces": answer(stepped(lambda length: (length // 2,))),
        }
    return forms


def picked(arrays: Arrays, *others: str) -> tuple[Projections, Array, dict[str, Any]]:
    """Projections that pick q, k and v out of hidden states, these states, and a matrix for each further name.

    What is named further is ``[B, T, n]`` or ``[B, H, T, n]``, and lies behind them.
    """
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    flat = [_flat(arrays[name]) for name in ("q", "k", "v", *others)]
    missing = max(q.shape[1] * v.shape[3] - sum(part.shape[2] for part in flat), 0)
    if missing:
        flat.append(np.zeros((*flat[0].shape[:2], missing)))
    x = np.concatenate(flat, axis=2)
    hidden, first = x.shape[2], 0
    matrices: dict[str, Any] = {}
    for name, part in zip(("q", "k", "v", *others), flat, strict=False):
        matrices[name] = np.eye(hidden)[:, first : first + part.shape[2]]
        first += part.shape[2]
    output = np.eye(hidden)[: q.shape[1] * v.shape[3]]
    made = Projections(matrices.pop("q"), matrices.pop("k"), matrices.pop("v"), output, q.shape[1], k.shape[1])
    return made, x, matrices


def _flat(rows: Array) -> Array:
    """``[B, T, n]`` of ``[B, H, T, n]``."""
    if rows.ndim == 3:
        return rows
    batch, heads, length, width = rows.shape
    return rows.swapaxes(1, 2).reshape(batch, length, heads * width)
