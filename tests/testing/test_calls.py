"""A call knows its answer, says how to build itself, and takes nothing that rounding does not explain."""

from hypothesis import given, settings
import numpy as np
import pytest

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.calls import Call, DisagreementError
from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.recipe import FLAT, ONE_HOT, Recipe, Sizes
from kvattn.testing.planted import Planted
from kvattn.testing.strategies import calls


def by_hand() -> Call:
    """Two queries that see one and two keys, whose weights are the output."""
    return Call(Recipe(Sizes(T=2, S=2, D=2, Dv=2), FLAT, ONE_HOT, (("causal", "True"),)))


def test_the_answer_is_the_one_a_pencil_gives() -> None:
    assert by_hand().expected().out[0, 0].tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert by_hand().expected().lse[0, 0].tolist() == [0.0, float(np.log(2.0))]
    assert by_hand().visible[0, 0].tolist() == [[True, False], [True, True]]


def test_its_text_builds_it_again() -> None:
    call = Call(Recipe(Sizes(T=2, S=3), options=(("scale", "0.5"),), dtype="float32", seed=7))
    text = repr(call).removeprefix("Call(f(q, k, v, scale=0.5), where ").removesuffix(")")
    names: dict[str, object] = {"np": np}
    exec(text, names)  # noqa: S102 - it is the text under test
    for name, array in zip("qkv", (call.q, call.k, call.v), strict=True):
        assert np.array_equal(names[name], array)  # type: ignore[arg-type]


def test_its_arrays_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        by_hand().q[...] = 1


@pytest.mark.parametrize("lse", [False, True])
def test_an_error_that_rounding_does_not_explain_is_told_with_its_place(lse: bool) -> None:
    call = by_hand()
    out, total = (np.array(part) for part in call.expected())
    (total if lse else out)[0, 0, 1] += 1e-9
    wanted = r"lse\[0, 0, 1\] must be 0.69314718056 within .*e-15" if lse else r"out\[0, 0, 1, 0\] must be 0.5 within"
    with pytest.raises(DisagreementError, match=wanted):
        call.must_agree((out, total))
    call.must_agree((out, total), arithmetic=Arithmetic("float32"))


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_what_is_not_finite_is_no_agreement(spoiled: float) -> None:
    out = np.array(by_hand().expected().out)
    out[0, 0, 0, 1] = spoiled
    with pytest.raises(DisagreementError, match="1 of 4 elements are outside"):
        by_hand().must_agree(out)


def test_another_shape_is_told() -> None:
    with pytest.raises(DisagreementError, match=r"lse must have shape \(1, 1, 2\), got \(1, 2\)"):
        by_hand().must_agree((by_hand().expected().out, by_hand().expected().lse[0]))


@given(calls())
def test_correct_attention_agrees(call: Call) -> None:
    call.must_agree(call.run(Planted()))


@given(calls(("causal", "mask")))
def test_a_convention_can_be_said(call: Call) -> None:
    other = Planted(anchor="top_left")
    call.must_agree(call.run(other), behaviour=Behaviour(anchor="top_left"))


@pytest.mark.parametrize(
    ("wrong", "features"),
    [
        (Planted(anchor="top_left"), ("causal",)),
        (Planted(extra_keys=1), ("causal", "window")),
        (Planted(head_map="h % Hkv"), ()),
        (Planted(cap="c * tanh(s)"), ("softcap",)),
        (Planted(bias_factor=-1.0), ("bias",)),
        (Planted(sink_count=2), ("sinks",)),
        (Planted(scale="1"), ()),
        (Planted(log_base=2.0), ()),
    ],
)
def test_mutants_do_not_agree(wrong: Planted, features: tuple[str, ...]) -> None:
    @given(calls(features))
    def agrees(call: Call) -> None:
        call.must_agree(call.run(wrong))

    with pytest.raises(DisagreementError):
        agrees()


def test_weights_may_be_taken_from_the_lse() -> None:
    """What exp(score - lse) loses where scores are large is no disagreement."""

    @settings(max_examples=60)
    @given(calls(("scale", "bias"), "float32"))
    def agrees(call: Call) -> None:
        groups = call.q.shape[1] // call.k.shape[1]
        k, v = (np.repeat(x, groups, 1) for x in (call.k, call.v))
        scores = call.q @ k.swapaxes(2, 3) * np.float32(call.options.get("scale", call.q.shape[3] ** -0.5))
        scores = scores + call.options.get("bias", np.float32(0))
        top = scores.max(-1, keepdims=True)
        lse = top + np.log(np.exp(scores - top).sum(-1, keepdims=True))
        call.must_agree(np.exp(scores - lse) @ v)

    agrees()


def test_the_bound_of_an_lse_in_another_base_is_in_its_units() -> None:
    call = by_hand()
    out, lse = call.expected()
    spent = np.array(lse) / np.log(2.0)
    spent[0, 0, 1] += 1.2 * call.bounds(Arithmetic("float64", merges=1)).lse_worst[0, 0, 1]
    call.must_agree((out, spent), behaviour=Behaviour(lse_factor=1 / float(np.log(2.0))))


def test_a_row_that_sees_nothing_is_told() -> None:
    call = Call(Recipe(Sizes(T=2, S=2), options=(("mask", "np.eye(2, dtype=bool)[None, None]"),)))
    assert call.every_row_sees()
    full = Call(Recipe(Sizes(T=2, S=2), options=(("mask", "np.ones((1, 1, 2, 2), bool)"),)))
    assert full.every_row_sees()
    assert not full.every_row_sees(Behaviour(mask="blocked"))


def test_what_a_call_does_not_say_is_what_it_was_told_to_be() -> None:
    call = Call(Recipe(Sizes(), options=(("scale", "0.5"),)))
    assert call.run(lambda q, k, v, **words: words, causal=False, scale=None) == {"causal": False, "scale": 0.5}


def test_what_arithmetic_warns_of_is_left_alone() -> None:
    zero = np.zeros(1)
    assert np.isnan(Call(Recipe(Sizes())).run(lambda q, k, v: zero / zero))
