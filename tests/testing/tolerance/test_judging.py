"""The gate: correct code passes, in every arithmetic; wrong code does not, wherever the power statement says so."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.core.definition import definition
from kvattn.errors import ShapeError
from kvattn.masks import Causal
from kvattn.testing import arithmetic
from kvattn.testing.arithmetic import FLOAT32_BLAS, FLOAT64, Arithmetic
from kvattn.testing.emulated import emulate
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance import Power, judge
from kvattn.typing import Array

PRESETS = {name: value for name, value in vars(arithmetic).items() if isinstance(value, Arithmetic)}
MIXED = {
    name: value for name, value in PRESETS.items() if name in ("FLOAT32_BLAS", "BFLOAT16_TENSOR_CORE", "FLOAT16_PURE")
}


def numbers(at: Arithmetic, keys: int = 40, seed: int = 0) -> tuple[Array, Array, Array]:
    r = np.random.default_rng(seed)
    rounded = format_of(at.inputs).round
    q, k, v = (rounded(r.standard_normal(s)) for s in ((2, 4, 20, 16), (2, 2, keys, 16), (2, 2, keys, 16)))
    return q, k, v


@pytest.mark.parametrize("name", PRESETS)
def test_correct_code_passes_in_its_arithmetic(name: str) -> None:
    at = PRESETS[name]
    q, k, v = numbers(at)
    options: dict[str, Any] = {
        "softcap": 8.0,
        "visible": np.tri(20, 40, 20, dtype=bool),
        "sinks": np.array([0.0, 1.0, -2.0, 5.0]),
        "bias": np.random.default_rng(1).standard_normal((4, 20, 40)),
    }
    found = emulate(q, k, v, arithmetic=at, **options)
    verdict = judge(found.out, q, k, v, lse=found.lse, arithmetic=at, **options)
    assert verdict.word == "pass", str(verdict)
    assert verdict.passed == found.out.size + found.lse.size


def test_what_is_expected_is_the_definition() -> None:
    q, k, v = numbers(FLOAT64)
    at = np.broadcast_to(np.arange(20, 40), (2, 20)), np.broadcast_to(np.arange(40), (2, 40))
    sinks = np.array([0.0, 1.0, -2.0, 5.0])
    want = definition(q, k, v, q_positions=at[0], k_positions=at[1], mask=Causal(), softcap=3.0, sinks=sinks)
    seen = np.tri(20, 40, 20, dtype=bool)
    options: dict[str, Any] = {"lse": want.lse, "softcap": 3.0, "sinks": sinks, "arithmetic": FLOAT64}
    assert judge(want.out, q, k, v, visible=seen, **options).word == "pass"
    assert judge(want.out, q, k, v, visible=np.tri(20, 40, 19, dtype=bool), **options).word == "fail"


def dropped(q: Array, k: Array, v: Array, key: int) -> Array:
    seen = np.arange(k.shape[2]) != key
    return emulate(q, k, v, arithmetic=FLOAT64, visible=seen).out


def scaled(q: Array, k: Array, v: Array, factor: float) -> Array:
    return emulate(q, k, v, arithmetic=FLOAT64, scale=factor / np.sqrt(q.shape[3])).out


def one_more(q: Array, k: Array, v: Array) -> Array:
    return emulate(q, k, v, arithmetic=FLOAT64, sinks=np.zeros(q.shape[1])).out


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "fake",
    [
        lambda exact, v: np.zeros_like(exact),
        lambda exact, v: np.full_like(exact, 0.1),
        lambda exact, v: np.broadcast_to(np.repeat(v.mean(axis=2, keepdims=True), 2, axis=1), exact.shape),
        lambda exact, v: exact[:, :, ::-1],
        lambda exact, v: exact[:, ::-1],
        lambda exact, v: -exact,
    ],
    ids=["zeros", "a constant", "the mean of v", "rows in another order", "heads in another order", "another sign"],
)
def test_what_is_not_attention_never_passes(name: str, fake: Callable[[Array, Array], Array]) -> None:
    at = PRESETS[name]
    q, k, v = numbers(at)
    q = format_of(at.inputs).round(2 * q)
    exact = emulate(q, k, v, arithmetic=FLOAT64).out
    assert judge(fake(exact, v), q, k, v, arithmetic=at).word != "pass"


def power(at: Arithmetic, level: str, seed: int = 0) -> tuple[Power, tuple[Array, Array, Array]]:
    arrays = numbers(at, seed=seed)
    found = emulate(*arrays, arithmetic=at)
    return getattr(judge(found.out, *arrays, arithmetic=at), level), arrays


@pytest.mark.parametrize("level", ["sees", "proves"])
@pytest.mark.parametrize("name", MIXED)
def test_what_the_power_says_is_seen_is_seen_and_little_else(name: str, level: str) -> None:
    """In arithmetic whose errors are within the tolerance, faults twice as large as said are always seen."""
    at, words = PRESETS[name], ("fail",) if level == "proves" else ("suspect", "fail")
    said, (q, k, v) = power(at, level)
    noise = emulate(q, k, v, arithmetic=at).out - emulate(q, k, v, arithmetic=FLOAT64).out
    weights = emulate(q, k, np.broadcast_to(np.eye(40), (2, 2, 40, 40)), arithmetic=FLOAT64).out  # [B, Hq, T, S]

    def word(out: Array) -> str:
        verdict = judge(out + noise, q, k, v, arithmetic=at)
        return "fail" if verdict.failed else "suspect" if verdict.suspect else "pass"  # elements, not their mean

    heaviest = int(weights.max(axis=(0, 1, 2)).argmax())
    if weights[..., heaviest].max() > said.dropped_key:
        assert word(dropped(q, k, v, heaviest)) in words
    if said.scale < 1:
        assert word(scaled(q, k, v, 1 + 1.5 * said.scale)) in words
    if said.total < 1:
        exact = emulate(q, k, v, arithmetic=FLOAT64).out
        assert word(exact * (1 + 1.01 * said.total)) in words
        assert word(exact * (1 + said.total / 100)) not in words
    assert word(scaled(q, k, v, 1 + said.scale / 1000)) not in words


@pytest.mark.parametrize("name", MIXED)
def test_faults_of_real_code_are_seen_where_the_power_says_so(name: str) -> None:
    at = PRESETS[name]
    said, (q, k, v) = power(at, "sees")
    lse = emulate(q, k, v, arithmetic=FLOAT64).lse
    d = q.shape[3]
    outcomes = {
        "scale 1/sqrt(d+1)": (1 - np.sqrt(d / (d + 1)) > said.scale, scaled(q, k, v, np.sqrt(d / (d + 1)))),
        "one more in the denominator": (np.exp(-lse).max() > said.total, one_more(q, k, v)),
    }
    for fault, (expected, out) in outcomes.items():
        seen = judge(out, q, k, v, arithmetic=at).word != "pass"
        assert seen or not expected, f"{fault} is said to be seen"
    if name == "FLOAT32_BLAS":
        assert all(expected for expected, _ in outcomes.values())


def test_power_falls_with_the_width_of_the_arithmetic() -> None:
    scales = [
        power(PRESETS[name], "sees")[0].scale
        for name in ("FLOAT64", "FLOAT32_BLAS", "FLOAT16_TENSOR_CORE", "BFLOAT16_TENSOR_CORE", "BFLOAT16_PURE")
    ]
    assert scales == sorted(scales)
    assert scales[0] < 1e-12
    assert scales[-1] > 1e-2


def test_cut_off_instead_of_rounded_shows_in_all_elements_together() -> None:
    """[V1]: rounding to nearest passes, cutting off the same numbers does not."""
    at = PRESETS["BFLOAT16_TENSOR_CORE"]
    q, k, v = numbers(at)
    exact = emulate(q, k, v, arithmetic=FLOAT64).out
    kind = format_of("bfloat16")
    rounded = judge(kind.round(exact), q, k, v, arithmetic=at)
    cut = judge(kind.cut(exact), q, k, v, arithmetic=at)
    assert (rounded.word, rounded.mean.leans) == ("pass", False)
    assert cut.mean.leans
    assert cut.mean.outwards
    assert cut.mean.mean < 0
    assert cut.failed == 0
    assert cut.word == "suspect"


def test_a_shift_of_all_elements_by_half_an_error_shows_too() -> None:
    q, k, v = numbers(FLOAT32_BLAS)
    found = emulate(q, k, v, arithmetic=FLOAT32_BLAS).out
    away = 2 * np.abs(found - emulate(q, k, v, arithmetic=FLOAT64).out).mean()
    shifted = judge(found + away, q, k, v, arithmetic=FLOAT32_BLAS)
    assert shifted.mean.leans
    assert not shifted.mean.outwards


def test_too_few_elements_say_nothing_of_their_mean() -> None:
    x = np.ones((1, 1, 2, 4))
    assert "not tested" in str(judge(x, x, x, x, arithmetic=FLOAT64))


def test_an_empty_row_is_zero_exactly_and_nan_is_found_where_it_belongs() -> None:
    q, k, v = numbers(FLOAT32_BLAS)
    seen = np.ones((20, 40), bool)
    seen[3] = False
    found = emulate(q, k, v, arithmetic=FLOAT32_BLAS, visible=seen)
    out, lse = found.out.copy(), found.lse.copy()
    assert judge(out, q, k, v, lse=lse, arithmetic=FLOAT32_BLAS, visible=seen).word == "pass"
    out[0, 0, 3, 5] = 1e-30
    assert judge(out, q, k, v, lse=lse, arithmetic=FLOAT32_BLAS, visible=seen).failed == 1
    lse[0, 0, 3] = -1e30
    assert judge(out, q, k, v, lse=lse, arithmetic=FLOAT32_BLAS, visible=seen).failed == 2
    spoiled = v.copy()
    spoiled[0, 0, 7, 2] = np.nan
    found = emulate(q, k, spoiled, arithmetic=FLOAT32_BLAS)
    assert judge(found.out, q, k, spoiled, arithmetic=FLOAT32_BLAS).word == "pass"
    clean = emulate(q, k, v, arithmetic=FLOAT32_BLAS).out
    assert judge(clean, q, k, spoiled, arithmetic=FLOAT32_BLAS).failed == 40
    assert judge(found.out, q, k, v, arithmetic=FLOAT32_BLAS).failed == 40


def test_a_verdict_reads_in_a_few_lines() -> None:
    q, k, v = numbers(FLOAT32_BLAS)
    out = emulate(q, k, v, arithmetic=FLOAT32_BLAS).out
    out[1, 2, 3, 4] += 0.5
    verdict = judge(out, q, k, v, arithmetic=FLOAT32_BLAS)
    text = str(verdict)
    assert text.startswith("fail: 2559 pass, 0 suspect, 1 fail (compute float32")
    assert "farthest: out[1, 2, 3, 4] is " in text
    assert verdict.farthest is not None
    assert verdict.farthest.place == (1, 2, 3, 4)
    assert verdict.grades[1, 2, 3, 4] == 2
    assert len(text.splitlines()) <= 6
    q, k, v = numbers(PRESETS["BFLOAT16_PURE"], keys=300)
    wide = judge(out, q, k, v, arithmetic=PRESETS["BFLOAT16_PURE"])
    assert wide.vacuous > 0
    assert "wider than the values they see" in str(wide)


def test_nothing_to_judge_passes() -> None:
    none = np.zeros((1, 1, 0, 4))
    some = np.zeros((1, 1, 3, 4))
    assert judge(none, none, some, some, arithmetic=FLOAT64).word == "pass"
    assert judge(some, some, none, none, arithmetic=FLOAT64).word == "pass"
    assert judge(some + 1, some, none, none, arithmetic=FLOAT64).word == "fail"


def test_sizes_that_do_not_fit_are_named() -> None:
    x = np.ones((1, 2, 3, 4))
    with pytest.raises(ShapeError, match=r"found must have shape \(1, 2, 3, 4\), got \(1, 2, 3, 5\)"):
        judge(np.ones((1, 2, 3, 5)), x, x, x, arithmetic=FLOAT64)
    with pytest.raises(ShapeError, match=r"lse must have shape \(1, 2, 3\), got \(3,\)"):
        judge(x, x, x, x, lse=np.ones(3), arithmetic=FLOAT64)
    with pytest.raises(ShapeError, match="k must fit q"):
        judge(x, x, x[:, :, :, :3], x, arithmetic=FLOAT64)
    with pytest.raises(ShapeError, match=r"bias must broadcast to \(1, 2, 3, 3\), got shape \(2, 2\)"):
        judge(x, x, x, x, bias=np.ones((2, 2)), arithmetic=FLOAT64)
