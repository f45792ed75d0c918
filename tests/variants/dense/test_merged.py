"""Merged attention against loops over balls that put both kinds of keys into one softmax."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Padding, Prefix, Window
from kvattn.positions import Rotary
from kvattn.testing.balls import agree, given
from kvattn.testing.heads_by_hand import (
    Heads,
    Sees,
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
from kvattn.typing import Answer, Array, Attended, QueryKey, Span
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.merged import Merged, SideBySide
from kvattn.variants.dense.output_gate import SigmoidGate
from kvattn.variants.dense.query_key_norm import HeadRmsNorm

T, S, M, HEADS, KV_HEADS, D, EPS = 5, 4, 6, 4, 2, 4, 0.25
TURN, NORM = Rotary.of(D), HeadRmsNorm(1 + drawn(D, seed=5) / 2, 1 + drawn(D, seed=6) / 2, EPS)
GATE = SigmoidGate(drawn(M, HEADS, seed=4))
LENGTHS = (4, 2)


def bent(parts: Any, side: str) -> Callable[[int, Heads], Heads]:
    def bend(i: int, heads: Heads) -> Heads:
        for part in parts:
            if isinstance(part, Rotary):
                heads = [turn(row, i, part) for row in heads]
            else:
                heads = [rms(row, list(getattr(part, side)), part.eps) for row in heads]
        return heads

    return bend


def by_hand(layer: Merged, x: Array, sees: Sees, lengths: tuple[int, ...]) -> Any:
    w = layer.projections

    def beside(b: int) -> tuple[list[Heads], list[Heads]]:
        rows = given(layer.memory[b, : lengths[b]])
        keys = [bent(layer.memory_key, "key")(s, cut(times(row, w.key), w.kv_heads)) for s, row in enumerate(rows)]
        return keys, [cut(times(row, w.value), w.kv_heads) for row in rows]

    def gated(i: int, row: Any, heads: Heads) -> Heads:
        gates = [sigmoid(a) for a in times(row, GATE.weight)]
        return [[a * gate for a in head] for gate, head in zip(gates, heads, strict=True)] if layer.finish else heads

    queries, keys = (bent(layer.query_key, side) for side in ("query", "key"))
    return layer_by_hand(w, x, sees=sees, queries=queries, keys=keys, finish=gated, beside=beside, scale=layer.scale)


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the same said in sentences."""

    layer: Merged
    sees: Sees = lambda i, j: j <= i
    lengths: tuple[int, ...] = (S, S)

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.layer.projections.dtype)

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.layer, self.x, self.sees, self.lengths)
        return max(agree(found.out, out), agree(found.lse, lse))


def memory(dtype: Any = np.float64) -> Any:
    return drawn(2, S, M, seed=8, dtype=dtype)


PLAIN = Merged(drawn_projections(HEADS, KV_HEADS), memory(), page=2)
FULL = replace(PLAIN, mask=Window(2), query_key=(NORM, TURN), memory_key=(NORM,), scale=0.75)
EXAMPLES = {
    "plain": Example(PLAIN),
    "as T5Gemma 2": Example(FULL, lambda i, j: 0 <= i - j < 2),
    "gated": Example(replace(PLAIN, finish=(GATE,))),
    "turned memory": Example(replace(PLAIN, query_key=(TURN,), memory_key=(TURN,))),
    "padded memory": Example(replace(PLAIN, memory_lengths=LENGTHS), lengths=LENGTHS),
    "no own keys": Example(replace(PLAIN, mask=Causal() & ~Causal()), lambda i, j: False),
    "float32": Example(Merged(drawn_projections(3, 1, dtype=np.float32), memory(np.float32))),
}


