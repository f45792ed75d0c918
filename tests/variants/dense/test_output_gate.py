"""Output gates against loops over balls: for each feature and each head, sigmoid and softplus."""

from collections.abc import Callable
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.testing.balls import Ball, agree
from kvattn.testing.heads_by_hand import Heads, Row, drawn, drawn_projections, layer_by_hand, sigmoid, times
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended, Finish
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.output_gate import SigmoidGate, SoftplusGate, parted

T, M, HEADS, KV_HEADS, DV = 5, 6, 4, 2, 3
FEATURES, EACH = drawn(M, HEADS * DV, seed=5), drawn(M, HEADS, seed=6)


def softplus(ball: Ball) -> Ball:
    return ball.through(lambda a: max(a, 0.0) + math.log1p(math.exp(-abs(a))), 1.0)


def by_hand(x: Any, weight: Array, bent: Callable[[Ball], Ball]) -> Any:
    def finish(_: int, row: Row, heads: Heads) -> Heads:
        gates = [bent(a) for a in times(row, weight)]
        wide = len(gates) // len(heads)
        return [[a * gates[h * wide + (n % wide)] for n, a in enumerate(head)] for h, head in enumerate(heads)]

    return layer_by_hand(drawn_projections(HEADS, KV_HEADS, dtype=x.dtype), x, finish=finish)


def layer(*finish: Finish, dtype: Any = np.float64) -> Grouped:
    return Grouped(drawn_projections(HEADS, KV_HEADS, dtype=dtype), finish=finish, page=2)


def states(dtype: Any = np.float64) -> Any:
    return drawn(2, T, M, seed=9, dtype=dtype)


def gap(found: Attended, wanted: Any) -> float:
    return max(agree(found.out, wanted[0]), agree(found.lse, wanted[1]))


EXAMPLES: dict[str, tuple[Any, Callable[[Ball], Ball]]] = {
    "sigmoid, features": (SigmoidGate(FEATURES), sigmoid),
    "sigmoid, heads": (SigmoidGate(EACH), sigmoid),
    "softplus, features": (SoftplusGate(FEATURES), softplus),
    "softplus, heads": (SoftplusGate(EACH), softplus),
    "float32": (SigmoidGate(EACH.astype(np.float32)), sigmoid),
}


