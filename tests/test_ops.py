"""Each counted function against Python's own arithmetic, and to the bit against every way of cutting its rows."""

from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn import ops
from kvattn.counting import Tally, counting
from kvattn.errors import DtypeError, ShapeError

Function = Callable[[Any], Any]
DTYPES = [np.float64, np.float32]


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0, spread: float = 1.0) -> Any:
    return (np.random.default_rng(seed).normal(size=shape) * spread).astype(dtype)


def unit(dtype: Any) -> float:
    return float(np.finfo(dtype).eps) / 2


ELEMENTWISE: dict[str, tuple[Function, Callable[[Decimal], Decimal]]] = {
    "exp": (ops.exp, lambda x: x.exp()),
    "log": (lambda x: ops.log(np.abs(x)), lambda x: abs(x).ln()),
    "tanh": (ops.tanh, lambda x: ((2 * x).exp() - 1) / ((2 * x).exp() + 1)),
    "sigmoid": (ops.sigmoid, lambda x: 1 / (1 + (-x).exp())),
    "silu": (ops.silu, lambda x: x / (1 + (-x).exp())),
    "softplus": (ops.softplus, lambda x: (1 + x.exp()).ln()),
}


def off_by(name: str, x: Any, found: Any) -> float:
    """Largest relative error against 40-digit decimals, in units of u."""
    worst = 0.0
    with localcontext() as context:
        context.prec = 40
        for value, result in zip(x.ravel().tolist(), found.ravel().tolist(), strict=True):
            exact = ELEMENTWISE[name][1](Decimal(value))
            worst = max(worst, float(abs(Decimal(result) - exact) / abs(exact)))
    return worst / unit(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_it_equals_decimals(name: str, dtype: Any) -> None:
    """4 ulp = 8u for each function in the formula and u for each operation: under 24u for all of them."""
    x = np.concatenate([drawn(40, dtype=dtype, spread=3.0), np.array([-20, -1, -1e-3, 1e-3, 1, 20], dtype)])
    x = x[np.abs(np.abs(x) - 1) > 0.01] if name == "log" else x
    found = ELEMENTWISE[name][0](x)
    assert found.dtype == dtype
    assert found.shape == x.shape
    assert off_by(name, x, found) < 24


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_relative_error_of_1e_14_would_be_seen(name: str) -> None:
    x = drawn(40, spread=3.0)
    assert off_by(name, x, ELEMENTWISE[name][0](x) * (1 + 1e-14)) > 24


def test_nothing_overflows() -> None:
    """Warnings are errors here, so an overflow on the way would show."""
    far = np.array([-1e308, -1e4, -745.2, 1e4, 1e308])
    assert ops.sigmoid(far).tolist() == [0, 0, pytest.approx(math.exp(-745.2)), 1, 1]
    assert ops.softplus(far).tolist() == [0, 0, pytest.approx(math.exp(-745.2)), 1e4, 1e308]
    assert ops.tanh(far).tolist() == [-1, -1, -1, 1, 1]
    assert ops.silu(far)[3:].tolist() == [1e4, 1e308]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_single_number_stays_one(name: str) -> None:
    found = ELEMENTWISE[name][0](np.array(0.75))
    assert isinstance(found, np.ndarray)
    assert found.shape == ()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 1, 1), (3, 5, 2), (9, 7, 11), (8, 16, 8), (17, 3, 9)])
def test_contract_equals_exact_sums(rows: int, depth: int, columns: int, dtype: Any) -> None:
    """A sum of K products in any order: off by at most K·u·Σ|a||b|."""
    a, b = drawn(rows, depth, dtype=dtype), drawn(depth, columns, dtype=dtype, seed=1)
    found = ops.contract(a, b)
    assert found.dtype == dtype
    for m, n in np.ndindex(rows, columns):
        terms = [Fraction(float(a[m, k])) * Fraction(float(b[k, n])) for k in range(depth)]
        assert abs(Fraction(float(found[m, n])) - sum(terms)) <= depth * unit(dtype) * sum(map(abs, terms))


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        ((2, 3, 4, 5), (5, 6), (2, 3, 4, 6)),
        ((2, 3, 4, 5), (3, 5, 6), (2, 3, 4, 6)),
        ((4, 5), (2, 1, 5, 6), (2, 1, 4, 6)),
        ((2, 1, 4, 5), (3, 5, 6), (2, 3, 4, 6)),
        ((0, 5), (5, 6), (0, 6)),
        ((2, 0, 5), (2, 5, 6), (2, 0, 6)),
        ((4, 0), (0, 6), (4, 6)),
        ((2, 4, 0), (0, 6), (2, 4, 6)),
        ((4, 5), (5, 0), (4, 0)),
    ],
)
def test_contract_broadcasts_and_takes_nothing(a: Any, b: Any, out: Any) -> None:
    left, right = drawn(*a), drawn(*b, seed=1)
    found = ops.contract(left, right)
    assert found.shape == out
    assert np.allclose(found, np.einsum("...mk,...kn->...mn", left, right), rtol=0, atol=1e-14)


