"""Scales of quantised keys and values."""

from typing import Any

import pytest

from kvattn.testing.diagnosis.factors import read_factors
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.planted import Mutant, Planted
from kvattn.testing.planted.sums import FACTORS
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(FACTORS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_factors)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_factors)


@pytest.mark.parametrize("used", ["k_scale", "k_scale * v_scale"])
def test_values_under_the_scales_of_keys_are_named(used: str) -> None:
    def function(q: Any, k: Any, v: Any, *, k_scale: Any = None, v_scale: Any = None) -> Any:
        scale = v_scale
        if k_scale is not None and v_scale is not None:
            scale = k_scale if used == "k_scale" else k_scale * v_scale
        return Planted()(q, k, v, k_scale=k_scale, v_scale=scale)

    lab = Lab(target_of(function))
    read_factors(lab)
    (finding,) = lab.findings
    assert finding.fault_class == "quantised-kv"
    assert finding.parameters == {"argument": "v_scale", "used": used, "with": ["k_scale"]}
