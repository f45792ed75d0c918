"""Temperature by position: each curve by hand, alone and in a layer, and to the last bit blind to the cut."""

from decimal import Decimal, getcontext
import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.positions.rotary import Rotary
from kvattn.positions.temperature import Curve, LogLength, Rising, Scalable, Stepped, Temperature
from kvattn.testing.balls import Ball, agree
from kvattn.testing.heads_by_hand import Heads, layer_by_hand, turn
from kvattn.testing.laws import stepped
from kvattn.typing import Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

getcontext().prec = 40
T, M, HEADS, KV_HEADS, D, DV = 9, 5, 4, 2, 4, 3
STRENGTHS = (0.5, -1.0, 2.0, 0.25)

CURVES: dict[str, Curve] = {
    "Llama-4": Stepped(0.5, period=3, first=1),
    "Ministral-3": Stepped(0.5, period=3),
    "Inkling": Rising(0.5, length=3),
    "Qwen-1": LogLength(3),
    "SSMax": Scalable(STRENGTHS),
}


def by_hand(name: str, i: int, h: int, size: int = 3) -> Decimal:
    """The factor of one query, from the words of each model, to 40 digits."""
    if name == "Llama-4":
        return 1 + Decimal("0.5") * Decimal((i + 1) // size + 1).ln()
    if name == "Ministral-3":
        return 1 + Decimal("0.5") * Decimal(1 + i // size).ln()
    if name == "Inkling":
        return 1 + Decimal("0.5") * max(Decimal(i + 1) / Decimal(size), Decimal(1)).ln()
    if name == "Qwen-1":
        return Decimal(i + 1).ln() / Decimal(size).ln() if i + 1 > size else Decimal(1)
    return Decimal(STRENGTHS[h]) * Decimal(i + 1).ln()


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


PLACES = [0, 1, 2, 3, 4, 5, 6, 8, 9, 26, 27, 8191, 8192, 2**24, 2**24 + 1, 10**12]


@pytest.mark.by_hand("positions/temperature")
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_factors_equal_by_hand(name: str, dtype: Any) -> None:
    """Two logarithms at 4 ulp, a quotient, a product and a sum in float64: 20 units; the factor and the query's
    product are rounded to the dtype."""
    q = drawn(HEADS, len(PLACES), D, dtype=dtype)
    tuned = Temperature(CURVES[name]).queries(q, np.array(PLACES))
    unit = float(np.finfo(dtype).eps) / 2
    assert tuned.dtype == dtype
    for h in range(HEADS):
        for n, i in enumerate(PLACES):
            factor = float(by_hand(name, i, h))
            allowed = (2 * unit + 20 * 2.0**-53) * (1 + abs(factor)) * np.abs(q[h, n])
            assert (np.abs(tuned[h, n] - factor * q[h, n].astype(np.float64)) <= allowed).all()


MUTANTS: dict[str, tuple[str, Curve]] = {
    "counted from 1 for Ministral-3": ("Ministral-3", Stepped(0.5, period=3, first=1)),
    "counted from 0 for Llama-4": ("Llama-4", Stepped(0.5, period=3)),
    "no steps": ("Llama-4", Rising(0.5, 3)),
    "period": ("Llama-4", Stepped(0.5, period=4, first=1)),
    "falls": ("Inkling", Rising(-0.5, 3)),
    "length": ("Qwen-1", LogLength(4)),
    "heads exchanged": ("SSMax", Scalable(STRENGTHS[::-1])),
    "strength": ("SSMax", Scalable((0.5, -1.0, 2.0, 0.26))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_another_curve_is_rejected(name: str) -> None:
    right, mutant = MUTANTS[name]
    factors = np.broadcast_to(mutant(np.arange(T)[None]), (HEADS, T))
    wanted = np.array([[float(by_hand(right, i, h)) for i in range(T)] for h in range(HEADS)])
    assert np.abs(factors - wanted).max() > 1e-3
    assert np.abs(np.broadcast_to(CURVES[right](np.arange(T)[None]), (HEADS, T)) - wanted).max() < 1e-14


def weights(dtype: Any = np.float64) -> Projections:
    shapes = (M, HEADS * D), (M, KV_HEADS * D), (M, KV_HEADS * DV), (HEADS * DV, M)
    query, key, value, output = (drawn(*shape, seed=n, dtype=dtype) * dtype(0.5) for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, HEADS, KV_HEADS)


def gap(name: str, rotated: bool, found: Attended, x: Any) -> float:
    def queries(i: int, heads: Heads) -> Heads:
        if rotated:
            heads = [turn(head, i, Rotary.of(D)) for head in heads]
        bent = []
        for h, head in enumerate(heads):
            factor = float(by_hand(name, i, h))
            ball = Ball(factor, (head[0].unit + 20 * 2.0**-53) * (1 + abs(factor)), head[0].unit)
            bent.append([a * ball for a in head])
        return bent

    def keys(j: int, heads: Heads) -> Heads:
        return [turn(head, j, Rotary.of(D)) for head in heads] if rotated else heads

    out, lse = layer_by_hand(weights(x.dtype.type), x, queries=queries, keys=keys)
    return max(agree(found.out, out), agree(found.lse, lse))


def layer_of(name: str, rotated: bool, dtype: Any = np.float64) -> Grouped:
    parts = (Rotary.of(D), Temperature(CURVES[name])) if rotated else (Temperature(CURVES[name]),)
    return Grouped(weights(dtype), query_key=parts, page=2)


@pytest.mark.by_hand("positions/temperature")
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("cuts", [None, (), tuple(range(1, T)), (4, 4)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_layer_equals_by_hand(name: str, rotated: bool, cuts: tuple[int, ...] | None, dtype: Any) -> None:
    layer, x = layer_of(name, rotated, dtype), drawn(1, T, M, seed=9, dtype=dtype)
    found = layer.definition(x, np.arange(T)) if cuts is None else stepped(layer, x, cuts)[0]
    assert found.out.dtype == dtype
    assert gap(name, rotated, found, x) <= 1


@pytest.mark.parametrize("name", CURVES)
def test_a_layer_without_it_is_rejected(name: str) -> None:
    x = drawn(1, T, M, seed=9)
    assert gap(name, False, Grouped(weights()).definition(x, np.arange(T)), x) > 2


def test_steps_of_llama_4_begin_with_token_8191() -> None:
    curve = Stepped(0.1, period=8192, first=1)
    assert curve(np.array([0, 8190])).tolist() == [1.0, 1.0]
    assert curve(np.array([8191]))[0] == 1 + 0.1 * math.log(2)
    assert Stepped(0.1, period=8192)(np.array([8191]))[0] == 1.0


def test_floors_are_taken_in_integers() -> None:
    """Past 2^24 float32 loses i + 1 and takes the step a token early."""
    far = 2**27 - 2
    assert np.floor(np.float32(far + 1) / np.float32(2**27)) == 1.0
    assert Stepped(0.5, period=2**27, first=1)(np.array([far]))[0] == 1.0


@pytest.mark.law("positions/temperature", "SSMax with strength 1/ln n is softmax for n keys", "bound")
def test_scalable_softmax_of_a_length_is_softmax_there() -> None:
    strength = 1 / math.log(T)
    scaled = Grouped(weights(), query_key=(Temperature(Scalable((strength,) * HEADS)),))
    x = drawn(1, T, M)
    ours, plain = (layer.definition(x, np.arange(T)).out for layer in (scaled, Grouped(weights())))
    assert np.allclose(ours[:, -1], plain[:, -1], rtol=0, atol=1e-14)
    assert not np.allclose(ours[:, 1:-1], plain[:, 1:-1], rtol=0, atol=1e-3)


def test_keys_pass_untouched() -> None:
    k = drawn(2, 3, D)
    assert Temperature(LogLength(2)).keys(k, np.arange(3)) is k


def test_one_strength_serves_every_head() -> None:
    q, at = drawn(2, 3, 5, D), np.arange(5)[None, None]
    one = Temperature(Scalable((0.5,))).queries(q, at)
    assert (one == Temperature(Scalable((0.5,) * 3)).queries(q, at)).all()


@pytest.mark.law("positions/temperature", "cost is count", "integers")
@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_the_cost_is_what_is_counted(name: str, tokens: int) -> None:
    tuned = Temperature(CURVES[name])
    with counting() as counted:
        tuned.queries(drawn(2, HEADS, tokens, D), np.arange(tokens)[None, None].repeat(2, 0))
    assert counted.tally == tuned.queries_cost(tokens=2 * tokens, heads=HEADS, width=D)
    assert counted.transcendental == 2 * tokens
    assert counted.arithmetic >= 2 * tokens * HEADS * D + 2 * tokens * 3


class Other:
    """A curve of somebody else's that gives nonsense."""

    def __call__(self, positions: Any) -> Any:
        return np.ones(7)

    def cost(self, *, tokens: int) -> Any:
        return None


ONES = np.ones((1, 2, D))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Stepped(math.nan, 3), ArgumentError, r"^strength must be a finite number, got nan$"),
        (lambda: Stepped(0.1, 0), ArgumentError, r"^period must be an integer >= 1, got 0$"),
        (lambda: Stepped(0.1, 3, -1), ArgumentError, r"^first must be an integer >= 0, got -1$"),
        (lambda: Stepped(0.1, 3, True), ArgumentError, r"^first must be an integer >= 0, got True$"),
        (lambda: Rising(0.1, 0), ArgumentError, r"^length must be an integer >= 1, got 0$"),
        (lambda: LogLength(1), ArgumentError, r"^length must be an integer >= 2, got 1$"),
        (lambda: Scalable(()), ArgumentError, r"^strengths must be a non-empty sequence of finite numbers, got \(\)$"),
        (lambda: Temperature(0.5), ArgumentError, r"^curve must be a curve such as Stepped, got 0\.5$"),  # type: ignore[arg-type]
        (lambda: Temperature(LogLength), ArgumentError, r"^curve must be a curve such as Stepped, got <class"),  # type: ignore[arg-type]
        (
            lambda: Temperature(LogLength(2)).queries(ONES, np.array([0, -1])),
            PositionError,
            r"^positions must be >= 0, got -1$",
        ),
        (
            lambda: Temperature(LogLength(2)).queries(ONES, np.array([0.0, 1.0])),
            PositionError,
            r"^positions must be integers, got dtype float64$",
        ),
        (
            lambda: Temperature(LogLength(2)).queries(ONES, np.arange(3)),
            ShapeError,
            r"^positions must broadcast to q.shape\[:-1\], which is \(1, 2\), got \(3,\)$",
        ),
        (
            lambda: Temperature(Scalable((0.1, 0.2))).queries(ONES, np.arange(2)),
            ShapeError,
            r"^curve must give factors for q.shape\[:-1\], which is \(1, 2\), got \(2, 2\)$",
        ),
        (
            lambda: Temperature(Other()).queries(ONES, np.arange(2)),
            ShapeError,
            r"^curve must give factors for q.shape\[:-1\], which is \(1, 2\), got \(7,\)$",
        ),
        (
            lambda: Temperature(LogLength(2)).queries(np.ones((2, 2), int), np.arange(2)),
            DtypeError,
            r"^q must be floating-point, got int64$",
        ),
    ],
    ids=range(15),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
