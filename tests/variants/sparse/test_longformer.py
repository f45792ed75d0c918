"""Longformer against the whole layer by hand, through its definition and through its steps.

``by_hand`` computes projections, pattern (as a sentence), head map and softmax in loops over
`kvattn.testing.balls`, which derive the bound for the very input: about 1e-13 in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Everything, Padding, Window
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.sparse.longformer import Longformer

T, M, D, DV = 7, 5, 4, 3
Sees = Callable[[int, int], bool]


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Any:
    return (np.random.default_rng(seed).normal(size=shape) * 0.7).astype(dtype)


def layer_of(heads: int, kv_heads: int, dtype: Any = np.float64, **features: Any) -> Longformer:
    shapes = (M, heads * D), (M, kv_heads * D), (M, kv_heads * DV)
    local = [drawn(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]
    over = [drawn(*shape, seed=10 + n, dtype=dtype) for n, shape in enumerate(shapes)]
    w = Projections(local[0], local[1], local[2], drawn(heads * DV, M, seed=3, dtype=dtype), heads, kv_heads)
    return Longformer(w, over[0], over[1], over[2], **features)


def columns(matrix: Array) -> list[list[Ball]]:
    return [list(column) for column in zip(*given(matrix), strict=True)]


def by_hand(layer: Longformer, x: Array, tokens: set[int], sees: Sees) -> tuple[Any, Any]:
    """The layer in loops; ``sees`` is told as a sentence, and who asks chooses the matrices."""
    w = layer.projections
    group = w.heads // w.kv_heads
    local = [columns(matrix) for matrix in (w.query, w.key, w.value)]
    over = [columns(matrix) for matrix in (layer.global_query, layer.global_key, layer.global_value)]
    output = columns(w.output)
    out, lse = [], []
    for sequence in given(x):
        mixed: list[list[Ball]] = [[] for _ in sequence]
        logs: list[list[Ball]] = []
        for h in range(w.heads):
            g = h // group
            logs.append([])
            for i, row in enumerate(sequence):
                wq, wk, wv = over if i in tokens else local
                query = [dot(row, wq[h * D + d]) for d in range(D)]
                seen = [j for j in range(len(sequence)) if sees(i, j)]
                keys = [[dot(sequence[j], wk[g * D + d]) for d in range(D)] for j in seen]
                values = [[dot(sequence[j], wv[g * DV + d]) for d in range(DV)] for j in seen]
                scores = [dot(query, key) * (1 / math.sqrt(D)) for key in keys]
                top = max(scores, key=lambda term: term.value)
                shares = [(score - top).exp() for score in scores]
                whole = total(shares)
                mixed[i] += [dot(shares, [value[d] for value in values]) / whole for d in range(DV)]
                logs[h].append(top + whole.log())
        out.append([[dot(row, column) for column in output] for row in mixed])
        lse.append(logs)
    return out, lse


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the same said in sentences."""

    layer: Longformer
    tokens: set[int]
    sees: Sees

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.layer.projections.dtype.type) * 2

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.layer, self.x, self.tokens, self.sees)
        return max(agree(found.out, out), agree(found.lse, lse))


def encoder(**more: Any) -> Example:
    layer = layer_of(3, 3, **{"tokens": [0, 4], "window": Window(2, ahead=1), "page": 3, **more})
    return Example(layer, {0, 4}, lambda i, j: abs(i - j) <= 1 or i in (0, 4) or j in (0, 4))


def decoder(**more: Any) -> Example:
    layer = layer_of(4, 2, **{"tokens": [5, 1], "window": Window(2), "order": Causal(), "page": 2, **more})
    return Example(layer, {1, 5}, lambda i, j: j <= i and (i - j < 2 or i in (1, 5) or j in (1, 5)))


EXAMPLES = [encoder(), decoder(), encoder(dtype=np.float32), decoder(dtype=np.float32, page=256)]


@pytest.mark.by_hand("variants/sparse/longformer")
@pytest.mark.parametrize("example", EXAMPLES, ids=["encoder", "decoder", "encoder32", "decoder32"])
def test_definition_and_steps_equal_by_hand(example: Example) -> None:
    assert example.gap(example.layer.definition(example.x, np.arange(T))) <= 1
    assert example.gap(stepped(example.layer, example.x, ())[0]) <= 1
    if isinstance(example.layer.order, Causal):
        assert example.gap(stepped(example.layer, example.x, (1, 4, 5))[0]) <= 1


