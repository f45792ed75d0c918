"""Gated DeltaNet: against Python floats, its forms against each other, and every law that a variant keeps.

In CI a law tries half of the profile's number of examples, under ``KVATTN_PROFILE=deep`` all.
"""

from collections.abc import Callable
from dataclasses import fields, replace
import math
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, DtypeError, PositionError, RollbackError, ShapeError
from kvattn.testing.laws import LAWS, stepped
from kvattn.testing.recurrent_bounds import layer_bound
from kvattn.testing.strategies import cases
from kvattn.variants.recurrent.gated_delta import GatedDelta, weight_shapes


def a_layer(seed: Any = 0, dtype: Any = np.float64, taps: Any = 3, **options: Any) -> Any:
    """M 4, Hk 2, Hv 4, Dk 3, Dv 2."""
    rng = np.random.default_rng(seed)
    shapes = weight_shapes(hidden=4, key_heads=2, heads=4, width=3, value_width=2, taps=taps)
    weights: dict[str, Any] = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return GatedDelta(**weights, key_heads=2, **options)


def some_x(length: Any, seed: Any = 1, batch: Any = 2, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).standard_normal((batch, length, 4)).astype(dtype)


def by_hand(layer: GatedDelta, x: Any) -> Any:
    """The whole layer on nested lists of Python floats, one token at a time."""
    w = {f.name: getattr(layer, f.name) for f in fields(layer)}
    w = {name: a.astype(float).tolist() for name, a in w.items() if isinstance(a, np.ndarray)}
    heads, value_width, groups = len(w["log_rate"]), len(w["norm"]), layer.key_heads
    keys = len(w["query"][0])
    width = keys // groups
    scale = width**-0.5 if layer.scale is None else layer.scale

    def times(row: list[float], matrix: list[list[float]]) -> list[float]:
        return [math.fsum(row[m] * matrix[m][n] for m in range(len(row))) for n in range(len(matrix[0]))]

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z)) if z > 0 else math.exp(z) / (1 + math.exp(z))

    def shortened(part: list[float]) -> list[float]:
        length = math.sqrt(math.fsum(z * z for z in part) + layer.length_epsilon)
        return [z / length for z in part]

    out = []
    for sequence in x.astype(float).tolist():
        s = [[[0.0] * value_width for _ in range(width)] for _ in range(heads)]
        seen: list[list[float]] = []
        rows = []
        for token in sequence:
            seen.append(times(token, w["query"]) + times(token, w["key"]) + times(token, w["value"]))
            mixed = seen[-1]
            if "convolution" in w:
                taps = len(w["convolution"][0])
                mixed = [
                    math.fsum(
                        w["convolution"][n][taps - 1 - back] * seen[-1 - back][n]
                        for back in range(min(taps, len(seen)))
                    )
                    for n in range(len(mixed))
                ]
            mixed = [z * sigmoid(z) for z in mixed]
            decays, betas = times(token, w["decay"]), times(token, w["beta"])
            gates = times(token, w["gate"])
            gated: list[float] = []
            for h in range(heads):
                g = h // (heads // groups)
                q = shortened(mixed[g * width : (g + 1) * width])
                k = shortened(mixed[keys + g * width : keys + (g + 1) * width])
                v = mixed[2 * keys + h * value_width : 2 * keys + (h + 1) * value_width]
                fading = decays[h] + w["decay_bias"][h]
                softplus = max(fading, 0) + math.log1p(math.exp(-abs(fading)))
                a = math.exp(-math.exp(w["log_rate"][h]) * softplus)
                beta = sigmoid(betas[h]) * (2 if layer.negative_eigenvalues else 1)
                o = []
                for c in range(value_width):
                    column = [a * s[h][n][c] for n in range(width)]
                    change = beta * (v[c] - math.fsum(k[n] * column[n] for n in range(width)))
                    for n in range(width):
                        s[h][n][c] = column[n] + k[n] * change
                    o.append(scale * math.fsum(q[n] * s[h][n][c] for n in range(width)))
                root = math.sqrt(math.fsum(z * z for z in o) / value_width + layer.norm_epsilon)
                for c in range(value_width):
                    gate = gates[h * value_width + c]
                    gated.append(o[c] / root * w["norm"][c] * gate * sigmoid(gate))
            rows.append(times(gated, w["output"]))
        out.append(rows)
    return np.array(out).reshape(x.shape)


