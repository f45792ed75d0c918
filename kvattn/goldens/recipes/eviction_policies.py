"""Policies that forget: what a key is worth, which keys stay, and what is answered from those.

    p[h, i, j] = the share of its attention that query i of head h gives to key j

Inputs ``q``, ``k``, ``v``, causal.  "a choice of keys": a ``score`` of the prompt, of which the ``budget`` largest
stay, of equal ones the lowest slot,

    accumulated, averaged    Σ_i Σ_h p[h, i, j] over the group's heads; over the queries and heads that saw the key
    votes                    mean over the last window queries, pooled by mean or max over pool neighbours,
                             mean over the group; the window's own keys always stay
    last query               mean over all heads of p[h, last, j]
    key norm, key difference -|k_j|; -cos(k_j, mean of k / |k|)
    recency                  the first sinks, then the last

expects ``scores`` and ``kept [B, Hkv, S]``, and ``out`` and ``lse`` of the last query over what stayed.  "a choice of
keys after every token": the ``policy`` heavy hitters, accumulated while the last ``recent`` always stay, or tova, with
its ``budget``, expects all queries' ``out`` and ``lse`` and what is ``kept`` at the end.  "keys moved to their
numbers": turned keys ``k`` (halves, ``base``), of which ``kept`` says which stay, expects ``k_moved``.

- "expected attention": queries ``q`` before rotation, keys ``k`` as cached, ``v``; what Gaussian queries of their mean
  and covariance would give, behind the mean rotation (halves, ``base``) over ``positions``, times the norm of the
  value; the first ``sinks`` are infinite.  Expected: ``scores``.
- "budgets by scores": of ``scores [B, H, S]`` each head's part of the H · ``budget`` highest, (1 - ``floor``) of it,
  and ``floor`` of an equal share; what rounding down leaves goes to the largest remainders.  Expected: ``budgets``.
- "budgets by layer": PyramidKV's for ``layers``, ``budget`` keys on average of ``length``, a ``window`` in all, and
  ``beta``.  Expected: ``budgets``.

Sources: Zhang et al. 2023 (arXiv 2306.14048); Li et al. 2024 (2404.14469); Oren et al. 2024 (2401.06104); Devoto et
al. 2024 (2406.11430); KeyDiff (2504.15364); Xiao et al. 2023 (2309.17453) §3.2.
"""

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
import math
from typing import Any

import numpy as np

from kvattn import eviction
from kvattn.execution.question import Question
from kvattn.goldens.formulas import attention, dot, reciprocal_root, softmax
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._loops import Nested, Row, geometric, turn
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.positions.rotary import Rotary

SCORES = Flag("EvictionScores", "CACHE_STATE", "Scores keys by other queries, other heads, or what it does not divide.")
KEPT = Flag("EvictionKept", "CACHE_STATE", "Keeps one key more or less, or forgets what is always kept.")
NUMBERED = Flag(
    "EvictionNumbered",
    "CONVENTION",
    "Numbers kept keys anew where the case keeps their positions, or turns them by other than the difference.",
    ("huggingface/transformers#31537",),
)


