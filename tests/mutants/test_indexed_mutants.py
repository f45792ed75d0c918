"""Wrong choices of keys that the laws must reject."""

from collections.abc import Callable
from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.caches.blocks import KeyBlock, blocks_of
from kvattn.counting import Tally
from kvattn.masks import Causal, Window
from kvattn.positions import Rotary
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.typing import Array, Positions
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.sparse import indexed
from kvattn.variants.sparse.indexed import Indexed, top
from kvattn.variants.sparse.lightning_indexer import LightningIndexer, block_scores

HEADS, INDEX_HEADS, WIDTH, HIDDEN = 3, 2, 6, 10


def layer_of(
    form: Callable[..., Indexed] = Indexed, indexer: Callable[..., LightningIndexer] = LightningIndexer, **features: Any
) -> Indexed:
    rng = np.random.default_rng(7)

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape) / math.sqrt(shape[0])

    w = LatentProjections(
        draw(HIDDEN, 6),
        1 + draw(6),
        draw(HIDDEN, 4),
        draw(6, HEADS * 5),
        draw(6, HEADS * 7),
        draw(HIDDEN, HEADS * 9),
        draw(HEADS * 7, HIDDEN),
        HEADS,
        draw(HIDDEN, HIDDEN),
        1 + draw(HIDDEN),
    )
    chooser = indexer(
        draw(HIDDEN, INDEX_HEADS * WIDTH),
        draw(HIDDEN, WIDTH),
        draw(HIDDEN, INDEX_HEADS),
        1 + draw(WIDTH),
        draw(WIDTH),
        INDEX_HEADS,
        Rotary.of(4),
    )
    return form(w, chooser, **{"keep": 3, "rotation": Rotary.of(4, layout="adjacent"), "page": 3, **features})


def rejected_by(layer: Indexed, *laws: str) -> set[str]:
    """Those of some laws, or of all, that do not hold."""
    x = np.random.default_rng(3).standard_normal((2, 14, HIDDEN))
    found = set()
    for name in laws or LAWS:
        try:
            LAWS[name](Case(layer, x, (1, 4, 8), lambda _: layer, replace(layer, page=2), None, depth=200))
        except LawError:
            found.add(name)
    return found


def test_the_right_one_passes() -> None:
    assert rejected_by(layer_of()) == set()
    assert rejected_by(layer_of(mask=Causal() & Window(5), softcap=2.0)) == set()
    assert rejected_by(all_tied()) == set()


def all_tied(**features: Any) -> Indexed:
    """Every index key is the bias: whoever breaks ties decides everything."""
    layer = layer_of(**features)
    return replace(layer, indexer=replace(layer.indexer, norm_weight=np.zeros(WIDTH), rotation=None))


def last_of_ties(scores: Array, keep: int) -> Positions:
    """Of equal scores the highest position wins."""
    return len(scores) - 1 - np.argsort(-scores[::-1], kind="stable")[:keep]


def one_fewer(scores: Array, keep: int) -> Positions:
    """Keys above the k-th score, not the k-th itself."""
    return top(scores, keep)[: max(1, keep - 1)]


def ties_kept(scores: Array, keep: int) -> Positions:
    """All keys that reach the k-th score, however many."""
    return np.flatnonzero(scores >= np.sort(scores)[::-1][: max(keep, 1)].min(initial=np.inf))


def smallest(scores: Array, keep: int) -> Positions:
    """The sign of the sort is wrong."""
    return top(-scores, keep)


def positive_only(scores: Array, keep: int) -> Positions:
    """A key whose score is not above zero is taken for padding."""
    return np.array([s for s in top(scores, keep) if scores[s] > 0], np.int64)


@pytest.mark.parametrize(
    ("chooser", "layer"),
    [
        (last_of_ties, all_tied()),
        (ties_kept, all_tied()),
        (one_fewer, layer_of()),
        (smallest, layer_of()),
        (positive_only, layer_of()),
    ],
)
def test_a_wrong_choice_is_rejected(
    chooser: Callable[..., Positions], layer: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexed, "top", chooser)
    assert rejected_by(layer, "step_is_definition")


def without_relu(queries: Array, weights: Array, keys: Array) -> Array:
    """Products below zero count too."""
    scores: Array = np.einsum("htd,ds,th->ts", queries, keys, weights)
    return scores


def relu_of_the_sum(queries: Array, weights: Array, keys: Array) -> Array:
    """The cut at zero comes after the heads are added."""
    return np.maximum(without_relu(queries, weights, keys), 0)


def without_weights(queries: Array, weights: Array, keys: Array) -> Array:
    """All index heads count alike."""
    return block_scores(queries, np.ones_like(weights), keys)


def sizes_of_weights(queries: Array, weights: Array, keys: Array) -> Array:
    """The weights' signs are lost."""
    return block_scores(queries, np.abs(weights), keys)


