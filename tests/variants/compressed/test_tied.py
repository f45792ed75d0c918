"""Tied keys and values, both ways, against loops over balls and against grouped attention that caches two tensors."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.masks import Causal, Prefix, Window
from kvattn.positions import Polar, Rotary
from kvattn.testing.balls import agree
from kvattn.testing.heads_by_hand import Heads, Sees, drawn, drawn_projections, layer_by_hand, rms, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.compressed import tied as tied_module
from kvattn.variants.compressed.tied import SharedProjection, SharedRow, TurnBack, tied
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import HeadRmsNorm

T, M, HEADS, KV_HEADS, D = 6, 6, 4, 2, 4
EPS = 0.25


def weights(heads: int = HEADS, kv_heads: int = KV_HEADS, dtype: Any = np.float64) -> Projections:
    w = drawn_projections(heads, kv_heads, value_width=D, dtype=dtype)
    return tied(w.query, w.key, w.output, heads, kv_heads)


def norm_of(dtype: Any = np.float64) -> HeadRmsNorm:
    query, key = (1 + drawn(D, seed=n, dtype=dtype) / 2 for n in (5, 6))
    return HeadRmsNorm(query, key, EPS)


TURN, LAST = Rotary.of(D), Rotary.of(2, layout="adjacent", start=-2)
SINKS = drawn(HEADS, seed=7)
Layer = SharedProjection | SharedRow


def by_hand(layer: Layer, x: Array, sees: Sees) -> Any:
    """Rows are projected, normed and turned as the layer's kind says; weights are told apart by position only."""
    said: dict[str, Any] = {"sees": sees, "scale": layer.scale, "sinks": layer.sinks}
    if isinstance(layer, SharedProjection):
        norm, rotation = layer.norm, layer.rotation

        def bent(side: str) -> Any:
            weight = getattr(norm, side)

            def bend(i: int, heads: Heads) -> Heads:
                each = [None] * len(heads) if weight is None else weight if weight.ndim == 2 else [weight] * len(heads)
                found = [rms(row, w, norm.eps) for row, w in zip(heads, each, strict=True)]
                return found if rotation is None else [turn(row, i, rotation) for row in found]

            return bend

        said |= {"queries": bent("query"), "keys": bent("key")}
        said["values"] = lambda j, heads: [rms(row, None, norm.eps) for row in heads]
        return layer_by_hand(layer.projections, x, **said)

    def placed(i: int, heads: Heads) -> Heads:
        for part in layer.query_key:
            if isinstance(part, Rotary):
                heads = [turn(row, i, part) for row in heads]
            else:
                heads = [rms(row, None, EPS) for row in heads]
        return heads

    def back(i: int, row: Any, heads: Heads) -> Heads:
        return [turn(head, -i, LAST) for head in heads] if layer.finish else heads

    return layer_by_hand(layer.projections, x, queries=placed, keys=placed, values=placed, finish=back, **said)


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the mask said in a sentence."""

    layer: Layer
    sees: Sees = lambda i, j: j <= i

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.layer.projections.dtype)

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.layer, self.x, self.sees)
        return max(agree(found.out, out), agree(found.lse, lse))


GEMMA = SharedProjection(weights(), norm_of(), rotation=TURN, scale=1.0, page=2)
DEEPSEEK = SharedRow(weights(HEADS, 1), Causal() & Window(3), (HeadRmsNorm(eps=EPS), LAST), (TurnBack(LAST),), page=2)
EXAMPLES = {
    "projection": Example(GEMMA),
    "projection, not turned": Example(replace(GEMMA, rotation=None)),
    "projection, keys without weights": Example(replace(GEMMA, norm=HeadRmsNorm(norm_of().query, None, EPS))),
    "projection, a row of weights for each head": Example(
        replace(GEMMA, norm=HeadRmsNorm(1 + drawn(HEADS, D, seed=5), 1 + drawn(KV_HEADS, D, seed=6), EPS))
    ),
    "projection, sinks and window": Example(
        replace(GEMMA, sinks=SINKS, mask=Causal() & Window(2)), lambda i, j: 0 <= i - j < 2
    ),
    "projection, float32": Example(
        SharedProjection(weights(dtype=np.float32), norm_of(np.float32), rotation=TURN, scale=0.5)
    ),
    "row": Example(DEEPSEEK, lambda i, j: 0 <= i - j < 3),
    "row, two heads": Example(replace(DEEPSEEK, projections=weights(), mask=Causal())),
    "row, bare": Example(replace(DEEPSEEK, query_key=(), finish=(), mask=Causal())),
    "row, sinks": Example(replace(DEEPSEEK, sinks=SINKS, scale=1.5, mask=Causal())),
    "row, float32": Example(SharedRow(weights(dtype=np.float32), query_key=(LAST,), finish=(TurnBack(LAST),))),
}


@pytest.mark.by_hand("variants/compressed/tied")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_and_steps_equal_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    layer, x = example.layer, example.x
    for found in (layer.definition(x, np.arange(T)), *(stepped(layer, x, cuts)[0] for cuts in ((), (1, 2, 3), (2, 2)))):
        assert found.out.dtype == found.lse.dtype == x.dtype
        assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_11() -> None:
    for name in ("projection", "row"):
        found = EXAMPLES[name].layer.definition(EXAMPLES[name].x, np.arange(T))
        assert EXAMPLES[name].gap(found._replace(out=found.out * (1 + 1e-11))) > 1


def ablated(layer: Layer, name: str) -> Attended:
    """Mutants of one step, said over grouped attention, which may take any value."""
    x, w = drawn(2, T, M, seed=9), layer.projections
    at = np.arange(T)[None, None]
    q, raw = w.queries(x), w.keys(x)
    assert isinstance(layer, SharedProjection)
    assert layer.rotation is not None
    normed = HeadRmsNorm(eps=EPS).keys(raw, at)
    turned = layer.rotation.rotate
    values = {
        "values raw": raw,
        "values with weights": layer.norm.keys(raw, at),
        "values turned": turned(normed, at),
    }.get(name, normed)
    keys = {
        "keys without weights": turned(normed, at),
        "keys not turned": layer.norm.keys(raw, at),
        "keys turned, then normed": layer.norm.keys(turned(raw, at), at),
    }.get(name, turned(layer.norm.keys(raw, at), at))
    from kvattn.core.definition import definition

    places = np.broadcast_to(np.arange(T), (2, T))
    whole = {"q_positions": places, "k_positions": places, "mask": layer.mask, "scale": 1.0}
    found = definition(turned(layer.norm.queries(q, at), at), keys, values, **whole)  # type: ignore[arg-type]
    return Attended(w.outputs(found.out), found.lse)


@pytest.mark.parametrize(
    "name",
    [
        "values raw",
        "values with weights",
        "values turned",
        "keys without weights",
        "keys not turned",
        "keys turned, then normed",
    ],
)
def test_wrong_projections_are_rejected(name: str) -> None:
    assert EXAMPLES["projection"].gap(ablated(GEMMA, "")) <= 1
    assert EXAMPLES["projection"].gap(ablated(GEMMA, name)) > 2


WRONG_ROWS: dict[str, Layer] = {
    "not turned back": replace(DEEPSEEK, finish=()),
    "turned back twice": replace(DEEPSEEK, finish=(TurnBack(LAST),) * 2),
    "turned on": replace(DEEPSEEK, finish=(TurnBack(replace(LAST, frequencies=(-1.0,))),)),
    "the first features turn": replace(
        DEEPSEEK, query_key=(HeadRmsNorm(eps=EPS), replace(LAST, start=0)), finish=(TurnBack(replace(LAST, start=0)),)
    ),
    "not normed": replace(DEEPSEEK, query_key=(LAST,)),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_wrong_rows_are_rejected(name: str) -> None:
    assert EXAMPLES["row"].gap(stepped(WRONG_ROWS[name], EXAMPLES["row"].x, (2,))[0]) > 2


@pytest.mark.law("variants/compressed/tied", "a tied row equals grouped attention that caches it twice", "bits")
def test_a_tied_row_equals_grouped_attention() -> None:
    """Without anything between projection and cache the two layers do the same arithmetic."""
    x = drawn(2, 300, M, seed=9)
    for mask in (Causal(), Causal() & Window(7)):
        ours, twice = SharedRow(weights(), mask), Grouped(weights(), mask)
        one, two = (stepped(layer, x, (1, 256, 257))[0] for layer in (ours, twice))
        assert one.out.tobytes() == two.out.tobytes()
        assert one.lse.tobytes() == two.lse.tobytes()


@pytest.mark.law("variants/compressed/tied", "a turned back mix depends on distances alone", "bound")
def test_values_that_are_turned_back_know_only_distances() -> None:
    x = drawn(1, T, M, seed=9)
    here, there = (DEEPSEEK.definition(x, np.arange(T) + by).out for by in (0, 50))
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-12)
    here, there = (replace(DEEPSEEK, finish=()).definition(x, np.arange(T) + by).out for by in (0, 50))
    assert np.abs(here - there).max() > 1e-2


@pytest.mark.parametrize("layer", [GEMMA, DEEPSEEK])
def test_a_token_caches_half_of_what_grouped_attention_does(layer: Layer) -> None:
    x = drawn(1, T, M, seed=0)
    with counting() as tally:
        cache = stepped(layer, x, (1, 4))[1]
        assert tally.kv_written == cache.nbytes == T * layer.projections.kv_heads * D * 8
    whole = Grouped(layer.projections, layer.mask, page=2)
    assert stepped(whole, x, (1, 4))[1].nbytes == 2 * cache.nbytes
    assert 2 * layer.cost(past=9, new=1).kv_read == whole.cost(past=9, new=1).kv_read


def test_the_cache_holds_normed_values_and_raw_rows_in_turn() -> None:
    x = drawn(1, T, M, seed=0)
    row = GEMMA.projections.keys(x)
    held = stepped(GEMMA, x, (2,))[1].rows().row
    assert np.array_equal(held, HeadRmsNorm(eps=EPS).keys(row, np.arange(T)))
    bare = SharedRow(weights())
    assert np.array_equal(stepped(bare, x, (2,))[1].rows().row, row)


def test_the_second_matrix_costs_nothing() -> None:
    """Projections of queries, rows and outputs; values come for free."""
    layer = SharedRow(weights(), None)
    pairs = 2 * HEADS * 2 * 5
    assert layer.cost(past=3, new=2, batch=2).matmul == 2 * 4 * M * (2 * HEADS * D + KV_HEADS * D) + 4 * D * pairs


CHANGES: dict[str, Any] = {
    "projections": weights(HEADS, 1),
    "norm": HeadRmsNorm(eps=0.5),
    "mask": Window(2),
    "rotation": Rotary.of(D, base=100.0),
    "query_key": (LAST,),
    "finish": (),
    "mods": (lambda scores, place: scores * 1.5,),
    "scale": 1.25,
    "softcap": 0.5,
    "sinks": SINKS,
    "page": 3,
}


@pytest.mark.parametrize("layer", [GEMMA, replace(DEEPSEEK, projections=weights())])
def test_every_argument_matters_but_the_page(layer: Layer) -> None:
    x = drawn(2, T, M, seed=9)
    assert set(CHANGES) == set(SharedProjection.__dataclass_fields__) | set(SharedRow.__dataclass_fields__)
    for name in layer.__dataclass_fields__:
        other = replace(layer, **{name: CHANGES[name]})
        same_definition = np.array_equal(layer.definition(x, np.arange(T)).out, other.definition(x, np.arange(T)).out)
        same_steps = np.array_equal(stepped(layer, x, (2,))[0].out, stepped(other, x, (2,))[0].out)
        assert same_definition == same_steps == (name == "page"), name


def test_a_row_is_a_tuple_of_one() -> None:
    assert tied_module.Tied._fields == ("row",)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "another value": (
        lambda: SharedRow(drawn_projections(HEADS, KV_HEADS)),
        ArgumentError,
        r"^projections must have their key matrix as value matrix, got \(6, 8\) and another one$",
    ),
    "another value of its shape": (
        lambda: SharedProjection(drawn_projections(HEADS, KV_HEADS, value_width=D), norm_of()),
        ArgumentError,
        r"^projections must have their key matrix as value matrix, got \(6, 8\) and another one$",
    ),
    "norm": (
        lambda: replace(GEMMA, norm=HeadRmsNorm(key=np.ones(3))),
        ShapeError,
        r"^key must have shape \(4,\) for rows of shape \(1, 2, 0, 4\), got \(3,\)$",
    ),
    "norm's dtype": (
        lambda: replace(GEMMA, norm=norm_of(np.float32)),
        DtypeError,
        r"^query must have the dtype of the rows that it norms, float64, got float32$",
    ),
    "x": (
        lambda: GEMMA.step(GEMMA.start(), np.ones((1, 2, M), np.float32)),
        DtypeError,
        r"^x must have the dtype of the weights, float64, got float32$",
    ),
    "cut": (
        lambda: stepped(replace(GEMMA, mask=Causal() | Prefix(4)), EXAMPLES["projection"].x, (2,)),
        PositionError,
        r"^x must begin where no earlier token sees further, ",
    ),
    "cut of rows": (
        lambda: stepped(replace(DEEPSEEK, mask=Causal() | Prefix(4)), EXAMPLES["row"].x, (2,)),
        PositionError,
        r"^x must begin where no earlier token sees further, ",
    ),
    "wider rows": (
        lambda: SharedRow(weights(), query_key=(Polar.of(D, HEADS),)),
        ArgumentError,
        r"^query_key must leave rows as wide as they are, values being among them, got Polar\(",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()
