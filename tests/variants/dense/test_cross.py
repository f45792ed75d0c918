"""Cross-attention against the whole layer by hand, through its definition and through its steps.

``by_hand`` loops over `kvattn.testing.balls`, which derive the bound for the very input: about 1e-14.
"""

from collections.abc import Callable
from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Causal, Padding
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.testing.heads_by_hand import rms
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import HeadRmsNorm
from kvattn.variants.dense.sub_norm import SubNorm

B, T, S, M, ME, D, DV = 2, 4, 6, 5, 7, 3, 2


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def weights(heads: int, kv_heads: int, dtype: Any = np.float64, source: int = ME) -> Projections:
    shapes = (M, heads * D), (source, kv_heads * D), (source, kv_heads * DV), (heads * DV, M)
    query, key, value, output = (drawn(*shape, seed=n, dtype=dtype) * dtype(0.5) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, heads, kv_heads)


def layer(heads: int = 4, kv_heads: int = 2, dtype: Any = np.float64, **options: Any) -> Cross:
    return Cross(weights(heads, kv_heads, dtype), drawn(B, S, ME, seed=7, dtype=dtype), **options)


def columns(matrix: Array) -> list[list[Ball]]:
    return [list(column) for column in zip(*given(matrix), strict=True)]


def by_hand(cross: Cross, x: Array, sees: Callable[[int, int, int], bool]) -> tuple[Any, Any]:
    """Loops; ``sees(b, i, j)``: may token i of sequence b see place j of its memory."""
    w = cross.projections
    scale = cross.scale if cross.scale is not None else 1 / math.sqrt(D)
    wq, wk, wv, wo = (columns(matrix) for matrix in (w.query, w.key, w.value, w.output))
    out, lse = [], []
    for b, (sequence, memory) in enumerate(zip(given(x), given(cross.memory), strict=True)):
        mixed: list[list[Ball]] = [[] for _ in sequence]
        logs: list[list[Ball]] = []
        for h in range(w.heads):
            g = h // (w.heads // w.kv_heads)
            logs.append([])
            for i, row in enumerate(sequence):
                query = normed(cross, [dot(row, wq[h * D + d]) for d in range(D)])
                terms, values = [], []
                for j, source in enumerate(memory):
                    if sees(b, i, j):
                        score = dot(query, normed(cross, [dot(source, wk[g * D + d]) for d in range(D)])) * scale
                        if cross.softcap is not None:
                            score = (score / cross.softcap).tanh() * cross.softcap
                        terms.append(score)
                        values.append([dot(source, wv[g * DV + d]) for d in range(DV)])
                if not terms:
                    mixed[i] += [Ball(0.0)] * DV
                    logs[h].append(Ball(-math.inf))
                    continue
                top = max(terms, key=lambda term: term.value)
                shares = [(term - top).exp() for term in terms]
                whole = total(shares)
                mixed[i] += [dot(shares, [value[d] for value in values]) / whole for d in range(DV)]
                logs[h].append(top + whole.log())
        for gate in cross.finish:
            assert isinstance(gate, SubNorm)
            mixed = [rms(row, gate.weight.tolist(), gate.eps) if row[0].value else row for row in mixed]
        out.append([[dot(row, column) for column in wo] for row in mixed])
        lse.append(logs)
    return out, lse


def normed(cross: Cross, row: list[Ball]) -> list[Ball]:
    for norm in cross.query_key:
        assert isinstance(norm, HeadRmsNorm)
        row = rms(row, None, norm.eps)
    return row


def everything(b: int, i: int, j: int) -> bool:
    return True


SUB = SubNorm(np.linspace(0.5, 1.5, 4 * DV), 0.25)
EXAMPLES: dict[str, tuple[Cross, Callable[[int, int, int], bool]]] = {
    "MHA": (layer(3, 3), everything),
    "GQA": (layer(4, 2, page=4), everything),
    "MQA": (layer(3, 1), everything),
    "scale": (layer(scale=1.5), everything),
    "softcap": (layer(softcap=0.5), everything),
    "padded memory": (layer(mask=Padding([6, 2])), lambda b, i, j: j < [6, 2][b]),
    "an empty memory beside a full one": (layer(mask=Padding([0, 6]), softcap=0.5), lambda b, i, j: b == 1),
    "a ragged memory": (layer(memory_lengths=(6, 2)), lambda b, i, j: j < [6, 2][b]),
    "a ragged memory behind a mask": (
        layer(memory_lengths=(3, 5), mask=Causal()),
        lambda b, i, j: j <= i and j < [3, 5][b],
    ),
    "norms and a gate": (layer(query_key=(HeadRmsNorm(eps=0.25),), finish=(SUB,)), everything),
    "a mask of decoder positions": (layer(mask=Causal(), page=1), lambda b, i, j: j <= i),
    "float32": (layer(dtype=np.float32, mask=Padding([6, 2]), softcap=0.5), lambda b, i, j: j < [6, 2][b]),
}


