"""Learned rows beside the tokens, against loops over balls and against the sinks that they generalise."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Prefix, Window
from kvattn.positions import Rotary
from kvattn.testing.balls import agree, given
from kvattn.testing.heads_by_hand import Heads, Sees, drawn, drawn_projections, layer_by_hand, sigmoid, times, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.memory_rows import MemoryRows
from kvattn.variants.dense.output_gate import SigmoidGate

T, M, HEADS, KV_HEADS, D, DV, ROWS = 5, 6, 4, 2, 4, 3, 3
TURN, GATE = Rotary.of(D), SigmoidGate(drawn(M, HEADS, seed=4))


def by_hand(layer: MemoryRows, x: Array, sees: Sees) -> Any:
    def placed(i: int, heads: Heads) -> Heads:
        return [turn(row, i, TURN) for row in heads] if layer.query_key else heads

    def gated(i: int, row: Any, heads: Heads) -> Heads:
        if not layer.finish:
            return heads
        gates = [sigmoid(a) for a in times(row, GATE.weight)]
        return [[a * gate for a in head] for gate, head in zip(gates, heads, strict=True)]

    def beside(b: int) -> tuple[list[Heads], list[Heads]]:
        keys, values = (given(rows.swapaxes(0, 1)) for rows in (layer.keys, layer.values))
        return keys, values

    said: dict[str, Any] = {"sees": sees, "queries": placed, "keys": placed, "finish": gated, "beside": beside}
    return layer_by_hand(layer.projections, x, scale=layer.scale, **said)


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the mask said in a sentence."""

    layer: MemoryRows
    sees: Sees = lambda i, j: j <= i

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.layer.projections.dtype)

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.layer, self.x, self.sees)
        return max(agree(found.out, out), agree(found.lse, lse))


def rows(width: int, seed: int, kv_heads: int = KV_HEADS, dtype: Any = np.float64) -> Any:
    return drawn(kv_heads, ROWS, width, seed=seed, dtype=dtype)


PLAIN = MemoryRows(drawn_projections(HEADS, KV_HEADS), rows(D, 5), rows(DV, 6), page=2)
FULL = replace(PLAIN, mask=Window(2), query_key=(TURN,), finish=(GATE,), scale=0.75)
SINGLE = drawn_projections(3, 1, dtype=np.float32)
EXAMPLES = {
    "plain": Example(PLAIN),
    "window, rotation, gate": Example(FULL, lambda i, j: 0 <= i - j < 2),
    "float32": Example(MemoryRows(SINGLE, rows(D, 5, 1, np.float32), rows(DV, 6, 1, np.float32))),
}


@pytest.mark.by_hand("variants/dense/memory_rows")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    layer, x = example.layer, example.x
    for found in (layer.definition(x, np.arange(T)), *(stepped(layer, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == found.lse.dtype == x.dtype
        assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_12() -> None:
    found = PLAIN.definition(EXAMPLES["plain"].x, np.arange(T))
    assert EXAMPLES["plain"].gap(found._replace(out=found.out * (1 + 1e-12))) > 1


MUTANTS: dict[str, tuple[str, Callable[[MemoryRows], Any]]] = {
    "one row left out": ("plain", lambda layer: replace(layer, keys=layer.keys[:, 1:], values=layer.values[:, 1:])),
    "heads exchanged": ("plain", lambda layer: replace(layer, keys=layer.keys[::-1], values=layer.values[::-1])),
    "values of other rows": ("plain", lambda layer: replace(layer, values=layer.values[:, ::-1])),
    "no value": ("plain", lambda layer: replace(layer, values=0 * layer.values)),
    "rows turned": (
        "window, rotation, gate",
        lambda layer: replace(layer, keys=TURN.rotate(layer.keys, np.arange(ROWS))),
    ),
    "no rows": ("plain", lambda layer: Grouped(layer.projections)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_layers_are_rejected(name: str) -> None:
    example, mutant = EXAMPLES[MUTANTS[name][0]], MUTANTS[name][1]
    assert example.gap(stepped(mutant(example.layer), example.x, (2,))[0]) > 2


@pytest.mark.law("variants/dense/memory_rows", "a row of zeros is a sink of logit 0", "bound")
def test_a_row_of_zeros_is_a_sink() -> None:
    x = EXAMPLES["plain"].x
    ours = replace(PLAIN, keys=np.zeros((KV_HEADS, 1, D)), values=np.zeros((KV_HEADS, 1, DV)))
    sink = Grouped(PLAIN.projections, sinks=np.zeros(HEADS))
    for found, wanted in zip(stepped(ours, x, (2,))[0], sink.definition(x, np.arange(T)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)


@pytest.mark.law("variants/dense/memory_rows", "the order of memory rows does not matter", "bound")
def test_the_order_of_rows_does_not_matter() -> None:
    x, order = EXAMPLES["plain"].x, [2, 0, 1]
    other = replace(PLAIN, keys=PLAIN.keys[:, order], values=PLAIN.values[:, order])
    one, two = (stepped(layer, x, ())[0].out for layer in (PLAIN, other))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-14)


def test_rows_are_in_no_cache() -> None:
    with counting() as tally:
        _, cache = stepped(PLAIN, drawn(1, 6, M, seed=0), (1, 4))
        assert tally.kv_written == cache.nbytes == 6 * KV_HEADS * (D + DV) * 8


CHANGES: dict[str, Any] = {
    "projections": drawn_projections(6, KV_HEADS),
    "keys": rows(D, 7),
    "values": rows(DV, 7),
    "mask": Window(3),
    "query_key": (),
    "finish": (),
    "scale": 1.25,
    "softcap": 0.5,
    "page": 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_the_page(name: str) -> None:
    assert set(CHANGES) == set(MemoryRows.__dataclass_fields__)
    layer = replace(FULL, finish=()) if name == "projections" else FULL
    x, other = EXAMPLES["plain"].x, replace(layer, **{name: CHANGES[name]})
    same_definition = np.array_equal(layer.definition(x, np.arange(T)).out, other.definition(x, np.arange(T)).out)
    same_steps = np.array_equal(stepped(layer, x, (2,))[0].out, stepped(other, x, (2,))[0].out)
    assert same_definition == same_steps == (name == "page")


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "heads": (
        lambda: replace(PLAIN, keys=rows(D, 5, 3)),
        ShapeError,
        r"^keys must have shape \[2, m, 4\], got \(3, 3, 4\)$",
    ),
    "count": (
        lambda: replace(PLAIN, values=rows(DV, 5)[:, :2]),
        ShapeError,
        r"^values must have shape \[2, m, 3\] with m=3, got \(2, 2, 3\)$",
    ),
    "none": (
        lambda: replace(PLAIN, keys=rows(D, 5)[:, :0]),
        ShapeError,
        r"^keys must be a non-empty array of rank 3, got shape \(2, 0, 4\)$",
    ),
    "dtype": (
        lambda: replace(PLAIN, values=rows(DV, 5, dtype=np.float32)),
        DtypeError,
        r"^values must have the dtype of the weights, float64, got float32$",
    ),
    "cut": (
        lambda: stepped(replace(PLAIN, mask=Causal() | Prefix(4)), EXAMPLES["plain"].x, (2,)),
        PositionError,
        r"^x must begin where no earlier token sees further, ",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
