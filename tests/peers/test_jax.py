"""``jax.nn.dot_product_attention`` at its own precision, float32.

Why not 1e-12: JAX casts its scores to float32 before the softmax, whatever it was given, also in its 64-bit mode.  So
the tolerance is the worst case of float32 arithmetic on the very numbers (`kvattn.testing.tolerance`): scores, one
softmax, the mix, all in float32; kvattn's own float64 error is a billionth of it.

Layouts: JAX's ``[B, T, N, H]`` is ``swapaxes(1, 2)`` of ours.

Where JAX differs: its causal triangle and its window hang in the top left corner when T != S; a hidden score becomes
``-0.7 * float32.max``, so that a row which sees nothing is the mean of *all* values and its log-sum-exp is about
-2.4e38, where ours are 0 and -inf; only rows beyond ``query_seq_lengths`` are 0 there too.
"""

import inspect
from typing import Any

import numpy as np
import pytest

import kvattn
from kvattn.masks import Causal, Explicit, Padding, Window, top_left_positions
from kvattn.testing.tolerance import Arithmetic, bounds

jax = pytest.importorskip("jax", minversion="0.7", reason="compares with JAX's attention: kvattn[peers]")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 and float8 arrays of NumPy: kvattn[peers]")

pytestmark = pytest.mark.peer

KEEP = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]], bool)  # no row is empty

# what JAX is asked, and the mask that says the same on positions
RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "plain": ({}, None),
    "causal": ({"is_causal": True}, Causal()),
    "scaled": ({"scale": 0.3}, None),
    "window, both sides": ({"local_window_size": (1, 2)}, Window(2, ahead=2)),
    "window, one number": ({"local_window_size": 1}, Window(2, ahead=1)),
    "causal window": ({"is_causal": True, "local_window_size": (2, 0)}, Causal() & Window(3)),
    "key lengths": ({"key_value_seq_lengths": np.array([3, 5], np.int32)}, Padding([3, 5])),
    "key lengths, causal": (
        {"key_value_seq_lengths": np.array([1, 4], np.int32), "is_causal": True},
        Causal() & Padding([1, 4]),
    ),
    "boolean mask": ({"mask": KEEP[None, None]}, Explicit(KEEP)),
    "boolean mask, key lengths": (
        {"mask": KEEP[None, None], "key_value_seq_lengths": np.array([5, 5], np.int32)},
        Explicit(KEEP) & Padding([5]),
    ),
}

SHAPES = {"as many": (3, 3), "grouped": (4, 2), "one": (3, 1)}