def by_hand_rms(row: list[float], weight: list[float] | None, eps: float) -> list[float]:
    root = math.sqrt(math.fsum(x * x for x in row) / len(row) + eps)
    return [x / root * (1.0 if weight is None else weight[n]) for n, x in enumerate(row)]


def by_hand_layer(row: list[float], weight: list[float] | None, bias: list[float] | None, eps: float) -> list[float]:
    mean = math.fsum(row) / len(row)
    root = math.sqrt(math.fsum((x - mean) ** 2 for x in row) / len(row) + eps)
    normed = [(x - mean) / root * (1.0 if weight is None else weight[n]) for n, x in enumerate(row)]
    return [x + (0.0 if bias is None else bias[n]) for n, x in enumerate(normed)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_norms_equal_the_formulas_by_hand(dtype: Any, weighted: bool) -> None:
    """Rows of n = 7: n + 8 roundings, relative to the largest number of a row, and as many by hand: 30u·8."""
    x, weight, bias = drawn(2, 3, 7, dtype=dtype), drawn(7, dtype=dtype, seed=1), drawn(7, dtype=dtype, seed=2)
    most = 30 * 8 * unit(dtype)
    w, b = (weight, bias) if weighted else (None, None)
    rms, layer = ops.rms_norm(x, w, eps=1e-3), ops.layer_norm(x, w, b, eps=1e-3)
    assert rms.dtype == layer.dtype == dtype
    given_weight, given_bias = (weight.tolist(), bias.tolist()) if weighted else (None, None)
    for place in np.ndindex(2, 3):
        row = x[place].tolist()
        assert np.abs(rms[place] - by_hand_rms(row, given_weight, 1e-3)).max() <= most
        assert np.abs(layer[place] - by_hand_layer(row, given_weight, given_bias, 1e-3)).max() <= most
        # mutants: eps outside of the root, or n - 1 for n
        assert np.abs(rms[place] - by_hand_rms(row, given_weight, 0.0)).max() > most
        assert np.abs(layer[place] * math.sqrt(6 / 7) - layer[place]).max() > most


ROWWISE: dict[str, Function] = {
    "contract": lambda x: ops.contract(x, drawn(x.shape[-1], 5, dtype=x.dtype, seed=9)),
    "rms_norm": lambda x: ops.rms_norm(x, drawn(x.shape[-1], dtype=x.dtype, seed=9)),
    "layer_norm": ops.layer_norm,
    **{name: function for name, (function, _) in ELEMENTWISE.items()},
}


@given(
    st.sampled_from(sorted(ROWWISE)),
    st.sampled_from(DTYPES),
    st.integers(0, 40),
    st.sampled_from([1, 2, 3, 7, 8, 16, 33, 129]),
    st.lists(st.integers(0, 40), max_size=4),
    st.integers(0, 2**16),
)
def test_rows_are_the_same_however_they_are_cut(
    name: str, dtype: Any, rows: int, width: int, cuts: list[int], seed: int
) -> None:
    x = drawn(rows, width, dtype=dtype, seed=seed, spread=2.0)
    whole = ROWWISE[name](x)
    parts = [ROWWISE[name](part) for part in np.split(x, sorted(min(cut, rows) for cut in cuts))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", sorted(ROWWISE))
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_feel_their_neighbours(name: str, dtype: Any) -> None:
    x = np.abs(drawn(19, 33, dtype=dtype))
    spoiled = x.copy()
    spoiled[::2] = np.nan
    assert ROWWISE[name](spoiled)[1::2].tobytes() == ROWWISE[name](x)[1::2].tobytes()


def plain_product(x: Any) -> Any:
    """Mutant: a product whose kernel depends on the number of rows."""
    return x @ drawn(x.shape[-1], 5, dtype=x.dtype, seed=9)


def over_time(x: Any) -> Any:
    """Mutant: a norm that looks at all rows."""
    return x / np.sqrt((x * x).mean())


@pytest.mark.parametrize("mutant", [plain_product, over_time])
def test_functions_that_feel_the_cut_are_told_apart(mutant: Function) -> None:
    x = drawn(40, 129)
    assert np.concatenate([mutant(x[t : t + 1]) for t in range(40)]).tobytes() != mutant(x).tobytes()


VIEWS: dict[str, Function] = {
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "strided": lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "read-only": lambda x: np.broadcast_to(x, x.shape),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", sorted(ROWWISE))
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layout_in_memory_does_not_show(name: str, view: str, dtype: Any) -> None:
    x = drawn(19, 33, dtype=dtype)
    there = VIEWS[view](x)
    assert np.array_equal(there, x)
    assert np.array_equal(ROWWISE[name](there), ROWWISE[name](x))


@pytest.mark.parametrize("view", VIEWS)
def test_nor_does_that_of_the_second_factor(view: str) -> None:
    a, b = drawn(9, 33), drawn(33, 16, seed=1)
    assert np.array_equal(ops.contract(a, VIEWS[view](b)), ops.contract(a, b))
    square = drawn(16, 16)
    assert np.array_equal(ops.contract(square, square.T), ops.contract(square, square.T.copy()))


def test_arguments_stay_as_they_were() -> None:
    x, weight = drawn(5, 7), drawn(7, seed=1)
    before = x.copy(), weight.copy()
    for function in ROWWISE.values():
        function(x)
    ops.layer_norm(x, weight, weight)
    assert np.array_equal(before[0], x)
    assert np.array_equal(before[1], weight)


X = np.ones((2, 3, 5))


@pytest.mark.parametrize(
    ("call", "tally"),
    [
        (lambda: ops.contract(X, np.ones((5, 4))), Tally(matmul=2 * 6 * 5 * 4)),
        (lambda: ops.contract(X, np.ones((2, 5, 4))), Tally(matmul=2 * 6 * 5 * 4)),
        (lambda: ops.contract(np.ones((3, 5)), np.ones((2, 5, 4))), Tally(matmul=2 * 2 * 3 * 5 * 4)),
        (
            lambda: ops.contract(X, np.ones((5, 4)), weights=True),
            Tally(matmul=240, weights_read=160, activations=6 * (5 + 4) * 8),
        ),
        (
            lambda: ops.contract(X.astype("f4"), np.ones((5, 4), "f4"), weights=True),
            Tally(matmul=240, weights_read=80, activations=6 * (5 + 4) * 4),
        ),
        (lambda: ops.exp(X), Tally(transcendental=30)),
        (lambda: ops.log(X), Tally(transcendental=30)),
        (lambda: ops.tanh(X), Tally(transcendental=30)),
        (lambda: ops.sigmoid(X), Tally(transcendental=30, arithmetic=60)),
        (lambda: ops.silu(X), Tally(transcendental=30, arithmetic=90)),
        (lambda: ops.softplus(X), Tally(transcendental=60, arithmetic=60)),
        (lambda: ops.rms_norm(X), Tally(transcendental=6, arithmetic=3 * 30 + 2 * 6)),
        (lambda: ops.rms_norm(X, np.ones(5)), Tally(transcendental=6, arithmetic=4 * 30 + 2 * 6)),
        (lambda: ops.layer_norm(X), Tally(transcendental=6, arithmetic=5 * 30 + 3 * 6)),
        (lambda: ops.layer_norm(X, np.ones(5)), Tally(transcendental=6, arithmetic=6 * 30 + 3 * 6)),
        (lambda: ops.layer_norm(X, np.ones(5), np.ones(5)), Tally(transcendental=6, arithmetic=7 * 30 + 3 * 6)),
        (lambda: ops.exp(X[:0]), Tally()),
    ],
)
def test_what_it_does_is_counted(call: Callable[[], Any], tally: Tally) -> None:
    """A norm of n numbers: n squares, n - 1 + 1 additions (eps), a division by n, a root, n divisions, n weights."""
    with counting() as counted:
        call()
    assert counted.tally == tally


def test_the_closed_form_of_a_weight_is_what_is_counted() -> None:
    with counting() as counted:
        ops.contract(X, np.ones((5, 4)), weights=True)
    assert counted.tally == ops.contract_cost(6, (5, 4), 8)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (
            (3, 4),
            (5, 6),
            r"^b must have shape \[\.\.\., K, N\] for a of shape \[\.\.\., M, K\], got \(5, 6\) for \(3, 4\)$",
        ),
        ((3, 4), (4,), r"^b must have shape \[\.\.\., K, N\] for a of .*, got \(4,\) for \(3, 4\)$"),
        ((4,), (4, 5), r"^b must have shape .*, got \(4, 5\) for \(4,\)$"),
        ((2, 3, 4), (3, 4, 5), r"^b must have leading axes that broadcast against a of \(2, 3, 4\), got \(3, 4, 5\)$"),
    ],
)
def test_shapes_that_do_not_fit_are_named(a: Any, b: Any, words: str) -> None:
    with counting() as counted, pytest.raises(ShapeError, match=words):
        ops.contract(np.ones(a), np.ones(b))
    assert counted.tally == Tally()


def test_mixed_dtypes_are_refused() -> None:
    with pytest.raises(DtypeError, match=r"^b must have the dtype of a, float32, got float64$"):
        ops.contract(np.ones((3, 4), np.float32), np.ones((4, 5)))
