"""The mask laws pass what is right, and reject each kind of mistake with the pair in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.masks import Causal, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span

AT = range(-1, 7)


@dataclass(frozen=True)
class Says:
    """Causal pairs with whatever block answers are planted."""

    answer: Answer

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return q_positions >= k_positions

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return self.answer


def test_a_true_mask_passes() -> None:
    check_blocks(Causal(), AT, AT)
    check_pairs(Causal(), AT, AT)
    check_rule(Causal(), lambda b, h, q, k: q >= k, AT, AT)


def test_to_look_is_always_legal() -> None:
    check_blocks(Says(Answer.LOOK), AT, AT)


def test_a_block_that_is_not_all_visible_is_named() -> None:
    words = (
        r"Says\(answer=<Answer.ALL: 'all'>\) answers ALL for queries 2 to 2 and keys 3 to 3 of sequence 0, "
        r"but head 0 hides key 3 from query 2"
    )
    with pytest.raises(AssertionError, match=words):
        check_blocks(Says(Answer.ALL), [2], [3])


def test_a_block_that_is_not_all_hidden_is_named() -> None:
    with pytest.raises(AssertionError, match=r"answers NONE .* but head 0 shows key 3 to query 4"):
        check_blocks(Says(Answer.NONE), [4], [3])


def test_a_block_that_one_head_contradicts_is_noticed() -> None:
    @dataclass(frozen=True)
    class PerHead(Says):
        def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
            return (q_positions >= k_positions) & (h != 2)

    check_blocks(PerHead(Answer.ALL), [4], [3], heads=2)
    with pytest.raises(AssertionError, match="but head 2 hides key 3 from query 4"):
        check_blocks(PerHead(Answer.ALL), [4], [3], heads=3)


def test_a_block_that_one_sequence_contradicts_is_noticed() -> None:
    @dataclass(frozen=True)
    class PerSequence(Says):
        def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
            return (q_positions >= k_positions) & (np.asarray(b) != 1)

    check_blocks(PerSequence(Answer.ALL), [4], [3], batch=1)
    with pytest.raises(AssertionError, match="of sequence 1, but head 0 hides key 3 from query 4"):
        check_blocks(PerSequence(Answer.ALL), [4], [3], batch=2)


def test_an_answer_that_depends_on_the_company_is_noticed() -> None:
    @dataclass(frozen=True)
    class ByRow(Says):
        """Infers the anchor from row numbers, as attention code likes to do."""

        def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
            return np.arange(q_positions.shape[-2])[:, None] >= np.arange(k_positions.shape[-1])

    check_pairs(ByRow(Answer.LOOK), [0], [0])
    with pytest.raises(AssertionError, match=r"shows key 3 for query 2 of .* when asked alone, but not among others"):
        check_pairs(ByRow(Answer.LOOK), [2, 4], [0, 3])


@pytest.mark.parametrize(
    ("answer", "words"),
    [(np.ones((1, 2, 2)), "got float64"), (np.ones((3, 5), bool), r"got bool of \(3, 5\)")],
)
def test_an_answer_that_is_no_boolean_or_does_not_broadcast_is_noticed(answer: Any, words: str) -> None:
    @dataclass(frozen=True, repr=False)
    class Odd(Says):
        def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
            return answer

    for check in (check_pairs, check_blocks):
        with pytest.raises(AssertionError, match=words):
            check(Odd(Answer.LOOK), [2, 4], [0, 3])


def test_a_window_that_is_one_too_wide_is_told_from_the_rule() -> None:
    check_rule(Window(3), lambda b, h, q, k: q in (k, k + 1, k + 2), AT, AT)
    with pytest.raises(AssertionError, match=r"Window\(4\) shows key -1 to query 2 .*, but the rule hides it"):
        check_rule(Window(4), lambda b, h, q, k: q in (k, k + 1, k + 2), AT, AT)
    with pytest.raises(AssertionError, match=r"Window\(2\) hides key -1 from query 1 .*, but the rule shows it"):
        check_rule(Window(2), lambda b, h, q, k: q in (k, k + 1, k + 2), AT, AT)
