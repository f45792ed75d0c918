"""Document shows a token its own document in a packed row."""

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, PositionError, ShapeError
from kvattn.masks import Causal, Document
from kvattn.positions import Rotary
from kvattn.testing.laws import stepped
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

IDS = [[0, 0, 0, 1, 1, 2, -1, -1], [4, 4, 7, 7, 4, 4, 9, 9], [-1, 0, 0, 0, 0, 0, 0, -1]]


def by_hand(b: int, h: int, q: int, k: int) -> bool:
    """Collect the members of the query's document."""
    members = [i for i, one in enumerate(IDS[b]) if one == IDS[b][q]]
    return IDS[b][q] != -1 and k in members


@pytest.mark.by_hand("masks/document")
def test_it_equals_the_membership_by_hand_in_every_sequence() -> None:
    check_rule(Document(IDS), by_hand, range(8), range(8), batch=3, heads=2)
    check_pairs(Document(IDS), range(8), range(8), batch=3)


def test_its_block_answers_hold() -> None:
    check_blocks(Document(IDS), range(8), range(8), batch=3)


def test_several_sequences_may_be_asked_at_once() -> None:
    at = np.arange(8)
    mask = Document(IDS)
    together = mask(np.arange(3)[:, None, None], 0, at[:, None], at)
    assert np.array_equal(together, np.stack([mask(b, 0, at[:, None], at) for b in range(3)]))


@pytest.mark.law("masks/document", "an answer for a block is never wrong", "bits")
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_lengths_become_documents_of_these_lengths(lengths: list[int]) -> None:
    mask = Document.of_lengths(lengths)
    total = sum(lengths)
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    check_rule(
        Causal() & mask,
        lambda b, h, q, k: k <= q and not any(k < end <= q for end in ends),
        range(total),
        range(total),
    )
    check_blocks(mask, range(total), range(total))
    assert repr(mask) == f"Document.of_lengths({lengths})"
    assert eval(repr(mask), {"Document": Document}) == mask  # noqa: S307


def test_one_row_serves_every_sequence() -> None:
    at = np.arange(3)
    mask = Document.of_lengths([1, 2])
    assert np.array_equal(mask(5, 0, at[:, None], at), mask(0, 0, at[:, None], at))
    assert mask.block(5, Span(0, 0), Span(1, 2)) is Answer.NONE


@pytest.mark.parametrize("position", [-1, 8, 100])
def test_a_position_outside_the_row_raises_and_is_never_certain(position: int) -> None:
    mask = Document(IDS)
    with pytest.raises(PositionError, match=f"^q_positions must be from 0 to 7, where ids are known, got {position}$"):
        mask(0, 0, np.array([[position]]), np.arange(2))
    with pytest.raises(PositionError, match=f"^k_positions must be from 0 to 7, where ids are known, got {position}$"):
        mask(0, 0, np.array([[0]]), np.array([0, position]))
    assert mask.block(0, Span(0, 0), Span(min(position, 0), max(position, 0))) is Answer.LOOK


def test_a_sequence_that_is_not_there_raises() -> None:
    with pytest.raises(ShapeError, match=r"^b must be from 0 to 2 for an array of that size, got 3$"):
        Document(IDS)(3, 0, np.array([[0]]), np.array([0]))


