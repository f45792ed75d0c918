"""The online softmax: any tile sizes, any order of the keys, the same answer within a bound."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError
from kvattn.execution import Question, Tiles, online_attend, tiles
from kvattn.masks import Causal, Window
from tests.execution.questions import distance, distance_by_hand, questions


@pytest.mark.by_hand("execution/online")
@pytest.mark.law("execution/online", "any order and size of tiles gives the answer", "bound")
@given(questions(), st.integers(1, 4), st.integers(1, 5), st.data())
def test_any_tiles_in_any_order_give_the_answer(
    question: Question, rows: int, columns: int, data: st.DataObject
) -> None:
    count = -(-question.k.shape[2] // columns)
    order = data.draw(st.permutations(range(count))) if count else None
    found = online_attend(question, rows=rows, columns=columns, order=order)
    assert distance_by_hand(found, question) <= 1
    assert distance(found, question, parts=count) <= 1


@given(questions(), st.integers(1, 4), st.integers(1, 5))
def test_what_is_skipped_is_never_computed(question: Question, rows: int, columns: int) -> None:
    with counting() as tally:
        online_attend(question, rows=rows, columns=columns)
    planned = tiles(question, rows=rows, columns=columns)
    all_pairs = question.visible().size
    width = question.q.shape[3] + question.v.shape[3]
    assert tally.matmul == planned.matmul
    assert planned.matmul + planned.saved == 2 * all_pairs * width
    assert tally.pairs_computed == planned.matmul // (2 * width)
    assert tally.pairs_visible == question.visible().sum()


def test_a_causal_square_skips_what_lies_above_the_diagonal() -> None:
    """12 tokens in tiles of 3 × 3: the 6 tiles above the diagonal of 16; a window of 4 skips 3 below, too."""
    x = np.random.default_rng(0).normal(size=(1, 1, 12, 2))
    met = [[i >= j for j in range(4)] for i in range(4)]
    assert tiles(Question(x, x, x, mask=Causal()), rows=3, columns=3) == Tiles(
        met=sum(map(sum, met)), skipped=6, whole=6, matmul=10 * 9 * 8, saved=6 * 9 * 8
    )
    near = [[max(0, 3 * i - 3) <= 3 * j + 2 and j <= i for j in range(4)] for i in range(4)]
    found = tiles(Question(x, x, x, mask=Window(4)), rows=3, columns=3)
    assert (found.met, found.skipped) == (sum(map(sum, near)), 16 - sum(map(sum, near)))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_tiles_without_a_visible_key_and_garbage_behind_the_mask_change_nothing(order: Any, garbage: float) -> None:
    random = np.random.default_rng(3)
    q, k, v = (random.normal(size=(1, 2, 6, 3)) for _ in range(3))
    clean = Question(q, k, v, mask=Window(2), q_positions=np.arange(6) + 2)
    k, v = k.copy(), v.copy()
    k[:, :, :1], v[:, :, :1] = garbage, garbage  # position 0: seen by no query
    v[:, :, 3] = garbage
    dirty = online_attend(
        Question(q, k, v, mask=Window(2), q_positions=np.arange(6) + 2), columns=2, rows=6, order=order
    )
    wanted = online_attend(clean, columns=2, rows=6, order=order)
    blind = ~clean.visible()[0, 0, :, 3]
    assert np.array_equal(dirty.lse, wanted.lse)
    assert np.allclose(dirty.out[:, :, blind], wanted.out[:, :, blind], rtol=1e-14, atol=0)
    assert not np.isfinite(dirty.out[:, :, ~blind]).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rows": 0}, "^rows must be an integer >= 1, got 0$"),
        ({"columns": True}, "^columns must be an integer >= 1, got True$"),
        ({"columns": 2, "order": [0, 0]}, r"^order must hold each tile of 0 \.\. 1 once, got \[0, 0\]$"),
        ({"columns": 2, "order": [0]}, r"^order must hold each tile of 0 \.\. 1 once, got \[0\]$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    x = np.ones((1, 1, 4, 1))
    with pytest.raises(ArgumentError, match=words):
        online_attend(Question(x, x, x), **arguments)
