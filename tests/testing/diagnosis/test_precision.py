"""Number formats on the way."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.precision import read_precision
from kvattn.testing.formats import FORMATS
from kvattn.testing.planted import Mutant, Planted
from kvattn.testing.planted.kernels import Cut
from kvattn.testing.planted.sums import PRECISION
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(PRECISION)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_precision)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_precision)


@pytest.mark.parametrize(
    ("stage", "said"),
    [("probabilities", "The probabilities are"), ("q, k", "q and k are"), ("out", "The output is")],
)
def test_what_is_rounded_is_told_in_a_sentence(stage: str, said: str) -> None:
    lab = Lab(planted(rounded={stage: "bfloat16"}))
    read_precision(lab)
    assert lab.findings[0].detail.startswith(f"{said} rounded to bfloat16, although its inputs are float64")


@pytest.mark.parametrize(
    ("stage", "name"),
    [("probabilities", "bfloat16"), ("probabilities", "float16"), ("exp", "bfloat16"), ("out", "float16")],
)
def test_what_is_cut_off_is_told_from_what_is_rounded(stage: str, name: str) -> None:
    cut, near = Lab(target_of(Cut(stage, name))), Lab(planted(rounded={stage: name}))
    read_precision(cut)
    read_precision(near)
    assert [finding.parameters for finding in cut.findings] == [{"stage": stage, "format": name, "towards": "0"}]
    assert [finding.parameters for finding in near.findings] == [{"stage": stage, "format": name}]
    assert f"rounded to {name} towards 0, although" in cut.findings[0].detail
    assert cut.sharp >= near.sharp


def test_inputs_and_weights_of_one_format_tell_which() -> None:
    right, nearest = Planted(returns_lse=False), FORMATS["bfloat16"].round

    def short(q: Any, k: Any, v: Any) -> Any:
        return np.asarray(nearest(right(nearest(q), nearest(k), nearest(v))))

    lab = Lab(target_of(short))
    read_precision(lab)
    assert [f.parameters for f in lab.findings] == [{"stage": "everything", "format": "bfloat16"}]