@pytest.mark.by_hand("variants/recurrent/gated_delta")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("taps", "options"),
    [
        (3, {}),
        (None, {"negative_eigenvalues": True}),
        (1, {"scale": 2.0, "norm_epsilon": 0.1}),
        (2, {"length_epsilon": 0.5}),
    ],
)
def test_all_forms_equal_python_floats(dtype: Any, taps: Any, options: Any) -> None:
    layer, x = a_layer(3, dtype, taps, **options), some_x(9, dtype=dtype)
    wanted, bound = by_hand(layer, x), layer_bound(layer, x)
    assert bound.max() < (1e-10 if dtype == np.float64 else 0.05)
    found = layer.definition(x, np.arange(9)), stepped(layer, x, (1, 4))[0], layer.chunked(x, chunk=4)
    for attended, allowed in zip(found, (bound, bound, bound + layer_bound(layer, x, 4)), strict=True):
        assert attended.out.dtype == dtype
        assert (np.abs(attended.out - wanted) <= allowed).all()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=settings().max_examples // (1 if os.environ.get("KVATTN_PROFILE") == "deep" else 2))
@given(case=cases("gated_delta"))
def test_every_law_holds(law: Any, ordered: Any, case: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if ordered:
            patch.setenv("KVATTN_ARITHMETIC", "ordered")
            case = replace(case, x=case.x[:, :24], cuts=tuple(min(cut, 24) for cut in case.cuts))
        LAWS[law](case)


@given(cases("gated_delta"))
def test_a_step_is_the_definition_within_the_derived_bound(case: Any) -> None:
    layer, x = case.variant, case.x
    found, wanted = layer.step(layer.start(len(x)), x)[0], layer.definition(x, np.arange(x.shape[1]))
    assert (np.abs(found.out - wanted.out) <= layer_bound(layer, x)).all()


@given(cases("gated_delta"), st.data())
def test_chunks_are_a_step_within_the_derived_bound(case: Any, data: Any) -> None:
    layer, x = case.variant, case.x[:, :40]
    length = x.shape[1]
    chunk = data.draw(st.sampled_from(sorted({1, 3, 7, max(length - 1, 1), max(length, 1), length + 1, 64})))
    found, wanted = layer.chunked(x, chunk=chunk), layer.step(layer.start(len(x)), x)[0]
    assert (np.abs(found.out - wanted.out) <= layer_bound(layer, x, chunk)).all()
    assert found.lse.shape == wanted.lse.shape


def test_a_long_sequence_keeps_its_bits_and_its_bound() -> None:
    layer, x = replace(a_layer(4), log_rate=np.full(4, -9.0)), some_x(300)
    whole, _ = stepped(layer, x, ())
    cut, _ = stepped(layer, x, (1, 63, 64, 65, 255, 256, 257))
    assert whole.out.tobytes() == cut.out.tobytes()
    assert (np.abs(whole.out - layer.definition(x, np.arange(300)).out) <= layer_bound(layer, x)).all()
    assert (np.abs(whole.out - layer.chunked(x).out) <= layer_bound(layer, x, 64)).all()


@pytest.mark.parametrize("rollback", [0, 1, 3])
@pytest.mark.parametrize("steps", [(7,), (1, 1, 1, 1, 1, 1, 1), (2, 5), (6, 1)])
def test_rollback_is_exact_as_far_as_it_goes_and_refused_beyond(rollback: Any, steps: Any) -> None:
    layer, x, other = a_layer(5, rollback=rollback), some_x(7), some_x(4, seed=2)
    cache, start = layer.start(2), 0
    for size in steps:
        _, cache = layer.step(cache, x[:, start : start + size])
        start += size
    for back in range(rollback + 1):
        _, never = layer.step(layer.start(2), x[:, : 7 - back])
        found, wanted = layer.step(cache.truncate(7 - back), other)[0], layer.step(never, other)[0]
        assert found.out.tobytes() == wanted.out.tobytes()
    with pytest.raises(RollbackError, match=f"must be one that is remembered, .*7, got {6 - rollback}"):
        cache.truncate(6 - rollback)


def test_the_state_does_not_grow() -> None:
    layer = a_layer(rollback=2)
    sizes = [layer.step(layer.start(2), some_x(length))[1].nbytes for length in (3, 30)]
    state = 4 * 3 * 2 + (3 - 1) * (2 * 2 * 3 + 4 * 2)
    assert sizes == [3 * 2 * state * 8] * 2


def test_a_step_reads_the_state_once_and_writes_what_it_keeps() -> None:
    layer = a_layer(rollback=2)
    state = 2 * 8 * (4 * 3 * 2 + 2 * 20)
    for new, written in ((0, 0), (1, 1), (2, 2), (3, 3), (50, 3)):
        cost = layer.cost(past=11, new=new, batch=2)
        assert (cost.kv_read, cost.kv_written) == (state, written * state)
    assert layer.cost(past=0, new=3) == layer.cost(past=10**6, new=3)


def test_one_tap_of_one_is_no_convolution() -> None:
    layer, x = a_layer(taps=None), some_x(6)
    one = replace(layer, convolution=np.ones((20, 1)))
    assert stepped(layer, x, (2,))[0].out.tobytes() == stepped(one, x, (2,))[0].out.tobytes()


def test_there_is_no_log_sum_exp() -> None:
    layer, x = a_layer(dtype=np.float32), some_x(3, dtype=np.float32)
    for attended in (layer.definition(x, range(3)), layer.step(layer.start(2), x)[0], layer.chunked(x)):
        assert attended.lse.shape == (2, 4, 3)
        assert attended.lse.dtype == np.float32
        assert np.isnan(attended.lse).all()


def test_where_positions_begin_does_not_matter() -> None:
    layer, x = a_layer(), some_x(5)
    plain = layer.definition(x, np.arange(5)).out
    assert np.array_equal(plain, layer.definition(x, np.arange(5) + 1000).out)
    assert np.array_equal(plain, layer.definition(x, np.arange(5) + np.array([[3], [-2]])).out)


CHANGES: dict[str, Any] = {
    "scale": 0.9,
    "negative_eigenvalues": True,
    "norm_epsilon": 0.1,
    "length_epsilon": 0.1,
    "convolution": None,
    "key_heads": 1,
}


@pytest.mark.parametrize("name", [f.name for f in fields(GatedDelta) if f.name not in ("rollback", "key_heads")])
def test_every_argument_matters_in_every_form(name: Any) -> None:
    layer, x = a_layer(6), some_x(5)
    other = replace(layer, **{name: CHANGES.get(name, getattr(layer, name) * 1.1 if name in WEIGHTS else None)})
    for form in FORMS:
        assert np.abs(form(layer, x) - form(other, x)).max() > 1e-4


def test_the_number_of_key_heads_matters_in_every_form() -> None:
    """The same matrices, read as one head of six or as two heads of three."""
    layer, x = a_layer(6), some_x(5)
    for form in FORMS:
        assert np.abs(form(layer, x) - form(replace(layer, key_heads=1), x)).max() > 1e-4


WEIGHTS = tuple(weight_shapes(hidden=1))
FORMS: tuple[Callable[[GatedDelta, Any], Any], ...] = (
    lambda layer, x: layer.definition(x, np.arange(x.shape[1])).out,
    lambda layer, x: layer.step(layer.start(len(x)), x)[0].out,
    lambda layer, x: layer.chunked(x).out,
)


def test_weights_are_copies_that_nobody_writes() -> None:
    given_ = np.ones((1, 1))
    weights: dict[str, Any] = {name: np.ones(shape) for name, shape in weight_shapes(hidden=1).items()}
    layer = GatedDelta(**{**weights, "query": given_}, key_heads=1)
    given_[:] = 7
    assert layer.query[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        layer.query[:] = 0


def test_the_repr_shows_numbers_and_leaves_the_arrays_out() -> None:
    assert repr(a_layer(rollback=2)) == (
        "GatedDelta(key_heads=2, scale=None, negative_eigenvalues=False, norm_epsilon=1e-06, length_epsilon=1e-06, "
        "rollback=2)"
    )


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("query", np.ones((4, 5)), ShapeError, r"query must have shape \[M, Hk·Dk\] with Hk=2, got \(4, 5\)"),
        ("query", np.ones((4, 0)), ShapeError, r"query must have shape \[M, Hk·Dk\] with Hk=2, got \(4, 0\)"),
        ("query", np.ones(4), ShapeError, r"query must have shape \[M, keys\], got \(4,\)"),
        ("key", np.ones((4, 8)), ShapeError, r"key must have shape \(4, 6\), nowhere 0, got \(4, 8\)"),
        ("value", np.ones((5, 8)), ShapeError, r"value must have shape \(4, 8\), nowhere 0, got \(5, 8\)"),
        ("decay", np.ones((4, 2)), ShapeError, r"decay must have shape \(4, 4\), nowhere 0, got \(4, 2\)"),
        ("log_rate", np.ones(3), ShapeError, r"log_rate must have shape \[Hv\], Hv a multiple of Hk=2, got \(3,\)"),
        ("log_rate", np.ones(0), ShapeError, r"log_rate must have shape \[Hv\], Hv a multiple of Hk=2, got \(0,\)"),
        ("log_rate", np.ones((4, 1)), ShapeError, r"log_rate must have shape \[Hv\], got \(4, 1\)"),
        ("decay_bias", np.ones(2), ShapeError, r"decay_bias must have shape \(4,\), nowhere 0, got \(2,\)"),
        ("beta", np.ones((4, 2)), ShapeError, r"beta must have shape \(4, 4\), nowhere 0, got \(4, 2\)"),
        ("gate", np.ones((4, 2)), ShapeError, r"gate must have shape \(4, 8\), nowhere 0, got \(4, 2\)"),
        ("norm", np.ones((4, 2)), ShapeError, r"norm must have shape \[Dv\], got \(4, 2\)"),
        ("norm", np.ones(0), ShapeError, r"value must have shape \(4, 0\), nowhere 0, got \(4, 8\)"),
        ("output", np.ones((4, 8)), ShapeError, r"output must have shape \(8, 4\), nowhere 0, got \(4, 8\)"),
        ("convolution", np.ones((8, 3)), ShapeError, r"convolution must have shape \(20, 3\), nowhere 0, got \(8, 3\)"),
        ("convolution", np.ones((20, 0)), ShapeError, r"convolution must have shape \(20, 0\), nowhere 0, got"),
        ("key", np.ones((4, 6), np.float32), DtypeError, "key must be float64 or float32 like query, got float32"),
        ("query", np.ones((4, 6), int), DtypeError, "query must be float64 or float32 like query, got int64"),
        ("norm", [None, None], DtypeError, "norm must be float64 or float32 like query, got object"),
        ("key_heads", 0, ArgumentError, "key_heads must be an integer >= 1, got 0"),
        ("key_heads", True, ArgumentError, "key_heads must be an integer >= 1, got True"),
        ("rollback", -1, ArgumentError, "rollback must be an integer >= 0, got -1"),
        ("scale", math.nan, ArgumentError, "scale must be a finite number, got nan"),
        ("scale", -math.inf, ArgumentError, "scale must be a finite number, got -inf"),
        ("scale", "1", ArgumentError, "scale must be a finite number, got '1'"),
        ("norm_epsilon", -1e-6, ArgumentError, "norm_epsilon must be a finite number >= 0, got -1e-06"),
        ("length_epsilon", True, ArgumentError, "length_epsilon must be a finite number >= 0, got True"),
        ("negative_eigenvalues", 2, ArgumentError, "negative_eigenvalues must be True or False, got 2"),
    ],
)
def test_bad_arguments_are_refused(name: Any, value: Any, error: Any, words: Any) -> None:
    with pytest.raises(error, match=words):
        replace(a_layer(), **{name: value})


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.zeros((2, 3, 5)), ShapeError, r"x must have shape \[B, T, M\] with .*M=4, got \(2, 3, 5\)"),
        (np.zeros((3, 4)), ShapeError, r"x must have shape \[B, T, M\] with .*M=4, got \(3, 4\)"),
        (np.zeros((2, 3, 4), np.float32), DtypeError, "x must have the dtype of the weights, float64, got float32"),
        (np.zeros((2, 3, 4), object), DtypeError, "x must have the dtype of the weights, float64, got object"),
    ],
)
@pytest.mark.parametrize("form", FORMS, ids=["definition", "step", "chunked"])
def test_hidden_states_that_do_not_fit_are_refused(form: Any, x: Any, error: Any, words: Any) -> None:
    with pytest.raises(error, match=words):
        form(a_layer(), x)