def first_head(queries: Array, weights: Array, keys: Array) -> Array:
    """Only one index head is asked."""
    return block_scores(queries[:1], weights[:, :1], keys)


def blind_to_the_chunk(queries: Array, weights: Array, keys: Array) -> Array:
    """The weights are those of the first token of the chunk."""
    return block_scores(queries, np.repeat(weights[:1], len(weights), axis=0), keys)


@pytest.mark.parametrize(
    "scoring", [without_relu, relu_of_the_sum, without_weights, sizes_of_weights, first_head, blind_to_the_chunk]
)
def test_wrong_index_scores_are_rejected(scoring: Callable[..., Array], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexed, "block_scores", scoring)
    assert rejected_by(layer_of(), "step_is_definition")


class NotTurned(LightningIndexer):
    """Index keys are cached without their rotation."""

    def keys(self, x: Array, positions: Positions) -> Array:
        return super().keys(x, 0 * positions)


class OtherPairs(LightningIndexer):
    """Adjacent pairs are turned, as in the attention (the first release of the reference code)."""

    def keys(self, x: Array, positions: Positions) -> Array:
        return LightningIndexer.keys(replace(self, rotation=Rotary.of(4, layout="adjacent")), x, positions)

    def queries(self, a: Array, positions: Positions) -> Array:
        return LightningIndexer.queries(replace(self, rotation=Rotary.of(4, layout="adjacent")), a, positions)


class WithoutBias(LightningIndexer):
    """The norm of the index key is taken for one without bias."""

    def keys(self, x: Array, positions: Positions) -> Array:
        return LightningIndexer.keys(replace(self, norm_bias=np.zeros(WIDTH)), x, positions)


class TurnedFromTheChunk(LightningIndexer):
    """Index queries are turned by places in the chunk."""

    def queries(self, a: Array, positions: Positions) -> Array:
        return super().queries(a, positions - positions[:, :1])


@pytest.mark.parametrize("indexer", [NotTurned, OtherPairs, WithoutBias, TurnedFromTheChunk])
def test_a_wrong_indexer_is_rejected(indexer: Callable[..., LightningIndexer]) -> None:
    assert rejected_by(layer_of(indexer=indexer), "step_is_definition", "decode_is_recompute")


class SeesTheFuture(Indexed):
    """Keys are picked among all that are held."""

    def _pick(self, *given: Any) -> list[Positions]:
        return Indexed._pick(replace(self, mask=None), *given)


def test_a_choice_among_future_keys_is_rejected() -> None:
    laws = {"step_is_definition", "decode_is_recompute", "the_future_is_invisible"}
    assert rejected_by(layer_of(SeesTheFuture), *laws) == laws


class OneChoiceForTheChunk(Indexed):
    """All tokens that come together keep what the last one keeps, as far as they may see it."""

    def _pick(self, b: int, queries: Array, weights: Array, at: Positions, *rest: Any) -> list[Positions]:
        kept = super()._pick(b, queries, weights, at, *rest)
        return [kept[-1][kept[-1] <= t] for t in at]


def test_a_choice_shared_by_a_chunk_is_rejected() -> None:
    laws = {"step_is_definition", "decode_is_recompute"}
    assert rejected_by(layer_of(OneChoiceForTheChunk), *laws) == laws


def test_rows_gathered_in_the_order_of_their_scores_are_not_the_dense_form(monkeypatch: pytest.MonkeyPatch) -> None:
    right = indexed._gathered

    def backwards(blocks: Any, slots: Positions, value_width: int) -> tuple[KeyBlock, ...]:
        found = right(blocks, slots, value_width)
        if len(found) != 1:
            return found
        k, v = found[0].k[:, :, : slots.size], found[0].v[:, : slots.size]
        return blocks_of(k.swapaxes(1, 2)[:, ::-1], v[:, ::-1], slots[::-1])

    layer = layer_of(keep=14)
    x = np.random.default_rng(3).standard_normal((2, 14, HIDDEN))
    wanted, _ = layer.step(layer.start(2), x)
    monkeypatch.setattr(indexed, "_gathered", backwards)
    found, _ = layer.step(layer.start(2), x)
    assert not np.array_equal(found.out, wanted.out)
    np.testing.assert_allclose(found.out, wanted.out, rtol=1e-11, atol=1e-12)


class CountsDense(Indexed):
    """The bill has every visible key in place of those kept."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        return Indexed.cost(replace(self, keep=10**6), past=past, new=new, batch=batch)


class ForgetsTheIndexer(Indexed):
    """The bill has no index keys read."""

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        right = super().cost(past=past, new=new, batch=batch)
        return replace(right, kv_read=right.kv_read - batch * (past + new) * WIDTH * 8)


@pytest.mark.parametrize("mutant", [CountsDense, ForgetsTheIndexer])
def test_a_wrong_bill_is_rejected(mutant: Callable[..., Indexed]) -> None:
    assert rejected_by(layer_of(mutant)) == {"cost_is_count"}
