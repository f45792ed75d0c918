"""Value residual against loops over balls that keep the first layer's values."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kvattn.caches import Layered
from kvattn.counting import counting
from kvattn.errors import ArgumentError, ShapeError
from kvattn.masks import Window
from kvattn.positions import Rotary
from kvattn.testing.balls import agree, given
from kvattn.testing.heads_by_hand import (
    Heads,
    Row,
    cut,
    drawn,
    drawn_projections,
    layer_by_hand,
    rms,
    sigmoid,
    times,
    turn,
)
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.layers import Layers
from kvattn.variants.dense.output_gate import SigmoidGate
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.value_residual import ValueResidual

T, M, D, EPS = 5, 6, 4, 0.25


def weights(number: int, heads: int = 4, kv_heads: int = 2, dtype: Any = np.float64) -> Projections:
    """Other weights for every layer."""
    w = drawn_projections(heads, kv_heads, dtype=dtype)
    query, key, value = (np.roll(getattr(w, name), number, axis=0) for name in ("query", "key", "value"))
    return Projections(query, key, value, np.roll(w.output, number, axis=1), heads, kv_heads)


def by_hand(stack: ValueResidual, x: Array) -> Any:
    """Layers one after the other; the first layer's values are kept by sequence and position."""
    now, lse, first = given(x), None, []
    for number, layer in enumerate(stack.layers):
        w = layer.projections
        before = now
        if stack.norm is not None:
            before = [[rms(row, list(stack.norm[number]), stack.eps) for row in rows] for rows in now]
        if not number:
            first = [[cut(times(row, w.value), w.kv_heads) for row in rows] for rows in before]

        def placed(i: int, heads: Heads, turned: bool = bool(layer.query_key)) -> Heads:
            return [turn(row, i, Rotary.of(D)) for row in heads] if turned else heads

        def gated(i: int, row: Row, heads: Heads, finish: Any = layer.finish) -> Heads:
            if not finish:
                return heads
            gates = [sigmoid(a) for a in times(row, finish[0].weight)]
            return [[a * gate for a in head] for gate, head in zip(gates, heads, strict=True)]

        found = []
        for b, rows in enumerate(before):

            def leaning(j: int, heads: Heads, begun: Any = first[b], number: int = number) -> Heads:
                if not number:
                    return heads
                own, other = stack.weights[number - 1]
                pairs = zip(heads, begun[j], strict=True)
                return [[a * own + c * other for a, c in zip(row, start, strict=True)] for row, start in pairs]

            said: dict[str, Any] = {"queries": placed, "keys": placed, "values": leaning, "finish": gated}
            if isinstance(layer.mask, Window):
                said["sees"] = lambda i, j: 0 <= i - j < 2
            found.append(layer_by_hand(w, [rows], **said))
        lse = [part[1][0] for part in found]
        now = [
            [[a + c for a, c in zip(row, more, strict=True)] for row, more in zip(rows, part[0][0], strict=True)]
            for rows, part in zip(now, found, strict=True)
        ]
    return now, lse


@dataclass(frozen=True, eq=False)
class Example:
    """A stack of layers."""

    stack: ValueResidual

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.stack.layers[0].projections.dtype)

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.stack, self.x)
        return max(agree(found.out, out), agree(found.lse, lse))


NORM = 1 + drawn(3, M, seed=5) / 2
LAYERS = (
    Grouped(weights(0), query_key=(Rotary.of(D),), page=2),
    Grouped(weights(1), Window(2), finish=(SigmoidGate(drawn(M, 4, seed=4)),), page=2),
    Grouped(weights(2, 2, 2), query_key=(Rotary.of(D),), page=2),
)
THREE = ValueResidual(LAYERS, ((0.75, 0.5), (0.25, -1.5)), NORM, EPS)
SINGLE = tuple(Grouped(weights(n, dtype=np.float32)) for n in range(2))
EXAMPLES = {
    "three layers": Example(THREE),
    "no norms": Example(replace(THREE, norm=None)),
    "the first layer's values alone": Example(replace(THREE, weights=((0.0, 1.0), (0.0, 1.0)))),
    "float32": Example(ValueResidual(SINGLE, ((0.5, 0.5),), NORM[:2].astype(np.float32), EPS)),
}