def test_another_batch_than_the_cache_holds_is_refused() -> None:
    layer = a_layer()
    with pytest.raises(ShapeError, match=r"x must have shape \[B, T, M\] with B=3, M=4, got \(2, 1, 4\)"):
        layer.step(layer.start(3), some_x(1))


def test_other_bad_calls_are_refused() -> None:
    layer, x = a_layer(), some_x(3)
    with pytest.raises(ArgumentError, match="batch must be an integer >= 1, got 0"):
        layer.start(0)
    with pytest.raises(ArgumentError, match="chunk must be an integer >= 1, got 0"):
        layer.chunked(x, chunk=0)
    with pytest.raises(ArgumentError, match="new must be an integer >= 0, got -1"):
        layer.cost(past=0, new=-1)
    with pytest.raises(ArgumentError, match="past must be an integer >= 0, got -1"):
        layer.cost(past=-1, new=1)
    for positions in ([0, 2, 3], [0, 1, 1], [2, 1, 0]):
        with pytest.raises(PositionError, match="positions must each be one more than the one before"):
            layer.definition(x, np.array(positions))


def test_a_cache_of_another_layer_is_refused() -> None:
    layer = a_layer()
    words = r"cache must hold states of shapes \[\(2, 4, 3, 2\), \(2, 2, 20\)\] and dtype float64, got .*"
    with pytest.raises(ShapeError, match=words + r"\(2, 1, 20\)\] and float64"):
        layer.step(a_layer(taps=2).start(2), some_x(1))
    with pytest.raises(DtypeError, match=words + r"\(2, 2, 20\)\] and float32"):
        layer.step(a_layer(dtype=np.float32).start(2), some_x(1))