def _shares(n: Numbers, a: Mapping[str, Nested], b: int, h: int, t: int, seen: list[int]) -> Row:
    """What query t gives to the keys that it sees."""
    group = len(a["q"][0]) // len(a["k"][0])
    scale = reciprocal_root(n, len(a["q"][0][0][0]))
    row, keys = a["q"][b][h][t], a["k"][b][h // group]
    return softmax(n, [dot(n, row, keys[s]) * scale for s in seen])[0]


def _largest(row: Any, count: int) -> list[bool]:
    """The largest so many; plain floats are infinite, and come first or last."""
    kept: set[int] = set()

    def above(x: Any, y: Any) -> bool:
        if isinstance(x, float) or isinstance(y, float):
            return (x if isinstance(x, float) else 0.0) > (y if isinstance(y, float) else 0.0)
        return x is not y and bool(x > y)

    while len(kept) < min(count, len(row)):
        best = next(s for s in range(len(row)) if s not in kept)
        for s in range(best + 1, len(row)):
            if s not in kept and above(row[s], row[best]):
                best = s
        kept.add(best)
    return [s in kept for s in range(len(row))]


def _scored(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any], b: int) -> list[Row]:
    """Of each key head the worth of its keys."""
    heads, kv_heads, held = len(a["q"][0]), len(a["k"][0]), len(a["k"][0][0])
    group, kind = heads // kv_heads, p["score"]
    if kind == "recency":
        return [[math.inf if s < p["sinks"] else n(s) for s in range(held)] for _ in range(kv_heads)]
    if kind == "key norm":
        sign = 1 if p.get("largest_stay") else -1
        return [[sign * n.sqrt(dot(n, key, key)) for key in keys] for keys in a["k"][b]]
    if kind == "key difference":
        found = []
        for keys in a["k"][b]:
            units = [[x / n.sqrt(dot(n, key, key)) for x in key] for key in keys]
            mean = [n.sum(column) / held for column in zip(*(keys if p.get("not_unit") else units), strict=True)]
            size = n.sqrt(dot(n, mean, mean))
            found.append([-dot(n, unit, mean) / size for unit in units])
        return found
    shares = [[_shares(n, a, b, h, t, list(range(t + 1))) for t in range(held)] for h in range(heads)]
    found = []
    for g in range(kv_heads):
        mine = [shares[h] for h in range(g * group, (g + 1) * group)]
        if kind == "accumulated":
            found.append([n.sum(rows[t][s] for rows in mine for t in range(s, held)) for s in range(held)])
        elif kind == "averaged":
            sums = [n.sum(rows[t][s] for rows in mine for t in range(s, held)) for s in range(held)]
            found.append([x / (group * (held - s)) for s, x in enumerate(sums)])
        elif kind == "last query":
            every = mine if p.get("own_heads") else shares
            found.append([n.sum(rows[-1][s] for rows in every) / len(every) for s in range(held)])
        else:
            found.append(_votes(n, mine, p, held))
    return found


