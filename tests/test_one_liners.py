"""``attention`` and ``attend``: what each argument means, by loops in Python floats, and how bad ones are refused."""

from itertools import product
import math
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

import kvattn
from kvattn.errors import ArgumentError, DtypeError, KvattnError, PositionError, ShapeError
from kvattn.masks import Causal, Window
from kvattn.one_liners import attend, attention
from kvattn.positions.alibi import Alibi
from kvattn.typing import Attended


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def by_hand(
    q: Any,
    k: Any,
    v: Any,
    *,
    seen: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
) -> tuple[Any, Any]:
    """scale → softcap → bias → mask → sinks → softmax → mix, row by row; ``seen`` and ``bias`` are full arrays."""
    batch, heads, queries, width = q.shape
    keys, group = k.shape[2], heads // k.shape[1]
    scale = 1 / math.sqrt(width) if scale is None else scale
    out, lse = np.zeros((*q.shape[:3], v.shape[3])), np.full(q.shape[:3], -np.inf)
    for b, h, t in product(range(batch), range(heads), range(queries)):
        scores = {}
        for s in range(keys):
            if seen is not None and not seen[b, h, t, s]:
                continue
            score = scale * math.fsum(float(x) * float(y) for x, y in zip(q[b, h, t], k[b, h // group, s], strict=True))
            score = score if softcap is None else softcap * math.tanh(score / softcap)
            scores[s] = score + (0.0 if bias is None else float(bias[b, h, t, s]))
        sink = [] if sinks is None else [float(sinks[h])]
        top = max([*scores.values(), *sink], default=-math.inf)
        if top == -math.inf:
            continue
        weights = {s: math.exp(score - top) for s, score in scores.items()}
        total = math.fsum([*weights.values(), *(math.exp(x - top) for x in sink)])
        lse[b, h, t] = top + math.log(total)
        for d in range(v.shape[3]):
            out[b, h, t, d] = math.fsum(w * float(v[b, h // group, s, d]) for s, w in weights.items()) / total
    return out, lse


def close(found: Attended, wanted: tuple[Any, ...]) -> bool:
    """At 1e-12 of numbers around 1; -inf in the same places."""
    return all(np.allclose(x, y, rtol=0, atol=1e-12) for x, y in zip(found, wanted, strict=True))


class Call(NamedTuple):
    q: Any
    k: Any
    v: Any
    options: dict[str, Any]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Sizes that differ, empty ones among them, and any set of options."""
    batch, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, keys = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    heads = kv_heads * group
    options: dict[str, Any] = {
        "scale": draw(st.sampled_from([None, 0.3, -1.0, 0.0])),
        "softcap": draw(st.sampled_from([None, 0.5, 30.0])),
        "sinks": draw(st.sampled_from([None, noise(heads)])),
        "bias": draw(st.sampled_from([None, noise(batch, heads, queries, keys)])),
    }
    flags = draw(st.lists(st.booleans(), min_size=queries * keys, max_size=queries * keys))
    pattern = np.array(flags, bool).reshape(queries, keys)
    options["seen"] = draw(st.sampled_from([None, np.broadcast_to(pattern, (batch, heads, queries, keys))]))
    seed = draw(st.integers(0, 99))
    q, k, v = (
        noise(batch, heads, queries, 3, seed=seed),
        noise(batch, kv_heads, keys, 3),
        noise(batch, kv_heads, keys, 2),
    )
    return Call(q, k, v, options)


@given(calls())
def test_every_option_means_what_the_loops_do(call: Call) -> None:
    q, k, v, options = call
    ours = {"mask" if name == "seen" else name: x for name, x in options.items()}
    found = attend(q, k, v, **ours)
    assert close(found, by_hand(q, k, v, **options))
    assert np.array_equal(attention(q, k, v, **ours), found.out)
    if options["sinks"] is None and options["seen"] is not None:
        assert (np.isneginf(found.lse) == ~options["seen"].any(-1)).all()


PLANTED: dict[str, dict[str, Any]] = {
    "no scale": {"scale": 1.0},
    "no cap": {"softcap": None},
    "no bias": {"bias": None},
    "no sinks": {"sinks": None},
    "no mask": {"seen": None},
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_an_ignored_option_is_noticed(mistake: str) -> None:
    q, k, v = noise(1, 4, 3, 5), noise(1, 2, 4, 5), noise(1, 2, 4, 2)
    seen = np.broadcast_to(np.arange(4) <= np.arange(1, 4)[:, None], (1, 4, 3, 4))
    options = {"bias": noise(1, 4, 3, 4), "softcap": 0.7, "sinks": noise(4), "seen": seen, "scale": None}
    found = attend(q, k, v, mask=seen, **{n: x for n, x in options.items() if n != "seen"})
    assert close(found, by_hand(q, k, v, **options))
    assert not close(found, by_hand(q, k, v, **{**options, **PLANTED[mistake]}))


def test_the_package_offers_both() -> None:
    assert kvattn.attention is attention
    assert kvattn.attend is attend


X = noise(2, 4, 3, 5)
K = noise(2, 2, 6, 5)


def test_any_number_of_batch_axes() -> None:
    whole = attend(X, K, K, mask=Causal(), sinks=noise(4))
    for lead in ((), (1,), (2, 1, 1)):
        q, k = (x[0] if not lead else np.broadcast_to(x[0], (*lead, *x.shape[1:])) for x in (X, K))
        found = attend(q, k, k, mask=Causal(), sinks=noise(4))
        assert found.out.shape == (*lead, 4, 3, 5)
        assert found.lse.shape == (*lead, 4, 3)
        assert np.array_equal(np.broadcast_to(whole.out[0], found.out.shape), found.out)
        assert np.array_equal(np.broadcast_to(whole.lse[0], found.lse.shape), found.lse)


def test_array_arguments_broadcast_over_several_batch_axes() -> None:
    q, k = (
        np.broadcast_to(noise(3, 1, 2, 3, 5), (3, 2, 2, 3, 5)),
        np.broadcast_to(noise(1, 2, 1, 4, 5), (3, 2, 1, 4, 5)),
    )
    bias, mask = noise(2, 1, 1, 4), noise(3, 1, 1, 3, 4) > -1
    found = attend(q, k, k, mask=mask, bias=bias)
    flat_q, flat_k = q.reshape(6, 2, 3, 5), k.reshape(6, 1, 4, 5)
    full = (3, 2, 2, 3, 4)
    options: dict[str, Any] = {"seen": np.broadcast_to(mask, full), "bias": np.broadcast_to(bias, full)}
    wanted = by_hand(flat_q, flat_k, flat_k, **{n: x.reshape(6, 2, 3, 4) for n, x in options.items()})
    assert close(Attended(found.out.reshape(6, 2, 3, 5), found.lse.reshape(6, 2, 3)), wanted)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (3, 6), (4, 1, 1), (4, 3, 1), (2, 1, 1, 6), (2, 4, 3, 6)])
def test_masks_and_biases_broadcast_to_the_scores(shape: tuple[int, ...]) -> None:
    bias, mask = noise(*shape, seed=1), noise(*shape, seed=2) > -0.5
    full = (2, 4, 3, 6)
    wanted = by_hand(X, K, K, seen=np.broadcast_to(mask, full), bias=np.broadcast_to(bias, full))
    assert close(attend(X, K, K, mask=mask, bias=bias), wanted)
    assert close(attend(X, K, K, mask=mask.tolist(), bias=bias.tolist()), wanted)


def test_the_queries_are_the_last_of_the_keys_unless_told() -> None:
    bottom = np.broadcast_to(np.arange(6) <= np.arange(3, 6)[:, None], (2, 4, 3, 6))
    top = np.broadcast_to(np.arange(6) <= np.arange(3)[:, None], (2, 4, 3, 6))
    assert close(attend(X, K, K, mask=Causal()), by_hand(X, K, K, seen=bottom))
    assert close(attend(X, K, K, mask=Causal(), q_positions=range(3)), by_hand(X, K, K, seen=top))
    assert close(attend(X, K, K, mask=Causal(), k_positions=range(10, 16)), by_hand(X, K, K, seen=bottom & False))


def test_more_queries_than_keys_leave_the_first_queries_without_any() -> None:
    found = attend(X, K[:, :, :1], K[:, :, :1], mask=Causal())
    assert not found.out[:, :, :2].any()
    assert np.isneginf(found.lse[:, :, :2]).all()
    assert (found.out[:, :, 2] != 0).all()


def test_positions_in_any_order_and_for_each_sequence() -> None:
    order = np.array([4, 0, 5, 2, 1, 3])
    straight = attend(X, K, K, mask=Causal() & Window(3))
    turned = attend(X, K[:, :, order], K[:, :, order], mask=Causal() & Window(3), k_positions=order)
    assert close(turned, tuple(straight))
    each = attend(X, K, K, mask=Causal(), q_positions=[[3, 4, 5], [0, 1, 2]])
    assert np.array_equal(each.out[0], attend(X, K, K, mask=Causal()).out[0])
    assert np.array_equal(each.out[1], attend(X, K, K, mask=Causal(), q_positions=[0, 1, 2]).out[1])
    nested = attend(X[None], K[None], K[None], mask=Causal(), q_positions=[[[3, 4, 5], [0, 1, 2]]])
    assert np.array_equal(nested.out[0], each.out)


def test_a_repeated_position_is_a_second_key_there() -> None:
    found = attend(X, K, K, mask=Causal(), k_positions=[0, 0, 1, 1, 2, 2], q_positions=[0, 1, 2])
    seen = np.broadcast_to(np.array([0, 0, 1, 1, 2, 2]) <= np.arange(3)[:, None], (2, 4, 3, 6))
    assert close(found, by_hand(X, K, K, seen=seen))


def test_a_callable_is_a_mask_on_positions() -> None:
    document = np.array([0, 0, 1, 1, 1, 2])
    seen = document[3:, None] == document
    found = attend(X, K, K, mask=lambda b, h, q, k: document[q] == document[k])
    assert close(found, by_hand(X, K, K, seen=np.broadcast_to(seen, (2, 4, 3, 6))))
    by_head = attend(X, K, K, mask=lambda b, h, q, k: h % 2 == 0)
    assert not by_head.out[:, 1::2].any()
    assert close(attend(X, K, K, mask=lambda b, h, q, k: True), tuple(attend(X, K, K)))


def test_a_bias_may_be_a_mod_or_several() -> None:
    slopes = Alibi((0.5, 0.25, 0.125, 1.0))
    distance = np.arange(3, 6)[:, None] - np.arange(6)
    bias = np.broadcast_to(-np.array([0.5, 0.25, 0.125, 1.0])[:, None, None] * distance, (2, 4, 3, 6))
    assert close(attend(X, K, K, bias=slopes), by_hand(X, K, K, bias=bias))
    assert close(attend(X, K, K, bias=[slopes, slopes]), by_hand(X, K, K, bias=2 * bias))


def test_a_bias_of_minus_infinity_hides() -> None:
    seen = noise(2, 4, 3, 6) > 0
    found = attend(X, K, K, bias=np.where(seen, 0.0, -np.inf))
    assert close(found, by_hand(X, K, K, seen=seen))


def test_a_sink_of_minus_infinity_is_none() -> None:
    for x, y in zip(attend(X, K, K, sinks=[-np.inf] * 4), attend(X, K, K), strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("empty", ["queries", "keys", "both"])
def test_lengths_of_zero_work_with_every_option(empty: str) -> None:
    q = X if empty == "keys" else X[:, :, :0]
    k = K if empty == "queries" else K[:, :, :0]
    shape = (2, 4, q.shape[2], k.shape[2])
    for mask in (None, Causal(), np.ones(shape, bool), np.ones(shape[2:], bool), lambda b, h, i, j: i >= j):
        for bias in (None, np.zeros(shape), Alibi((0.5,) * 4)):
            found = attend(q, k, k, mask=mask, bias=bias, softcap=2.0)
            assert found.out.shape == q.shape
            assert found.lse.shape == q.shape[:3]
            assert not found.out.any()
            assert np.isneginf(found.lse).all() or empty == "queries"
    sunk = attend(q, k, k, sinks=[1.0, 2.0, 3.0, 4.0])
    if empty == "keys":
        assert not sunk.out.any()
        assert (sunk.lse == np.array([1.0, 2.0, 3.0, 4.0])[:, None]).all()


def test_float32_is_kept_where_it_is_asked_for() -> None:
    options: dict[str, Any] = {
        "bias": noise(3, 6),
        "sinks": noise(4),
        "scale": np.float64(0.3),
        "softcap": np.float64(2),
    }
    single = attend(X, K, K, mask=Causal(), **options, dtype=np.float32)
    double = attend(X.astype(np.float32), K.astype(np.float32), K.astype(np.float32), mask=Causal(), **options)
    assert {x.dtype for x in single} == {np.dtype(np.float32)}
    assert {x.dtype for x in double} == {np.dtype(np.float64)}
    assert np.allclose(single.out, double.out, rtol=0, atol=1e-5)


def test_the_arguments_are_not_touched() -> None:
    given = [X.copy(), K.copy(), K.copy(), noise(3, 6), noise(3, 6) > 0, noise(4)]
    for array in given:
        array.flags.writeable = False
    q, k, v, bias, mask, sinks = given
    found = attend(q, k, v, bias=bias, mask=mask, sinks=sinks)
    assert found.out.flags.writeable
    assert found.lse.flags.writeable


MASK = np.ones((3, 6), bool)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((X[0, 0], K, K), {}, ShapeError, r"^q must have shape \[\*batch, heads, time, dim\], got \(3, 5\)$"),
        ((X, 1.0, K), {}, ShapeError, r"^k must have shape \[\*batch, heads, time, dim\], got \(\)$"),
        ((X, K[0], K), {}, ShapeError, r"^k must have shape \[2, Hkv, S, D\] with D=5, got \(2, 6, 5\)$"),
        ((X, K[:1], K[:1]), {}, ShapeError, r"^k must have shape \[2, Hkv, S, D\] with D=5, got \(1, 2, 6, 5\)$"),
        ((X, K[..., :4], K), {}, ShapeError, r"^k must have shape \[2, Hkv, S, D\] with D=5, got \(2, 2, 6, 4\)$"),
        ((X, K, K[:, :, :4]), {}, ShapeError, r"^v must have shape \[2, Hkv, S, Dv\] with Hkv=2, S=6, got "),
        ((X, K, K[:, :1]), {}, ShapeError, r"^v must have shape \[2, Hkv, S, Dv\] with Hkv=2, S=6, got "),
        ((X[:, :3], K, K), {}, ShapeError, "^q must have a multiple of the 2 key/value heads, got 3 query heads$"),
        ((X[:, :0], K, K), {}, ShapeError, "^q must have a multiple of the 2 key/value heads, got 0 query heads$"),
        ((X, K[:, :0], K[:, :0]), {}, ShapeError, "^k must have at least 1 head, got 0$"),
        ((X[..., :0], K[..., :0], K), {}, ShapeError, r"^D must be at least 1, got shapes q \(2, 4, 3, 0\), k "),
        ((X, K, K[..., :0]), {}, ShapeError, "^Dv must be at least 1, got shapes q "),
        ((X[:0], K[:0], K[:0]), {}, ShapeError, "^batch must be at least 1, got shapes q "),
        ((X.astype(object), K, K), {}, DtypeError, "^q must be an array of real numbers, got dtype object$"),
        ((X, K > 0, K), {}, DtypeError, "^k must be an array of real numbers, got dtype bool$"),
        ((X, K, K * 1j), {}, DtypeError, "^v must be an array of real numbers, got dtype complex128$"),
        (([[1], [1, 2]], K, K), {}, ShapeError, "^q must be an array or evenly nested lists, got list$"),
        ((X, K, K), {"dtype": np.float16}, DtypeError, "^dtype must be float64 or float32, got "),
        (
            (X, K, K),
            {"mask": MASK * 1.0},
            DtypeError,
            r"^mask must be boolean \(True = may see\), .*, got float64; addi",
        ),
        ((X, K, K), {"mask": MASK * 1}, DtypeError, r"^mask must be boolean \(True = may see\), .*, got int64; addi"),
        ((X, K, K), {"mask": "causal"}, DtypeError, r"^mask must be boolean \(True = may see\), .*, got <U6; addi"),
        (
            (X, K, K),
            {"mask": Causal},
            ArgumentError,
            r"^mask must be an instance such as Causal\(\), got the class Causal$",
        ),
        (
            (X, K, K),
            {"mask": MASK[:2]},
            ShapeError,
            r"^mask must broadcast to \[\*batch, Hq, T, S\] = \(2, 4, 3, 6\), got \(2, 6\)$",
        ),
        ((X, K, K), {"mask": MASK.T}, ShapeError, r"^mask must broadcast to .*, got \(6, 3\)$"),
        ((X[:1], K[:1], K[:1]), {"mask": np.ones((2, 1, 3, 6), bool)}, ShapeError, "^mask must broadcast to "),
        ((X, K, K), {"mask": MASK[None, None, None]}, ShapeError, "^mask must broadcast to "),
        (
            (X, K, K),
            {"mask": lambda b, h, q, k: q - k},
            DtypeError,
            "^mask must return booleans, got int64; what changes scores goes to bias$",
        ),
        ((X, K, K), {"mask": lambda b, h, q, k: None}, DtypeError, "^mask must return booleans, got object; what"),
        (
            (X, K, K),
            {"mask": lambda b, h, q, k: MASK},
            ShapeError,
            r"^mask must return what broadcasts to its arguments, \(1, 1, 1\), got \(3, 6\)$",
        ),
        (
            (X, K, K),
            {"mask": MASK, "q_positions": [0, 0, 1]},
            PositionError,
            r"^q_positions must not repeat a position, got \(2, 3\) of which 2 differ$",
        ),
        ((X, K, K), {"mask": MASK, "k_positions": [0] * 6}, PositionError, "^k_positions must not repeat a position"),
        ((X, K, K), {"bias": MASK * 1.0, "k_positions": [0] * 6}, PositionError, "^k_positions must not repeat a pos"),
        ((X, K, K), {"bias": MASK}, DtypeError, "^bias must be an array of real numbers, got dtype bool$"),
        ((X, K, K), {"bias": noise(6, 3)}, ShapeError, r"^bias must broadcast to .*, got \(6, 3\)$"),
        ((X, K, K), {"bias": [Causal(), 3]}, DtypeError, "^bias must be an array of real numbers, got dtype object$"),
        (
            (X, K, K),
            {"q_positions": [0.0, 1.0, 2.0]},
            PositionError,
            "^q_positions must be integers, got dtype float64$",
        ),
        (
            (X, K, K),
            {"k_positions": range(5)},
            ShapeError,
            r"^k_positions must have shape \[6\] or \[2, 6\], got \(5,\)$",
        ),
        (
            (X, K, K),
            {"q_positions": [[1, 2, 3]]},
            ShapeError,
            r"^q_positions must have shape \[3\] or \[2, 3\], got \(1, 3\)$",
        ),
        ((X, K, K), {"sinks": [1.0, 2.0]}, ShapeError, r"^sinks must have shape \[4\], got \(2,\)$"),
        ((X, K, K), {"sinks": 1.0}, ShapeError, r"^sinks must have shape \[4\], got \(\)$"),
        ((X, K, K), {"sinks": [True] * 4}, DtypeError, "^sinks must be an array of real numbers, got dtype bool$"),
        ((X, K, K), {"sinks": [0, 0, 0, np.nan]}, ArgumentError, "^sinks must be finite numbers or -inf, got "),
        ((X, K, K), {"sinks": [0, 0, 0, np.inf]}, ArgumentError, "^sinks must be finite numbers or -inf, got "),
    ],
)
def test_a_bad_argument_is_named(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[KvattnError], words: str
) -> None:
    for function in (attend, attention):
        with pytest.raises(error, match=words):
            function(*arguments, **options)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        "1",
        b"1",
        True,
        np.True_,
        np.array(True),
        1j,
        np.ones(1),
        np.ones(3),
        [1.0],
        10**400,
        object(),
    ],
    ids=lambda value: f"{type(value).__name__} {repr(value)[:12].split(chr(32))[0]}",
)
@pytest.mark.parametrize("name", ["scale", "softcap"])
def test_what_is_no_finite_number_is_named(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name} must be a finite number( above 0)?, got "):
        attend(X, K, K, **{name: value})


@pytest.mark.parametrize("value", [0, 0.0, -1.0])
def test_a_cap_must_be_above_zero(value: float) -> None:
    with pytest.raises(ArgumentError, match=rf"^softcap must be a finite number above 0, got {value}$"):
        attend(X, K, K, softcap=value)


@pytest.mark.peer
def test_torch_goes_in_as_it_is_for_every_argument() -> None:
    torch = pytest.importorskip("torch", reason="reads torch tensors: kvattn[peers]")
    options: dict[str, Any] = {"bias": noise(3, 6), "sinks": noise(4), "q_positions": np.arange(3), "mask": MASK}
    given = {name: torch.from_numpy(x) for name, x in options.items()}
    q, k = torch.from_numpy(X).requires_grad_(), torch.from_numpy(K)
    found = attend(q, k, k, **given, scale=torch.tensor(0.5, dtype=torch.float64))
    for x, y in zip(found, attend(X, K, K, **options, scale=0.5), strict=True):
        assert type(x) is np.ndarray
        assert np.array_equal(x, y)
    with pytest.raises(DtypeError, match=r"^mask must be boolean .*, got torch.bfloat16; additive masks go to bias$"):
        attend(X, K, K, mask=torch.ones(3, 6, dtype=torch.bfloat16))
