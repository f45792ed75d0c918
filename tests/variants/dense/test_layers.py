"""A stack against its layers by hand, and its caches: together or not at all, as small as each layer's own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kvattn.caches import Layered
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, RollbackError, ShapeError
from kvattn.masks import Causal, Chunked, Window
from kvattn.positions import Rotary, geometric
from kvattn.testing.balls import agree, given
from kvattn.testing.heads_by_hand import Heads, Sees, drawn, drawn_projections, layer_by_hand, rms, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.layers import Layers, norm_cost, normed, read_norms
from kvattn.variants.dense.merged import Merged
from kvattn.variants.dense.projections import Projections
from kvattn.variants.sparse.sinks import KeptSinks

T, M, D = 6, 6, 4
EPS = 0.25


def weights(number: int, heads: int, kv_heads: int, dtype: Any = np.float64) -> Projections:
    """Other weights for every layer."""
    w = drawn_projections(heads, kv_heads, dtype=dtype)
    turned = (np.roll(getattr(w, name), number, axis=0) for name in ("query", "key", "value"))
    query, key, value = turned
    return Projections(query, key, value, np.roll(w.output, number, axis=1), heads, kv_heads)


@dataclass(frozen=True, eq=False)
class Said:
    """One layer in words: what it sees, the base of its rotation, its sinks."""

    sees: Sees = lambda i, j: j <= i
    base: float | None = None
    sinks: Any = None


def by_hand(stack: Layers, said: tuple[Said, ...], x: Array) -> Any:
    """One layer after the other, over balls, with the residual connection written out."""
    now, lse = given(x), None
    for number, (layer, words) in enumerate(zip(stack.layers, said, strict=True)):

        def placed(i: int, heads: Heads, words: Said = words) -> Heads:
            if words.base is None:
                return heads
            return [turn(row, i, Rotary(geometric(D, words.base))) for row in heads]

        before = now
        if stack.norm is not None:
            before = [[rms(row, list(stack.norm[number]), stack.eps) for row in rows] for rows in now]
        bends: dict[str, Any] = {"queries": placed, "keys": placed, "sees": words.sees, "sinks": words.sinks}
        out, lse = layer_by_hand(layer.projections, before, **bends)  # type: ignore[attr-defined]
        now = [
            [[a + b for a, b in zip(row, more, strict=True)] for row, more in zip(rows, added, strict=True)]
            for rows, added in zip(now, out, strict=True)
        ]
    return now, lse


SINKS = drawn(4, seed=7)
LOCAL = Grouped(weights(0, 4, 2), Window(2), (Rotary.of(D, base=100.0),), page=2)
WHOLE = Grouped(weights(1, 2, 1), Causal(), (Rotary.of(D, base=1000.0),), page=4)
NOPE = Grouped(weights(2, 4, 4), Causal(), sinks=SINKS, page=2)
CHUNKED = Grouped(weights(3, 3, 1), Chunked(3) & Causal(), (Rotary.of(D),))
NORM = 1 + drawn(3, M, seed=5) / 2
SAID = Said(lambda i, j: 0 <= i - j < 2, 100.0), Said(base=1000.0), Said(sinks=SINKS)
INTERLEAVED = Layers((LOCAL, WHOLE, NOPE), M, NORM, EPS)


@dataclass(frozen=True, eq=False)
class Example:
    """A stack, and its layers in words."""

    stack: Layers
    said: tuple[Said, ...]

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.stack.layers[0].projections.dtype)  # type: ignore[attr-defined]

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.stack, self.said, self.x)
        return max(agree(found.out, out), agree(found.lse, lse))


SINGLE = tuple(Grouped(weights(n, 2, 1, np.float32)) for n in range(2))
EXAMPLES = {
    "one layer": Example(Layers((NOPE,), M), SAID[2:]),
    "no norms": Example(replace(INTERLEAVED, norm=None), SAID),
    "interleaved": Example(INTERLEAVED, SAID),
    "chunked and whole": Example(
        Layers((CHUNKED, NOPE), M, NORM[:2], EPS), (Said(lambda i, j: j <= i and i // 3 == j // 3, 10000.0), SAID[2])
    ),
    "float32": Example(Layers(SINGLE, M, NORM[:2].astype(np.float32), EPS), (Said(), Said())),
}


@pytest.mark.by_hand("variants/dense/layers")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    stack, x = example.stack, example.x
    for found in (stack.definition(x, np.arange(T)), *(stepped(stack, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == found.lse.dtype == x.dtype
        assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_9() -> None:
    example = EXAMPLES["interleaved"]
    found = example.stack.definition(example.x, np.arange(T))
    assert example.gap(found._replace(out=found.out * (1 + 1e-9))) > 1


class NotAdded(Layers):
    """Mutant: a layer's output takes the place of its input."""

    def definition(self, x: Array, positions: Any) -> Attended:
        for number, layer in enumerate(self.layers):
            x = layer.definition(normed(x, self.norm, number, self.eps), positions).out
        return Attended(x, np.empty(0))