def x_of(cross: Cross) -> Any:
    return drawn(B, T, M, seed=9, dtype=cross.projections.dtype.type)


def gap(name: str, found: Attended) -> float:
    cross, sees = EXAMPLES[name]
    out, lse = by_hand(cross, x_of(cross), sees)
    return max(agree(found.out, out), agree(found.lse, lse))


@pytest.mark.by_hand("variants/dense/cross")
@pytest.mark.parametrize("name", EXAMPLES)
def test_definition_equals_by_hand(name: str) -> None:
    cross, _ = EXAMPLES[name]
    assert gap(name, cross.definition(x_of(cross), np.arange(T))) <= 1


@pytest.mark.by_hand("variants/dense/cross")
@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (0, 2)])
@pytest.mark.parametrize("name", EXAMPLES)
def test_steps_equal_by_hand(name: str, cuts: tuple[int, ...]) -> None:
    cross, _ = EXAMPLES[name]
    found, cache = stepped(cross, x_of(cross), cuts)
    assert found.out.dtype == found.lse.dtype == x_of(cross).dtype
    assert cache.lengths == (T, T)
    assert gap(name, found) <= 1


def at_zero(cross: Cross, x: Array) -> Attended:
    """Mutant: every step believes that its first token is the decoder's first."""
    parts = [cross.step(cross.start(), x[:, t : t + 1])[0] for t in range(T)]
    return Attended(np.concatenate([p.out for p in parts], 1), np.concatenate([p.lse for p in parts], 2))


def tiled(cross: Cross, x: Array) -> Attended:
    """Mutant: heads h and h + Hkv share."""
    w, order = cross.projections, [0, 2, 1, 3]
    query = w.query.reshape(M, 4, D)[:, order].reshape(M, -1)
    output = w.output.reshape(4, DV, M)[order].reshape(-1, M)
    return replace(cross, projections=replace(w, query=query, output=output)).definition(x, np.arange(T))


