"""Grouped-query attention against the whole layer by hand, through its definition and through its steps.

``by_hand`` computes projections, rotation (complex numbers), mask (if and else), head map and softmax
in loops over `kvattn.testing.balls`, which derive the bound for the very input: about 1e-13 in float64.
"""

import cmath
from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.caches.rows import KeyValue
from kvattn.core import streaming
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Causal, Chunked, Sink, Window
from kvattn.positions import Alibi, Rotary
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended, Positions
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

T, M, D, DV = 6, 5, 4, 3
Sees = Callable[[int, int], bool]


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def weights(heads: int, kv_heads: int, dtype: Any = np.float64) -> Projections:
    shapes = (M, heads * D), (M, kv_heads * D), (M, kv_heads * DV), (heads * DV, M)
    query, key, value, output = (drawn(*shape, seed=n, dtype=dtype) * dtype(0.5) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, heads, kv_heads)


def columns(matrix: Array) -> list[list[Ball]]:
    return [list(column) for column in zip(*given(matrix), strict=True)]


def turn(row: list[Ball], position: int, rotation: Rotary | None) -> list[Ball]:
    """Pairs as complex numbers; an angle is off by 4·|angle| roundings of float64, cosine and sine by 8."""
    if rotation is None:
        return row
    out, pairs = list(row), len(row) // 2
    for n in range(pairs):
        a, b = (n, n + pairs) if rotation.layout == "half" else (2 * n, 2 * n + 1)
        angle = position * 10000.0 ** (-2 * n / len(row))
        unit = row[0].unit
        error = unit + 2.0**-53 * (8 + 4 * abs(angle))
        turned = cmath.rect(1.0, angle)
        cosine, sine = Ball(turned.real, error, unit), Ball(turned.imag, error, unit)
        out[a], out[b] = row[a] * cosine - row[b] * sine, row[a] * sine + row[b] * cosine
    return out


def rotary(layer: Grouped) -> Rotary | None:
    return next((part for part in layer.query_key if isinstance(part, Rotary)), None)


def by_hand(layer: Grouped, x: Array, sees: Sees, slopes: tuple[float, ...] | None = None) -> tuple[Any, Any]:
    """The layer in loops; its mask and mods are told as sentences."""
    w = layer.projections
    group = w.heads // w.kv_heads
    scale = layer.scale if layer.scale is not None else 1 / math.sqrt(D)
    wq, wk, wv, wo = (columns(matrix) for matrix in (w.query, w.key, w.value, w.output))
    out, lse = [], []
    for sequence in given(x):
        mixed: list[list[Ball]] = [[] for _ in sequence]
        logs: list[list[Ball]] = []
        for h in range(w.heads):
            g = h // group
            logs.append([])
            keys = [
                turn([dot(row, wk[g * D + d]) for d in range(D)], j, rotary(layer)) for j, row in enumerate(sequence)
            ]
            values = [[dot(row, wv[g * DV + d]) for d in range(DV)] for row in sequence]
            for i, row in enumerate(sequence):
                query = turn([dot(row, wq[h * D + d]) for d in range(D)], i, rotary(layer))
                terms, seen = [], []
                for j in range(len(sequence)):
                    if not sees(i, j):
                        continue
                    score = dot(query, keys[j]) * scale
                    if layer.softcap is not None:
                        score = (score / layer.softcap).tanh() * layer.softcap
                    if slopes is not None:
                        score = score - Ball(slopes[h] * (i - j), 0.0, score.unit)
                    terms.append(score)
                    seen.append(values[j])
                if layer.sinks is not None:
                    terms.append(given(layer.sinks)[h])
                top = max(terms, key=lambda term: term.value)
                shares = [(term - top).exp() for term in terms]
                whole = total(shares)
                mixed[i] += [dot(shares[: len(seen)], [value[d] for value in seen]) / whole for d in range(DV)]
                logs[h].append(top + whole.log())
        out.append([[dot(row, column) for column in wo] for row in mixed])
        lse.append(logs)
    return out, lse


