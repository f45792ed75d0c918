"""A layer's signature is read, and what stands beside it; the words of what is refused."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_targets import LayerTarget, Weights, is_layer, layer_target_of


def layer(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int, bias: Any = None) -> Any:
    return x


def test_the_signature_is_read() -> None:
    target = layer_target_of(layer, "m:layer")
    assert target.features == {"w_q", "w_k", "w_v", "w_o", "heads"}
    assert target.untested == ("bias",)
    assert target.expects == Plan()
    assert is_layer(layer)
    assert not is_layer(max)


def test_what_stands_beside_it_is_read() -> None:
    def own(x: Any, *, positions: Any = None) -> Any:
        return x

    assert not is_layer(own)
    own.weights = Weights(*(np.ones((4, 4)),) * 4, heads=2, kv_heads=2)  # type: ignore[attr-defined]
    own.expects = Plan(window=3)  # type: ignore[attr-defined]
    assert is_layer(own)
    target = layer_target_of(own)
    assert target.expects.window == 3
    assert target.weights is own.weights  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layer_target_of(lambda x, w_q, w_k, w_v, w_o: x), "target must take the number of heads, got none"),
        (lambda: layer_target_of(lambda x, *, w_q, heads: x), "target must take every matrix, got none for w_k"),
        (lambda: layer_target_of(lambda w_q, heads: w_q), r"target must take hidden states first, got \(w_q, heads\)"),
        (
            lambda: layer_target_of(lambda x, *, w_q, w_k, w_v, w_o, heads, table: x),
            "target must need only what the contract has, got required table",
        ),
        (lambda: LayerTarget("m", layer, expects=3), "expects must be a Plan, got 3"),  # type: ignore[arg-type]
        (lambda: LayerTarget("m", layer, weights=3), "weights must be Weights, got 3"),  # type: ignore[arg-type]
        (lambda: LayerTarget("m", layer, width=7), "width must be even, got 7"),
        (lambda: Weights(*(np.ones((4, 4)),) * 4, heads=4, kv_heads=3), "heads must be a multiple of kv_heads, 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(make: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make()


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"w_k must have shape \(4, 2\), got \(4, 4\)"):
        Weights(*(np.ones((4, 4)),) * 4, heads=4, kv_heads=2)
    with pytest.raises(ShapeError, match=r"q_norm must have shape \(2,\), got \(4,\)"):
        Weights(*(np.ones((4, 4)),) * 4, heads=2, kv_heads=2, q_norm=np.ones(4))
