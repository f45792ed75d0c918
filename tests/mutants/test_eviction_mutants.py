"""Small wrong versions of the eviction policies, each of which the witness of its kind must reject.

A witness takes an implementation and says whether it agrees with loops, or keeps a law, on every seed; it
accepts the real one and rejects each mutant.
"""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
import math
from typing import Any

import numpy as np
import pytest

from kvattn.eviction import (
    HeavyHitters,
    Kept,
    MaxPool,
    MeanPool,
    Standing,
    Tova,
    accumulated,
    adaptive_budgets,
    attend_kept,
    averaged,
    decode,
    expected,
    group_mean,
    group_sum,
    kept_slots,
    key_difference,
    last_query,
    negative_norms,
    probabilities,
    pyramid_budgets,
    query_moments,
    query_sum,
    reindex,
    rotated,
    top,
    window_votes,
    witness,
)
from kvattn.eviction.expected_attention import Moments
from kvattn.execution import Question
from kvattn.positions import Rotary
from kvattn.positions.alibi import Alibi
from kvattn.testing.balls import agree
from kvattn.typing import Array, Attended, Visible
from tests.eviction import (
    test_expected_attention,
    test_heavy_hitters,
    test_key_diff,
    test_pyramid,
    test_snap,
    test_tova,
)
from tests.eviction.drawn import best, fresh, kept_sets, near, prompt
from tests.eviction.test_observed import one_hot
from tests.execution.questions import by_hand, distance

Check = Callable[[Any], bool]
SEEDS = range(4)


def with_sinks(seed: int) -> Question:
    question = prompt(seed, batch=1, length=7)
    return replace(question, sinks=np.linspace(-1, 1, 6), softcap=3.0, mods=(Alibi.of(6),))


def shares_by_hand(probe: Callable[[Question], Array]) -> bool:
    return all(agree(probe(q), by_hand(one_hot(q))[0]) <= 1 for q in map(with_sinks, SEEDS))


def masked_by(**others: Any) -> Callable[[Question], Array]:
    return lambda question: probabilities(replace(question, **others))


