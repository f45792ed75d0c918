"""The laws against weighings, a walk and a table that break them: each is rejected by the law that is named.

The rows' own tests show that wrong formulas are told from right ones; here the formula is right and its
arithmetic feels the cut, the batch, hidden columns, or does not do the work that it states.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Beside, Softmax, Weighing, Weights, row_sum, shown_scores, softmax, without_lse
from kvattn.counting import Tally
from kvattn.masks import Causal, Window
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.testing.weighed_by_hand import small
from kvattn.typing import Array, Place, Visible
from kvattn.variants.dense import path as path_module
from kvattn.variants.dense.contextual_positions import ContextualPositions
from kvattn.variants.dense.entmax import Entmax15, Sparsemax
from kvattn.variants.dense.path import Path, Walk
from kvattn.variants.dense.relative_values import RelativeValues
from kvattn.variants.dense.relu import SquaredRelu
from kvattn.variants.dense.sigmoid import Sigmoid
from kvattn.variants.dense.softpick import Softpick
from kvattn.variants.dense.stick_breaking import BEFORE, Remainder, StickBreaking
from kvattn.variants.dense.talking_heads import TalkingHeads
from kvattn.variants.dense.weighed import Weighed

W, _ = small()
LENGTH = 530  # three blocks: NumPy's sum over two is that of one and one
X: Any = np.random.default_rng(2).normal(size=(1, LENGTH, 5))


def case_of(layer: Any, length: int = LENGTH, cuts: tuple[int, ...] = (3, 200, 257, 450)) -> Case:
    fitting = tuple(cut for cut in cuts if cut <= length)
    return Case(layer, X[:, :length], fitting, lambda _: layer, None, None, depth=100 + 4 * length, relative=True)


def rejects(law: str, layer: Any, length: int = LENGTH) -> bool:
    try:
        LAWS[law](case_of(layer, length))
    except LawError:
        return True
    return False


@dataclass(frozen=True)
class Changed:
    """A weighing with another way to weigh."""

    right: Weighing
    how: Callable[[Array, Visible, Place], Weights]

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        return self.right.definition(scores, seen, place)

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        return self.how(scores, seen, place)

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        return self.right.cost(pairs=pairs, rows=rows, width=width)


def summed_in_one_go(scores: Array, seen: Visible, place: Place) -> Weights:
    """The denominator by NumPy's sum over the row, which pairs terms by their number."""
    powers = np.exp(shown_scores(scores, seen) - np.where(seen, scores, -np.inf).max(-1, keepdims=True))
    total = powers.sum(-1, keepdims=True)
    return Weights(powers / total, softmax(scores, seen).lse)


def masked_by_a_product(scores: Array, seen: Visible, place: Place) -> Weights:
    """Hidden weights are multiplied by 0 in place of never being made: 0 · NaN."""
    return without_lse(1 / (1 + np.exp(-scores)) * seen)


def counting_the_hidden(scores: Array, seen: Visible, place: Place) -> Weights:
    """|e^-inf - 1| = 1 for every hidden column of the block."""
    powers = np.exp(shown_scores(scores, seen)) - 1
    return without_lse(np.maximum(powers, 0) / row_sum(np.abs(powers)))


def from_the_front(scores: Array, seen: Visible, place: Place) -> Weights:
    """What lies behind a key as the whole less what lies before it, and the whole by NumPy's sum over the row."""
    kept = np.where(seen, np.maximum(scores, 0) + np.log1p(np.exp(-np.abs(scores))), 0.0)
    front = np.add.accumulate(kept, axis=-1)
    behind = kept.sum(-1, keepdims=True) - front
    return without_lse(np.where(seen, np.exp(np.minimum(scores, 0) - np.log1p(np.exp(-np.abs(scores))) - behind), 0.0))


def centred_over_the_chunk(scores: Array, seen: Visible, place: Place) -> Weights:
    """A maximum over all rows of the tile: right, but other roundings in other company."""
    top = np.where(seen, scores, -np.inf).max()
    powers = np.exp(shown_scores(scores, seen) - top)
    total = row_sum(powers)
    return Weights(powers / total, (top + np.log(total))[..., 0])


def keys_of_the_tile(scores: Array, seen: Visible, place: Place) -> Weights:
    """n is the number of columns at hand."""
    return without_lse(np.maximum(shown_scores(scores, seen), 0.0) ** 2 / (scores.shape[-1] / 256))


class ShortTable(RelativeValues):
    """Distances from the last query of the tile."""

    def mix(self, weights: Array, place: Place) -> Array:
        return super().mix(weights, place._replace(q_positions=place.q_positions[:, -1:]))


class PlainSum(Remainder):
    """What is left by NumPy's sum over the row."""

    def mix(self, weights: Array, place: Place) -> Array:
        left: Array = 1.0 - weights.sum(-1, keepdims=True)
        return left * self.vectors[:, None, :]


TABLE = np.random.default_rng(0).normal(size=(5, 3))
VECTORS = np.random.default_rng(1).normal(size=(4, 3))


def weighed(weighing: Weighing, *beside: Beside, mask: Any = Causal()) -> Weighed:  # noqa: B008
    return Weighed(W, weighing, mask, beside=beside, page=64)