@pytest.mark.law("masks/document", "a packed document equals itself alone", "bound")
@pytest.mark.parametrize("cuts", [(), (1, 4, 6), (3, 9)])
def test_a_packed_document_equals_itself_alone(cuts: tuple[int, ...]) -> None:
    """Rotary positions run on through the row: only their differences matter inside a document.

    Keys stand at other places of a block when packed, so sums pair their terms otherwise: a few roundings of sums of
    at most six terms, 1e-14; a token of a neighbour that is seen moves the result by 0.1.
    """
    rng = np.random.default_rng(0)
    query, key, value, output = (rng.normal(size=shape) for shape in ((5, 8), (5, 4), (5, 4), (8, 5)))
    layer = Grouped(Projections(query, key, value, output, 2, 1), query_key=(Rotary.of(4),), page=3)
    x, lengths = rng.normal(size=(1, 11, 5)), [4, 1, 6]
    packed, _ = stepped(replace(layer, mask=Causal() & Document.of_lengths(lengths)), x, cuts)
    late, _ = stepped(replace(layer, mask=Causal() & Document.of_lengths([4, 2, 5])), x, cuts)
    for start, length in zip((0, 4, 5), lengths, strict=True):
        alone, _ = stepped(layer, x[:, start : start + length], ())
        assert np.abs(packed.out[:, start : start + length] - alone.out).max() < 1e-12
        if start == 5:  # whose first token "late" counts to the document before
            assert np.abs(late.out[:, start : start + length] - alone.out).max() > 0.1


@dataclass(frozen=True, repr=False)
class Ends(Document):
    """Mutant: compares the first and last ids only, so that a visitor between goes unseen."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        ends = {int(self._ids[b, p]) for p in (*q, *k)}
        return Answer.ALL if len(ends) == 1 and min(ends) >= 0 else super().block(b, q, k)


@dataclass(frozen=True, repr=False)
class Friendly(Document):
    """Mutant: tokens of no document see each other."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        ids = {int(self._ids[b, p]) for s in (q, k) for p in range(s.low, s.high + 1)}
        return Answer.ALL if len(ids) == 1 else super().block(b, q, k)


@dataclass(frozen=True, repr=False)
class FirstRow(Document):
    """Mutant: reads every sequence from row 0."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(0, q, k)


@dataclass(frozen=True, repr=False)
class HalfOpen(Document):
    """Mutant: leaves the last position of a span out."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, *(Span(s.low, max(s.low, s.high - 1)) for s in (q, k)))


@pytest.mark.parametrize("mutant", [Ends, Friendly, FirstRow, HalfOpen])
def test_wrong_block_answers_are_rejected(mutant: Any) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(IDS), range(8), range(8), batch=3)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], r"^ids must be integers of shape \[N\] or \[B, N\], got float64 of \(0,\)$"),
        ([0.0, 1.0], r"^ids must be integers of shape \[N\] or \[B, N\], got float64 of \(2,\)$"),
        ([True], r"^ids must be integers of shape \[N\] or \[B, N\], got bool of \(1,\)$"),
        (3, r"^ids must be integers of shape \[N\] or \[B, N\], got int64 of \(\)$"),
        ([[[1]]], r"^ids must be integers of shape \[N\] or \[B, N\], got int64 of \(1, 1, 1\)$"),
        ([[1, 2], [3]], r"^ids must be integers of shape \[N\] or \[B, N\], got rows of different lengths$"),
    ],
)
def test_bad_ids_are_named(ids: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Document(ids)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([], r"^lengths must be a non-empty sequence of integers >= 1, got \[\]$"),
        ([2, 0], r"^lengths\[1\] must be an integer >= 1, got 0$"),
        (4, r"^lengths must be a non-empty sequence of integers >= 1, got 4$"),
        ("22", r"^lengths must be a non-empty sequence of integers >= 1, got '22'$"),
        ({1, 2}, r"^lengths must be a non-empty sequence of integers >= 1, got \{1, 2\}$"),
    ],
)
def test_bad_lengths_are_named(lengths: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Document.of_lengths(lengths)


def test_it_is_a_value() -> None:
    given_ids = np.array([0, 0, 1])
    mask = Document(given_ids)
    given_ids[:] = 5
    assert mask == Document([0, 0, 1])
    assert hash(mask) == hash(Document.of_lengths([2, 1]))
    assert mask != Document.of_lengths([1, 2])
    assert repr(Document([3, 0])) == "Document([[3, 0]])"
    assert repr(Document(np.arange(200) * 2)) == "Document(<[1, 200]>)"
