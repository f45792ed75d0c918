"""The rules of pairs: the right ones by loops, tiles by loops, no two rules alike where sizes tell them apart."""

from fractions import Fraction
from itertools import combinations

import pytest

from kvattn.testing.counter_diagnosis.pairs import CAUSAL, DENSE, WINDOW, Rule, covered, tiled
from kvattn.testing.counter_diagnosis.tables import LENGTHS, WINDOWS


def test_the_right_rules_come_first_and_are_right() -> None:
    for t, s, w in ((1, 1, 1), (3, 8, 4), (5, 5, 2), (4, 9, 20)):
        seen = [(i, j) for i in range(s - t, s) for j in range(s) if i >= j]
        assert CAUSAL[0].count((t, s, None)) == len(seen)
        assert WINDOW[0].count((t, s, w)) == sum(i - j < w for i, j in seen)
        assert DENSE[0].count((t, s, None)) == t * s
    assert [rules[0].kind for rules in (DENSE, CAUSAL, WINDOW)] == ["right"] * 3


@pytest.mark.parametrize("window", [None, 5, 40])
def test_tiles_by_hand(window: int | None) -> None:
    for t, s, tall, wide in ((7, 19, 4, 8), (16, 16, 8, 4), (1, 30, 8, 16)):
        seen = [(i, j) for i in range(t) for j in range(s) if 0 <= s - t + i - j < (window or s)]
        met = {(i // tall, j // wide) for i, j in seen}
        clipped = sum((min(t, (a + 1) * tall) - a * tall) * (min(s, (b + 1) * wide) - b * wide) for a, b in met)
        assert tiled(tall, wide, True).count((t, s, window)) == len(met) * tall * wide
        assert tiled(tall, wide, False).count((t, s, window)) == clipped
    assert covered(8, 16).count((9, 16, None)) == 16 * 16


@pytest.mark.parametrize("rules", [DENSE, CAUSAL, WINDOW], ids=["dense", "causal", "window"])
def test_no_two_rules_with_another_name_are_alike(rules: tuple[Rule, ...]) -> None:
    nodes = [(t, s, w) for t, s in LENGTHS for w in (WINDOWS if rules is WINDOW else (None,)) if w is None or w < s + 9]
    for one, other in combinations(rules, 2):
        if one.parameters != other.parameters:
            assert any(one.count(n) // 1 != other.count(n) // 1 for n in nodes), (one.parameters, other.parameters)


def test_a_half_is_rounded_at_every_node_or_at_none() -> None:
    half = next(rule for rule in CAUSAL if rule.parameters == {"causal": "half"})
    assert half.settled({(3, 3, None): Fraction(9, 2), (5, 5, None): Fraction(12)}) is None
    assert half.settled({}) is None
