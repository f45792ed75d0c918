"""Dense attention with other places for far keys, or with keys that fade.

Inputs ``q``, ``k``, ``v``, causal; expected ``out`` and ``lse``.

- "attention that forgets": ``gates [B, T, H]``, ``gate_bias [H]``.
- "attention with extended places": ``way`` plain, self extend (``group``, ``window``) or dual chunk (``chunk``,
  ``farthest``); rotation of halves with ``base``.

Sources: Lin et al. 2025 (arXiv 2503.02130) §3; Jin et al. 2024 (2401.01325) §3.2; An et al. 2024 (2402.17463) §2.
"""

from collections.abc import Mapping
from typing import Any

from kvattn.goldens.formulas import attention, dot, reciprocal_root, sigmoid
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._dense import case, drawn_heads
from kvattn.goldens.recipes._forms import Worn, picked
from kvattn.goldens.recipes._loops import Nested, before, geometric, turn
from kvattn.positions.rotary import Rotary
from kvattn.variants.dense.dual_chunk import dual_chunk
from kvattn.variants.dense.forgetting import Forgetting
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.placed import Placed
from kvattn.variants.dense.self_extend import self_extend

FADING = Flag("Forgetting", "BASIC", "Fades by the key's own gate too, or not by the query's.")

PLACES = Flag("ExtendedPlaces", "POSITION", "Places a far key one off where near and far meet.")


def _forgotten(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Scores plus the sum of ln f from the token behind the key up to the query."""

    def bend(score: Number, b: int, h: int, t: int, s: int) -> Number:
        first, last = s + 1, t + 1
        if p.get("own_gate_of_key"):
            first -= 1
        if p.get("not_of_query"):
            last -= 1
        logs = [n.log(sigmoid(n, a["gates"][b][i][h] + a["gate_bias"][h])) for i in range(first, last)]
        return n.sum([score, *logs])

    return attention(n, a["q"], a["k"], a["v"], see=before, bend=bend)


def _extended(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Each pair turned to the places that its distance, or its chunks, give it."""
    width = len(a["q"][0][0][0])
    thetas, scale = geometric(n, width, p["base"]), reciprocal_root(n, width)
    group, zero = len(a["q"][0]) // len(a["k"][0]), n(0)

    def places(i: int, j: int) -> tuple[int, int]:
        if p["way"] == "self extend":
            each, window = p["group"], p["window"]
            if i - j < window:
                return i, j
            return i // each + window - (0 if p.get("not_moved") else window // each), j // each
        if p["way"] == "plain":
            return i, j
        size, farthest = p["chunk"], p["farthest"]
        apart = i // size - j // size
        if apart == 0:
            return i % size, j % size
        if apart == 1 and not p.get("no_chunk_before"):
            return min(size + i % size, farthest), j % size
        return farthest, j % size

    def bend(_: Number, b: int, h: int, t: int, s: int) -> Number:
        i, j = places(t, s)
        q = turn(n, a["q"][b][h][t], [i * theta for theta in thetas])
        k = turn(n, a["k"][b][h // group][s], [j * theta for theta in thetas])
        return dot(n, q, k) * scale

    return attention(n, a["q"], a["k"], a["v"], see=before, bend=bend, scale=zero + 1)


# what kvattn computes


def _worn_forgotten(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> Worn:
    projections, x, others = picked(inputs, "gates")
    layer = Forgetting(projections, others["gates"], inputs["gate_bias"])
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_extended(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    rotary = Rotary.of(inputs["q"].shape[3], p["base"])
    layer: Any = Grouped(projections, query_key=(rotary,))
    if p["way"] == "self extend":
        layer = Placed(projections, rotary, self_extend(group=p["group"], window=p["window"]))
    if p["way"] == "dual chunk":
        layer = Placed(projections, rotary, dual_chunk(chunk=p["chunk"], farthest=p["farthest"]))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


# cases


def recipes() -> tuple[Recipe, ...]:
    """The cases of fading and of extended places.

    >>> len({recipe.name for recipe in recipes()})
    4
    """
    fading = {**drawn_heads(), "gates": drawn("forget", 1, 5, 4), "gate_bias": drawn("forget bias", 4)}
    long = drawn_heads(tokens=11)
    extended = "attention with extended places"
    plain = {"way": "plain", "base": 100.0}
    return (
        case(
            "places/forgetting",
            "dense/forgetting",
            "attention that forgets",
            "The log of each gate behind the key, the query's own included, is added to the score.",
            fading,
            {},
            _forgotten,
            _worn_forgotten,
            sibling="norms/none",
            flags=(FADING,),
            mistakes={
                "the key's own gate too": {"own_gate_of_key": True},
                "not the query's": {"not_of_query": True},
            },
        ),
        case(
            "places/plain",
            "dense/grouped",
            extended,
            "Rotary positions as they are: the plain case.",
            long,
            plain,
            _extended,
            _worn_extended,
            flags=(PLACES,),
        ),
        case(
            "places/self-extend",
            "dense/self_extend",
            extended,
            "Three near keys at their own distance, further ones by groups of two.",
            long,
            {"way": "self extend", "group": 2, "window": 3, "base": 100.0},
            _extended,
            _worn_extended,
            sibling="places/plain",
            flags=(PLACES,),
            mistakes={"a gap behind the near keys": {"not_moved": True}, "another group": {"group": 3}, "plain": plain},
        ),
        case(
            "places/dual-chunk",
            "dense/dual_chunk",
            extended,
            "Chunks of three positions and no distance beyond four.",
            long,
            {"way": "dual chunk", "chunk": 3, "farthest": 4, "base": 100.0},
            _extended,
            _worn_extended,
            sibling="places/plain",
            flags=(PLACES,),
            mistakes={"one further": {"farthest": 5}, "no chunk before": {"no_chunk_before": True}, "plain": plain},
        ),
    )