MUTANTS: dict[str, tuple[str, Callable[[Cross, Array], Attended]]] = {
    "tiled heads": ("GQA", tiled),
    "positions forgotten": ("a mask of decoder positions", at_zero),
    "padding seen": ("padded memory", lambda cross, x: stepped(replace(cross, mask=None), x, ())[0]),
    "memories exchanged": ("GQA", lambda cross, x: stepped(replace(cross, memory=cross.memory[::-1]), x, ())[0]),
    "an error of 1e-12": ("GQA", lambda cross, x: Attended(*(a * (1 + 1e-12) for a in stepped(cross, x, ())[0]))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_layers_are_rejected(name: str) -> None:
    example, mutant = MUTANTS[name]
    cross, _ = EXAMPLES[example]
    assert gap(example, mutant(cross, x_of(cross))) > 1


CHANGES: dict[str, Any] = {
    "projections": weights(4, 1),
    "memory": drawn(B, S, ME, seed=8),
    "mask": Padding([5, 2]),
    "memory_lengths": (4, 5),
    "query_key": (HeadRmsNorm(),),
    "finish": (SUB,),
    "scale": 1.0,
    "softcap": 0.75,
    "page": 4,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_argument_matters_but_the_page(name: str) -> None:
    full = layer(mask=Padding([6, 2]), softcap=0.5)
    other, x = replace(full, **{name: CHANGES[name]}), x_of(full)
    same_definition = np.array_equal(*(n.definition(x, np.arange(T)).out for n in (full, other)))  # type: ignore[arg-type]
    same_steps = np.array_equal(*(stepped(n, x, (2,))[0].out for n in (full, other)))  # type: ignore[arg-type]
    assert same_definition == same_steps == (name == "page")


@pytest.mark.parametrize("name", ["query", "key", "value", "output"])
def test_every_matrix_matters(name: str) -> None:
    cross = layer()
    other = replace(cross, projections=replace(weights(4, 2), **{name: getattr(weights(4, 2), name) * 1.5}))
    assert not np.array_equal(stepped(cross, x_of(cross), ())[0].out, stepped(other, x_of(cross), ())[0].out)


def test_every_argument_is_checked() -> None:
    assert set(CHANGES) == set(Cross.__dataclass_fields__)


def test_a_token_of_the_memory_caches_a_key_and_a_value_and_a_decoded_one_nothing() -> None:
    """Hkv·(D + Dv) numbers of 8 bytes for each of S tokens, once."""
    cross = layer(page=2)
    with counting() as tally:
        cache = cross.start()
    stored = B * S * 2 * (D + DV) * 8
    assert tally.kv_written == tally.cache_live == cache.nbytes == stored
    assert tally.tally == cross.start_cost()
    assert tally.matmul == 2 * B * S * ME * 2 * (D + DV)
    with counting() as tally:
        _, later = cross.step(cache, x_of(cross))
    assert (later.nbytes, tally.kv_written, tally.cache_live) == (stored, 0, 0)
    assert tally.kv_read == stored
    assert tally.pairs_computed == B * 4 * S * T


def test_rolling_back_crops_the_decoder_alone() -> None:
    cross, x = layer(mask=Causal()), x_of(layer())
    plain, _ = stepped(cross, x, ())
    _, cache = stepped(cross, x[:, ::-1] * 2, ())
    assert (cache.truncate(1).lengths, cache.truncate(1).memory.lengths) == ((1, 1), (S, S))
    again, _ = cross.step(cache.truncate(0), x)
    assert again.out.tobytes() == plain.out.tobytes()
    rest, _ = cross.step(cache.truncate(3), x[:, 3:])
    assert rest.out.tobytes() == np.ascontiguousarray(plain.out[:, 3:]).tobytes()


def test_the_memory_is_copied() -> None:
    memory = drawn(B, S, ME)
    cross = replace(layer(), memory=memory)
    before = cross.start().rows().k.copy()
    memory[:] = np.nan
    assert np.array_equal(cross.start().rows().k, before)


def test_no_tokens_and_no_memory() -> None:
    cross = layer()
    found, cache = cross.step(cross.start(), np.zeros((B, 0, M)))
    assert (found.out.shape, found.lse.shape, cache.lengths) == ((B, 0, M), (B, 4, 0), (0, 0))
    nothing = replace(cross, memory=np.zeros((B, 0, ME)))
    for found in (stepped(nothing, x_of(cross), (1,))[0], nothing.definition(x_of(cross), np.arange(T))):
        assert (found.out == 0).all()
        assert np.isneginf(found.lse).all()


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "memory of rank 2": (
        lambda: replace(layer(), memory=np.ones((S, ME))),
        ShapeError,
        r"^memory must have shape \[B, T, M\] with M=7, got \(6, 7\)$",
    ),
    "memory of another width": (
        lambda: replace(layer(), memory=np.ones((B, S, M))),
        ShapeError,
        r"^memory must have shape \[B, T, M\] with M=7, got \(2, 6, 5\)$",
    ),
    "memory of another dtype": (
        lambda: replace(layer(), memory=np.ones((B, S, ME), np.float32)),
        DtypeError,
        r"^memory must have the dtype of the weights, float64, got float32$",
    ),
    "memory of objects": (
        lambda: replace(layer(), memory=np.ones((B, S, ME), object)),
        DtypeError,
        r"^memory must have the dtype of the weights, float64, got object$",
    ),
    "no sequence": (
        lambda: replace(layer(), memory=np.ones((0, S, ME))).start(),
        ShapeError,
        r"^rows must be arrays \[B, heads, S, width\] with B >= 1, got ",
    ),
    "batch of x": (
        lambda: layer().step(layer().start(), np.ones((1, 2, M))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=2, M=5, got \(1, 2, 5\)$",
    ),
    "batch of x, defined": (
        lambda: layer().definition(np.ones((1, 2, M)), np.arange(2)),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=2, M=5, got \(1, 2, 5\)$",
    ),
    "width of x": (
        lambda: layer().step(layer().start(), np.ones((B, 2, ME))),
        ShapeError,
        r"^x must have shape \[B, T, M\] with B=2, M=5, got \(2, 2, 7\)$",
    ),
    "batch": (lambda: layer().start(3), ArgumentError, r"^batch must be that of the memory, 2, got 3$"),
    "page": (lambda: layer(page=0).start(), ArgumentError, r"^page must be an integer >= 1, got 0$"),
    "scale": (lambda: layer(scale="1"), ArgumentError, r"^scale must be a finite number, got '1'$"),
    "softcap": (lambda: layer(softcap=-2.0), ArgumentError, r"^softcap must be a finite number above 0, got -2\.0$"),
    "rollback": (lambda: layer().start().truncate(1), ArgumentError, r"^length must be an integer in 0 \.\. 0, got 1$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_argument_is_named(name: str) -> None:
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.law(
    "variants/dense/cross", "lengths of a memory travel with its beams, a mask by sequence does not", "bits"
)
def test_lengths_travel_with_beams_and_a_mask_by_sequence_does_not() -> None:
    ragged, masked = layer(memory_lengths=(6, 2)), layer(mask=Padding([6, 2]))
    x = x_of(ragged)
    for cross, travels in ((ragged, True), (masked, False)):
        alone = cross.step(cross.start(), x)[0].out[::-1]
        swapped = cross.step(cross.start().select([1, 0]), x[::-1])[0].out
        assert np.array_equal(alone, swapped) is travels


@pytest.mark.parametrize("lengths", [(6,), (6, 7), (6, -1), (6, 1.5)])
def test_lengths_that_do_not_fit_are_named(lengths: Any) -> None:
    with pytest.raises(ArgumentError, match=r"memory_lengths.* must be"):
        layer(memory_lengths=lengths)
