"""Emulated attention: to the bit as by hand in exact fractions, and each part of an arithmetic matters."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
import math
from typing import Any

import numpy as np
import pytest

from kvattn.one_liners import attend
from kvattn.testing import arithmetic as presets
from kvattn.testing import emulated
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.contract import attend as contract_attend
from kvattn.testing.emulated import Emulated, emulate
from kvattn.testing.formats import FORMATS
from kvattn.testing.tolerance import bounds
from kvattn.typing import Attended
from tests.testing.test_formats import nearest

PRESETS = {name: value for name, value in vars(presets).items() if isinstance(value, Arithmetic)}
NARROW = {name: value for name, value in PRESETS.items() if name != "FLOAT64"}


def of_decimal(function: Callable[[Decimal], Decimal], x: Fraction) -> Fraction:
    """A function of a fraction, to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        return Fraction(function(Decimal(x.numerator) / Decimal(x.denominator)))


def tanh(x: Decimal) -> Decimal:
    """From the exponential."""
    return ((2 * x).exp() - 1) / ((2 * x).exp() + 1)


class ByHand:
    """One row of attention, number by number, every operation exact and then rounded."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.a = arithmetic

    def into(self, name: str, x: Fraction, cut: bool = False) -> Fraction:
        found = nearest(x, getattr(self.a, name), cut)
        assert isinstance(found, Fraction), "these cases do not overflow"
        return found

    def exp(self, x: Fraction) -> Fraction:
        return self.into("compute", of_decimal(Decimal.exp, self.into("compute", x)))

    def sum(self, terms: list[Fraction], start: Fraction = Fraction(0)) -> Fraction:
        """In the order of the arithmetic."""
        terms = [self.into("accumulate", term) for term in terms]

        def add(a: Fraction, b: Fraction) -> Fraction:
            return self.into("accumulate", a + b, self.a.sum_ulp >= 1)

        if self.a.order == "pairwise":
            while len(terms) > 1:  # halves of halves, the first the longer
                terms = self.halves(terms, add)
            return add(start, terms[0]) if terms else start
        for term in terms:
            start = add(start, term)
        return start

    def halves(self, terms: list[Fraction], add: Callable[[Fraction, Fraction], Fraction]) -> list[Fraction]:
        if len(terms) == 1:
            return terms
        middle = -(-len(terms) // 2)
        (left,), (right,) = self.halves(terms[:middle], add), self.halves(terms[middle:], add)
        return [add(left, right)]

    def log(self, x: Fraction) -> Fraction:
        return self.into("compute", of_decimal(Decimal.ln, x))

    def score(self, q: list[Fraction], k: list[Fraction], scale: float, cap: float | None, bias: float) -> Fraction:
        s = self.into("compute", self.sum([a * b for a, b in zip(q, k, strict=True)]))
        s = self.into("compute", s * self.into("compute", Fraction(scale)))
        if cap is not None:
            c = self.into("compute", Fraction(cap))
            s = self.into("compute", c * self.into("compute", of_decimal(tanh, self.into("compute", s / c))))
        return self.into("compute", s + self.into("compute", Fraction(bias)))

    def row(self, scores: list[Fraction], v: list[list[Fraction]], sink: float | None) -> tuple[list[float], float]:
        """Output and log-sum-exp of the keys that are seen."""
        width = range(len(v[0]))
        top = None if sink is None else self.into("compute", Fraction(sink))
        total, mix = Fraction(sink is not None), [Fraction(0) for _ in width]
        tiles = np.array_split(np.arange(len(scores)), max(1, min(self.a.tiles, len(scores))))
        online = self.a.tiles > 0 and self.a.merges == 0
        weights: list[Fraction] = []
        for tile in tiles if online else [np.arange(len(scores))]:
            above = max([scores[j] for j in tile] + ([] if top is None else [top]))
            again = Fraction(0) if top is None else self.exp(top - above)
            weights = [self.exp(scores[j] - above) for j in tile]
            p = [self.into("probabilities", w) for w in weights]
            added = p if online and self.a.totals == "rounded" else weights
            total = self.sum(added, self.into("accumulate", total * again))
            if online:
                mix = [
                    self.sum([p[n] * v[j][c] for n, j in enumerate(tile)], self.into("accumulate", mix[c] * again))
                    for c in width
                ]
            top = above
        assert top is not None
        lse = self.into("compute", top + self.log(total))
        if online:
            out = [self.into("compute", x / total) for x in mix]
        else:
            shares = [
                self.exp(s - lse) if self.a.merges else self.into("compute", w / total)
                for s, w in zip(scores, weights, strict=True)
            ]
            p = [self.into("probabilities", w) for w in shares]
            out = [self.into("compute", self.sum([p[j] * v[j][c] for j in range(len(v))])) for c in width]
        return [float(self.into("store", x)) for x in out], float(lse)


def by_hand(q: Any, k: Any, v: Any, *, arithmetic: Arithmetic, **options: Any) -> Attended:
    """Every row apart; hidden keys are left out, so that there are no zeros to add."""
    hand = ByHand(arithmetic)
    scale = options.get("scale") or 1 / math.sqrt(q.shape[3])
    seen, bias, sinks = options.get("visible"), options.get("bias"), options.get("sinks")
    out, lse = np.zeros((*q.shape[:3], v.shape[3])), np.full(q.shape[:3], -np.inf)

    def read(row: Any) -> list[Fraction]:
        return [hand.into("inputs", Fraction(float(x))) for x in row]

    for b, h, t in np.ndindex(q.shape[:3]):
        g = h * k.shape[1] // q.shape[1]
        js = [j for j in range(k.shape[2]) if seen is None or seen[b, h, t, j]]
        if not js and sinks is None:
            continue
        scores = [
            hand.score(
                read(q[b, h, t]),
                read(k[b, g, j]),
                scale,
                options.get("softcap"),
                0.0 if bias is None else float(bias[b, h, t, j]),
            )
            for j in js
        ]
        sink = None if sinks is None else float(sinks[h])
        out[b, h, t], lse[b, h, t] = hand.row(scores, [read(v[b, g, j]) for j in js], sink)
    return Attended(out, lse)


def merged(q: Any, k: Any, v: Any, *, arithmetic: Arithmetic, sinks: Any) -> Attended:
    """Parts of the keys apart, each by hand, and then put together by hand."""
    hand, cuts = ByHand(arithmetic), np.array_split(np.arange(k.shape[2]), arithmetic.merges)
    alone = replace(arithmetic, merges=0, store=arithmetic.compute)
    parts = [
        by_hand(q, k[:, :, c], v[:, :, c], arithmetic=alone, sinks=None if n else sinks) for n, c in enumerate(cuts)
    ]
    out, lse = np.zeros_like(parts[0].out), np.zeros_like(parts[0].lse)
    for row in np.ndindex(lse.shape):
        each = [Fraction(float(part.lse[row])) for part in parts]
        total = hand.sum([hand.exp(x - max(each)) for x in each])
        whole = hand.into("compute", max(each) + hand.log(total))
        lse[row] = float(whole)
        for c in range(out.shape[3]):
            terms = [hand.exp(x - whole) * Fraction(float(p.out[(*row, c)])) for x, p in zip(each, parts, strict=True)]
            out[(*row, c)] = float(hand.into("store", hand.into("compute", hand.sum(terms))))
    return Attended(out, lse)


PLAIN: dict[str, Any] = {"scale": None, "softcap": None, "sinks": None, "bias": None}


def cases(seed: int, causal: bool = False) -> tuple[Any, dict[str, Any]]:
    """Arrays of sizes that differ, and every option."""
    r = np.random.default_rng(seed)
    q, k, v = r.normal(size=(1, 2, 2, 5)), r.normal(size=(1, 1, 7, 5)), r.normal(size=(1, 1, 7, 3))
    options = {"scale": 0.7, "softcap": 2.0, "sinks": r.normal(size=2), "bias": r.normal(size=(1, 2, 2, 7))}
    if causal:
        options["visible"] = np.broadcast_to(np.tri(2, 7, 5, dtype=np.bool_), (1, 2, 2, 7))
    return (q, k, v), options


def equal(found: Attended, wanted: Attended) -> bool:
    """To the bit."""
    return np.array_equal(found.out, wanted.out) and np.array_equal(found.lse, wanted.lse)


def whole_tiles(arithmetic: Arithmetic) -> Arithmetic:
    """By hand hidden keys are left out; one tile then has the same keys in either."""
    return replace(arithmetic, tiles=min(arithmetic.tiles, 1), order="sequential")


@pytest.mark.parametrize("order", ["sequential", "pairwise"])
@pytest.mark.parametrize("name", NARROW)
def test_every_number_by_hand(name: str, order: Any) -> None:
    for tiles in (0, 1, 3):
        arithmetic = replace(NARROW[name], order=order, tiles=tiles)
        arrays, options = cases(tiles)
        for given in (options, PLAIN):
            assert equal(
                emulate(*arrays, arithmetic=arithmetic, **given), by_hand(*arrays, arithmetic=arithmetic, **given)
            )


@pytest.mark.parametrize("option", ["scale", "softcap", "sinks", "bias"])
def test_every_option_by_hand(option: str) -> None:
    arithmetic = NARROW["BFLOAT16_TENSOR_CORE"]
    arrays, options = cases(7)
    given = {**PLAIN, option: options[option]}
    assert equal(emulate(*arrays, arithmetic=arithmetic, **given), by_hand(*arrays, arithmetic=arithmetic, **given))


@pytest.mark.parametrize("name", NARROW)
def test_masked_and_weighed_by_their_lse_by_hand(name: str) -> None:
    for merges in (0, 1):
        arithmetic = whole_tiles(replace(NARROW[name], merges=merges))
        arrays, options = cases(9, causal=True)
        assert equal(
            emulate(*arrays, arithmetic=arithmetic, **options), by_hand(*arrays, arithmetic=arithmetic, **options)
        )


@pytest.mark.parametrize("name", ["FLOAT16_TENSOR_CORE", "BFLOAT16_PURE"])
def test_parts_of_the_keys_by_hand(name: str) -> None:
    arrays, options = cases(4)
    for merges in (2, 3):
        arithmetic = replace(NARROW[name], merges=merges, tiles=2)
        found = emulate(*arrays, arithmetic=arithmetic, sinks=options["sinks"])
        assert equal(found, merged(*arrays, arithmetic=arithmetic, sinks=options["sinks"]))


def in_float32(q: Any, k: Any, v: Any, scale: float) -> tuple[Any, Any]:
    """A plain softmax in float32, each operation NumPy's own; one head."""
    single = np.float32
    terms = q[:, None] * k  # [T, S, D]
    s = np.add.accumulate(terms, axis=-1, dtype=single)[..., -1] * single(scale)
    top = s.max(-1, keepdims=True)
    w = np.exp((s - top).astype(np.float64)).astype(single)
    total = np.add.accumulate(w, axis=-1, dtype=single)[..., -1]
    mix = np.add.accumulate(w[..., None] * v, axis=1, dtype=single)[:, -1]
    assert {x.dtype for x in (terms, s, w, total, mix)} == {np.dtype(single)}
    return mix / total[:, None], top[:, 0] + np.log(total.astype(np.float64)).astype(single)