class NormedStream(Layers):
    """Mutant: the norm is on the stream itself, not on the branch."""

    def definition(self, x: Array, positions: Any) -> Attended:
        lse: Array = np.empty(0)
        for number, layer in enumerate(self.layers):
            x = normed(x, self.norm, number, self.eps)
            out, lse = layer.definition(x, positions)
            x = x + out
        return Attended(x, lse)


def as_a(kind: type[Layers], stack: Layers) -> Layers:
    return kind(**{name: getattr(stack, name) for name in stack.__dataclass_fields__})


MUTANTS: dict[str, Callable[[Layers], Layers]] = {
    "not added": lambda stack: as_a(NotAdded, stack),
    "the stream is normed": lambda stack: as_a(NormedStream, stack),
    "layers exchanged": lambda stack: replace(stack, layers=(WHOLE, LOCAL, NOPE)),
    "norms exchanged": lambda stack: replace(stack, norm=NORM[[1, 0, 2]]),
    "one base for all": lambda stack: replace(stack, layers=(replace(LOCAL, query_key=WHOLE.query_key), WHOLE, NOPE)),
    "the whole layer is local": lambda stack: replace(stack, layers=(LOCAL, replace(WHOLE, mask=Window(2)), NOPE)),
    "the last layer turns": lambda stack: replace(
        stack, layers=(LOCAL, WHOLE, replace(NOPE, query_key=(Rotary.of(D),)))
    ),
    "not normed": lambda stack: replace(stack, norm=None),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_stacks_are_rejected(name: str) -> None:
    example = EXAMPLES["interleaved"]
    assert example.gap(MUTANTS[name](example.stack).definition(example.x, np.arange(T))) > 2


def test_local_layers_keep_a_window_and_the_whole_one_everything() -> None:
    """Five to one, as in Gemma 3: 5·(W + a page) rows and S, not 6·S."""
    window, length = 3, 40
    local = KeptSinks(weights(0, 2, 1), sinks=0, window=window, page=1)
    stack = Layers((*(local,) * 5, Grouped(weights(1, 2, 1), page=1)), M)
    _, cache = stepped(stack, drawn(1, length, M, seed=0), tuple(range(1, length)))
    row = (D + 3) * 8
    assert cache.nbytes == (5 * window + length) * row
    assert cache.lengths == (length,)


def test_how_far_back_is_what_the_most_forgetful_layer_says() -> None:
    local = KeptSinks(weights(0, 2, 1), sinks=0, window=2, rollback=1, page=1)
    stack = Layers((Grouped(weights(1, 2, 1)), local), M)
    _, cache = stepped(stack, drawn(1, 9, M, seed=0), (5, 8))
    assert cache.truncate(8).lengths == (8,)
    with pytest.raises(RollbackError):
        cache.truncate(2)
    assert cache.lengths == (9,)


def test_a_stack_holds_layers_of_every_kind_and_stacks() -> None:
    x, memory = drawn(2, T, M, seed=9), drawn(2, 3, M, seed=8)
    decoder = Layers((WHOLE, Cross(weights(1, 2, 1), memory), Merged(weights(2, 2, 1), memory)), M)
    stack = Layers((decoder, NOPE), M, NORM[:2])
    found, cache = stepped(stack, x, (2, 3))
    np.testing.assert_allclose(found.out, stack.definition(x, np.arange(T)).out, rtol=0, atol=1e-12)
    assert [type(part).__name__ for part in cache.parts] == ["Layered", "Paged"]
    assert cache.truncate(1).parts[0].parts[1].length == 1


def test_a_layer_that_refuses_leaves_the_cache_as_it_was() -> None:
    other = Grouped(weights(1, 2, 1, np.float32))
    stack = Layers((NOPE, other), M)
    cache = stack.start(2)
    with pytest.raises(DtypeError, match="x must have the dtype of the weights, float32, got float64"):
        stack.step(cache, drawn(2, T, M, seed=9))
    assert cache.lengths == (0, 0)


def test_costs_add_up() -> None:
    with counting() as tally:
        INTERLEAVED.step(INTERLEAVED.start(2), drawn(2, T, M, seed=9))
    parts = [layer.cost(past=0, new=T, batch=2) for layer in INTERLEAVED.layers]
    assert tally.matmul == sum(part.matmul for part in parts)
    assert tally.arithmetic == sum(part.arithmetic + norm_cost(NORM, 2 * T, M).arithmetic for part in parts)


def test_norms_are_read_and_applied_one_by_one() -> None:
    held = read_norms([[1.0, 2.0]], 1)
    assert held is not None
    assert not held.flags.writeable
    assert normed(np.array([[[3.0, -3.0]]]), np.array([[9.0, 9.0], [1.0, 2.0]]), 1, 0.0).tolist() == [[[1.0, -2.0]]]


CHANGES: dict[str, Any] = {
    "layers": (WHOLE, LOCAL, NOPE),
    "hidden": M + 1,
    "norm": NORM + 1,
    "eps": 0.5,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters(name: str) -> None:
    assert set(CHANGES) == set(Layers.__dataclass_fields__)
    x, other = drawn(2, T, M, seed=9), replace(INTERLEAVED, **{name: CHANGES[name]})
    if name == "hidden":  # of the closed form alone, where no array tells it
        assert other.cost(past=0, new=1) != INTERLEAVED.cost(past=0, new=1)
        return
    for verb in (lambda s: s.definition(x, np.arange(T)), lambda s: stepped(s, x, (2,))[0]):
        assert not np.array_equal(verb(INTERLEAVED).out, verb(other).out)


X = drawn(2, T, M, seed=9)
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "none": (lambda: Layers((), M), ArgumentError, r"^layers must be a sequence of at least one layer, got \(\)$"),
    "one alone": (
        lambda: Layers(NOPE, M),  # type: ignore[arg-type]
        ArgumentError,
        r"^layers must be a sequence of at least one layer, got Grouped\(",
    ),
    "a class": (
        lambda: Layers((Grouped,), M),  # type: ignore[arg-type]
        ArgumentError,
        r"^layers must be a sequence of at least one layer, got ",
    ),
    "norms": (lambda: Layers((NOPE,), M, NORM), ShapeError, r"^norm must have shape \[1, M\], got \(3, 6\)$"),
    "width": (
        lambda: Layers((NOPE,), M, NORM[:1, :4]).step(Layers((NOPE,), M).start(2), X),
        ShapeError,
        r"^norm must have shape \[L, M\] with M=6, got \(1, 4\)$",
    ),
    "dtype": (
        lambda: Layers((NOPE,), M, NORM[:1].astype("f4")).step(Layers((NOPE,), M).start(2), X),
        DtypeError,
        r"^norm must have the dtype of x, float64, got float32$",
    ),
    "cache": (
        lambda: INTERLEAVED.step(Layered(INTERLEAVED.start(2).parts[:2]), X),
        ArgumentError,
        r"^cache must have a part for each of 3 layers, got 2$",
    ),
    "hidden": (lambda: Layers((NOPE,), 0), ArgumentError, r"^hidden must be an integer >= 1, got 0$"),
    "eps": (lambda: Layers((NOPE,), M, eps=-1.0), ArgumentError, r"^eps must be a finite number >= 0, got -1\.0$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
