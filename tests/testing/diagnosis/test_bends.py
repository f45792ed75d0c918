"""Formulas and places of the cap, factors and readings of the bias."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.bends import CAPS, read_bias, read_softcap
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.planted import Mutant, Planted
from kvattn.testing.planted.scores import SCALES
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import named

CORE = Planted(returns_lse=False)


@pytest.mark.parametrize(
    "formula",
    [
        "c * tanh(s)",
        "s * tanh(s / c)",
        "s * tanh(s)",
        "tanh(s / c)",
        "tanh(s)",
        "a * c * tanh(x / c)",
        "c * tanh(x / c)",
    ],
)
def test_a_formula_is_named(formula: str) -> None:
    lab = Lab(planted(cap=formula))
    read_softcap(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters) == ("softcap", {"formula": formula})
    assert formula in CAPS


def test_an_unknown_formula_is_described_by_what_it_does() -> None:
    lab = Lab(planted(cap="c * sqrt(abs(s))"))
    read_softcap(lab)
    assert lab.findings[0].detail.startswith("softcap=0.4 bends score differences from ")


@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0])
def test_a_factor_on_the_bias_is_fitted(factor: float) -> None:
    lab = Lab(planted(bias_factor=factor))
    read_bias(lab)
    assert lab.findings[0].parameters == {"argument": "bias", "factor": factor}
    assert lab.behaviour.bias_factor == pytest.approx(factor)


def test_a_bias_before_the_scale_is_named() -> None:
    def early(q: Any, k: Any, v: Any, *, bias: Any = None) -> Any:
        return CORE(q, k, v, bias=None if bias is None else bias * q.shape[3] ** -0.5)

    lab = Lab(target_of(early))
    read_bias(lab)
    assert lab.findings[0].parameters["place"] == "before the scale"
    assert not lab.can("bias")


def test_the_bias_of_one_head_for_all_is_named() -> None:
    def first(q: Any, k: Any, v: Any, *, bias: Any = None) -> Any:
        return CORE(q, k, v, bias=None if bias is None else np.broadcast_to(bias[:, :1], bias.shape))

    lab = Lab(target_of(first))
    read_bias(lab)
    assert (lab.findings[0].fault_class, lab.findings[0].parameters["of"]) == ("mask-compose", "head 0")


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in SCALES if mutant.fault_class == "mask-compose"], ids=lambda mutant: mutant.name
)
def test_a_bias_of_other_rows_or_heads_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_bias)


def test_a_bias_that_moves_nothing_evenly_is_described() -> None:
    lab = Lab(target_of(lambda q, k, v, *, bias=None: CORE(q, k, v, bias=None if bias is None else bias**3)))
    read_bias(lab)
    assert lab.findings[0].fault_class == "unclassified"


def test_a_cap_over_the_bias_is_named() -> None:
    def late(q: Any, k: Any, v: Any, *, bias: Any = None, softcap: float | None = None) -> Any:
        if bias is None or softcap is None:
            return CORE(q, k, v, bias=bias, softcap=softcap)
        score = q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(2, 3) / q.shape[3] ** 0.5
        return CORE(q, k, v, bias=softcap * np.tanh((score + bias) / softcap) - score)

    lab = Lab(target_of(late))
    read_bias(lab)
    assert lab.findings[0].parameters == {"place": "after the bias", "with": ["bias"]}