@pytest.mark.parametrize("name", ["BFLOAT16_TENSOR_CORE", "FLOAT8_PROBABILITIES"])
def test_totals_of_rounded_weights_by_hand(name: str) -> None:
    rounded, plain = (replace(getattr(presets, name), totals=x) for x in ("rounded", "unrounded"))
    for seed in range(3):
        arrays, options = cases(seed)
        found = emulate(*arrays, arithmetic=rounded, **options)
        assert equal(found, by_hand(*arrays, arithmetic=rounded, **options))
        assert not np.array_equal(found.lse, emulate(*arrays, arithmetic=plain, **options).lse)


def test_float32_is_numpys_operation_by_operation() -> None:
    r = np.random.default_rng(3)
    q, k, v = (r.normal(size=(n, d)).astype(np.float32) for n, d in ((6, 16), (300, 16), (300, 9)))
    found = emulate(q[None, None], k[None, None], v[None, None], arithmetic=Arithmetic("float32", tiles=1), scale=0.3)
    out, lse = in_float32(q, k, v, 0.3)
    assert np.array_equal(found.out[0, 0], out)
    assert np.array_equal(found.lse[0, 0], lse)


@pytest.mark.parametrize("order", ["sequential", "pairwise"])
@pytest.mark.parametrize(("tiles", "merges"), [(0, 0), (1, 0), (8, 0), (1, 1), (2, 3)])
def test_float64_is_attention(tiles: int, merges: int, order: Any) -> None:
    arithmetic = Arithmetic("float64", tiles=tiles, merges=merges, order=order)
    arrays, options = cases(5, causal=True)
    right = attend(*arrays, mask=options["visible"], **{key: options[key] for key in PLAIN})
    found = emulate(*arrays, arithmetic=arithmetic, **options)
    near = bounds(*arrays, arithmetic=arithmetic, **options)
    assert (np.abs(found.out - right.out) <= near.statistical).all()
    assert (np.abs(found.lse - right.lse) <= near.lse_statistical).all()