@dataclass(frozen=True, eq=False)
class Example:
    """A layer, and the same said in sentences."""

    layer: Grouped
    sees: Sees = lambda i, j: j <= i
    slopes: tuple[float, ...] | None = None

    @property
    def x(self) -> Any:
        return drawn(2, T, M, seed=9, dtype=self.layer.projections.dtype.type)

    def gap(self, found: Attended) -> float:
        out, lse = by_hand(self.layer, self.x, self.sees, self.slopes)
        return max(agree(found.out, out), agree(found.lse, lse))


SINKS = np.array([0.5, -1.0, 2.0, 0.0])
GQA = Grouped(weights(4, 2), page=2)
EXAMPLES = {
    "MHA": Example(replace(GQA, projections=weights(3, 3))),
    "GQA": Example(GQA),
    "MQA": Example(replace(GQA, projections=weights(3, 1))),
    "rotary, half": Example(replace(GQA, query_key=(Rotary.of(D),))),
    "rotary, adjacent": Example(replace(GQA, query_key=(Rotary.of(D, layout="adjacent"),))),
    "window": Example(replace(GQA, mask=Window(3)), lambda i, j: 0 <= i - j < 3),
    "sinks and window": Example(
        replace(GQA, mask=Causal() & (Sink(1) | Window(2))), lambda i, j: j <= i and (j == 0 or i - j < 2)
    ),
    "alibi": Example(replace(GQA, mods=(Alibi.of(4),)), slopes=(2**-2, 2**-4, 2**-6, 2**-8)),
    "softcap": Example(replace(GQA, softcap=0.75)),
    "sink logits": Example(replace(GQA, sinks=SINKS)),
    "scale": Example(replace(GQA, scale=1.5)),
    "all at once": Example(
        Grouped(
            weights(4, 2),
            Window(4),
            query_key=(Rotary.of(D),),
            mods=(Alibi.of(4),),
            scale=1.5,
            softcap=0.75,
            sinks=SINKS,
            page=1,
        ),
        lambda i, j: 0 <= i - j < 4,
        (2**-2, 2**-4, 2**-6, 2**-8),
    ),
    "all at once, float32": Example(
        Grouped(
            weights(4, 2, np.float32), Chunked(3) & Causal(), (Rotary.of(D),), softcap=0.75, sinks=SINKS.astype("f4")
        ),
        lambda i, j: j <= i and i // 3 == j // 3,
    ),
}


@pytest.mark.by_hand("variants/dense/grouped")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_equals_by_hand(name: str) -> None:
    example = EXAMPLES[name]
    assert example.gap(example.layer.definition(example.x, np.arange(T))) <= 1


@pytest.mark.by_hand("variants/dense/grouped")
@pytest.mark.parametrize("cuts", [(), (1, 2, 3, 4, 5), (2, 2, 5)])
@pytest.mark.parametrize("name", EXAMPLES)
def test_steps_equal_by_hand(name: str, cuts: tuple[int, ...]) -> None:
    example = EXAMPLES[name]
    found, cache = stepped(example.layer, example.x, cuts)
    assert found.out.dtype == found.lse.dtype == example.x.dtype
    assert cache.lengths == (T, T)
    assert example.gap(found) <= 1


def test_the_bound_sees_an_error_of_1e_12() -> None:
    example = EXAMPLES["all at once"]
    found = example.layer.definition(example.x, np.arange(T))
    assert example.gap(found._replace(out=found.out * (1 + 1e-12))) > 1


def tiled(w: Projections) -> Projections:
    """Mutant: heads h and h + Hkv share, in place of neighbours: exchange query heads 1 and 2 on the way in and out."""
    order = [0, 2, 1, 3]
    query = w.query.reshape(M, 4, D)[:, order].reshape(M, -1)
    return replace(w, query=query, output=w.output.reshape(4, DV, M)[order].reshape(-1, M))


def unturned_keys(layer: Grouped, x: Array) -> Attended:
    """Mutant: a step that forgets to turn the keys it caches."""
    w = layer.projections
    q, k, v = w.queries(x), w.keys(x), w.values(x)
    turning = rotary(layer)
    assert turning is not None
    at = np.arange(T)[None].repeat(2, 0)
    fake = replace(layer, query_key=(), projections=w)
    cache = fake.start(2).append(KeyValue(k, v))
    turned = turning.rotate(q, at[:, None])
    mixed = streaming.attend(turned, at, [cache.blocks(b) for b in range(2)], value_width=DV, mask=layer.mask)
    return Attended(w.outputs(mixed.out), mixed.lse)


