"""Lookahead decoding: window and guesses are one tree, and only guesses can be committed."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Paged, key_value
from kvattn.errors import ArgumentError
from kvattn.execution import Lookahead, commit, tree_attend

LAYOUTS = st.builds(
    Lookahead,
    window=st.integers(1, 4),
    ngram=st.integers(2, 4),
    guesses=st.integers(0, 3),
    start=st.sampled_from([0, 1, 5]),
)


def names(one: Lookahead) -> list[tuple[str, int, int]]:
    """Every node of a pass, in the order of the page: ("window", level, column) or ("guess", number, place)."""
    window = [("window", level, column) for level in range(one.ngram - 1) for column in range(one.window)]
    return window + [("guess", number, place) for number in range(one.guesses) for place in range(one.ngram - 1)]


def sees(query: tuple[str, int, int], key: tuple[str, int, int]) -> bool:
    """The paper's rule for two tokens of a pass."""
    branch, level, column = query
    other, above, beside = key
    if branch == "window":
        return other == "window" and ((above == 0 and beside <= column) or (0 < above <= level and beside == column))
    if other == "window":
        return above == beside == 0
    return above == level and beside <= column


def place(name: tuple[str, int, int]) -> int:
    """How far behind the newest token."""
    branch, level, column = name
    return level + column if branch == "window" else column + 1


@pytest.mark.by_hand("execution/lookahead")
@given(LAYOUTS)
def test_the_mask_is_the_papers_rule_pair_by_pair(one: Lookahead) -> None:
    nodes, tree = names(one), one.tree
    at = one.start + np.arange(len(nodes))
    seen = tree(0, 0, at[:, None], np.arange(one.start + len(nodes)))
    assert len(nodes) == len(tree.parents) == (one.window + one.guesses) * (one.ngram - 1)
    assert seen[:, : one.start].all()
    for i, query in enumerate(nodes):
        assert tree.positions[i] == one.start + place(query)
        for j, key in enumerate(nodes):
            assert seen[i, one.start + j] == sees(query, key), (query, key)


def test_the_table_of_a_small_pass() -> None:
    """W = 3, N = 3, one guess: written out."""
    one = Lookahead(window=3, ngram=3, guesses=1, start=0)
    at = np.arange(8)
    assert one.tree(0, 0, at[:, None], at).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 0, 1, 1],
    ]
    assert one.tree.positions.tolist() == [0, 1, 2, 1, 2, 3, 1, 2]


@pytest.mark.law("execution/lookahead", "nothing of the window enters the cache", "bits")
@given(LAYOUTS, st.data())
def test_nothing_of_the_window_enters_the_cache(one: Lookahead, data: st.DataObject) -> None:
    """Each row says whose it is; all of the window's but the newest token's are NaN after the pass."""
    accepted = data.draw(st.integers(0, one.ngram - 1)) if one.guesses else 0
    guess = data.draw(st.integers(0, one.guesses - 1)) if one.guesses else 0
    nodes, tree = names(one), one.tree
    rows = one.start + np.arange(float(len(nodes)))
    rows[1 : one.levels.size] = np.nan
    past = Paged.start(key_value(1, 1), page=4).append([np.arange(float(one.start)).reshape(1, 1, -1, 1)] * 2)
    new = rows.reshape(1, 1, -1, 1)
    found, held = tree_attend(past, np.zeros_like(new), new, new, tree)
    kept = commit(held, tree, one.path(guess, accepted))
    wanted = [*range(one.start + 1), *(one.start + nodes.index(("guess", guess, n)) for n in range(accepted))]
    assert kept.rows().v.ravel().tolist() == wanted
    assert np.isfinite(found.out[0, 0, one.levels.size :]).all()  # guesses do not see the window either
    assert np.isfinite(found.out[0, 0, 0]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 2, 0, 0), "^window must be an integer >= 1, got 0$"),
        ((1, 1, 0, 0), "^ngram must be an integer >= 2, got 1$"),
        ((1, 2, -1, 0), "^guesses must be an integer >= 0, got -1$"),
        ((1, 2, 0, True), "^start must be an integer >= 0, got True$"),
    ],
)
def test_a_bad_layout_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Lookahead(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 3), r"^accepted must be an integer in 0 \.\. 2, got 3$"),
        ((2, 1), r"^guess must be an integer in 0 \.\. 1, got 2$"),
    ],
)
def test_a_path_that_no_guess_has_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Lookahead(window=1, ngram=3, guesses=2, start=0).path(*arguments)
