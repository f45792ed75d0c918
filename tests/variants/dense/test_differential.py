"""Differential attention against loops over balls that subtract whole attention maps, pair by pair."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Prefix, Window
from kvattn.mods import Bias
from kvattn.positions import Rotary
from kvattn.testing.balls import agree, dot, given
from kvattn.testing.heads_by_hand import Heads, Sees, cut, drawn, drawn_projections, rms, sigmoid, softmax, times, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.differential import Differential, from_halves, initial, learned
from kvattn.variants.dense.output_gate import SigmoidGate

T, M, D, DV = 5, 6, 4, 3


def by_hand(layer: Differential, x: Array, sees: Sees, turned: bool) -> Any:
    """Map by map: softmax the first, softmax the second, subtract weights, mix, norm, shrink."""
    w = layer.projections
    group = w.heads // w.kv_heads
    scale = layer.scale if layer.scale is not None else 1 / math.sqrt(D)

    def placed(position: int, heads: Heads) -> Heads:
        return [turn(row, position, Rotary.of(D)) for row in heads] if turned else heads

    out: list[Heads] = []
    lse: list[Heads] = []
    for rows in given(x):
        keys = [placed(j, cut(times(row, w.key), w.kv_heads)) for j, row in enumerate(rows)]
        values = [cut(times(row, w.value), w.kv_heads // 2) for row in rows]
        out.append([])
        lse.append([[] for _ in range(w.heads)])
        for i, row in enumerate(rows):
            queries = placed(i, cut(times(row, w.query), w.heads))
            seen = [j for j in range(len(rows)) if sees(i, j)]
            flat = []
            for pair in range(w.heads // 2):
                maps = []
                for side in (0, 1):
                    head = 2 * (pair // group) + side
                    scores = [dot(queries[2 * pair + side], keys[j][head]) * scale for j in seen]
                    weights, log = softmax(scores)
                    maps.append(weights)
                    lse[-1][2 * pair + side].append(log)
                weights = [a - b * layer.weight for a, b in zip(*maps, strict=True)]
                mixed = [dot(weights, column) for column in zip(*(values[j][pair // group] for j in seen), strict=True)]
                normed = rms(mixed, None if layer.norm is None else list(layer.norm), layer.eps)
                gate = sigmoid(times(row, GATE.weight)[pair]) if layer.finish else 1.0
                flat += [a * (1.0 - layer.initial_weight) * gate for a in normed]
            out[-1].append(times(flat, w.output))
    return out, lse


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the same said in sentences."""

    layer: Differential
    sees: Sees = lambda i, j: j <= i
    turned: bool = False

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.layer.projections.dtype)

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.layer, self.x, self.sees, self.turned)
        return max(agree(found.out, out), agree(found.lse, lse))


GATE = SigmoidGate(drawn(M, 4, seed=6))
NORM = 1 + 0.5 * drawn(2 * DV, seed=5)
GQA = Differential(drawn_projections(8, 4), 0.6, initial(2), NORM, page=2)
EXAMPLES = {
    "as many key heads": Example(replace(GQA, projections=drawn_projections(4, 4))),
    "fewer key heads": Example(GQA),
    "one pair of keys": Example(replace(GQA, projections=drawn_projections(6, 2))),
    "no weights": Example(replace(GQA, norm=None, eps=0.25)),
    "turned": Example(replace(GQA, query_key=(Rotary.of(D),)), turned=True),
    "window and scale": Example(replace(GQA, mask=Causal() & Window(2), scale=1.25), lambda i, j: 0 <= i - j < 2),
    "gated": Example(replace(GQA, finish=(GATE,))),
    "negative weight": Example(replace(GQA, weight=-0.3)),
    "float32": Example(
        Differential(drawn_projections(4, 2, dtype=np.float32), 0.6, 0.2, NORM.astype(np.float32), eps=0.25)
    ),
}


