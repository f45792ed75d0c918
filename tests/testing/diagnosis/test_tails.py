"""Ends of tiles."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.tails import read_tails
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.manners import TAILS
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(TAILS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_tails)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_tails)


@pytest.mark.parametrize("what", ["the output", "the total", "neither output nor total"])
@pytest.mark.parametrize("tile", [16, 64])
def test_sums_that_a_larger_maximum_does_not_scale_down_are_named(what: str, tile: int) -> None:
    def online(q: Any, k: Any, v: Any) -> Any:
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = q @ k.swapaxes(2, 3) / q.shape[3] ** 0.5
        top, total, out = -np.inf, 0.0, 0.0
        for begin in range(0, k.shape[2], tile):
            part = scores[..., begin : begin + tile]
            higher = np.maximum(top, part.max(-1, keepdims=True))
            down, top = np.exp(top - higher), higher
            weights = np.exp(part - top)
            total = total * (1 if what != "the output" else down) + weights.sum(-1, keepdims=True)
            out = out * (1 if what != "the total" else down) + weights @ v[:, :, begin : begin + tile]
        return out / total

    lab = Lab(target_of(online))
    read_tails(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters["running"]) == ("lse-merge", what)
    assert finding.parameters["tile"] == tile
