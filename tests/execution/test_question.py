"""A question is read once, answers as `kvattn.attend` does, and its parts are questions."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

import kvattn
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.execution import Question
from kvattn.masks import Causal
from tests.execution.questions import distance_by_hand, questions


def ask(**others: Any) -> Question:
    arrays = {"q": np.ones((2, 4, 3, 5)), "k": np.ones((2, 2, 6, 5)), "v": np.ones((2, 2, 6, 7))}
    return Question(**(arrays | others))


@pytest.mark.by_hand("execution/question")
@given(questions())
def test_it_equals_the_answer_by_hand(question: Question) -> None:
    assert distance_by_hand(question.attend(), question) <= 1


@given(questions())
def test_it_is_attend_to_the_bit(question: Question) -> None:
    found, wanted = (
        question.attend(),
        kvattn.attend(
            question.q,
            question.k,
            question.v,
            mask=question.mask,
            bias=question.mods or None,
            scale=question.scale,
            softcap=question.softcap,
            sinks=question.sinks,
            q_positions=question.q_positions,
            k_positions=question.k_positions,
            dtype=question.dtype,
        ),
    )
    assert np.array_equal(found.out, wanted.out)
    assert np.array_equal(found.lse, wanted.lse)


@pytest.mark.law("execution/question", "a part of the queries keeps its bits", "bits")
@given(questions(), st.data())
def test_a_part_of_the_queries_keeps_its_bits(question: Question, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, question.q.shape[2] - 1), min_size=1, max_size=6)))
    whole, part = question.attend(), question.part(rows).attend()
    assert np.array_equal(part.out, whole.out[:, :, rows])
    assert np.array_equal(part.lse, whole.lse[:, :, rows])


@given(questions())
def test_who_is_visible_is_asked_pair_by_pair(question: Question) -> None:
    seen = question.visible()
    for b, h, t, s in np.ndindex(*seen.shape):
        at = question.q_positions[b, t : t + 1], question.k_positions[b, s : s + 1]
        assert seen[b, h, t, s] == (question.mask is None or bool(question.mask(b, h, *at)[0]))


def test_sinks_are_a_part_without_values() -> None:
    question = ask(sinks=np.arange(4.0))
    part = question.of_sinks()
    assert not part.out.any()
    assert part.out.shape == (2, 4, 3, 7)
    assert part.lse[1, :, 2].tolist() == [0, 1, 2, 3]
    assert question.without_sinks().sinks is None
    assert np.isneginf(question.without_sinks().of_sinks().lse).all()


def test_sizes_are_those_of_the_arrays() -> None:
    question = ask(dtype=np.float32, mask=Causal())
    assert repr(question) == "Question(B=2, Hq=4, Hkv=2, T=3, S=6, D=5, Dv=7)"
    assert question.row_bytes == 2 * (5 + 7) * 4
    assert question.attend().out.dtype == np.float32
    assert question.q_positions.tolist() == [[3, 4, 5]] * 2


@pytest.mark.parametrize(
    ("others", "error", "words"),
    [
        (
            {"k": np.ones((2, 2, 6, 4))},
            ShapeError,
            r"^k must have shape \[B, Hkv, S, D\] with B=2, D=5, got \(2, 2, 6, 4\)$",
        ),
        ({"v": np.ones((2, 2, 6, 0))}, ShapeError, r"^Dv must be at least 1, got shapes \["),
        (
            {"q": np.ones((2, 3, 3, 5))},
            ShapeError,
            "^q must have a multiple of the 2 key/value heads, got 3 query heads$",
        ),
        ({"q": np.ones((2, 4, 3, 5), bool)}, DtypeError, "^q must be an array of real numbers, got dtype bool$"),
        ({"mask": 3}, ArgumentError, r"^mask must be a mask of kvattn\.masks or None, got 3$"),
        ({"sinks": np.ones(3)}, ShapeError, r"^sinks must have shape \[4\], got \(3,\)$"),
        (
            {"sinks": [0, 0, 0, np.inf]},
            ArgumentError,
            r"^sinks must be finite numbers or -inf, got \[0\.0, 0\.0, 0\.0, inf\]$",
        ),
        ({"softcap": 0}, ArgumentError, "^softcap must be a finite number above 0, got 0$"),
        ({"k_positions": [0]}, ShapeError, r"^k_positions must have shape \[6\] or \[2, 6\], got \(1,\)$"),
    ],
)
def test_a_bad_argument_is_named(others: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ask(**others)