@pytest.mark.by_hand("variants/dense/differential")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    layer, x = example.layer, example.x
    for found in (layer.definition(x, np.arange(T)), *(stepped(layer, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == found.lse.dtype == x.dtype
        assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_10() -> None:
    found = GQA.definition(EXAMPLES["fewer key heads"].x, np.arange(T))
    assert EXAMPLES["fewer key heads"].gap(found._replace(out=found.out * (1 + 1e-10))) > 1


def reordered(matrix: Array, order: list[int], heads: int) -> Array:
    return matrix.reshape(len(matrix), heads, -1)[:, order].reshape(len(matrix), -1)


def with_matrix(layer: Differential, name: str, order: list[int]) -> Differential:
    w = layer.projections
    matrix = reordered(getattr(w, name), order, w.heads if name == "query" else w.kv_heads)
    return replace(layer, projections=replace(w, **{name: matrix}))  # type: ignore[arg-type]


class NotShrunk(Differential):
    """Mutant: the factor 1 - λ_init is left out."""

    def step(self, cache: Any, x: Array) -> Any:
        attended, cache = super().step(cache, x)
        return attended._replace(out=attended.out / (1 - self.initial_weight)), cache


MUTANTS: dict[str, tuple[str, Callable[[Differential], Differential]]] = {
    "pairs p and p + H/2": (
        "as many key heads",
        lambda layer: with_matrix(with_matrix(layer, "query", [0, 2, 1, 3]), "key", [0, 2, 1, 3]),
    ),
    "maps exchanged": (
        "as many key heads",
        lambda layer: with_matrix(with_matrix(layer, "query", [1, 0, 3, 2]), "key", [1, 0, 3, 2]),
    ),
    "keys repeated one by one": (
        "fewer key heads",
        lambda layer: replace(
            layer,
            projections=replace(
                layer.projections,
                key=reordered(layer.projections.key, [0, 0, 1, 1, 2, 2, 3, 3], 4),
                value=layer.projections.value.reshape(M, 2, -1)[:, [0, 0, 1, 1]].reshape(M, -1),
                kv_heads=8,
            ),
        ),
    ),
    "maps added": ("fewer key heads", lambda layer: replace(layer, weight=-layer.weight)),
    "not shrunk": (
        "fewer key heads",
        lambda layer: NotShrunk(**{name: getattr(layer, name) for name in layer.__dataclass_fields__}),
    ),
    "no weights": ("fewer key heads", lambda layer: replace(layer, norm=None)),
    "depth from 1": ("fewer key heads", lambda layer: replace(layer, initial_weight=initial(3))),
    "the scale of a wide head": ("fewer key heads", lambda layer: replace(layer, scale=1 / math.sqrt(2 * D))),
    "one map": ("fewer key heads", lambda layer: replace(layer, weight=0.0)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_layers_are_rejected(name: str) -> None:
    example, mutant = EXAMPLES[MUTANTS[name][0]], MUTANTS[name][1]
    assert example.gap(stepped(mutant(example.layer), example.x, (2,))[0]) > 2


def test_lambda_is_what_the_paper_says() -> None:
    """Layer 1 of the paper is layer 0 here."""
    assert [round(initial(depth), 3) for depth in (0, 1, 2, 50)] == [0.2, 0.356, 0.471, 0.8]
    a, b = np.array([0.5, -1.0], np.float32), np.array([2.0, 0.25])
    assert math.isclose(learned(a, b, b, b, 0.3), math.exp(0.75) - math.exp(4.0625) + 0.3, rel_tol=1e-15)


def test_halves_become_pairs() -> None:
    w = drawn_projections(8, 4)
    ours = from_halves(w)
    assert np.array_equal(ours.query, reordered(w.query, [0, 4, 1, 5, 2, 6, 3, 7], 8))
    assert np.array_equal(ours.key, reordered(w.key, [0, 2, 1, 3], 4))
    assert np.array_equal(ours.value, reordered(w.value, [0, 2, 1, 3], 4))
    assert np.array_equal(ours.output, w.output)


def test_mods_see_pairs_as_heads() -> None:
    bias = drawn(1, 4, T, T, seed=3)
    x = EXAMPLES["fewer key heads"].x
    lse = replace(GQA, mods=(Bias(bias),)).definition(x, np.arange(T)).lse
    np.testing.assert_allclose(
        lse[:, :, 0], GQA.definition(x, np.arange(T)).lse[:, :, 0] + bias[:, :, 0, 0].repeat(2, axis=1), rtol=1e-12
    )


def test_a_token_caches_as_much_as_in_grouped_attention() -> None:
    with counting() as tally:
        _, cache = stepped(GQA, drawn(1, 6, M, seed=0), (1, 4))
        assert tally.kv_written == cache.nbytes == 6 * 4 * (D + DV) * 8


CHANGES: dict[str, Any] = {
    "projections": drawn_projections(8, 2),
    "weight": 0.5,
    "initial_weight": 0.1,
    "norm": None,
    "eps": 0.5,
    "mask": Window(3),
    "query_key": (Rotary.of(D),),
    "finish": (GATE,),
    "mods": (Bias(drawn(1, 4, T, T, seed=3)),),
    "scale": 1.25,
    "softcap": 0.5,
    "page": 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_the_page(name: str) -> None:
    assert set(CHANGES) == set(Differential.__dataclass_fields__)
    x, other = EXAMPLES["fewer key heads"].x, replace(GQA, **{name: CHANGES[name]})
    same_definition = np.array_equal(GQA.definition(x, np.arange(T)).out, other.definition(x, np.arange(T)).out)
    same_steps = np.array_equal(stepped(GQA, x, (2,))[0].out, stepped(other, x, (2,))[0].out)
    assert same_definition == same_steps == (name == "page")


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "odd heads": (
        lambda: replace(GQA, projections=drawn_projections(3, 3)),
        ArgumentError,
        r"^projections must have even head counts, got 3 and 3$",
    ),
    "odd halves": (
        lambda: from_halves(drawn_projections(2, 1)),
        ArgumentError,
        r"^projections must have even head counts, got 2 and 1$",
    ),
    "weight": (
        lambda: replace(GQA, weight=math.nan),
        ArgumentError,
        r"^weight must be a finite number, got nan$",
    ),
    "initial": (
        lambda: replace(GQA, initial_weight=1.0),
        ArgumentError,
        r"^initial_weight must be below 1, got 1\.0$",
    ),
    "norm": (lambda: replace(GQA, norm=np.ones(DV)), ShapeError, r"^norm must have shape \[6\], got \(3,\)$"),
    "norm's dtype": (
        lambda: replace(GQA, norm=np.ones(2 * DV, np.float32)),
        DtypeError,
        r"^norm must have the dtype of the weights, float64, got float32$",
    ),
    "depth": (lambda: initial(-1), ArgumentError, r"^depth must be an integer >= 0, got -1$"),
    "vectors": (
        lambda: learned(np.ones(2), np.ones(3), np.ones(2), np.ones(2), 0.2),
        ShapeError,
        r"^b_1 must have shape \[D\] with D=2, got \(3,\)$",
    ),
    "x": (
        lambda: GQA.step(GQA.start(), np.ones((1, 2, M), np.float32)),
        DtypeError,
        r"^x must have the dtype of the weights, float64, got float32$",
    ),
    "cut": (
        lambda: stepped(replace(GQA, mask=Causal() | Prefix(4)), EXAMPLES["turned"].x, (2,)),
        PositionError,
        r"^x must begin where no earlier token sees further, ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
