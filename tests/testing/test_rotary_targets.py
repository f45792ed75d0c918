"""A rotation's signature is read, and what stands beside it; the words of what is refused."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import DynamicNTK, Rotary
from kvattn.testing.rotary_targets import RotaryTarget, is_rotation, rotary_target_of


def alone(x: Any, positions: Any) -> Any:
    return x


def both(q: Any, k: Any, position_ids: Any, unused: Any = None) -> Any:
    return q, k


def attention(q: Any, k: Any, v: Any, positions: Any = None) -> Any:
    return v


def test_rotations_are_told_from_attention() -> None:
    assert is_rotation(alone)
    assert is_rotation(both)
    assert not is_rotation(attention)
    assert not is_rotation(max)


def test_what_stands_beside_the_function_is_read() -> None:
    def mine(x: Any, positions: Any) -> Any:
        return x

    mine.expects = DynamicNTK(8, factor=2.0, trained=16)  # type: ignore[attr-defined]
    mine.width = 16  # type: ignore[attr-defined]
    mine.context = 64  # type: ignore[attr-defined]
    target = rotary_target_of(mine, "m:mine")
    assert (target.name, target.width, target.context, target.pair) == ("m:mine", 16, 64, False)
    assert target.rotary_at(17, 16) == mine.expects.rotary_at(17)  # type: ignore[attr-defined]
    assert rotary_target_of(both).pair


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rotary_target_of(attention), r"target must take positions last, got \(q, k, v, positions\)"),
        (lambda: rotary_target_of(3), "target must be callable, got int"),  # type: ignore[arg-type]
        (lambda: RotaryTarget("m", alone, width=7), "width must be even, got 7"),
        (lambda: RotaryTarget("m", alone, context=3), "context must be an integer >= 64, got 3"),
        (
            lambda: RotaryTarget("m", alone, expects=Rotary((1.0,), axes=(0,))),
            "expects must be a Rotary without axes, whose layer can be checked, got Rotary",
        ),
        (lambda: RotaryTarget("m", alone, expects=4), "expects must be a Rotary or have rotary_at, got 4"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused_in_words(make: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make()


def test_queries_and_keys_are_turned_apart_by_a_function_of_one() -> None:
    q, k = np.ones((1, 2, 3, 4)), np.ones((1, 1, 3, 4))
    turned = RotaryTarget("m", Rotary.of(4).rotate)(q, k, np.arange(3)[None, None])
    assert turned.q.shape == q.shape
    assert turned.k.shape == k.shape