@pytest.mark.by_hand("variants/dense/merged")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    layer, x = example.layer, example.x
    for found in (layer.definition(x, np.arange(T)), *(stepped(layer, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == found.lse.dtype == x.dtype
        assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_12() -> None:
    example = EXAMPLES["as T5Gemma 2"]
    found = example.layer.definition(example.x, np.arange(T))
    assert example.gap(found._replace(out=found.out * (1 + 1e-12))) > 1


class TwoSoftmaxes(Merged):
    """Mutant: self-attention and cross-attention one after the other, added up."""

    def definition(self, x: Array, positions: Any) -> Attended:
        own = Grouped(self.projections, self.mask).definition(x, positions)
        other = Cross(self.projections, self.memory).definition(x, positions)
        return own._replace(out=own.out + other.out)


def wrong(kind: type[Merged], layer: Merged) -> Merged:
    return kind(**{name: getattr(layer, name) for name in layer.__dataclass_fields__})


MUTANTS: dict[str, tuple[str, Callable[[Merged], Merged]]] = {
    "two softmaxes": ("plain", lambda layer: wrong(TwoSoftmaxes, layer)),
    "memory turned": ("as T5Gemma 2", lambda layer: replace(layer, memory_key=(NORM, TURN))),
    "memory not normed": ("as T5Gemma 2", lambda layer: replace(layer, memory_key=())),
    "one memory token left out": ("plain", lambda layer: replace(layer, memory_lengths=(S, S - 1))),
    "padding is seen": ("padded memory", lambda layer: replace(layer, memory_lengths=None)),
    "padding of the other": ("padded memory", lambda layer: replace(layer, memory_lengths=LENGTHS[::-1])),
    "another sequence's memory": ("plain", lambda layer: replace(layer, memory=layer.memory[::-1])),
    "no bound on own keys": ("plain", lambda layer: replace(layer, mask=None)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_layers_are_rejected(name: str) -> None:
    example, mutant = EXAMPLES[MUTANTS[name][0]], MUTANTS[name][1]
    assert example.gap(mutant(example.layer).definition(example.x, np.arange(T))) > 2


def test_a_side_by_side_mask_tells_its_two_parts_apart() -> None:
    at, keys = np.arange(3)[:, None], np.array([[-2, -1, 0, 1, 2]])
    seen = SideBySide(Causal(), Padding([1]), 2)(0, 0, at, keys)
    assert seen.astype(int).tolist() == [[1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 1]]
    assert SideBySide(None, None, 2)(0, 0, at, keys).all()
    assert SideBySide(Causal(), None, 2).block(0, Span(0, 1), Span(-2, 1)) is Answer.LOOK


def test_both_ways_of_one_softmax_agree_where_a_part_is_empty() -> None:
    never = Causal() & ~Causal()
    layer = replace(PLAIN, memory_lengths=(0, 0))
    x = EXAMPLES["plain"].x
    alone = Grouped(PLAIN.projections).definition(x, np.arange(T)).out
    for found in (layer.definition(x, np.arange(T)), stepped(layer, x, (2,))[0]):
        np.testing.assert_allclose(found.out, alone, rtol=0, atol=1e-14)
    nothing = replace(layer, mask=never)
    for found in (nothing.definition(x, np.arange(T)), stepped(nothing, x, (2,))[0]):
        assert not found.out.any()
        assert (found.lse == -np.inf).all()


def test_the_memory_is_paid_for_once() -> None:
    with counting() as tally:
        cache = FULL.start()
        assert tally.tally == FULL.start_cost()
    with counting() as tally:
        _, later = FULL.step(cache, EXAMPLES["plain"].x)
        assert tally.tally == FULL.cost(past=0, new=T)
    assert later.parts[1].memory is cache.parts[1].memory
    assert later.nbytes == 2 * (S + 6) * KV_HEADS * (D + 3) * 8  # pages of 2 hold 4 and, for 5 tokens, 6


def test_rolling_back_keeps_the_memory() -> None:
    _, cache = stepped(FULL, EXAMPLES["plain"].x, (2,))
    back = cache.truncate(1)
    assert (back.length, back.parts[1].memory.length) == (1, S)


CHANGES: dict[str, Any] = {
    "projections": drawn_projections(HEADS, 1),
    "memory": memory() + 1,
    "mask": Window(3),
    "memory_lengths": LENGTHS,
    "query_key": (TURN,),
    "memory_key": (),
    "finish": (GATE,),
    "scale": 1.25,
    "softcap": 0.5,
    "page": 3,
}


def test_padding_travels_with_its_sequence() -> None:
    layer = EXAMPLES["padded memory"].layer
    x = EXAMPLES["padded memory"].x
    swapped = replace(layer, memory=layer.memory[::-1], memory_lengths=LENGTHS[::-1])
    found = layer.step(layer.start().select([1, 0]), x)[0].out
    assert np.array_equal(found, swapped.step(swapped.start(), x)[0].out)
    assert layer.start().parts[1].memory.lengths == LENGTHS


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_the_page(name: str) -> None:
    assert set(CHANGES) == set(Merged.__dataclass_fields__)
    x, other = EXAMPLES["plain"].x, replace(FULL, **{name: CHANGES[name]})
    same_definition = np.array_equal(FULL.definition(x, np.arange(T)).out, other.definition(x, np.arange(T)).out)
    same_steps = np.array_equal(stepped(FULL, x, (2,))[0].out, stepped(other, x, (2,))[0].out)
    assert same_definition == same_steps == (name == "page")


def test_the_memory_is_copied() -> None:
    mine = memory()
    layer = replace(PLAIN, memory=mine)
    mine += 1
    assert np.array_equal(layer.memory, memory())


def test_parts_are_read_as_sequences() -> None:
    query_key: list[QueryKey] = [NORM]
    assert replace(PLAIN, memory_key=query_key).memory_key == (NORM,)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "width": (
        lambda: replace(PLAIN, memory=np.ones((2, S, 5))),
        ShapeError,
        r"^memory must have shape \[B, T, M\] with M=6, got \(2, 4, 5\)$",
    ),
    "dtype": (
        lambda: replace(PLAIN, memory=memory(np.float32)),
        DtypeError,
        r"^memory must have the dtype of the weights, float64, got float32$",
    ),
    "no token": (
        lambda: replace(PLAIN, memory=np.ones((2, 0, M))),
        ArgumentError,
        r"^memory must hold at least one token, got shape \(2, 0, 6\)$",
    ),
    "lengths": (
        lambda: replace(PLAIN, memory_lengths=(4,)),
        ArgumentError,
        r"^memory_lengths must be one integer in 0 \.\. 4 for each of 2 sequences, got \(4,\)$",
    ),
    "long": (
        lambda: replace(PLAIN, memory_lengths=(4, 5)),
        ArgumentError,
        r"^memory_lengths must be one integer in 0 \.\. 4 for each of 2 sequences, got \(4, 5\)$",
    ),
    "memory_key": (
        lambda: replace(PLAIN, memory_key=TURN),  # type: ignore[arg-type]
        ArgumentError,
        r"^memory_key must be a sequence of schemes and norms, got Rotary\(",
    ),
    "batch": (lambda: PLAIN.start(3), ArgumentError, r"^batch must be that of the memory, 2, got 3$"),
    "cost": (
        lambda: PLAIN.cost(past=0, new=1, batch=1),
        ArgumentError,
        r"^batch must be that of the memory, 2, got 1$",
    ),
    "x": (
        lambda: PLAIN.definition(np.ones((1, 2, M)), np.arange(2)),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=2, M=6, got \(1, 2, 6\)$",
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
