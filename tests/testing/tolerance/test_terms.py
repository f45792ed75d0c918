"""Every term of the bounds is needed: with it the bound holds, and leaving it out shows a correct result as wrong.

Each case has an arithmetic in which one step rounds and the others are float64, numbers on which that step rounds in
the worst direction, and the edit that leaves its term out.  Where other terms have room for a step that the case's
arithmetic does exactly (`EXACT`), they are left out on both sides.
"""

from collections.abc import Callable
from dataclasses import replace
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.emulated import emulate
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance import bounds
from kvattn.typing import Array, Attended
from tests.testing.tolerance.without import Edit, edited

DOUBLE = Arithmetic("float64", exp_ulp=0.5, tiles=1)
B, H = 2.0**-8, 2.0**-11
"""Unit roundoffs of bfloat16 and float16."""

UNSCALED: Edit = ("scores", "above(u, 4)", "0")
UNFINISHED: Edit = ("scores", "above(u, 5)", "0")
UNSHIFTED: Edit = ("weights", "above(u, 3) * (depth + error + shift)", "0")
UNADDED: Edit = ("logs", "above(u, 3) * (inner + outer + np.abs(lse) + off)", "0")
EXACT: dict[Edit, str] = {
    UNSCALED: "no multiplication by the root of the scale",
    UNFINISHED: "products, sums and the scale are exact",
    UNSHIFTED: "differences of scores are exact",
    UNADDED: "the maximum is the log-sum-exp",
}


