"""The definition against loops: in Python floats that carry their rounding bound, and in 50-digit decimals.

The bound is derived for each input by `kvattn.testing.balls`: every operation of ``by_hand`` adds its
rounding, and both sides may use it up.  Here it comes to 1e-13 or less, so anything that moves a result
by more than that is seen; the mutants below move it by 1e-3 and more.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
import math
from typing import Any

import numpy as np
import pytest

from kvattn.core.definition import definition
from kvattn.masks import Causal, Sink, Window
from kvattn.mods.bias import Bias
from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.typing import Attended, Mask

Sees = Callable[[int, int], bool]


@dataclass(frozen=True, eq=False)
class Call:
    """One call: arrays, positions, and the mask twice, as an object and as a sentence about two positions."""

    q: Any
    k: Any
    v: Any
    q_positions: list[list[int]]
    k_positions: list[list[int]]
    sees: Sees = lambda i, j: True
    mask: Mask | None = None
    bias: Any = None
    options: dict[str, Any] = field(default_factory=dict)

    def run(self) -> Attended:
        at, source = np.array(self.q_positions), np.array(self.k_positions)
        mods = () if self.bias is None else (Bias(self.bias, np.arange(self.bias.shape[2])),)
        return definition(
            self.q, self.k, self.v, q_positions=at, k_positions=source, mask=self.mask, mods=mods, **self.options
        )


def by_hand(call: Call) -> tuple[Any, Any]:
    """Loop over sequences, heads and queries; query head h reads key head h // G."""
    q, k, v = given(call.q), given(call.k), given(call.v)
    scale = call.options.get("scale") or 1 / math.sqrt(call.q.shape[3])
    cap, sinks = call.options.get("softcap"), call.options.get("sinks")
    group = call.q.shape[1] // call.k.shape[1]
    out: list[Any] = []
    lse: list[Any] = []
    for b in range(len(q)):
        out.append([])
        lse.append([])
        for h in range(len(q[b])):
            rows, logs = [], []
            for t, i in enumerate(call.q_positions[b]):
                scores, values = [], []
                for s, j in enumerate(call.k_positions[b]):
                    if not call.sees(i, j):
                        continue
                    score = dot(q[b][h][t], k[b][h // group][s]) * scale
                    if cap is not None:
                        score = (score / cap).tanh() * cap
                    if call.bias is not None:
                        score = score + given(call.bias)[b][h][i][j]
                    scores.append(score)
                    values.append(v[b][h // group][s])
                terms = scores + ([] if sinks is None else [given(sinks)[h]])
                row, log = softmax(terms, values, call.v.shape[3])
                rows.append(row)
                logs.append(log)
            out[b].append(rows)
            lse[b].append(logs)
    return out, lse


def softmax(terms: list[Ball], values: list[list[Ball]], width: int) -> tuple[list[Ball], Ball]:
    """Mix the values; a term behind the last value is a sink, which has none."""
    if not terms:
        return [Ball(0.0)] * width, Ball(-math.inf)
    top = max(terms, key=lambda term: term.value)
    weights = [(term - top).exp() for term in terms]
    whole = total(weights)
    mixed = [dot(weights[: len(values)], [value[d] for value in values]) / whole for d in range(width)]
    return mixed, top + whole.log()


def drawn(heads: int = 4, kv_heads: int = 2, dtype: Any = np.float64, **options: Any) -> Call:
    """Sizes that all differ: B=2, T=3, S=7, D=5, Dv=4; keys in shuffled order of positions."""
    random = np.random.default_rng(heads * 10 + kv_heads)
    q = random.normal(size=(2, heads, 3, 5)).astype(dtype) * dtype(1.5)
    k = random.normal(size=(2, kv_heads, 7, 5)).astype(dtype)
    v = random.normal(size=(2, kv_heads, 7, 4)).astype(dtype)
    places = [random.permutation(9)[:7].tolist() for _ in range(2)]
    asked = [[6, 2, 11], [0, 8, 3]]  # no key is near position 11
    return Call(q, k, v, asked, places, options=options)


def window(call: Call) -> Call:
    return replace(call, mask=Window(3), sees=lambda i, j: 0 <= i - j < 3)


def sunk(call: Call) -> Call:
    return replace(call, mask=Causal() & (Sink(2) | Window(1)), sees=lambda i, j: j <= i and (j < 2 or i - j < 1))


def biased(call: Call) -> Call:
    bias = np.random.default_rng(5).normal(size=(2, call.q.shape[1], 12, 12)).astype(call.q.dtype)
    return replace(call, bias=bias)


CALLS = {
    "MHA": drawn(3, 3),
    "GQA": drawn(4, 2),
    "MQA": drawn(3, 1),
    "window": window(drawn()),
    "sinks and window": sunk(drawn()),
    "scale": drawn(scale=0.7),
    "softcap": drawn(softcap=1.25),
    "sink logits": drawn(sinks=np.array([0.5, -1.0, 2.0, 0.0])),
    "bias": biased(drawn()),
    "all at once": biased(window(drawn(6, 2, softcap=0.9, scale=1.3, sinks=np.linspace(-1, 1, 6)))),
    "all at once, float32": biased(sunk(drawn(6, 2, np.float32, softcap=0.9, sinks=np.linspace(-1, 1, 6, dtype="f4")))),
    "nobody sees anything": replace(drawn(), mask=Window(1) & ~Window(1), sees=lambda i, j: False),
    "nobody but the sinks": replace(drawn(sinks=np.ones(4)), mask=Window(1) & ~Window(1), sees=lambda i, j: False),
}


def gap(call: Call, found: Attended) -> float:
    out, lse = by_hand(call)
    return max(agree(found.out, out), agree(found.lse, lse))


@pytest.mark.parametrize("name", CALLS)
def test_it_equals_the_loops(name: str) -> None:
    found = CALLS[name].run()
    assert found.out.dtype == found.lse.dtype == CALLS[name].q.dtype
    assert gap(CALLS[name], found) <= 1


def test_some_rows_are_empty_where_windows_are() -> None:
    found = CALLS["window"].run()
    empty = np.isneginf(found.lse)
    assert empty.any()
    assert not empty.all()
    assert (found.out[empty] == 0).all()


def test_the_bound_is_small() -> None:
    for name, call in CALLS.items():
        out, _ = by_hand(call)
        most = max(ball.error for ball in np.array(out, dtype=object).ravel())
        assert most < (1e-13 if call.q.dtype == np.float64 else 5e-5), name


def lost_softcap(call: Call) -> Attended:
    """Mutant: masked scores are a large negative number, and the cap comes after."""

    def late(scores: Any, place: Any) -> Any:
        seen = call.mask(0, place.heads, place.q_positions, place.k_positions)  # type: ignore[misc]
        return 0.9 * np.tanh(np.where(seen, scores, -1e9) / 0.9)

    at, source = np.array(call.q_positions), np.array(call.k_positions)
    return definition(call.q, call.k, call.v, q_positions=at, k_positions=source, mods=(late,))


def tiled(call: Call) -> Attended:
    """Mutant: query head h reads key head h % Hkv."""
    heads = np.arange(call.q.shape[1]) % call.k.shape[1]
    return replace(call, k=call.k[:, heads], v=call.v[:, heads]).run()


def mean_of_empty(call: Call) -> Attended:
    """Mutant: a row without keys is the mean of the values."""
    found = call.run()
    empty = np.isneginf(found.lse)[..., None]
    mean = np.repeat(call.v.mean(2, keepdims=True), call.q.shape[1] // call.k.shape[1], 1)
    return Attended(np.where(empty, mean, found.out), found.lse)


MUTANTS: dict[str, tuple[str, Callable[[Call], Attended]]] = {
    "tiled heads": ("GQA", tiled),
    "window W + 1": ("window", lambda call: replace(call, mask=Window(4)).run()),
    "window W - 1": ("window", lambda call: replace(call, mask=Window(2)).run()),
    "rows for positions": ("window", lambda call: replace(call, k_positions=[list(range(7))] * 2).run()),
    "mean of empty rows": ("window", mean_of_empty),
    "cap after mask": ("window", lost_softcap),
    "scale 1/D": ("GQA", lambda call: replace(call, options={"scale": 1 / 5}).run()),
    "no scale": ("GQA", lambda call: replace(call, options={"scale": 1.0}).run()),
    "lse to base 2": ("GQA", lambda call: call.run()._replace(lse=call.run().lse / math.log(2))),
    "sinks outside lse": ("sink logits", lambda call: call.run()._replace(lse=replace(call, options={}).run().lse)),
    "sinks ignored": ("sink logits", lambda call: replace(call, options={}).run()),
    "softcap ignored": ("softcap", lambda call: replace(call, options={}).run()),
    "bias turned": ("bias", lambda call: replace(call, bias=call.bias.swapaxes(2, 3)).run()),
    "a value lost in the last bits": ("MQA", lambda call: replace(call, v=call.v * (1 + 1e-12)).run()),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_definitions_are_rejected(name: str) -> None:
    call, mutant = MUTANTS[name]
    assert gap(CALLS[call], mutant(CALLS[call])) > 2


def exact(call: Call) -> tuple[Any, Any]:
    """The same loops in decimals of 50 digits."""
    scale, cap = Decimal(call.options["scale"]), Decimal(call.options["softcap"])
    group = call.q.shape[1] // call.k.shape[1]
    out = np.zeros((*call.q.shape[:3], call.v.shape[3]), object)
    lse = np.full(call.q.shape[:3], Decimal("-inf"), object)
    q, k, v, bias = (np.vectorize(Decimal, [object])(array) for array in (call.q, call.k, call.v, call.bias))
    for b, h, t in np.ndindex(*call.q.shape[:3]):
        i, g = call.q_positions[b][t], h // group
        weights = {}
        for s, j in enumerate(call.k_positions[b]):
            if call.sees(i, j):
                bent = (2 * sum(x * y for x, y in zip(q[b, h, t], k[b, g, s], strict=True)) * scale / cap).exp()
                weights[s] = ((bent - 1) / (bent + 1) * cap + bias[b, h, i, j]).exp()
        whole = sum(weights.values()) + Decimal(float(call.options["sinks"][h])).exp()
        lse[b, h, t] = whole.ln()
        out[b, h, t] = [sum(w * v[b, g, s, d] for s, w in weights.items()) / whole for d in range(call.v.shape[3])]
    return out, lse


def test_decimals_bound_the_error_of_float64() -> None:
    """Both the definition and the loops stand within the derived bound of the 50-digit result, and within 8 ulp."""
    call = CALLS["all at once"]
    with localcontext() as context:
        context.prec = 50
        exactly = exact(call)
        for found, balls, true in zip(call.run(), by_hand(call), exactly, strict=True):
            top = float(max(abs(x) for x in true.ravel()))
            for number, ball, x in zip(found.ravel(), np.array(balls, object).ravel(), true.ravel(), strict=True):
                assert abs(Decimal(float(number)) - x) <= ball.error
                assert abs(Decimal(ball.value) - x) <= ball.error
                assert abs(Decimal(float(number)) - x) <= 8 * 2.0**-52 * max(top, 1.0)


def test_values_behind_the_mask_cannot_matter() -> None:
    call = CALLS["sinks and window"]
    spoiled = replace(call, k=call.k.copy(), v=call.v.copy())
    hidden = [[not any(call.sees(i, j) for i in call.q_positions[b]) for j in call.k_positions[b]] for b in range(2)]
    assert np.any(hidden)
    for b, slots in enumerate(hidden):
        spoiled.k[b, :, slots] = np.nan
        spoiled.v[b, :, slots] = np.inf
    for plain, found in zip(call.run(), spoiled.run(), strict=True):
        assert plain.tobytes() == found.tobytes()


@pytest.mark.parametrize(("queries", "keys"), [(0, 4), (3, 0), (0, 0)])
def test_no_queries_and_no_keys(queries: int, keys: int) -> None:
    q, k, v = np.ones((1, 2, queries, 3)), np.ones((1, 1, keys, 3)), np.ones((1, 1, keys, 2))
    found = definition(q, k, v, q_positions=np.zeros((1, queries), int), k_positions=np.zeros((1, keys), int))
    assert found.out.shape == (1, 2, queries, 2)
    assert (found.out == (0 if keys == 0 else 1)).all()
    assert (found.lse == -np.inf).all() or keys
