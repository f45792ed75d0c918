from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.positions import Rotary
from kvattn.testing.latent_by_hand import index_by_hand
from kvattn.variants.sparse.lightning_indexer import LightningIndexer, block_scores, block_scores_cost

HEADS, WIDTH, HIDDEN = 3, 6, 5
SHAPES = {
    "query": (HIDDEN, HEADS * WIDTH),
    "key": (HIDDEN, WIDTH),
    "weight": (HIDDEN, HEADS),
    "norm_weight": (WIDTH,),
    "norm_bias": (WIDTH,),
}


class Plain:
    """Projections without a low-rank path."""

    query_down = None


def indexer(**changed: Any) -> LightningIndexer:
    rng = np.random.default_rng(5)
    drawn = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return LightningIndexer(**{**drawn, "heads": HEADS, "rotation": Rotary.of(4), **changed})


@pytest.mark.by_hand("variants/sparse/lightning_indexer")
@pytest.mark.parametrize("rotation", [None, Rotary.of(4), Rotary.of(6, layout="adjacent")])
def test_scores_are_what_is_computed_by_hand(rotation: Rotary | None) -> None:
    layer = indexer(rotation=rotation)
    x = np.random.default_rng(0).standard_normal((2, 7, HIDDEN))
    at = np.arange(14).reshape(2, 7) + 3
    defined = layer.definition(x, x, at)
    keys = np.zeros((2, WIDTH, 256))
    keys[:, :, :7] = layer.keys(x, at)[:, 0].swapaxes(1, 2)
    for b in range(2):
        wanted = index_by_hand(layer, Plain, x[b].tolist(), at[b].tolist(), rotation)
        found = block_scores(layer.queries(x, at)[b], layer.weights(x)[b], keys[b])
        np.testing.assert_allclose(defined[b], wanted, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(found[:, :7], wanted, rtol=1e-11, atol=1e-12)
        assert not found[:, 7:].any()


@pytest.mark.law("variants/sparse/lightning_indexer", "a score does not depend on its neighbours", "bits")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("arithmetic", ["blas", "ordered"])
def test_a_score_does_not_depend_on_its_neighbours(
    dtype: Any, arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVATTN_ARITHMETIC", arithmetic)
    rng = np.random.default_rng(1)
    q, w = rng.standard_normal((HEADS, 11, WIDTH)).astype(dtype), rng.standard_normal((11, HEADS)).astype(dtype)
    keys = rng.standard_normal((WIDTH, 256)).astype(dtype)
    whole = block_scores(q, w, keys)
    for part in (slice(0, 1), slice(3, 4), slice(2, 11)):
        assert np.array_equal(block_scores(q[:, part], w[part], keys), whole[part])
    poisoned = keys.copy()
    poisoned[:, 100] = np.nan
    found = block_scores(q, w, poisoned)
    assert np.isnan(found[:, 100]).all()
    assert np.array_equal(np.delete(found, 100, axis=1), np.delete(whole, 100, axis=1))


def test_what_is_below_zero_does_not_count_and_weights_have_signs() -> None:
    keys = np.zeros((1, 256))
    keys[0, :2] = [2.0, -3.0]
    q = np.array([[[1.0]], [[-1.0]]])  # two heads, opposite
    found = block_scores(q, np.array([[10.0, -100.0]]), keys)
    assert found[0, :3].tolist() == [20.0, -300.0, 0.0]


@pytest.mark.parametrize("rotation", [None, Rotary.of(4)])
def test_the_closed_forms_are_what_is_counted(rotation: Rotary | None) -> None:
    layer, x, at = indexer(rotation=rotation), np.ones((2, 4, HIDDEN)), np.zeros((2, 4), int)
    with counting() as tally:
        layer.keys(x, at)
        layer.queries(x, at)
        layer.weights(x)
    assert tally.tally == layer.cost(8)
    assert block_scores_cost(HEADS, WIDTH, 20).matmul == 2 * 20 * HEADS * WIDTH
    assert block_scores_cost(HEADS, WIDTH, 20).arithmetic == 20 * HEADS * 3


def test_the_query_may_read_something_else_than_the_key() -> None:
    layer = indexer(query=np.ones((9, HEADS * WIDTH)))
    assert layer.queries(np.ones((1, 2, 9)), np.zeros((1, 2), int)).shape == (1, HEADS, 2, WIDTH)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"heads": 0}, ArgumentError, "heads must be an integer >= 1, got 0"),
        ({"eps": -1.0}, ArgumentError, "eps must be a finite number >= 0, got -1.0"),
        ({"query": np.ones((5, 17))}, ShapeError, r"query must have shape \[Me, 18\], got \(5, 17\)"),
        ({"key": np.ones(5)}, ShapeError, r"key must have shape \[M, Di\], got \(5,\)"),
        ({"weight": np.ones((4, 3))}, ShapeError, r"weight must have shape \[M, 3\] with M=5, got \(4, 3\)"),
        ({"norm_bias": np.ones(5)}, ShapeError, r"norm_bias must have shape \[Di\] with Di=6, got \(5,\)"),
        ({"norm_weight": np.ones(5)}, ShapeError, r"norm_weight must have shape \[Di\] with Di=6, got \(5,\)"),
        ({"weight": np.ones((5, 0))}, ShapeError, r"weight must not be empty, got \(5, 0\)"),
        ({"rotation": Rotary.of(8)}, ShapeError, "rotation must turn features of 6 in an index key, got 8 features"),
        ({"key": np.ones((5, 6), np.float32)}, DtypeError, "key must be float64 or float32 like query, got float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changed: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        indexer(**changed)
