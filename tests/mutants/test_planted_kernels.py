"""Faults of kernels: each is the only thing that a whole check finds, told once and by its name.

CI runs all in float64, one in float32 and one in float16; ``KVATTN_PROFILE=deep`` runs all in float32, and in float16
those that wide numbers show.
"""

import os

import pytest

from kvattn.testing import check
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.kernels import KERNELS
from tests.mutants.test_planted_zoo import differs, fits_a_screen

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"

WIDE = [mutant for mutant in KERNELS if mutant.parameters.get("towards") is None]
"""Those that show in wide numbers; what is cut off is as fine as float16 and bfloat16 are."""


def alone(mutant: Mutant, dtype: str) -> None:
    """It is named, once, and the line that reproduces it does."""
    report = check(mutant.function, dtype=dtype)
    (finding,) = report.findings
    assert mutant.is_named_by(finding)
    assert finding.kind == "fault"
    assert differs(finding.reproduce, mutant.function)
    fits_a_screen(str(report))


@pytest.mark.parametrize("mutant", KERNELS, ids=lambda mutant: mutant.name)
@pytest.mark.parametrize("dtype", ["float64", "float32"] if DEEP else ["float64"])
def test_it_is_all_that_is_found(mutant: Mutant, dtype: str) -> None:
    alone(mutant, dtype)


@pytest.mark.parametrize("mutant", WIDE if DEEP else WIDE[:1], ids=lambda mutant: mutant.name)
def test_it_is_all_that_is_found_in_sixteen_bits(mutant: Mutant) -> None:
    alone(mutant, "float16")


def test_an_lse_in_few_bits_is_named_in_float32() -> None:
    alone(next(mutant for mutant in KERNELS if mutant.name == "lse stored in float16"), "float32")


def test_sums_out_of_range_are_nobodys_convention() -> None:
    bare = next(mutant for mutant in KERNELS if mutant.parameters.get("stage") == "range of exp").function

    def declared(q: object, k: object, v: object, *, causal: bool = False) -> object:
        return bare(q, k, v, causal=causal)

    declared.conventions = {"precision"}  # type: ignore[attr-defined]
    assert [finding.kind for finding in check(declared, cases=0).findings] == ["fault"]
