"""The whole reading: what it says of a right rotation, of one that raises, and of a wrong dtype."""

import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import llama3_rotary
from kvattn.testing.rotary_diagnosis.looking import look
from kvattn.testing.rotary_targets import RotaryTarget


def test_what_was_read_is_a_note() -> None:
    rotary = llama3_rotary(64)
    bench, margin = look(RotaryTarget("mine", rotary.rotate, expects=rotary), cases=5)
    assert bench.findings == []
    assert margin is not None
    assert bench.notes[0] == ("Read: 32 pairs, Llama-3 with base 500000, factor 8, trained 8192, low 1, high 4")


def test_a_function_that_always_raises() -> None:
    def raises(x: object, positions: object) -> object:
        raise RuntimeError("not today")

    bench, margin = look(RotaryTarget("mine", raises))
    assert margin is None
    assert bench.findings[0].detail == "It raises RuntimeError: not today on a plain call."


def test_half_precision_is_not_offered() -> None:
    with pytest.raises(ArgumentError, match="dtype must be float64 or float32 for a rotation, got float16"):
        look(RotaryTarget("mine", llama3_rotary(64).rotate), dtype="float16")
