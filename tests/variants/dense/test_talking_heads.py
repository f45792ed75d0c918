"""Talking-heads attention against the layer by hand: who mixes, when, and what the mask hides from whom."""

from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Softmax, Weights, softmax
from kvattn.errors import DtypeError, ShapeError
from kvattn.testing.balls import Ball, dot, given
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, Shares, by_hand, gap, small
from kvattn.testing.weighed_by_hand import softmax as softmax_by_hand
from kvattn.typing import Array, Place, Visible
from kvattn.variants.dense.talking_heads import TalkingHeads
from kvattn.variants.dense.weighed import Weighed

W, X = small()
P, R = (np.random.default_rng([5, n]).normal(size=(4, 4)) for n in range(2))


def shares_of(logits: Any, weights: Any) -> Shares:
    before, after = given(logits), given(weights)

    def shares(asked: Asked) -> tuple[list[list[Ball]], list[Ball]]:
        heads, keys = range(len(asked.scores)), range(len(asked.scores[0]))
        talked = [[dot(before[h], [asked.scores[g][j] for g in heads]) for j in keys] for h in heads]
        parts = [softmax_by_hand(row) for row in talked]
        mixed = [[dot(after[h], [parts[g][0][j] for g in heads]) for j in keys] for h in heads]
        return mixed, [lse for _, lse in parts]

    return shares


@pytest.mark.by_hand("variants/dense/talking_heads")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_definition_and_steps_equal_by_hand(dtype: Any) -> None:
    w, x = small(dtype=dtype)
    p, r = P.astype(dtype), R.astype(dtype)
    layer, wanted = Weighed(w, TalkingHeads(p, r), page=2), by_hand(w, x, shares_of(p, r))
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


MUTANTS = {
    "logits transposed": TalkingHeads(P.T, R),
    "weights transposed": TalkingHeads(P, R.T),
    "the other way round": TalkingHeads(R, P),
    "logits not mixed": TalkingHeads(np.eye(4), R),
    "weights not mixed": TalkingHeads(P, np.eye(4)),
    "added to the unmixed": TalkingHeads(np.eye(4) + P, R),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_matrices_are_rejected(name: str) -> None:
    assert gap(stepped(Weighed(W, MUTANTS[name]), X, ())[0], by_hand(W, X, shares_of(P, R))) > 1e9


class MaskedFirst(TalkingHeads):
    """Mutant: logits are masked before they are mixed; -inf times a negative number is +inf."""

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        hidden = np.where(seen, scores, -np.inf)
        parts, lse = softmax(np.einsum("hg,gts->hts", self.logits, hidden), np.ones_like(seen))
        return Weights(np.einsum("hg,gts->hts", self.weights, parts), lse)


def test_masking_before_mixing_is_rejected() -> None:
    found = stepped(Weighed(W, MaskedFirst(P, R)), X, ())[0]
    assert gap(found, by_hand(W, X, shares_of(P, R))) > 1e9


def test_identities_are_the_softmax() -> None:
    silent = stepped(Weighed(W, TalkingHeads(np.eye(4), np.eye(4))), X, (2,))[0]
    plain = stepped(Weighed(W, Softmax()), X, (2,))[0]
    assert silent.out.tobytes() == plain.out.tobytes()
    assert silent.lse.tobytes() == plain.lse.tobytes()


def test_what_all_heads_hide_cannot_matter_and_what_one_shows_is_mixed() -> None:
    scores, seen = np.random.default_rng(0).normal(size=(2, 1, 256)), np.zeros((2, 1, 256), np.bool_)
    seen[:, :, :3] = True
    seen[0, :, 3] = True
    talking = TalkingHeads(P[:2, :2], R[:2, :2])
    plain = talking.weigh(scores, seen, NOWHERE).weights
    spoiled = scores.copy()
    spoiled[:, :, 4:] = np.nan
    assert talking.weigh(spoiled, seen, NOWHERE).weights.tobytes() == plain.tobytes()
    assert (plain[:, 0, 3] != 0).all()
    assert np.allclose(plain, talking.definition(scores, seen, NOWHERE).weights, rtol=1e-13, atol=1e-15)


BAD: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "not square": (np.ones((4, 3)), R, ShapeError, r"^logits must have shape \[4, 4\], got \(4, 3\)$"),
    "not alike": (P, np.eye(3), ShapeError, r"^weights must have shape \[4, 4\], got \(3, 3\)$"),
    "not the layer's": (np.eye(3), np.eye(3), ShapeError, r"^logits must have shape \[4, 4\], got \(3, 3\)$"),
    "dtype": (
        P.astype("f4"),
        R.astype("f4"),
        DtypeError,
        r"^logits must have the dtype of the projections, float64, got float32$",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_matrix_is_named(name: str) -> None:
    logits, weights, error, words = BAD[name]
    with pytest.raises(error, match=words):
        Weighed(W, TalkingHeads(logits, weights))