def inputs(heads: tuple[int, int], keys: int = 5, dtype: Any = np.float32) -> list[Any]:
    """q, k, v in our layout: B 2, T 4, D 8."""
    rng = np.random.default_rng([*heads, keys])
    shapes = (2, heads[0], 4, 8), (2, heads[1], keys, 8), (2, heads[1], keys, 8)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def theirs(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """JAX's answer in our layout and float64."""
    arrays = [jax.numpy.asarray(x.swapaxes(1, 2)) for x in (q, k, v)]
    options = {name: jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    return np.asarray(jax.nn.dot_product_attention(*arrays, **options)).swapaxes(1, 2).astype(np.float64)


def worst(q: Any, k: Any, v: Any, mask: Any, **options: Any) -> Any:
    """What float32 arithmetic may lose."""
    at, b, h = np.arange(4)[:, None], np.arange(2)[:, None, None, None], np.arange(q.shape[1])[:, None, None]
    seen = None if mask is None else mask(b, h, at, np.arange(k.shape[2]))
    return bounds(q, k, v, arithmetic=Arithmetic("float32", tiles=1), visible=seen, **options)


@pytest.mark.peer("masks/causal", "jax.nn.dot_product_attention", "derived bound of float32")
@pytest.mark.peer("masks/window", "jax.nn.dot_product_attention", "derived bound of float32")
@pytest.mark.peer("masks/padding", "jax.nn.dot_product_attention", "derived bound of float32")
@pytest.mark.peer("masks/explicit", "jax.nn.dot_product_attention", "derived bound of float32")
@pytest.mark.parametrize("heads", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_the_output_is_jaxs_in_float32(rule: str, heads: tuple[int, int]) -> None:
    q, k, v = inputs(heads)
    options, mask = RULES[rule]
    scale = options.get("scale")
    ours = kvattn.attention(q, k, v, mask=mask, scale=scale, q_positions=top_left_positions(4))
    bound = worst(q, k, v, mask, scale=scale).worst
    assert bound.max() < 1e-5
    assert (np.abs(ours - theirs(q, k, v, **options)) <= bound).all()


@pytest.mark.peer("mods/bias", "jax.nn.dot_product_attention", "derived bound of float32")
@pytest.mark.parametrize("heads", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("lead", [(1, 1), (2, 1), (1, "N"), (2, "N")])
def test_a_bias_is_added_to_the_scaled_scores(heads: tuple[int, int], lead: tuple[int, Any]) -> None:
    q, k, v = inputs(heads)
    shape = (lead[0], heads[0] if lead[1] == "N" else 1, 4, 5)
    bias = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    ours = kvattn.attention(q, k, v, bias=bias, scale=0.3)
    bound = worst(q, k, v, None, bias=bias, scale=0.3).worst
    assert (np.abs(ours - theirs(q, k, v, bias=bias, scale=0.3)) <= bound).all()


@pytest.mark.parametrize("heads", SHAPES.values(), ids=SHAPES)
def test_the_residual_is_the_natural_log_sum_exp(heads: tuple[int, int]) -> None:
    if "return_residual" not in inspect.signature(jax.nn.dot_product_attention).parameters:
        pytest.skip("this JAX does not return the log-sum-exp")
    q, k, v = inputs(heads)
    arrays = [jax.numpy.asarray(x.swapaxes(1, 2)) for x in (q, k, v)]
    out, residual = jax.nn.dot_product_attention(*arrays, is_causal=True, return_residual=True)
    ours = kvattn.attend(q, k, v, mask=Causal(), q_positions=top_left_positions(4))
    bound = worst(q, k, v, Causal())
    assert (np.abs(ours.out - np.asarray(out, np.float64).swapaxes(1, 2)) <= bound.worst).all()
    assert (np.abs(ours.lse - np.asarray(residual, np.float64).swapaxes(1, 2)) <= bound.lse_worst).all()


def test_a_row_that_sees_nothing_is_the_mean_of_all_values_there_and_zero_here() -> None:
    q, k, v = inputs((3, 3))
    keep = np.broadcast_to(np.array([[False], [True], [True], [True]]), (4, 5))
    ours = kvattn.attend(q, k, v, mask=keep)
    found = theirs(q, k, v, mask=np.array(keep)[None, None])
    assert not ours.out[:, :, 0].any()
    assert np.isneginf(ours.lse[:, :, 0]).all()
    assert np.abs(found[:, :, 0] - v.mean(axis=2, dtype=np.float64)).max() < 1e-6
    assert (np.abs(ours.out - found)[:, :, 1:] <= worst(q, k, v, Explicit(keep)).worst[:, :, 1:]).all()


def test_rows_beyond_the_query_lengths_are_zero_on_both_sides() -> None:
    q, k, v = inputs((4, 2))
    lengths = np.array([2, 4], np.int32)

    def real(b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return (q_positions < lengths[b]) & (k_positions >= 0)

    ours = kvattn.attention(q, k, v, mask=real, q_positions=top_left_positions(4))
    found = theirs(q, k, v, query_seq_lengths=lengths)
    assert not ours[0, :, 2:].any()
    assert not found[0, :, 2:].any()
    assert (np.abs(ours - found) <= worst(q, k, v, real).worst).all()


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"is_causal": True}, {"mask": Causal()}),  # anchored bottom right
        ({"local_window_size": (1, 2)}, {"mask": Window(1, ahead=2), "q_positions": top_left_positions(4)}),
        ({"scale": 0.3}, {"scale": 0.301}),
    ],
)
def test_a_mistake_is_noticed(options: dict[str, Any], wrong: dict[str, Any]) -> None:
    q, k, v = inputs((3, 3))
    bound = worst(q, k, v, None, scale=options.get("scale")).worst
    assert (np.abs(kvattn.attention(q, k, v, **wrong) - theirs(q, k, v, **options)) > bound).any()


def test_heads_tiled_instead_of_repeated_are_noticed() -> None:
    q, k, v = inputs((4, 2))
    tiled = kvattn.attention(q, np.tile(k, (1, 2, 1, 1)), np.tile(v, (1, 2, 1, 1)))
    assert np.abs(tiled - theirs(q, k, v)).max() > 1e-2


SMALL = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz")


@pytest.mark.parametrize("kind", [*SMALL, "float16", "float32"])
@pytest.mark.parametrize("maker", ["jax", "ml_dtypes"])
def test_arrays_go_in_as_they_are(maker: str, kind: str) -> None:
    """The same bits as the same numbers in float64."""
    stored = [x.astype(getattr(ml_dtypes, kind) if kind in SMALL else kind) for x in inputs((4, 2))]
    wide = [x.astype(np.float64) for x in stored]
    given = [jax.numpy.asarray(x) for x in stored] if maker == "jax" else stored
    ours = kvattn.attend(*given, mask=Causal())
    assert {type(x) for x in ours} == {np.ndarray}
    assert ours.out.dtype == ours.lse.dtype == np.float64
    for mine, reference in zip(ours, kvattn.attend(*wide, mask=Causal()), strict=True):
        assert np.array_equal(mine, reference)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_jax_in_a_smaller_dtype_is_within_that_dtypes_bound(kind: str) -> None:
    """JAX rounds its probabilities and its output to the dtype of its inputs, and softmaxes in float32."""
    dtype = getattr(ml_dtypes, kind) if kind in SMALL else np.dtype(kind)
    q, k, v = inputs((4, 2), dtype=dtype)
    wide = [x.astype(np.float64) for x in (q, k, v)]
    bound = bounds(*wide, arithmetic=Arithmetic(kind, tiles=1)).worst
    assert (np.abs(kvattn.attention(q, k, v) - theirs(q, k, v)) <= bound).all()


@pytest.mark.parametrize("argument", ["mask", "bias", "sinks", "q_positions", "k_positions"])
def test_jax_arrays_serve_as_every_argument(argument: str) -> None:
    q, k, v = inputs((4, 2))
    given: Any = {
        "mask": KEEP,
        "bias": np.arange(20, dtype=np.float32).reshape(4, 5) / 7,
        "sinks": np.arange(4, dtype=np.float32),
        "q_positions": np.arange(3, 7, dtype=np.int32),
        "k_positions": np.arange(2, 7, dtype=np.int32),
    }[argument]
    options: dict[str, Any] = {} if argument == "mask" else {"mask": Causal()}
    ours = kvattn.attention(q, k, v, **{**options, argument: jax.numpy.asarray(given)})
    assert np.array_equal(ours, kvattn.attention(q, k, v, **{**options, argument: given}))