def _votes(n: Numbers, mine: Nested, p: Mapping[str, Any], held: int) -> Row:
    """SnapKV: each head's mean over the window's queries, pooled along the keys, and the mean over the group."""
    window, width = p["window"], p["pool"]
    before = held - window
    means = [[n.sum(row[s] for row in rows[before:]) / window for s in range(before)] for rows in mine]
    known: dict[Any, Number] = {}  # where the same neighbours are largest, the votes are one and the same number
    votes: Row = []
    for s in range(before):
        around = [i for i in range(s - width // 2, s + width // 2 + 1) if 0 <= i < before]
        if p["by"] == "mean":
            votes.append(n.sum(n.sum(row[i] for i in around) / width for row in means) / len(means))
            continue
        tops = tuple(next(i for i in around if not any(row[i] < row[j] for j in around if j != i)) for row in means)
        known.setdefault(tops, n.sum(row[i] for i, row in zip(tops, means, strict=True)) / len(means))
        votes.append(known[tops])
    return [*votes, *([math.inf] * window)]


def _at_once(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    scores, kept, out, lse = [], [], [], []
    group = len(a["q"][0]) // len(a["k"][0])
    for b in range(len(a["q"])):
        worth = _scored(n, a, p, b)
        scores.append(worth)
        chosen = [_largest(row, p["budget"]) for row in worth]
        kept.append(chosen)
        last = [[head[-1]] for head in a["q"][b]]
        answer = attention(n, [last], [a["k"][b]], [a["v"][b]], see=_those(chosen, group))
        out.append(answer["out"][0])
        lse.append(answer["lse"][0])
    return {"scores": scores, "kept": kept, "out": out, "lse": lse}


def _those(chosen: list[list[bool]], group: int) -> Any:
    return lambda b, h, t, s: chosen[h // group][s]


def _step_by_step(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Attend to what is kept and to oneself; then the policy looks at that row, and evicts."""
    heads, kv_heads, length = len(a["q"][0]), len(a["k"][0]), len(a["q"][0][0])
    group, recent = heads // kv_heads, p.get("recent", 0)
    out: Nested = []
    lse: Nested = []
    kept_at_the_end: Nested = []
    for b in range(len(a["q"])):
        kept: list[list[int]] = [[] for _ in range(kv_heads)]
        totals: list[dict[int, Number]] = [{} for _ in range(kv_heads)]
        rows: Nested = [[] for _ in range(heads)]
        ends: Nested = [[] for _ in range(heads)]
        for t in range(length):
            kept = [[*slots, t] for slots in kept]
            given: Nested = []
            for h in range(heads):
                seen = kept[h // group]
                part = [[a[name][b][h // group][s] for s in seen] for name in ("k", "v")]
                answer = attention(n, [[[a["q"][b][h][t]]]], [[part[0]]], [[part[1]]])
                rows[h].append(answer["out"][0][0][0])
                ends[h].append(answer["lse"][0][0][0])
                given.append(dict(zip(seen, _shares(n, a, b, h, t, seen), strict=True)))
            for g in range(kv_heads):
                if p["policy"] == "tova":
                    worth = {s: n.sum(row[s] for row in given if s in row) / heads for s in kept[g]}
                else:
                    mine = given[g * group : (g + 1) * group]
                    old = {} if p.get("last_query_alone") else totals[g]
                    totals[g] = {s: n.sum([old.get(s, n(0)), *(row[s] for row in mine)]) for s in kept[g]}
                    worth = {s: math.inf if s > t - recent else x for s, x in totals[g].items()}
                slots = kept[g]
                best = _largest([worth[s] for s in slots], p["budget"])
                kept[g] = [s for s, stays in zip(slots, best, strict=True) if stays]
                totals[g] = {s: x for s, x in totals[g].items() if s in kept[g]}
        out.append(rows)
        lse.append(ends)
        kept_at_the_end.append([[s in slots for s in range(length)] for slots in kept])
    return {"out": out, "lse": lse, "kept": kept_at_the_end}


def _reindexed(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Keys that are turned already move to the number that they have among those that stay."""
    thetas = geometric(n, len(a["k"][0][0][0]), p["base"])
    found: Nested = []
    for heads, stays in zip(a["k"], a["kept"], strict=True):
        found.append([])
        for rows, chosen in zip(heads, stays, strict=True):
            slots = [s for s, stay in enumerate(chosen) if stay]
            moves = [i if p.get("by_new_number") else i - s for i, s in enumerate(slots)]
            found[-1].append(
                [turn(n, rows[s], [by * theta for theta in thetas]) for s, by in zip(slots, moves, strict=True)]
            )
    return {"k_moved": found}


def _expected(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """A key, turned back by the mean rotation, against the queries as they were."""
    width, group = len(a["k"][0][0][0]), len(a["q"][0]) // len(a["k"][0])
    thetas, places = geometric(n, width, p["base"]), a["positions"]
    pairs = width // 2
    cosines = [n.sum(n.cos(at * theta) for at in places) / len(places) for theta in thetas]
    sines = [n.sum(n.sin(at * theta) for at in places) / len(places) for theta in thetas]
    scale = reciprocal_root(n, width)

    def back(key: Row) -> Row:
        if p.get("not_turned"):
            return key
        first = [key[j] * cosines[j] + key[j + pairs] * sines[j] for j in range(pairs)]
        return first + [key[j + pairs] * cosines[j] - key[j] * sines[j] for j in range(pairs)]

    scores: Nested = []
    for b, heads in enumerate(a["k"]):
        scores.append([])
        for g, keys in enumerate(heads):
            shares = []
            for h in range(g * group, (g + 1) * group):
                rows = a["q"][b][h]
                mean = [n.sum(column) / len(rows) for column in zip(*rows, strict=True)]
                logits = []
                for key in map(back, keys[p["sinks"] :]):
                    along = [dot(n, key, [x - m for x, m in zip(row, mean, strict=True)]) for row in rows]
                    spread = n.sum(x * x for x in along) / (len(rows) - p.get("fewer", 0))
                    logits.append(scale * dot(n, key, mean) + (0 if p.get("no_spread") else scale * scale * spread / 2))
                shares.append(softmax(n, logits)[0])
            means = [n.sum(column) / group for column in zip(*shares, strict=True)]
            norms = [n.sqrt(dot(n, value, value)) for value in a["v"][b][g][p["sinks"] :]]
            worth = [x * (1 if p.get("without_values") else size) for x, size in zip(means, norms, strict=True)]
            scores[b].append([math.inf] * p["sinks"] + worth)
    return {"scores": scores}


def _by_scores(_: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    found = []
    for heads in a["scores"]:
        every = [(h, x) for h, row in enumerate(heads) for x in row]
        chosen = _largest([x for _, x in every], len(heads) * p["budget"])
        counts = [sum(stays and g == h for (g, _), stays in zip(every, chosen, strict=True)) for h in range(len(heads))]
        part = Fraction(p["floor"])
        exact = [(1 - part) * count + part * p["budget"] for count in counts]
        whole = [math.floor(x) for x in exact]
        order = sorted(range(len(heads)), key=lambda h: (whole[h] - exact[h], h))
        if p.get("rounded_down"):
            order = []
        for h in order[: len(heads) * p["budget"] - sum(whole)]:
            whole[h] += 1
        found.append(whole)
    return {"budgets": found}


def _by_layer(_n: Numbers, _a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    past = Fraction(p["budget"] - p["window"])
    least = past / Fraction(p["beta"])
    most = 2 * past - least
    if most > p["length"] - p["window"]:
        most = Fraction(p["length"] - p["window"])
        least = 2 * past - most
    step = (most - least) / (p["layers"] - 1)
    exact = [p["window"] + most - layer * step for layer in range(p["layers"])]
    whole = [math.floor(x) for x in exact]
    missing = 0 if p.get("rounded_down") else p["layers"] * p["budget"] - sum(whole)
    for layer in [layer for layer, x in enumerate(exact) if x.denominator > 1][:missing]:
        whole[layer] += 1
    return {"budgets": whole[::-1] if p.get("upside_down") else whole}


def _question(inputs: Mapping[str, Any]) -> Question:
    return Question(inputs["q"], inputs["k"], inputs["v"], mask=Causal())


def _scores_of(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    kind, k = p["score"], inputs["k"]
    if kind == "recency":
        return eviction.recency(k.shape[2], sinks=p["sinks"], batch=len(k), kv_heads=k.shape[1])
    if kind == "key norm":
        return eviction.negative_norms(k)
    if kind == "key difference":
        return eviction.key_difference(k)
    asked = _question(inputs)
    shares = eviction.probabilities(asked)
    if kind == "accumulated":
        return eviction.accumulated(shares, k.shape[1])
    if kind == "averaged":
        return eviction.averaged(shares, asked.visible(), k.shape[1])
    if kind == "last query":
        return eviction.last_query(shares, k.shape[1])
    pool = (eviction.MeanPool if p["by"] == "mean" else eviction.MaxPool)(p["pool"])
    return eviction.window_votes(shares, k.shape[1], window=p["window"], pool=pool)


def _at_once_forms() -> dict[str, Ours]:
    def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        scores = _scores_of(inputs, p)
        kept = eviction.top(scores, p["budget"])
        length = inputs["q"].shape[2]
        answer = eviction.attend_kept(_question(inputs).part(slice(length - 1, length)), kept)
        return {"scores": scores, "kept": kept, **answer._asdict()}

    return {"gathered": ours}


def _step_forms() -> dict[str, Ours]:
    def form(cuts: tuple[int, ...]) -> Ours:
        def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            hitters = p["policy"] == "heavy hitters"
            policy: Any = (
                eviction.HeavyHitters(p["budget"] - p["recent"], p["recent"]) if hitters else eviction.Tova(p["budget"])
            )
            standing, found = eviction.untouched(len(inputs["k"]), inputs["k"].shape[1]), []
            edges = [0, *cuts, inputs["q"].shape[2]]
            for first, last in pairwise(edges):
                done = eviction.decode(policy, standing, _question(inputs).part(slice(first, last), slice(0, last)))
                standing = done.standing
                found.append(done.answer)
            out, lse = (np.concatenate([getattr(part, name) for part in found], axis=2) for name in ("out", "lse"))
            return {"out": out, "lse": lse, "kept": standing.kept}

        return ours

    return {"at once": form(()), "in pieces": form((1, 4))}


def _reindexed_forms() -> dict[str, Ours]:
    def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        rotary = Rotary.of(inputs["k"].shape[3], p["base"])
        return {"k_moved": eviction.reindex(inputs["k"], inputs["kept"], rotary)}

    return {"moved": ours}


def _expected_forms() -> dict[str, Ours]:
    def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        rotary = Rotary.of(inputs["k"].shape[3], p["base"])
        moments = eviction.rotated(eviction.query_moments(inputs["q"]), rotary, inputs["positions"])
        return {"scores": eviction.expected(inputs["k"], inputs["v"], moments, sinks=p["sinks"])}

    return {"moments": ours}


def _budgets() -> tuple[Recipe, ...]:
    scores = np.abs(drawn("budgets", 2, 3, 7))
    scores[:, 1] /= 4
    expected = {
        "q": drawn("expected q", 1, 4, 5, 6),
        "k": drawn("expected k", 1, 2, 7, 6),
        "v": drawn("expected v", 1, 2, 7, 3),
        "positions": np.arange(7, 11),
    }

    def by_scores(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        return {"budgets": eviction.adaptive_budgets(inputs["scores"], p["budget"], floor=p["floor"])}

    def by_layer(_: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        sizes = {name: p[name] for name in ("length", "window", "beta")}
        return {"budgets": np.array(eviction.pyramid_budgets(p["layers"], p["budget"], **sizes))}

    pyramid = {"layers": 5, "budget": 12, "length": 100, "window": 3, "beta": 7}
    return (
        told(
            "eviction/expected/four-positions",
            "eviction/expected_attention",
            "expected attention",
            "The next four positions; the first key is a sink.",
            expected,
            {"base": 100.0, "sinks": 1},
            _expected,
            _expected_forms(),
            flags=(SCORES,),
            mistakes={
                "not turned": {"not_turned": True},
                "the covariance left out": {"no_spread": True},
                "divided by one query less": {"fewer": 1},
                "without the norms of values": {"without_values": True},
            },
        ),
        told(
            "eviction/budgets/by-scores",
            "eviction/adaptive",
            "budgets by scores",
            "Ada-KV: the head of small scores keeps less, and a quarter of an equal share at least.",
            {"scores": scores},
            {"budget": 3, "floor": 0.25},
            _by_scores,
            {"adaptive": by_scores},
            flags=(KEPT,),
            mistakes={"all alike": {"floor": 1.0}, "only rounded down": {"rounded_down": True}},
        ),
        told(
            "eviction/budgets/by-layer",
            "eviction/pyramid",
            "budgets by layer",
            "PyramidKV: lower layers keep more, and the sum is five times twelve.",
            {},
            pyramid,
            _by_layer,
            {"pyramid": by_layer},
            flags=(KEPT,),
            mistakes={"upper layers keep more": {"upside_down": True}, "only rounded down": {"rounded_down": True}},
        ),
        told(
            "eviction/budgets/by-layer-short",
            "eviction/pyramid",
            "budgets by layer",
            "So few keys that the lowest layer keeps them all.",
            {},
            {**pyramid, "length": 16, "beta": 20},
            _by_layer,
            {"pyramid": by_layer},
            sibling="eviction/budgets/by-layer",
            flags=(KEPT,),
            mistakes={"upper layers keep more": {"upside_down": True}},
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of policies.

    >>> len({recipe.name for recipe in recipes()})
    15
    """
    inputs = {
        "q": drawn("eviction q", 2, 4, 7, 5),
        "k": drawn("eviction k", 2, 2, 7, 5),
        "v": drawn("eviction v", 2, 2, 7, 3),
    }

    def case(
        name: str, row: str, comment: str, given: dict[str, Any], mistakes: dict[str, Any], *flags: Flag
    ) -> Recipe:
        words = (f"eviction/at-once/{name}", f"eviction/{row}", "a choice of keys", comment)
        sibling = None if name == "recency" else "eviction/at-once/recency"
        more = {"one key more": {"budget": given["budget"] + 1}}
        return told(
            *words,
            inputs,
            given,
            _at_once,
            _at_once_forms(),
            sibling=sibling,
            flags=flags,
            mistakes={**more, **mistakes},
        )

    def steps(name: str, row: str, comment: str, given: dict[str, Any], mistakes: dict[str, Any]) -> Recipe:
        words = (f"eviction/each-step/{name}", f"eviction/{row}", "a choice of keys after every token", comment)
        every = {"nothing forgotten": {"budget": 7}, **mistakes}
        return told(*words, inputs, given, _step_by_step, _step_forms(), flags=(SCORES, KEPT), mistakes=every)

    snap = {"score": "votes", "window": 2, "pool": 3, "by": "mean", "budget": 4}
    return (
        *_budgets(),
        case(
            "recency",
            "streaming",
            "StreamingLLM: one sink and the last three.",
            {"score": "recency", "sinks": 1, "budget": 4},
            {"the sink forgotten": {"sinks": 0}},
            KEPT,
        ),
        case(
            "accumulated",
            "heavy_hitters",
            "H2O of a whole prompt: all that a key was given, by all queries and heads of its group.",
            {"score": "accumulated", "budget": 3},
            {"divided by the queries that saw it": {"score": "averaged"}},
            SCORES,
        ),
        case(
            "averaged",
            "observed",
            "What a key was given on average by the queries that saw it.",
            {"score": "averaged", "budget": 3},
            {"not divided": {"score": "accumulated"}},
            SCORES,
        ),
        case(
            "votes-mean",
            "snap",
            "SnapKV: the last two queries vote, three neighbours are averaged, and the last two keys always stay.",
            snap,
            {"the largest of neighbours": {"by": "max"}, "one query": {"window": 1}, "not pooled": {"pool": 1}},
            SCORES,
            KEPT,
        ),
        case(
            "votes-max",
            "snap",
            "The largest of three neighbours in place of their mean.",
            {**snap, "by": "max"},
            {"the mean of neighbours": {"by": "mean"}},
            SCORES,
        ),
        case(
            "last-query",
            "tova",
            "TOVA: what the last query gives, averaged over all heads; every head keeps the same.",
            {"score": "last query", "budget": 3},
            {"each group by itself": {"own_heads": True}},
            SCORES,
        ),
        case(
            "key-norm",
            "key_norm",
            "Keys of small norm stay.",
            {"score": "key norm", "budget": 3},
            {"keys of large norm stay": {"largest_stay": True}},
            SCORES,
        ),
        case(
            "key-difference",
            "key_diff",
            "Keys that point elsewhere than the mean direction stay.",
            {"score": "key difference", "budget": 3},
            {"the mean of keys that are not of unit length": {"not_unit": True}},
            SCORES,
        ),
        steps(
            "heavy-hitters",
            "heavy_hitters",
            "H2O: three keys stay, the last one always, the others by all that they were given.",
            {"policy": "heavy hitters", "budget": 3, "recent": 1},
            {"by the last query alone": {"last_query_alone": True}, "no recent part": {"recent": 0}},
        ),
        steps(
            "tova",
            "tova",
            "TOVA: three keys stay, by what the last query gives them over all heads.",
            {"policy": "tova", "budget": 3},
            {"one key more": {"budget": 4}},
        ),
        told(
            "eviction/moved/reindexed",
            "eviction/reindexed",
            "keys moved to their numbers",
            "Turned keys move by the difference between their number among the kept and their position.",
            {
                "k": drawn("reindexed k", 1, 2, 7, 6),
                "kept": np.array([[[1, 0, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1, 0]]], np.bool_),
            },
            {"base": 100.0},
            _reindexed,
            _reindexed_forms(),
            flags=(NUMBERED,),
            mistakes={"turned by the new number": {"by_new_number": True}},
        ),
    )