class Case(NamedTuple):
    """A correct result, and the term without which it would be called wrong."""

    label: str
    arithmetic: Arithmetic
    q: Any
    k: Any
    v: Any
    out: tuple[Edit, ...]
    exact: tuple[Edit, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default
    result: Callable[..., Attended] = emulate

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        """As attention wants them."""
        q, k, v = (np.atleast_1d(np.asarray(x, np.float64)) for x in (self.q, self.k, self.v))
        q, k, v = (x if x.ndim == 2 else x.reshape(-1, 1) for x in (q, k, v))
        return q[None, None], k[None, None], v[None, None]

    def violations(self, package: Any, level: str) -> bool:
        """Whether the result is outside an elementwise bound."""
        options = {"scale": 1.0, **self.options}
        arrays = self.arrays
        with np.errstate(all="ignore"):
            found = self.result(*arrays, arithmetic=self.arithmetic, **options)
            exact = reference(*arrays, **options)
            limits = package.bounds(*arrays, arithmetic=self.arithmetic, **options)
            inside = [
                np.abs(got - want) <= bound * (1 + 1e-9) + 1e-14 * np.abs(want)
                for got, want, bound in (
                    (found.out, exact.out, getattr(limits, level)),
                    (found.lse, exact.lse, getattr(limits, f"lse_{level}")),
                )
            ]
            unlimited = [np.isinf(getattr(limits, level)), np.isinf(getattr(limits, f"lse_{level}"))]
        return not all((x | y).all() for x, y in zip(inside, unlimited, strict=True))


def reference(q: Array, k: Array, v: Array, **options: Any) -> Attended:
    """float64, and the bounds' own choice of formulas."""
    return emulate(q, k, v, arithmetic=replace(DOUBLE, tiles=0), **options)


def by_roots(q: Array, k: Array, v: Array, *, arithmetic: Arithmetic, scale: float, **_: Any) -> Attended:
    """Queries and keys are multiplied by the root of the scale, each rounded to float16."""
    root = float(np.float16(math.sqrt(scale)))
    q, k = ((root * x).astype(np.float16).astype(np.float64) for x in (q, k))
    return emulate(q, k, v, arithmetic=DOUBLE, scale=1.0)


def with_exp(wrong: Callable[[Array], Array]) -> Callable[..., Attended]:
    """An online softmax, one key a tile, whose exp is wrong by a factor."""

    def attend(q: Array, k: Array, v: Array, *, arithmetic: Arithmetic, scale: float) -> Attended:
        s = (q @ k.swapaxes(2, 3))[0, 0, 0] * scale
        top, total, mix = -np.inf, 0.0, np.zeros(v.shape[3])
        for score, value in zip(s, v[0, 0], strict=True):
            above = max(top, score)
            again, weight = (float(np.exp(x) * wrong(np.asarray(x))) for x in (top - above, score - above))
            top, total, mix = above, again * total + weight, again * mix + weight * value
        return Attended((mix / total).reshape(1, 1, 1, -1), np.full((1, 1, 1), top + np.log(total)))

    return attend


CARELESS = replace(DOUBLE, compute="float32", exp_ulp=2.0**14)
"""Its exp may be wrong by 2^-9; what else is done in float32 does not show beside it."""
LESS = with_exp(lambda x: np.where(x < 0, 1 - 0.99 * 2.0**-9, 1.0))

few = np.full(200, 0.99 * H)
few[0] = 1.0
late = replace(DOUBLE, accumulate="float16")
coarse = replace(DOUBLE, compute="bfloat16")
halves = replace(DOUBLE, compute="float16")
wide = replace(DOUBLE, inputs="bfloat16")
SHIFTED = (UNSCALED, UNFINISHED)

WORST = (
    Case(
        "T1",
        late,
        np.zeros(1),
        np.zeros(200),
        np.append(few[:-1], -1.0),
        (("chains", "np.asarray(count) * math.log1p(u)", "math.log1p(u)"),),
    ),
    Case(
        "T2",
        late,
        np.zeros(1),
        np.zeros(200),
        np.append(few[:-1], -1.0),
        (
            (
                "chains",
                "longest: Array = np.maximum(np.asarray(terms) - 1.0, 0.0)",
                "longest: Array = np.ceil(np.log2(np.maximum(terms, 1)))",
            ),
        ),
    ),
    Case(
        "T3",
        replace(DOUBLE, probabilities="float8_e4m3"),
        1.0,
        [0.0, -11 * math.log(2)],
        [0.0, 100.0],
        (("weights", "np.where(hidden, 0.0, absolute)", "np.zeros_like(absolute)"),),
    ),
    Case(
        "T3",
        late,
        1.0,
        [0.0, -5 * math.log(2)],
        [0.0, 0.99 * 2.0**-20],
        (
            (
                "outputs",
                "per_key = tiny_sum * (1 + 1 / total) if divided_first(arithmetic) else tiny_sum / total",
                "per_key = 0",
            ),
        ),
    ),
    Case(
        "T4",
        wide,
        np.full((1, 16), 1 + 0.99 * B),
        np.full((1, 16), 1 + 0.99 * B),
        1.0,
        (("scores", "raw = moved + rounded * (terms + moved)", "raw = rounded * terms"),),
    ),
    Case("T4", wide, 0.0, 0.0, 1 + 0.99 * B, (("outputs", "(merged + converted)", "merged"),)),
    Case(
        "T5", late, np.ones((1, 200)), few[None], 1.0, (("scores", "above(u_sum, additions + 1)", "above(u_sum, 1)"),)
    ),
    Case(
        "T5",
        halves,
        np.full((1, 64), 1.5),
        np.repeat([[1.8369140625, -1.826171875]], 32, axis=1).reshape(1, 64),
        1.0,
        (UNSCALED,),
        options={"scale": 0.3},
        result=by_roots,
    ),
    Case("T6", coarse, 1.0, [8 + 0.9 * 8 * B, 0.0], [0.0, 1.0], (UNSCALED, UNFINISHED), (UNSHIFTED,)),
    Case(
        "T7",
        halves,
        1.0,
        10000.0,
        1.0,
        (("scores", "((1 + exp_error) * (1 + above(u, 2)) - 1) * (np.abs(s) + error)", "0"),),
        (UNADDED,),
        {"softcap": 30.0077},
    ),
    Case(
        "T7",
        replace(DOUBLE, accumulate="bfloat16"),
        np.ones((1, 7)),
        np.array([[1024.0, 1, 1, 1, 1, 1, -1024.0]]),
        1.0,
        (("scores", "np.maximum(np.abs(s) - error, 0)", "np.abs(s)"),),
        (),
        {"softcap": 1.0},
    ),
    Case(
        "T8",
        halves,
        0.0,
        0.0,
        1.0,
        (
            ("scores", "error + db + above(u, 2) * (np.abs(bias) + db) + tiny", "error"),
            ("scores", "above(u, 3) * (np.abs(s) + error)  # [T8]", "0"),
        ),
        (UNADDED,),
        {"bias": np.full((1, 1, 1, 1), 1000.24)},
    ),
    Case(
        "T8",
        halves,
        1.0,
        0.24,
        1.0,
        (
            ("scores", "above(u, 2) * (np.abs(bias) + db) + tiny", "0"),
            ("scores", "above(u, 3) * (np.abs(s) + error)  # [T8]", "0"),
        ),
        (UNADDED, UNSCALED, UNFINISHED),
        {"bias": np.full((1, 1, 1, 1), 1000.0)},
    ),
    Case(
        "T9",
        halves,
        0.0,
        0.0,
        1.0,
        (("scores", "ds + above(u, 3) * (np.abs(sink) + ds)", "0 * ds"),),
        (UNADDED,),
        {"sinks": np.array([1000.24])},
    ),
    Case("T10", coarse, 1.0, [60.0, 0.1201171875], [0.0, 1.0], (UNSHIFTED,), SHIFTED),
    Case(
        "T10",
        CARELESS,
        1.0,
        [0.0, -1.0],
        [0.0, 1.0],
        (("weights", "each * (1 + rescales(count, arithmetic))", "0"),),
        result=LESS,
    ),
    Case(
        "T10",
        replace(CARELESS, tiles=8),
        1.0,
        np.arange(8.0),
        np.eye(8)[:1].T,
        (("weights", "each * (1 + rescales(count, arithmetic))", "each"),),
        result=LESS,
    ),
    Case(
        "T11",
        CARELESS,
        1.0,
        [0.0, -1.0],
        [0.0, 1.0],
        (("outputs", "moved = np.fmin(sums.moved / less, spread)", "moved = 0 * out"),),
        result=LESS,
    ),
    Case(
        "T11",
        wide,
        1.0,
        np.append(64.2501, np.full(100, 64.2499)),
        np.eye(101)[:1].T,
        (("outputs", "np.fmin(sums.moved / less, spread)", "np.fmin(sums.moved, spread)"),),
    ),
    Case(
        "T12",
        replace(DOUBLE, probabilities="float8_e4m3"),
        1.0,
        np.append(0.0, np.log([0.53, 0.5])),
        [0.0, 1.0, -1.06],
        (("outputs", "np.where(rest > 0, away / np.where(rest > 0, rest, 1), np.inf)", "0"),),
    ),
    Case(
        "T13",
        replace(DOUBLE, probabilities="float8_e4m3"),
        1.0,
        np.append(0.0, np.log([0.53, 0.5])),
        [0.0, 1.0, -1.06],
        (("outputs", "nu = (1 + u_p) *", "nu ="),),
    ),
    Case(
        "T13",
        late,
        np.zeros(1),
        np.zeros(200),
        np.append(few[:-1], -1.0),
        (("outputs", "above(u_sum, additions + 1)", "above(u_sum, 1)"),),
    ),
    Case(
        "T14",
        late,
        1.0,
        np.log(few),
        np.ones(200),
        (
            ("logs", "mu = (1 + u_p) * (1 + above(u_sum, longest)) - 1", "mu = 0 * longest"),
            ("logs", "mu_less = 1 - (1 - u_p) * (1 - below(u_sum, longest))", "mu_less = 0 * longest"),
        ),
    ),
    Case(
        "T15",
        replace(DOUBLE, store="bfloat16"),
        0.0,
        0.0,
        1 + 0.99 * B,
        (("outputs", "u_store * (np.abs(out) + error)", "0"),),
    ),
    Case(
        "T16",
        replace(coarse, merges=2),
        1.0,
        np.full(6, 60.0),
        np.ones(6),
        (("outputs", "merged = (np.expm1(through) * (p + weights.more)) @ size / less", "merged = 0"),),
        SHIFTED,
    ),
    Case(
        "T17",
        late,
        np.full((1, 8), 100.0),
        np.full((1, 8), 100.0),
        1.0,
        (
            ("scores", "np.where(reach > largest, np.inf, error)", "error"),
            ("limits", "beyond | np.isnan(worst)", "np.isnan(worst)"),
        ),
    ),
    Case(
        "T17",
        late,
        0.0,
        np.zeros(100),
        np.full(100, 1000.0),
        (("limits", "beyond | np.isnan(worst)", "np.isnan(worst)"),),
    ),
    Case("T18", coarse, 1.0, np.full(3, 60.0), np.ones(3), (UNADDED,), SHIFTED),
)


@pytest.mark.parametrize("case", WORST, ids=[f"{case.label}-{n}" for n, case in enumerate(WORST)])
def test_the_worst_case_needs_each_of_its_terms(case: Case) -> None:
    with edited(*case.exact) as package:
        assert not case.violations(package, "worst"), "the whole bound does not hold"
    with edited(*case.exact, *case.out) as package:
        assert case.violations(package, "worst"), "the term could be left out"
    assert not case.violations(__import__("kvattn.testing.tolerance", fromlist=["bounds"]), "worst")


def drawn(count: int, width: int, rows: int = 8, size: float = 1.0) -> tuple[Array, Array, Array]:
    r = np.random.default_rng(0)
    return size * r.standard_normal((rows, width)), r.standard_normal((count, width)), r.standard_normal((count, 16))


TWO = -np.repeat([0.0, 0.1003], 100), np.repeat([1.0, -math.exp(0.1003)], 100)
"""Two keys, a hundred times each, whose values cancel."""

DEPTHS = -np.append(0.0, 3 + np.arange(64) / 19)
flat = np.zeros((1, 1)), np.zeros((2000, 1)), np.random.default_rng(1).random((2000, 4)) + 1
EXP: Edit = ("weights", "((u * binade(depth)) ** 2 + LOOSE * exp_error**2 * (depth > 0)) / 3", "0")
SCORE: Edit = (
    "scores",
    "variance = variance + strays + (u * binade(s)) ** 2",
    "variance = 0 * s",
)
NARROW = replace(DOUBLE, compute="float16", accumulate="float64", probabilities="float64", store="float64")

eight = replace(DOUBLE, probabilities="float8_e4m3", totals="unrounded")
bfloat = format_of("bfloat16").round
KNOWN: Edit = ("outputs", "np.abs(weights.mixed.known @ v).max(0)", "0")
CHANCE: Edit = ("outputs", "alike.mixed(weights.mixed.chance, v)", "0")

ADDED: Edit = ("running", "variance += LOOSE * (1 - share) ** 2 * np.einsum", "variance += 0 * np.einsum")

STATISTICAL = (
    Case(
        "S1",
        late,
        *drawn(50, 64),
        (SCORE,),
        (ADDED, ("outputs", "u_sum**2 / 3 * (weights.rounded**2 @ v**2)", "0.0")),
        {"scale": 1.0},
    ),
    Case("S2", NARROW, 1.0, DEPTHS, np.exp(-DEPTHS) * np.append(0.0, np.tile([1.0, -1.0], 32)), (EXP,), (SCORE,)),
    Case(
        "S3",
        NARROW,
        *drawn(50, 64),
        (
            ("running", "np.minimum(np.maximum(_about(p**2 * moments, v, out), 0), widest**2)", "0 * out"),
            ("outputs", "np.fmin(sums.second, spread)", "0"),
        ),
    ),
    Case(
        "S4",
        replace(DOUBLE, probabilities="float8_e4m3"),
        *drawn(300, 8, size=0.3),
        (
            ("running", "LOOSE * u_p**2 / 3 * (alone**2 @ v**2)", "0.0"),
            ("running", "u_p**2 / 3 * (weights.rounded", "0.0 * (weights.rounded"),
            ("outputs", "u_p * np.abs(weights.rounded @ v)", "0"),
        ),
    ),
    Case(
        "S4",
        replace(DOUBLE, probabilities="float8_e4m3"),
        1.0,
        np.append(0.0, np.full(300, math.log(0.53))),
        np.ones(301) + np.arange(301) / 1000,
        (
            ("running", "u_p**2 / 3 * (weights.rounded", "0.0 * (weights.rounded"),
            ("outputs", "u_p * np.abs(weights.rounded @ v)", "0"),
        ),
    ),
    Case("S5", late, *drawn(1000, 8), (ADDED, ("running", "lost += _caught(x", "lost += 0 * _caught(x")), (SCORE,)),
    Case(
        "S6",
        replace(DOUBLE, accumulate="bfloat16"),
        *flat,
        (
            ("running", "lost += _caught(x", "lost += 0 * _caught(x"),
            ("running", "np.abs([_caught", "0 * np.abs([_caught"),
        ),
    ),
    Case(
        "S6",
        replace(DOUBLE, accumulate="float16", sum_ulp=1.0),
        np.abs(drawn(1, 256)[0]),
        np.abs(drawn(1, 256)[1]),
        1.0,
        (("scores", "drift = size * share", "drift = 0 * size * share"),),
    ),
    Case(
        "S11",
        eight,
        1.0,
        np.append(0.0, np.full(2000, math.log(1.49 * 2.0**-9))),
        np.append(0.0, np.ones(2000)),
        (KNOWN, CHANCE),
        (("running", "u_p**2 / 3 * (weights.rounded", "0.0 * (weights.rounded"),),
    ),
    Case(  # the same weights of keys that are not the same
        "S11",
        eight,
        np.array([[1.0, 0.0]]),
        np.stack([np.append(0.0, np.full(2000, math.log(1.49 * 2.0**-9))), np.arange(2001)], axis=1),
        np.append(0.0, np.ones(2000)),
        (KNOWN,),
        (("outputs", "u_p * np.abs(weights.rounded @ v)", "0"),),
    ),
    Case(  # products below the normal numbers of their sum
        "S11",
        late,
        np.array([[1.0, 0.0]]),
        np.stack([np.append(0.0, np.full(2000, math.log(0.25))), np.arange(2001)], axis=1),
        np.append(0.0, np.full(2000, 1.49 * 2.0**-22)),
        (("outputs", "known = gone / base +", "known ="),),
    ),
    Case(  # each by itself, at whatever scale
        "S11",
        eight,
        1.0,
        np.append(0.0, np.log(2.0**-9 * (1 + 3 * np.random.default_rng(2).random(64)))),
        np.append(np.zeros((1, 16)), np.random.default_rng(3).standard_normal((64, 16)), axis=0),
        (CHANCE,),
        (
            KNOWN,
            ("running", "LOOSE * u_p**2 / 3 * (alone**2 @ v**2)", "0.0"),
            ("outputs", "u_p * np.abs(weights.rounded @ v)", "0"),
        ),
    ),
    Case(
        "S12",
        replace(DOUBLE, accumulate="float32", inputs="bfloat16"),
        bfloat(drawn(1, 64)[0]),
        bfloat(drawn(1, 64)[1]),
        1.0,
        (("digits", "found += part", "found += 0 * part"),),
    ),
    Case(  # the total of weights that are numbers of 8 digits
        "S12",
        replace(DOUBLE, accumulate="float32", probabilities="bfloat16", sum_ulp=1.0, totals="rounded"),
        1.0,
        np.log(np.append(1.0, bfloat(0.2 * np.random.default_rng(5).random(3000)))),
        np.zeros(3001),
        (("running", "_below(p, sums / u, arithmetic) + 2 * u / max(p.shape[1], 1)", "0 * p"),),
        (
            ("logs", "LOOSE * u_p**2 / 3 * alike.squared(weights.rounded)", "0"),
            ("logs", "np.abs(weights.added.known.sum(2)).max(0)", "0"),
        ),
    ),
    Case(
        "S7",
        NARROW,
        1.0,
        *TWO,
        (
            ("running", "variance += (deviation[:, same]", "variance += 0 * (deviation[:, same]"),
            ("outputs", "np.fmin(sums.second, spread)", "0"),
        ),
    ),
    Case(
        "S8",
        replace(DOUBLE, store="bfloat16"),
        0.0,
        0.0,
        1 + 0.99 * B,
        (("outputs", "+ u_store * np.abs(out) + underflow", "+ underflow"),),
    ),
    Case("S9", wide, *drawn(50, 64), (("bounding", "limits.statistical + away", "limits.statistical"),)),
    Case(
        "S10",
        late,
        0.0,
        np.zeros(300),
        np.full((300, 1), 1.37),
        (("running", "together += np.minimum(sums, size)", "together += 0 * np.minimum(sums, size)"),),
        (("running", "lost += _caught(x", "lost += 0 * _caught(x"),),
    ),
)


@pytest.mark.parametrize("case", STATISTICAL, ids=[f"{case.label}-{n}" for n, case in enumerate(STATISTICAL)])
def test_the_statistical_bound_needs_each_of_its_terms(case: Case) -> None:
    with edited(*case.exact) as package:
        assert not case.violations(package, "statistical"), "the whole bound does not hold"
    with edited(*case.exact, *case.out) as package:
        assert case.violations(package, "statistical"), "the term could be left out"


def test_what_is_exact_does_not_widen_the_bound() -> None:
    """Small integers are added without error [S12], numbers of 8 digits are not."""
    at = replace(DOUBLE, accumulate="float32", inputs="bfloat16")
    r = np.random.default_rng(6)
    q, k = (r.integers(-8, 9, (1, 1, rows, 32)).astype(float) for rows in (4, 1))
    whole, third = (bounds(x, k, k, arithmetic=at, scale=1.0).lse_statistical for x in (q, q + bfloat(1 / 3)))
    assert (third > 1e4 * whole).all()


def test_an_edit_that_changes_nothing_is_an_error() -> None:
    with pytest.raises(AssertionError, match="scores has no line"), edited(("scores", "above(u, 77)", "0")):
        pass
    with edited() as package:
        q = np.ones((1, 1, 2, 4))
        assert package.bounds is not bounds
        np.testing.assert_array_equal(
            package.bounds(q, q, q, arithmetic=DOUBLE)[1], bounds(q, q, q, arithmetic=DOUBLE)[1]
        )