MUTANTS: dict[str, tuple[str, Callable[[Grouped, Array], Attended]]] = {
    "tiled heads": ("GQA", lambda layer, x: replace(layer, projections=tiled(layer.projections)).definition(x, at())),
    "other layout": (
        "rotary, half",
        lambda layer, x: replace(layer, query_key=(Rotary.of(D, layout="adjacent"),)).definition(x, at()),
    ),
    "keys not turned": ("rotary, half", unturned_keys),
    "window W + 1": ("window", lambda layer, x: stepped(replace(layer, mask=Window(4)), x, (3,))[0]),
    "not causal": ("GQA", lambda layer, x: stepped(replace(layer, mask=None), x, ())[0]),
    "cap before scale": ("softcap", lambda layer, x: replace(layer, softcap=0.75 / 2).definition(x, at())),
    "no sinks": ("sink logits", lambda layer, x: replace(layer, sinks=None).definition(x, at())),
    "batch mates mixed": ("GQA", lambda layer, x: stepped(layer, x[::-1].copy(), ())[0]),
}


def at() -> Any:
    return np.arange(T)


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_layers_are_rejected(name: str) -> None:
    example, mutant = EXAMPLES[MUTANTS[name][0]], MUTANTS[name][1]
    assert example.gap(mutant(example.layer, example.x)) > 2


@dataclass(frozen=True)
class Sized:
    """A gate in four words: the mix times the layer's first input and the position."""

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        scaled: Array = mixed * (x[:, None, :, :1] * (1 + positions[:, None, :, None])).astype(mixed.dtype)
        return scaled

    def finish_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        return Tally()


def test_what_finishes_the_mix_stands_before_the_output_projection() -> None:
    """Mixing is linear in W_o for one head: the gate's factor times the plain output, in definition and steps."""
    layer = replace(GQA, projections=weights(1, 1), finish=(Sized(),))
    x = EXAMPLES["GQA"].x
    factor = x[:, :, :1] * (1 + np.arange(T))[None, :, None]
    for run in (lambda some: some.definition(x, at()).out, lambda some: stepped(some, x, (2, 3))[0].out):
        np.testing.assert_allclose(run(layer), factor * run(replace(layer, finish=())), rtol=1e-12)


