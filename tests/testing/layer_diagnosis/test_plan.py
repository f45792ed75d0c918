"""A plan refuses what it does not mean."""

from typing import Any

import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import DynamicNTK, Rotary
from kvattn.testing.layer_diagnosis.plan import Plan


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rotary": 8}, "rotary must be a Rotary or have rotary_at, got 8"),
        ({"norm": "first"}, "norm must be 'before', 'after' or None, got 'first'"),
        ({"eps": -1.0}, "eps must be a finite number >= 0, got -1.0"),
        ({"window": 0}, "window must be an integer >= 1, got 0"),
        ({"softcap": 0.0}, "softcap must be a finite number above 0, got 0.0"),
    ],
)
def test_what_it_refuses(given: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Plan(**given)


def test_rotations_by_length() -> None:
    scheme = DynamicNTK(8, factor=2.0, trained=16)
    assert Plan(rotary=scheme).rotary_at(40) == scheme.rotary_at(40)
    assert Plan(rotary=Rotary.of(8)).rotary_at(40) == Rotary.of(8)
    assert Plan(rotary=Rotary.of(8)).axes == 0