MUTANTS: dict[str, Callable[[Longformer], Longformer]] = {
    "global queries use the local matrices": lambda o: replace(
        o, global_query=o.projections.query, global_key=o.projections.key, global_value=o.projections.value
    ),
    "global queries ask local keys": lambda o: replace(o, global_key=o.projections.key),
    "global queries read local values": lambda o: replace(o, global_value=o.projections.value),
    "the matrices change places": lambda o: Longformer(
        Projections(o.global_query, o.global_key, o.global_value, o.projections.output, 4, 2),
        o.projections.query,
        o.projections.key,
        o.projections.value,
        o.tokens,
        o.window,
        o.order,
    ),
    "a token too few": lambda o: replace(o, tokens=[1]),
    "another token": lambda o: replace(o, tokens=[1, 4]),
    "window one wider": lambda o: replace(o, window=Window(3)),
    "not causal": lambda o: replace(o, order=Everything()),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_layer_is_rejected(name: str) -> None:
    example = decoder()
    wrong = MUTANTS[name](example.layer)
    assert example.gap(wrong.definition(example.x, np.arange(T))) > 1
    assert example.gap(stepped(wrong, example.x, ())[0]) > 1


@pytest.mark.law("variants/sparse/longformer", "an encoder's second step is refused", "integers")
def test_an_encoder_takes_its_text_in_one_step() -> None:
    example = encoder()
    _, cache = example.layer.step(example.layer.start(2), example.x[:, :4])
    with pytest.raises(PositionError, match=r"positions 0 to 6 must come in one step, got a step that begins at 4$"):
        example.layer.step(cache, example.x[:, 4:])
    nothing, _ = example.layer.step(cache, example.x[:, :0])
    assert nothing.out.shape == (2, 0, M)


@pytest.mark.law("variants/sparse/longformer", "equal matrices make it grouped attention", "bits")
def test_with_the_local_matrices_twice_it_is_a_masked_grouped_layer() -> None:
    layer = MUTANTS["global queries use the local matrices"](decoder().layer)
    plain = Grouped(layer.projections, layer.mask)
    for a, b in zip(stepped(layer, decoder().x, (2, 5))[0], stepped(plain, decoder().x, (3,))[0], strict=True):
        assert a.tobytes() == b.tobytes()


def test_sequences_of_different_length_meet_their_global_tokens_at_their_own_step() -> None:
    layer, x = decoder().layer, decoder().x
    _, first = layer.step(layer.start(1), x[:1, :5])
    _, second = layer.step(layer.start(1), x[1:, :2])
    alone = [layer.step(cache, x[b : b + 1, n : n + 2])[0] for b, (cache, n) in enumerate([(first, 5), (second, 2)])]
    whole = stepped(layer, x, ())[0]
    assert alone[0].out.tobytes() == np.ascontiguousarray(whole.out[:1, 5:7]).tobytes()
    assert alone[1].out.tobytes() == np.ascontiguousarray(whole.out[1:, 2:4]).tobytes()


def test_padding_joins_the_order() -> None:
    layer = encoder(order=Padding([5, 7])).layer
    x = encoder().x
    short = encoder().layer.definition(x[:1, :5], np.arange(5))
    found, _ = layer.step(layer.start(2), x)
    assert np.allclose(found.out[0, :5], short.out[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"tokens": []}, "^tokens must be a non-empty sequence of integers >= 0, got "),
        ({"tokens": [-1]}, r"^tokens\[0\] must be an integer >= 0, got -1$"),
        ({"window": 3}, r"^window must be a mask of kvattn\.masks, got 3$"),
        ({"window": None}, r"^window must be a mask of kvattn\.masks, got None$"),
        ({"order": None}, r"^order must be a mask of kvattn\.masks, got None$"),
        ({"page": 0}, "^page must be an integer >= 1, got 0$"),
    ],
)
def test_a_bad_field_is_named(features: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        decoder(**features)


def test_global_matrices_must_fit() -> None:
    layer = decoder().layer
    with pytest.raises(ShapeError, match=r"^global_key must have the shape of key, \(5, 8\), got \(5, 6\)$"):
        replace(layer, global_key=np.ones((5, 6)))
    with pytest.raises(DtypeError, match=r"^global_value must have the dtype of value, float64, got float32$"):
        replace(layer, global_value=layer.global_value.astype(np.float32))
    with pytest.raises(ShapeError, match=r"^x must have shape \[B, T, M\] with B=1, M=5, got \(2, 3, 5\)$"):
        layer.step(layer.start(), np.ones((2, 3, 5)))