def tiled_heads(question: Question) -> Array:
    order = [h % 2 * 3 + h // 2 for h in range(6)]  # query head h reads key/value head h % Hkv
    return probabilities(replace(question, q=question.q[:, np.argsort(order)]))[:, order]


def late_mask(question: Question) -> Array:
    """Probabilities are taken before the mask and hidden ones are cut out."""
    return np.where(question.visible(), probabilities(replace(question, mask=None)), 0.0)


def sums_by_hand(rule: Callable[[Array, Visible, int], Array]) -> bool:
    return all(_prompt_sums(rule, seed, divided=False) for seed in SEEDS)


def means_by_hand(rule: Callable[[Array, Visible, int], Array]) -> bool:
    return all(_prompt_sums(rule, seed, divided=True) for seed in SEEDS)


def _prompt_sums(rule: Callable[[Array, Visible, int], Array], seed: int, divided: bool) -> bool:
    question = prompt(seed)
    p = probabilities(question)
    wanted = np.zeros((2, 2, 9))
    for b, h, i, j in np.ndindex(2, 6, 9, 9):
        if j <= i:
            wanted[b, h // 3, j] += p[b, h, i, j] / ((9 - j) * 3 if divided else 1)
    return near(rule(p, question.visible(), 2), wanted)


def tiled_sum(p: Array, _: Visible, kv_heads: int) -> Array:
    summed = query_sum(p)
    return np.stack([summed[:, h::kv_heads].sum(axis=1) for h in range(kv_heads)], axis=1)


def votes_by_hand(rule: Callable[..., Array]) -> bool:
    for seed in SEEDS:
        p = probabilities(prompt(seed))
        for pool in (MeanPool(3), MaxPool(3)):
            wanted = test_snap.by_hand(p, 2, 3, pool)
            found = rule(p, 2, window=3, pool=pool)
            if not np.array_equal(np.isposinf(found), np.isposinf(wanted)) or not near(found[..., :6], wanted[..., :6]):
                return False
    return True


def votes(change: Callable[[Array, int, int, Any], Array]) -> Callable[..., Array]:
    """A wrong way to the votes of the earlier keys."""

    def rule(p: Array, kv_heads: int, *, window: int, pool: Any) -> Array:
        found = window_votes(p, kv_heads, window=window, pool=pool)
        found[..., :-window] = change(p, kv_heads, window, pool)[..., : p.shape[3] - window]
        return found

    return rule


def inner_mean(numbers: Array, width: int) -> Array:
    """A pool that divides by how many neighbours there are."""
    return MeanPool(width)(numbers) / MeanPool(width)(np.ones_like(numbers))


def group_max(numbers: Array, kv_heads: int) -> Array:
    return np.asarray(numbers.reshape(len(numbers), kv_heads, -1, numbers.shape[2]).max(axis=2))


def without_window(p: Array, window: int) -> Array:
    """A softmax over the earlier keys alone."""
    early = p[:, :, -window:, :-window]
    return np.asarray(early / early.sum(axis=3, keepdims=True))


def window_not_kept(p: Array, kv_heads: int, *, window: int, pool: Any) -> Array:
    found = window_votes(p, kv_heads, window=window, pool=pool)
    return np.where(np.isposinf(found), 0.0, found)


def last_by_hand(rule: Callable[[Array, int], Array]) -> bool:
    for seed in SEEDS:
        p = probabilities(prompt(seed))
        wanted = [[[sum(p[b, h, 8, j] for h in range(6)) / 6 for j in range(9)]] * 2 for b in range(2)]
        if not near(rule(p, 2), wanted):
            return False
    return True


def chosen_by_hand(rule: Callable[[Array, int], Visible]) -> bool:
    scores = np.random.default_rng(0).integers(0, 4, (3, 2, 9)).astype(float)
    return all(
        np.flatnonzero(rule(scores, budget)[b, h]).tolist() == best(scores[b, h].tolist(), budget)
        for budget in range(11)
        for b, h in np.ndindex(3, 2)
    )


def highest_of_equals(scores: Array, budget: int) -> Visible:
    return top(scores[..., ::-1], budget)[..., ::-1]


def heavy_by_hand(policy: Any) -> bool:
    """The set and the totals that `HeavyHitters(2, 2)` has after each prompt."""
    for seed in SEEDS:
        question = prompt(seed, length=10)
        standing = decode(policy, fresh(question), question).standing
        for b, head in np.ndindex(2, 2):
            left, totals = test_heavy_hitters.greedy_by_hand(question, b, head, 2, 2)
            if np.flatnonzero(standing.kept[b, head]).tolist() != left or not near(standing.totals[b, head], totals):
                return False
    return True


class Observing:
    """A policy by its function."""

    def __init__(self, observe: Callable[[Standing, Array], Standing]) -> None:
        self.observe = observe


def heavy(row_of: Callable[[Array], Array] = lambda row: row, heavy: int = 2, recent: int = 2) -> Observing:
    return Observing(lambda standing, row: HeavyHitters(heavy, recent).observe(standing, row_of(row)))


def forgetful(standing: Standing, row: Array) -> Standing:
    """Totals begin anew at every step."""
    return HeavyHitters(2, 2).observe(standing._replace(totals=np.zeros_like(standing.totals)), row)


def early(standing: Standing, row: Array) -> Standing:
    """Room is made before the query looks, so its own probabilities have no say."""
    slots = standing.kept.shape[2]
    before = standing
    if standing.kept.sum() >= 4 * len(standing.kept) * 2:
        worth = np.where(standing.kept, standing.totals, -np.inf)
        worth[..., slots - 1 :] = np.inf  # with the new one these are the last two
        before = Standing(standing.kept & top(worth, 3), standing.totals)
    after = HeavyHitters(9, 9).observe(before, row)
    return Standing(after.kept, np.where(after.kept, after.totals, 0.0))


def in_place(standing: Standing, row: Array) -> Standing:
    """The old value's totals are written over."""
    found = HeavyHitters(2, 2).observe(standing, row)
    standing.totals[...] += 1.0
    return found


def old_values_stay(policy: Any) -> bool:
    question = prompt(0)
    half = question.part(slice(0, 5), slice(0, 5))
    before = decode(policy, fresh(question), half).standing
    copied = before.totals.copy()
    decode(policy, before, question.part(slice(5, None)))
    return np.array_equal(before.totals, copied)


def tova_by_hand(policy: Any) -> bool:
    for seed in SEEDS:
        question = prompt(seed, length=10)
        kept = decode(policy, fresh(question), question).standing.kept
        for b, head in np.ndindex(2, 2):
            if np.flatnonzero(kept[b, head]).tolist() != test_tova.greedy_by_hand(question, b, 3):
                return False
    return True


def by_own_group(standing: Standing, row: Array) -> Standing:
    """Each head by the mean of its own group."""
    kept = np.concatenate([standing.kept, np.ones((*standing.kept.shape[:2], 1), bool)], axis=2)
    worth = np.where(kept, group_mean(row, 2), -np.inf)
    return Standing(kept & top(worth, 3), np.zeros(kept.shape))


def last_forced(standing: Standing, row: Array) -> Standing:
    forced = row.copy()
    forced[..., -1] = 9.0
    return Tova(3).observe(standing, forced)


def mates_invisible(rule: Callable[[Array, int], Visible]) -> bool:
    """What one sequence keeps does not depend on the others."""
    scores = np.random.default_rng(1).normal(size=(2, 2, 8)) * np.array([1.0, 9.0])[:, None, None]
    whole = rule(scores, 3)
    return all(np.array_equal(rule(scores[b : b + 1], 3)[0], whole[b]) for b in range(2))


def over_the_batch(scores: Array, budget: int) -> Visible:
    batch, heads, _ = scores.shape
    return np.asarray(top(scores.reshape(1, 1, -1), batch * heads * budget).reshape(scores.shape))


def kept_attention(rule: Callable[[Question, Visible], Attended]) -> bool:
    """The oracle, with a mask and a bias that see positions and heads."""
    for seed in SEEDS:
        question = replace(prompt(seed, length=12), mods=(Alibi.of(6),), sinks=np.linspace(-1, 1, 6))
        question = question.part(slice(6, 9))
        keep = kept_sets(seed, (2, 2, 12), 0.6)
        if not distance(rule(question, keep), witness(question, keep[:, :, None]), 2) <= 1:
            return False
    return True


def renumbered(question: Question, keep: Visible) -> Attended:
    """Rows move together and positions are counted anew."""
    numbers = np.cumsum(keep[0, 0]) - 1
    return attend_kept(replace(question, k_positions=np.maximum(numbers, 0)), keep)


def full_attention(question: Question, _: Visible) -> Attended:
    return question.attend()


def mask_by_hand(kind: Callable[..., Any]) -> bool:
    keep = kept_sets(0, (2, 2, 5))
    mask = kind(keep, 3)
    return all(
        bool(mask(b, h, np.array([9]), np.array([j]))[0]) == (j >= 5 or bool(keep[b, h // 3, j]))
        for b, h, j in np.ndindex(2, 6, 7)
    )


def tiled_mask(keep: Visible, group: int) -> Any:
    return Kept(np.tile(keep, (1, group, 1)), 1)


def later_hidden(keep: Visible, group: int) -> Any:
    return Kept(np.concatenate([keep, np.zeros((2, 2, 4), bool)], axis=2), group)


def norms_by_hand(rule: Callable[[Array], Array]) -> bool:
    k = prompt(0).k
    return near(rule(k), [[[-math.hypot(*key) for key in head] for head in one] for one in k.tolist()])


def differences_by_hand(rule: Callable[[Array], Array]) -> bool:
    k = prompt(0).k * np.arange(1.0, 10.0)[:, None]
    return near(rule(k), [[test_key_diff.by_hand(head) for head in one] for one in k.tolist()])


def plain_anchor(k: Array) -> Array:
    """The anchor is the mean of the keys themselves."""
    mean = k.mean(axis=2, keepdims=True)
    norms = np.linalg.norm(k, axis=3) * np.linalg.norm(mean, axis=3)
    return np.asarray(-(k * mean).sum(axis=3) / norms)


def expectation_by_hand(rule: Callable[..., Array]) -> bool:
    random = np.random.default_rng(5)
    q, k, v = (random.normal(size=shape) for shape in ((1, 2, 8, 4), (1, 1, 8, 4), (1, 1, 8, 3)))
    rotary = Rotary.of(4)
    found = rule(q, k, v, rotary)
    wanted = test_expected_attention.by_hand(q[0].tolist(), k[0, 0].tolist(), v[0, 0].tolist(), rotary, range(8, 13), 2)
    return near(found[0, 0, 2:], wanted[2:])


def expectation(change: Callable[[Moments], Moments] = lambda m: m, skip: int = 2, norms: bool = True) -> Any:
    def rule(q: Array, k: Array, v: Array, rotary: Rotary) -> Array:
        moments = rotated(query_moments(q, skip=skip), rotary, np.arange(8, 13))
        return expected(k, v if norms else np.ones_like(v[..., :1]), change(moments), sinks=2)

    return rule


def not_turned(q: Array, k: Array, v: Array, _: Rotary) -> Array:
    return expected(k, v, query_moments(q, skip=2), sinks=2)


def next_position_only(q: Array, k: Array, v: Array, rotary: Rotary) -> Array:
    return expected(k, v, rotated(query_moments(q, skip=2), rotary, np.array([8])), sinks=2)


def sinks_in_the_softmax(q: Array, k: Array, v: Array, rotary: Rotary) -> Array:
    return expected(k, v, rotated(query_moments(q, skip=2), rotary, np.arange(8, 13)))


def moved_keys(rule: Callable[[Array, Visible, Rotary], Array]) -> bool:
    random = np.random.default_rng(6)
    keys, keep, rotary = random.normal(size=(1, 2, 9, 4)), top(random.random((1, 2, 9)), 4), Rotary.of(4)
    wanted = rotary.rotate(np.take_along_axis(keys, kept_slots(keep)[..., None], axis=2), np.arange(4))
    return near(rule(rotary.rotate(keys, np.arange(9)), keep, rotary), wanted)


def moved_on(keys: Array, keep: Visible, rotary: Rotary) -> Array:
    slots = kept_slots(keep)
    return rotary.shift(np.take_along_axis(keys, slots[..., None], axis=2), slots - np.arange(slots.shape[2]))


def turned_again(keys: Array, keep: Visible, rotary: Rotary) -> Array:
    """Rotated to the new place without taking the old rotation back."""
    slots = kept_slots(keep)
    return rotary.rotate(np.take_along_axis(keys, slots[..., None], axis=2), np.arange(slots.shape[2]))


def layers_by_hand(rule: Callable[..., Any]) -> bool:
    found = rule(7, 40, length=500, window=4, beta=8)
    wanted = test_pyramid.exact(7, 40, 500, 4, 8)
    return sum(found) == 280 and all(abs(n - share) <= 1 for n, share in zip(found, wanted, strict=True))


def by_all_layers(layers: int, budget: int, **others: Any) -> list[int]:
    """A step of (most - least) / m, which never reaches the least."""
    shares = test_pyramid.exact(layers, budget, others["length"], others["window"], others["beta"])
    return [int(shares[0] - layer * (shares[0] - shares[-1]) / layers) for layer in range(layers)]


def rounded_down(layers: int, budget: int, **others: Any) -> list[int]:
    return [
        int(share) for share in test_pyramid.exact(layers, budget, *(others[n] for n in ("length", "window", "beta")))
    ]


def no_window(layers: int, budget: int, **others: Any) -> Any:
    return pyramid_budgets(layers, budget, **(others | {"window": 0}))


def heads_by_hand(rule: Callable[[Array, int, float], Any]) -> bool:
    scores = np.random.default_rng(8).random((1, 3, 10)) ** np.array([1.0, 3.0, 9.0])[:, None]
    order = np.argsort(-scores.reshape(-1))[:15] // 10
    exact = [Fraction(7, 10) * int((order == h).sum()) + Fraction(3, 10) * 5 for h in range(3)]
    found = rule(scores, 5, 0.3)[0]
    return int(sum(found)) == 15 and all(abs(int(n) - share) < 1 for n, share in zip(found, exact, strict=True))


def floor_ignored(scores: Array, budget: int, _: float) -> Any:
    return adaptive_budgets(scores, budget, floor=0.0)


def floor_reversed(scores: Array, budget: int, floor: float) -> Any:
    return adaptive_budgets(scores, budget, floor=1 - floor)


CASES: dict[str, tuple[Check, Any, dict[str, Any]]] = {
    "probabilities": (
        shares_by_hand,
        probabilities,
        {
            "the mask is not asked": masked_by(mask=None),
            "the mask comes after the softmax": late_mask,
            "sinks take nothing": masked_by(sinks=None),
            "no softcap": masked_by(softcap=None),
            "no bias": masked_by(mods=()),
            "no scale": masked_by(scale=1.0),
            "query head h reads h % Hkv": tiled_heads,
        },
    ),
    "sums": (
        sums_by_hand,
        lambda p, _, kv_heads: accumulated(p, kv_heads),
        {
            "divided": averaged,
            "the group's mean": lambda p, _, kv_heads: group_mean(query_sum(p), kv_heads),
            "the group's heads are every Hkv-th": tiled_sum,
            "the last query does not count": lambda p, _, kv_heads: accumulated(p[:, :, :-1], kv_heads),
        },
    ),
    "means": (
        means_by_hand,
        averaged,
        {
            "undivided": lambda p, _, kv_heads: accumulated(p, kv_heads),
            "divided by all queries": lambda p, v, kv_heads: averaged(p, np.ones_like(v), kv_heads),
            "the group's sum": lambda p, v, kv_heads: averaged(p, v, kv_heads) * 3,
            "a query too many": lambda p, v, kv_heads: group_mean(query_sum(p) / (v.sum(axis=2) + 1), kv_heads),
        },
    ),
    "votes": (
        votes_by_hand,
        window_votes,
        {
            "the window is not kept": window_not_kept,
            "the sum over the window": votes(lambda p, n, w, pool: group_mean(pool(query_sum(p[:, :, -w:])), n)),
            "pooled with the window's keys": votes(
                lambda p, n, w, pool: group_mean(pool(query_sum(p[:, :, -w:]) / w), n)
            ),
            "one query too early": votes(
                lambda p, n, w, pool: group_mean(pool(query_sum(p[:, :, -w - 1 : -1, :-w]) / w), n)
            ),
            "the group's maximum": votes(lambda p, n, w, pool: group_max(pool(query_sum(p[:, :, -w:, :-w]) / w), n)),
            "the group's sum": votes(lambda p, n, w, pool: group_sum(pool(query_sum(p[:, :, -w:, :-w]) / w), n)),
            "a softmax without the window": votes(
                lambda p, n, w, pool: group_mean(pool(query_sum(without_window(p, w)) / w), n)
            ),
            "a mean of the neighbours there are": votes(
                lambda p, n, w, pool: group_mean(inner_mean(query_sum(p[:, :, -w:, :-w]) / w, pool.width), n)
            ),
            "not pooled": votes(lambda p, n, w, _: group_mean(query_sum(p[:, :, -w:, :-w]) / w, n)),
        },
    ),
    "last query": (
        last_by_hand,
        last_query,
        {
            "each group by itself": lambda p, n: group_mean(p[:, :, -1], n),
            "the first query": lambda p, n: last_query(p[:, :, :1], n),
            "the first head": lambda p, n: np.repeat(p[:, :1, -1], n, axis=1),
            "the sum over heads": lambda p, n: last_query(p, n) * 6,
        },
    ),
    "selection": (
        chosen_by_hand,
        top,
        {
            "the highest of equals": highest_of_equals,
            "one too many": lambda s, n: top(s, n + 1),
            "one too few": lambda s, n: top(s, max(n - 1, 0)),
            "the worst": lambda s, n: top(-s, n),
        },
    ),
    "batch mates": (mates_invisible, top, {"one ranking for the whole batch": over_the_batch}),
    "heavy hitters": (
        heavy_by_hand,
        HeavyHitters(2, 2),
        {
            "three recent, one heavy": heavy(heavy=1, recent=3),
            "the recent are not safe": heavy(heavy=4, recent=0),
            "room is made before the query looks": Observing(early),
            "totals begin anew": Observing(forgetful),
            "the group's mean": heavy(lambda row: row / 3),
            "the group's heads are every Hkv-th": heavy(lambda row: row[:, [0, 2, 4, 1, 3, 5]]),
            "squared": heavy(lambda row: row**2),
        },
    ),
    "old values": (old_values_stay, HeavyHitters(2, 2), {"written over": Observing(in_place)}),
    "tova": (
        tova_by_hand,
        Tova(3),
        {
            "each group by itself": Observing(by_own_group),
            "the last token is forced": Observing(last_forced),
            "one more": Tova(4),
            "totals decide": HeavyHitters(3, 0),
        },
    ),
    "kept rows": (
        kept_attention,
        attend_kept,
        {
            "positions are counted anew": renumbered,
            "full attention": full_attention,
            "heads are swapped": lambda q, keep: attend_kept(q, keep[:, ::-1]),
            "sequences are swapped": lambda q, keep: attend_kept(q, keep[::-1]),
            "the complement": lambda q, keep: attend_kept(q, ~keep),
        },
    ),
    "kept mask": (
        mask_by_hand,
        Kept,
        {"query head h follows h % Hkv": tiled_mask, "later keys are hidden": later_hidden},
    ),
    "norms": (norms_by_hand, negative_norms, {"large keys stay": lambda k: -negative_norms(k)}),
    "differences": (
        differences_by_hand,
        key_difference,
        {"like keys stay": lambda k: -key_difference(k), "keys are not normed for the anchor": plain_anchor},
    ),
    "expectation": (
        expectation_by_hand,
        expectation(),
        {
            "the covariance whole, not half": expectation(lambda m: m._replace(covariance=2 * m.covariance)),
            "no covariance": expectation(lambda m: m._replace(covariance=0 * m.covariance)),
            "second moments, not central": expectation(
                lambda m: m._replace(covariance=m.covariance + m.mean[..., :, None] * m.mean[..., None, :])
            ),
            "the first queries too": expectation(skip=0),
            "no norms of values": expectation(norms=False),
            "not turned": not_turned,
            "turned to the next position alone": next_position_only,
            "sinks take part in the softmax": sinks_in_the_softmax,
        },
    ),
    "moved keys": (
        moved_keys,
        reindex,
        {
            "moved on, not back": moved_on,
            "turned again": turned_again,
            "not moved": lambda k, keep, _: np.take_along_axis(k, kept_slots(keep)[..., None], axis=2),
        },
    ),
    "layers": (
        layers_by_hand,
        pyramid_budgets,
        {
            "upside down": lambda *a, **b: pyramid_budgets(*a, **b)[::-1],
            "a step for each of m layers": by_all_layers,
            "rounded down": rounded_down,
            "the window is not kept": no_window,
        },
    ),
    "heads": (
        heads_by_hand,
        lambda scores, budget, floor: adaptive_budgets(scores, budget, floor=floor),
        {"no floor": floor_ignored, "the floor is the other part": floor_reversed},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_real_one_is_accepted(name: str) -> None:
    check, real, _ = CASES[name]
    assert check(real)


@pytest.mark.parametrize(("name", "mutant"), [(name, mutant) for name in CASES for mutant in CASES[name][2]])
def test_a_mutant_is_rejected(name: str, mutant: str) -> None:
    check, _, mutants = CASES[name]
    assert not check(mutants[mutant])
