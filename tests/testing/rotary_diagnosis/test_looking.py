"""The whole reading: what it says of a right rotation, of one that raises, and of a wrong dtype."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary, llama3_rotary
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


def test_eight_bits_are_not_offered() -> None:
    with pytest.raises(ArgumentError, match="dtype must be one of float64, float32, float16, bfloat16, got int8"):
        look(RotaryTarget("mine", llama3_rotary(64).rotate), dtype="int8")


class Half:
    """A rotation as models compute it in 16 bits: float32 angles, all else in the features' own numbers.

    Parameters
    ----------
    rounds
        What of the angles is in the features' numbers too.
    takes
        Element types that it takes, if not all.
    """

    def __init__(self, rounds: str = "", takes: str = "", base: float = 10000.0) -> None:
        self.rounds, self.takes, self.base = rounds, takes, base

    def __call__(self, x: Any, positions: Any) -> Any:
        if self.takes and x.dtype.name != self.takes:
            raise TypeError(f"expected {self.takes}, got {x.dtype}")
        half, places = x.shape[-1] // 2, positions.astype(np.float32)
        frequencies = (self.base ** -(np.arange(half) / half)).astype(np.float32)
        if self.rounds == "positions":
            places = places.astype(x.dtype).astype(np.float32)
        if self.rounds == "frequencies":
            frequencies = frequencies.astype(x.dtype).astype(np.float32)
        angles = places[:, None, :, None] * frequencies
        if self.rounds == "angles":
            angles = angles.astype(x.dtype).astype(np.float32)
        both = np.concatenate([angles, angles], -1)
        cosine, sine = np.cos(both).astype(x.dtype), np.sin(both).astype(x.dtype)
        other = np.concatenate([-x[..., half:], x[..., :half]], -1)
        return x * cosine + other * sine


@pytest.fixture(params=["float16", "bfloat16"])
def narrow(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes has bfloat16")
    return str(request.param)


def test_a_right_rotation_passes_in_16_bits(narrow: str) -> None:
    for takes in ("", narrow):
        bench, margin = look(RotaryTarget("mine", Half(takes=takes)), dtype=narrow, cases=60)
        assert bench.findings == []
        assert margin is not None
        assert margin.cases == 60
        assert 0.1 < margin.worst < 1
        assert bench.compute == narrow
        assert any("not read" in note for note in bench.notes) == bool(takes)


@pytest.mark.parametrize("rounds", ["positions", "frequencies", "angles"])
@pytest.mark.parametrize("alone", [False, True])
def test_what_is_rounded_in_16_bits_alone_is_named(
    narrow: str, rounds: str, alone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    function = Half(rounds, narrow if alone else "")
    bench, _ = look(RotaryTarget("mine", function), dtype=narrow)
    (finding,) = bench.findings
    assert finding.fault_class == "rope-precision"
    assert finding.parameters == {"rounded": rounds, "format": narrow}
    exec(finding.reproduce, {"f": function})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted


def test_what_wide_numbers_show_is_named_in_16_bits_too(narrow: str) -> None:
    target = RotaryTarget("mine", Half(base=500000.0), expects=Rotary.of(32), width=32)
    bench, _ = look(target, dtype=narrow)
    assert [(f.fault_class, f.parameters["base"]) for f in bench.findings] == [("rope-scaling", 500000.0)]


def test_where_16_bits_alone_are_taken_a_difference_is_found_and_not_named(narrow: str) -> None:
    bench, _ = look(RotaryTarget("mine", Half(takes=narrow, base=500000.0), width=32), dtype=narrow, cases=5)
    (finding,) = bench.findings
    assert finding.fault_class == "unclassified"
    assert "times the bound" in finding.detail