def test_a_row_that_sees_nothing_is_zero() -> None:
    (q, k, v), options = cases(1)
    seen = np.ones((1, 2, 2, 7), np.bool_)
    seen[0, 1, 0] = False
    for tiles, merges in ((0, 0), (3, 0), (1, 1), (1, 2)):
        arithmetic = replace(NARROW["FLOAT16_PURE"], tiles=tiles, merges=merges)
        found = emulate(q, k, v, arithmetic=arithmetic, visible=seen)
        assert found.out[0, 1, 0].tolist() == [0.0] * 3
        assert found.lse[0, 1, 0] == -np.inf
        assert np.isfinite(found.lse).sum() == 3
        with_sinks = emulate(q, k, v, arithmetic=arithmetic, visible=seen, sinks=options["sinks"])
        assert with_sinks.out[0, 1, 0].tolist() == [0.0] * 3
        assert with_sinks.lse[0, 1, 0] == FORMATS["float16"].round(options["sinks"][1])
        nothing = emulate(q, k[:, :, :0], v[:, :, :0], arithmetic=arithmetic)
        assert (nothing.out == 0).all()
        assert np.isneginf(nothing.lse).all()


def test_what_is_hidden_may_be_nan() -> None:
    (q, k, v), _ = cases(1)
    seen = np.ones((1, 2, 2, 7), np.bool_)
    seen[..., 0, 3] = seen[..., 5] = False
    bias = np.where(seen, 0.0, -np.inf)
    arithmetic = NARROW["BFLOAT16_TENSOR_CORE"]
    clean = emulate(q, k, v, arithmetic=arithmetic, visible=seen)
    k[:, :, 5], v[:, :, 5] = np.nan, np.inf
    assert equal(emulate(q, k, v, arithmetic=arithmetic, visible=seen), clean)
    assert equal(emulate(q, k, v, arithmetic=arithmetic, bias=bias), clean)
    v[:, :, 3] = np.nan  # the first query does not see it, the second does
    found = emulate(q, k, v, arithmetic=arithmetic, visible=seen)
    assert np.array_equal(found.out[:, :, 0], clean.out[:, :, 0])
    assert np.isnan(found.out[:, :, 1]).all()