MUTANTS: dict[str, tuple[str, Weighed]] = {
    "summed in one go": ("decode_is_recompute", weighed(Changed(Softmax(), summed_in_one_go))),
    "a product hides": ("the_future_is_invisible", weighed(Changed(Sigmoid(), masked_by_a_product))),
    "hidden columns counted": ("step_is_definition", weighed(Changed(Softpick(0.0), counting_the_hidden))),
    "from the front": ("decode_is_recompute", weighed(Changed(StickBreaking(), from_the_front), mask=BEFORE)),
    "centred over the chunk": ("decode_is_recompute", weighed(Changed(Softmax(), centred_over_the_chunk))),
    "n is what is at hand": ("decode_is_recompute", weighed(Changed(SquaredRelu(), keys_of_the_tile))),
    "distances of the tile": ("decode_is_recompute", weighed(Softmax(), ShortTable(TABLE))),
    "a remainder by pairs": ("decode_is_recompute", weighed(StickBreaking(), PlainSum(VECTORS), mask=BEFORE)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_weighing_is_rejected(name: str) -> None:
    law, layer = MUTANTS[name]
    with np.errstate(all="ignore"):
        assert rejects(law, layer)


def test_work_that_the_closed_form_forgets_is_rejected() -> None:
    """A layer's closed form that forgets the weighing or what is beside it."""

    class Forgetful(Weighed):
        def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
            return Weighed(W, Softmax(), page=64).cost(past=past, new=new, batch=batch)

    assert rejects("cost_is_count", Forgetful(W, Sigmoid(), page=64), 40)
    assert rejects("cost_is_count", Forgetful(W, Softmax(), beside=(RelativeValues(TABLE),), page=64), 40)


RIGHT: dict[str, Any] = {
    "softmax": weighed(Softmax(), RelativeValues(TABLE)),
    "sigmoid": weighed(Sigmoid(-3.0)),
    "squared relu": weighed(SquaredRelu(9)),
    "softpick": weighed(Softpick()),
    "sparsemax": weighed(Sparsemax(), mask=Causal() & Window(270)),
    "entmax15": weighed(Entmax15()),
    "stick-breaking": weighed(StickBreaking(), Remainder(VECTORS), mask=BEFORE),
    "talking heads": weighed(TalkingHeads(np.eye(4) + 0.1, np.eye(4) - 0.2)),
    "contextual positions": weighed(ContextualPositions(np.random.default_rng(3).normal(size=(60, 4)))),
}


@pytest.mark.parametrize("law", ["decode_is_recompute", "the_future_is_invisible", "cost_is_count", "rollback_forgets"])
@pytest.mark.parametrize("name", RIGHT)
def test_the_right_ones_are_accepted_across_three_blocks(name: str, law: str) -> None:
    LAWS[law](case_of(RIGHT[name]))


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_ones_are_their_definition(name: str) -> None:
    LAWS["step_is_definition"](case_of(RIGHT[name], 60))


DIRECTION, STRENGTH = (np.random.default_rng([3, n]).normal(size=(5, columns)) for n, columns in enumerate((8, 2)))
PATH = Path(W, DIRECTION, STRENGTH, page=64)


class FromTheLastKey(Walk):
    """Every query sets out from the last slot, whatever its own place."""

    def __call__(self, rows: Array, blocks: Any, place: Place, /) -> list[Array]:
        late = np.full_like(place.q_positions, place.q_positions.max())
        return super().__call__(rows, blocks, place._replace(q_positions=late))


class Rewritten(Walk):
    """As engines decode: all keys are turned by each new token; another form of the same function."""

    def __call__(self, rows: Array, blocks: Any, place: Place, /) -> list[Array]:
        heads, width, _ = blocks[0].k.shape
        keys = np.concatenate([block.k for block in blocks], -1).swapaxes(1, 2).copy()
        notes = np.concatenate([block.notes for block in blocks], -1)
        found = np.zeros((*rows.shape[:2], keys.shape[1]), rows.dtype)
        for i in range(int(place.q_positions.max()) + 1):
            w = notes[: heads * width].reshape(heads, width, -1)[:, None, :, i]
            beta = notes[heads * width :].reshape(heads, 1, -1)[:, :, i, None]
            keys[:, :i] -= beta * (keys[:, :i] * w).sum(-1, keepdims=True) * w
            mine = np.flatnonzero(place.q_positions[0, :, 0] == i)
            found[:, mine, : i + 1] = rows[:, mine] @ keys[:, : i + 1].swapaxes(1, 2)
        return list(found.reshape(*rows.shape[:2], -1, 256).transpose(2, 0, 1, 3).copy())


def test_another_way_round_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_module, "Walk", FromTheLastKey)
    assert rejects("decode_is_recompute", PATH, 40)


def test_rewriting_keys_is_right_but_for_its_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_module, "Walk", Rewritten)
    LAWS["step_is_definition"](case_of(PATH, 40))


@pytest.mark.parametrize("law", LAWS)
def test_the_walk_is_accepted(law: str) -> None:
    LAWS[law](case_of(PATH, 40))
    if law in ("decode_is_recompute", "the_future_is_invisible", "cost_is_count"):
        LAWS[law](case_of(PATH, 262, (3, 256, 257)))