FULL = EXAMPLES["all at once"].layer
CHANGES: dict[str, Any] = {
    "projections": weights(4, 1),
    "mask": Window(3),
    "query_key": (Rotary.of(D, base=100.0),),
    "finish": (Sized(),),
    "mods": (),
    "scale": 1.25,
    "softcap": 0.5,
    "sinks": SINKS + 1,
    "page": 3,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_the_page(name: str) -> None:
    x = EXAMPLES["all at once"].x
    other = replace(FULL, **{name: CHANGES[name]})
    same_definition = np.array_equal(FULL.definition(x, at()).out, other.definition(x, at()).out)
    same_steps = np.array_equal(stepped(FULL, x, (2,))[0].out, stepped(other, x, (2,))[0].out)
    assert same_definition == same_steps == (name == "page")


@pytest.mark.parametrize("name", ["query", "key", "value", "output", "kv_heads"])
def test_every_matrix_and_head_count_matters(name: str) -> None:
    x, w = EXAMPLES["all at once"].x, weights(4, 4)
    if name == "kv_heads":
        other = replace(w, kv_heads=2, heads=2)  # the same columns, twice as wide
        layer = replace(FULL, sinks=None, mods=(), projections=w)
    else:
        other, layer = replace(w, **{name: getattr(w, name) * 1.5}), replace(FULL, projections=w)
    one, changed = (stepped(replace(layer, projections=both), x, (2,))[0].out for both in (w, other))
    assert not np.array_equal(one, changed)


def test_every_argument_is_checked() -> None:
    assert set(CHANGES) == set(Grouped.__dataclass_fields__)


def test_a_token_caches_a_key_and_a_value_for_each_key_head() -> None:
    """Hkv·(D + Dv) numbers of 8 bytes per token; pages of 2 tokens hold 6 exactly."""
    with counting() as tally:
        _, cache = stepped(GQA, drawn(1, T, M), (1, 4))
    per_token = 2 * (D + DV) * 8
    assert cache.nbytes == tally.cache_live == T * per_token
    assert tally.kv_written == T * per_token
    assert stepped(replace(GQA, projections=weights(3, 1)), drawn(1, T, M), ())[1].nbytes == T * (D + DV) * 8


def test_keys_are_cached_turned() -> None:
    layer = EXAMPLES["rotary, half"].layer
    x = drawn(1, T, M)
    _, cache = stepped(layer, x, (2,))
    columns_of = columns(layer.projections.key)
    wanted = [
        [
            turn([dot(row, columns_of[g * D + d]) for d in range(D)], j, rotary(layer))
            for j, row in enumerate(given(x)[0])
        ]
        for g in range(2)
    ]
    assert agree(cache.rows().k[0], wanted) <= 1


def test_the_projections_cost_what_the_docstring_says() -> None:
    layer = Grouped(weights(4, 2), page=2)
    cost = layer.cost(past=3, new=2, batch=2)
    pairs = 2 * 4 * 2 * 5  # B · Hq · T · S, all in one block
    assert cost.matmul == 2 * 2 * (2 * M * (4 * D + 2 * (D + DV) + 4 * DV)) + 2 * (D + DV) * pairs
    assert cost.kv_read == 2 * 5 * 2 * (D + DV) * 8


def test_a_step_of_no_tokens_gives_no_rows() -> None:
    for cache in (FULL.start(2), stepped(FULL, EXAMPLES["all at once"].x, ())[1]):
        found, after = FULL.step(cache, np.zeros((2, 0, M)))
        assert found.out.shape == (2, 0, M)
        assert found.lse.shape == (2, 4, 0)
        assert after.lengths == cache.lengths
    assert FULL.definition(np.zeros((2, 0, M)), np.arange(0)).out.shape == (2, 0, M)


def test_sinks_are_read_once() -> None:
    logits = SINKS.copy()
    layer = replace(GQA, sinks=logits)
    before = layer.definition(EXAMPLES["GQA"].x, at()).out
    logits += 1
    assert np.array_equal(layer.definition(EXAMPLES["GQA"].x, at()).out, before)


X = np.ones((1, 2, M))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "rank": (
        lambda: GQA.step(GQA.start(), np.ones((2, M))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=1, M=5, got \(2, 5\)$",
    ),
    "width": (
        lambda: GQA.definition(np.ones((1, 2, 4)), at()),
        ShapeError,
        r"^x must have shape \[B, T, M\] with M=5, got \(1, 2, 4\)$",
    ),
    "batch": (
        lambda: GQA.step(GQA.start(3), X),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=3, M=5, got \(1, 2, 5\)$",
    ),
    "dtype": (
        lambda: GQA.step(GQA.start(), X.astype(np.float32)),
        DtypeError,
        r"^x must have the dtype of the weights, float64, got float32$",
    ),
    "positions": (
        lambda: GQA.definition(X, np.arange(3)),
        ShapeError,
        r"^positions must have shape \[2\] or \[1, 2\], got \(3,\)$",
    ),
    "page": (lambda: replace(GQA, page=0).start(), ArgumentError, r"^page must be an integer >= 1, got 0$"),
    "no sequence": (lambda: GQA.start(0), ArgumentError, r"^batch must be an integer >= 1, got 0$"),
    "sinks": (lambda: replace(GQA, sinks=np.ones(3)), ShapeError, r"^sinks must have shape \[4\], got \(3,\)$"),
    "sinks of objects": (
        lambda: replace(GQA, sinks=np.array([None] * 4)),
        DtypeError,
        r"^sinks must be an array of real numbers, got dtype object$",
    ),
    "softcap": (
        lambda: replace(GQA, softcap=0.0),
        ArgumentError,
        r"^softcap must be a finite number above 0, got 0\.0$",
    ),
    "scale": (lambda: replace(GQA, scale=math.nan), ArgumentError, r"^scale must be a finite number, got nan$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def test_a_numpy_scale_promotes_nothing() -> None:
    layer = Grouped(weights(4, 2, np.float32), scale=np.float64(0.3))
    plain = replace(layer, scale=0.3)
    x = drawn(1, T, M, dtype=np.float32)
    assert stepped(layer, x, ())[0].out.tobytes() == stepped(plain, x, ())[0].out.tobytes()