def test_what_overflows_is_seen() -> None:
    x = np.full((1, 1, 1, 4), 200.0)
    for name, fine in (("FLOAT16_PURE", False), ("FLOAT16_TENSOR_CORE", True), ("BFLOAT16_PURE", True)):
        assert np.isfinite(emulate(x, x, x, arithmetic=PRESETS[name]).out).all() == fine


def test_the_callable_follows_the_contract() -> None:
    (q, k, v), options = cases(2)
    mask = np.random.default_rng(1).random((1, 2, 2, 7)) < 0.6
    for given in ({}, {"causal": True}, {"causal": True, "window": 3}, {**options, "mask": mask, "causal": True}):
        found, right = Emulated(presets.FLOAT64)(q, k, v, **given), contract_attend(q, k, v, **given)
        assert np.allclose(found.out, right.out, rtol=0, atol=1e-14)
        assert np.allclose(found.lse, right.lse, rtol=0, atol=1e-14)


BASE = Arithmetic("float32", accumulate="float16", probabilities="bfloat16", store="float16", inputs="float16", tiles=3)
CHANGES: dict[str, dict[str, Any]] = {
    "inputs": {"inputs": "float32"},
    "compute": {"compute": "bfloat16"},
    "accumulate": {"accumulate": "float32"},
    "probabilities": {"probabilities": "float32"},
    "store": {"store": "bfloat16"},
    "order": {"order": "pairwise"},
    "one tile more": {"tiles": 4},
    "no tiles": {"tiles": 0},
    "cut off": {"sum_ulp": 1.0},
    "weights from the lse": {"merges": 1},
    "merged": {"merges": 2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_part_of_an_arithmetic_matters(name: str) -> None:
    arrays, options = cases(11)
    wanted = by_hand(*arrays, arithmetic=BASE, **options)
    assert equal(emulate(*arrays, arithmetic=BASE, **options), wanted)
    assert not equal(emulate(*arrays, arithmetic=replace(BASE, **CHANGES[name]), **options), wanted)


def exp_unrounded(at: Any, x: Any) -> Any:
    return np.exp(at.compute(x))


def shift_unrounded(at: Any, x: Any) -> Any:
    return at.compute(np.exp(x))


def products_unrounded(at: Any, start: Any, term: Any, count: int) -> Any:
    for n in range(count):
        start = at.addition(start + term(n))
    return start


def sums_backwards(at: Any, start: Any, term: Any, count: int) -> Any:
    for n in reversed(range(count)):
        start = at.addition(start + at.product(term(n)))
    return start


def weights_rounded_in_the_total(at: Any, start: Any, w: Any) -> Any:
    return at.sum(start, lambda j: at.probabilities(w[..., j]), w.shape[3])


def no_sink(s: Any, sink: Any) -> Any:
    return np.full(s.shape[:3], -np.inf), np.zeros(s.shape[:3])


def log_unrounded(at: Any, top: Any, total: Any) -> Any:
    return at.compute(top + np.log(total))


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "exp unrounded": (emulated._Steps, "exp", exp_unrounded),
    "shift unrounded": (emulated._Steps, "exp", shift_unrounded),
    "products unrounded": (emulated._Steps, "sum", products_unrounded),
    "sums backwards": (emulated._Steps, "sum", sums_backwards),
    "total of rounded weights": (emulated._Steps, "weights", weights_rounded_in_the_total),
    "no sink": (emulated, "_opening", no_sink),
    "log unrounded": (emulated, "_lse", log_unrounded),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_emulations_are_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic = replace(BASE, compute="bfloat16", probabilities="float8_e4m3")
    several = [(*cases(seed), seed) for seed in range(12, 16)]
    right = {n: by_hand(*arrays, arithmetic=arithmetic, **options) for arrays, options, n in several}

    def passes() -> bool:
        return all(
            equal(emulate(*arrays, arithmetic=arithmetic, **options), right[n]) for arrays, options, n in several
        )

    assert passes()
    monkeypatch.setattr(*MUTANTS[name])
    assert not passes()