@pytest.mark.by_hand("variants/dense/value_residual")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    stack, x = example.stack, example.x
    for found in (stack.definition(x, np.arange(T)), *(stepped(stack, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == found.lse.dtype == x.dtype
        assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_9() -> None:
    example = EXAMPLES["three layers"]
    found = example.stack.definition(example.x, np.arange(T))
    assert example.gap(found._replace(out=found.out * (1 + 1e-9))) > 1


MUTANTS: dict[str, Callable[[ValueResidual], Any]] = {
    "weights exchanged": lambda stack: replace(stack, weights=tuple((b, a) for a, b in stack.weights)),
    "layers' weights exchanged": lambda stack: replace(stack, weights=stack.weights[::-1]),
    "no residual": lambda stack: Layers(stack.layers, M, stack.norm, stack.eps),
    "half and half": lambda stack: replace(stack, weights=((0.5, 0.5),) * 2),
    "not normed": lambda stack: replace(stack, norm=None),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_stacks_are_rejected(name: str) -> None:
    example = EXAMPLES["three layers"]
    for found in (
        MUTANTS[name](example.stack).definition(example.x, np.arange(T)),
        stepped(MUTANTS[name](example.stack), example.x, (2,))[0],
    ):
        assert example.gap(found) > 2


class FromTheCache(ValueResidual):
    """Mutant: a layer mixes in the first cached values, not those of its own tokens."""

    def step(self, cache: Layered, x: Array) -> Any:
        if cache.lengths[0]:
            whole = np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
            return super().step(cache, whole)
        return super().step(cache, x)


def test_values_of_other_tokens_are_rejected() -> None:
    example = EXAMPLES["three layers"]
    fields = {name: getattr(example.stack, name) for name in example.stack.__dataclass_fields__}
    assert example.gap(stepped(FromTheCache(**fields), example.x, (2,))[0]) > 2


@pytest.mark.law("variants/dense/value_residual", "with weights 1 and 0 it is a plain stack", "bound")
def test_without_a_residual_it_is_a_stack() -> None:
    plain, x = Layers(LAYERS, M, NORM, EPS), EXAMPLES["three layers"].x
    ours = replace(THREE, weights=((1.0, 0.0),) * 2)
    for verb in (lambda s: s.definition(x, np.arange(T)), lambda s: stepped(s, x, (2,))[0]):
        np.testing.assert_allclose(verb(ours).out, verb(plain).out, rtol=0, atol=1e-13)


def test_mixed_values_are_what_is_cached() -> None:
    x = EXAMPLES["three layers"].x
    stack = replace(THREE, norm=None)
    _, cache = stepped(stack, x, (2,))
    first, second = (part.rows().v for part in cache.parts[:2])
    after = x + LAYERS[0].definition(x, np.arange(T)).out
    np.testing.assert_allclose(second, 0.75 * LAYERS[1].projections.values(after) + 0.5 * first, rtol=0, atol=1e-13)
    assert cache.nbytes == sum(part.nbytes for part in Layers(LAYERS, M).step(Layers(LAYERS, M).start(2), x)[1].parts)


def test_the_mixing_is_counted() -> None:
    x = EXAMPLES["three layers"].x
    with counting() as tally:
        THREE.step(THREE.start(2), x)
        ours = tally.tally
    with counting() as tally:
        plain = Layers(LAYERS, M, NORM, EPS)
        plain.step(plain.start(2), x)
        assert ours.arithmetic - tally.arithmetic == 2 * 3 * 2 * T * 2 * 3


CHANGES: dict[str, Any] = {
    "layers": (LAYERS[1], LAYERS[0], LAYERS[2]),
    "weights": ((0.75, 0.5), (0.25, 1.5)),
    "norm": NORM + 1,
    "eps": 0.5,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters(name: str) -> None:
    assert set(CHANGES) == set(ValueResidual.__dataclass_fields__)
    x, other = EXAMPLES["three layers"].x, replace(THREE, **{name: CHANGES[name]})
    for verb in (lambda s: s.definition(x, np.arange(T)), lambda s: stepped(s, x, (2,))[0]):
        assert not np.array_equal(verb(THREE).out, verb(other).out)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "one layer": (
        lambda: ValueResidual(LAYERS[:1], ()),
        ArgumentError,
        r"^layers must be a sequence of two or more grouped layers, got \(Grouped\(",
    ),
    "another kind": (
        lambda: ValueResidual((LAYERS[0], Layers(LAYERS, M)), ((1.0, 1.0),)),  # type: ignore[arg-type]
        ArgumentError,
        r"^layers must be a sequence of two or more grouped layers, got \(Grouped\(",
    ),
    "value heads": (
        lambda: ValueResidual((LAYERS[0], Grouped(weights(1, 4, 1))), ((1.0, 1.0),)),
        ArgumentError,
        r"^layers must agree in M, Hkv, Dv and dtype, got \[\(6, 2, 3, 'float64'\), \(6, 1, 3, 'float64'\)\]$",
    ),
    "too few weights": (
        lambda: replace(THREE, weights=((1.0, 1.0),)),
        ArgumentError,
        r"^weights must be a pair for each of 2 layers, got \(\(1\.0, 1\.0\),\)$",
    ),
    "no pair": (
        lambda: replace(THREE, weights=((1.0, 1.0), (1.0,))),  # type: ignore[arg-type]
        ArgumentError,
        r"^weights must be a pair for each of 2 layers, got \(\(1\.0, 1\.0\), \(1\.0,\)\)$",
    ),
    "no number": (
        lambda: replace(THREE, weights=((1.0, 1.0), (1.0, None))),  # type: ignore[arg-type]
        ArgumentError,
        r"^weights\[1\]\[1\] must be a finite number, got None$",
    ),
    "norms": (lambda: replace(THREE, norm=NORM[:2]), ShapeError, r"^norm must have shape \[3, M\], got \(2, 6\)$"),
    "cache": (
        lambda: THREE.step(Layered(THREE.start(2).parts[:2]), np.ones((2, 1, M))),
        ArgumentError,
        r"^cache must have a part for each of 3 layers, got 2$",
    ),
    "x": (
        lambda: THREE.step(THREE.start(2), np.ones((1, 1, M))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=2, M=6, got \(1, 1, 6\)$",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
