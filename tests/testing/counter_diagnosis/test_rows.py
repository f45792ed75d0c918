"""The rules of rows: the right ones by loops, pages and blocks by loops."""

from fractions import Fraction
from itertools import combinations

from kvattn.testing.counter_diagnosis.rows import TOKENS, WINDOW, blocks, paged, pages


def test_the_right_ones_by_hand() -> None:
    for t, s, w in ((1, 9, 4), (3, 9, 4), (3, 5, 9), (0, 9, 4)):
        step = max(t, 1)
        read = {j for i in range(s - step, s) for j in range(s) if 0 <= i - j < w}
        assert WINDOW[0].count((t, s, w)) == len(read)
        assert blocks(4).count((t, s, w)) == len(
            {j for j in range(s) if j // 4 in {k // 4 for k in read} or j >= min(read)}
        )
        assert TOKENS[0].count((t, s, None)) == s
        assert paged(4).count((t, s, None)) == 4 * len({j // 4 for j in range(s)})


def test_pages_hold_what_another_rule_counts() -> None:
    plain, ignored, down, more, each, _ = (rule.count((1, 8, 4)) for rule in pages(TOKENS[0]))
    assert (plain, ignored, down, more, each) == (8, 8, 8, 12, 2)
    assert pages(paged(16))[1].count((0, 3, 4)) == Fraction(16)


def test_no_two_rules_with_another_name_are_alike() -> None:
    nodes = [(t, s, w) for t in (1, 3) for s in (5, 8, 9, 40) for w in (1, 2, 7, 8, 64)]
    for rules in (TOKENS, WINDOW, pages(TOKENS[0])):
        for one, other in combinations(rules, 2):
            if one.parameters != other.parameters:
                assert any(one.count(node) != other.count(node) for node in nodes), (one.parameters, other.parameters)