@pytest.mark.by_hand("variants/dense/output_gate")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    gate, bent = EXAMPLES[name]
    ours, x = layer(gate, dtype=gate.weight.dtype), states(gate.weight.dtype)
    wanted = by_hand(x, gate.weight, bent)
    for found in (ours.definition(x, np.arange(T)), *(stepped(ours, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == x.dtype
        assert gap(found, wanted) <= 1


def test_the_bound_sees_an_error_of_1e_12() -> None:
    found = layer(SigmoidGate(EACH)).definition(states(), np.arange(T))
    assert gap(found._replace(out=found.out * (1 + 1e-12)), by_hand(states(), EACH, sigmoid)) > 1


class FromTheMix(SigmoidGate):
    """Mutant: the gate reads the mix."""

    def finish(self, mixed: Array, x: Array, positions: Any) -> Array:
        logits = mixed.mean(-1, keepdims=True)
        return np.asarray(mixed / (1 + np.exp(-logits)))


class FromTheFirst(SigmoidGate):
    """Mutant: every token takes the gate of the first one of its step."""

    def finish(self, mixed: Array, x: Array, positions: Any) -> Array:
        return super().finish(mixed, np.repeat(x[:, :1], x.shape[1], axis=1), positions)


class AcrossHeads(SigmoidGate):
    """Mutant: columns are read feature by feature, then head by head."""

    def finish(self, mixed: Array, x: Array, positions: Any) -> Array:
        turned = self.weight.reshape(M, DV, HEADS).swapaxes(1, 2).reshape(M, -1)
        return SigmoidGate(turned).finish(mixed, x, positions)


class Swish(SigmoidGate):
    """Mutant: silu in place of the sigmoid."""

    def finish(self, mixed: Array, x: Array, positions: Any) -> Array:
        return np.asarray(super().finish(mixed, x, positions) * (x @ self.weight).swapaxes(1, 2)[..., None])


MUTANTS: dict[str, tuple[str, Finish]] = {
    "reads the mix": ("sigmoid, heads", FromTheMix(EACH)),
    "reads the first token": ("sigmoid, heads", FromTheFirst(EACH)),
    "heads exchanged": ("sigmoid, heads", SigmoidGate(EACH[:, [0, 2, 1, 3]])),
    "features across heads": ("sigmoid, features", AcrossHeads(FEATURES)),
    "softplus for sigmoid": ("sigmoid, heads", SoftplusGate(EACH)),
    "sigmoid for softplus": ("softplus, heads", SigmoidGate(EACH)),
    "silu for sigmoid": ("sigmoid, heads", Swish(EACH)),
    "one gate for a head's features": ("sigmoid, features", SigmoidGate(FEATURES[:, ::DV])),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_gates_are_rejected(name: str) -> None:
    gate, bent = EXAMPLES[MUTANTS[name][0]]
    wrong = layer(MUTANTS[name][1])
    assert gap(stepped(wrong, states(), (2,))[0], by_hand(states(), gate.weight, bent)) > 2


def test_a_closed_gate_passes_nothing_and_an_open_one_everything() -> None:
    x = np.ones((1, T, M))
    plain = layer().definition(x, np.arange(T)).out
    for weight, wanted in ((-1e3, 0 * plain), (1e3, plain)):
        found = layer(SigmoidGate(np.full((M, HEADS), weight))).definition(x, np.arange(T)).out
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-15)


def test_gates_follow_each_other() -> None:
    """Two gates in a row multiply, in either order."""
    gates = SigmoidGate(EACH), SoftplusGate(FEATURES)
    one, two = (layer(*order).definition(states(), np.arange(T)).out for order in (gates, gates[::-1]))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-14)


def test_a_fused_matrix_is_parted_head_by_head() -> None:
    fused = np.arange(24.0).reshape(2, 12)  # 3 heads of 2: q q g g, q q g g, q q g g
    query, gate = parted(fused, heads=3)
    assert query.tolist() == [[0, 1, 4, 5, 8, 9], [12, 13, 16, 17, 20, 21]]
    assert gate.tolist() == [[2, 3, 6, 7, 10, 11], [14, 15, 18, 19, 22, 23]]


def test_it_costs_what_it_counts() -> None:
    mixed, x = drawn(3, HEADS, 2, DV, seed=0), drawn(3, 2, M, seed=1)
    for gate, _ in list(EXAMPLES.values())[:4]:
        with counting() as tally:
            gate.finish(mixed, x, np.zeros((3, 2), int))
            counted = tally.tally
        assert counted == gate.finish_cost(tokens=6, heads=HEADS, width=DV)


MIXED, X, AT = np.ones((1, 3, 1, 2)), np.ones((1, 1, 5)), np.zeros((1, 1), int)
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "columns": (
        lambda: SigmoidGate(np.ones((5, 4))).finish(MIXED, X, AT),
        ShapeError,
        r"^weight must have shape \[M, Hq·Dv\] or \[M, Hq\] with M=5, Hq=3, Dv=2, got \(5, 4\)$",
    ),
    "rows": (
        lambda: SoftplusGate(np.ones((4, 3))).finish(MIXED, X, AT),
        ShapeError,
        r"^weight must have shape \[M, Hq·Dv\] or \[M, Hq\] with M=5, Hq=3, Dv=2, got \(4, 3\)$",
    ),
    "dtype": (
        lambda: SigmoidGate(np.ones((5, 3), np.float32)).finish(MIXED, X, AT),
        DtypeError,
        r"^weight must have the dtype of x, float64, got float32$",
    ),
    "rank": (
        lambda: SigmoidGate(np.ones(5)),
        ShapeError,
        r"^weight must be a non-empty array of rank 2, got shape \(5,\)$",
    ),
    "fused": (
        lambda: parted(np.ones((2, 6)), heads=2),
        ShapeError,
        r"^fused must have shape \[M, H·2·D\] with H=2, got \(2, 6\)$",
    ),
    "no heads": (lambda: parted(np.ones((2, 6)), heads=0), ArgumentError, r"^heads must be an integer >= 1, got 0$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
