"""Channels that the scores leave out."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.channels import read_channels
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.planted import Planted
from kvattn.testing.planted.kernels import FewChannels
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import silent


@pytest.mark.parametrize("tile", [8, 16])
def test_the_tile_is_read(tile: int) -> None:
    lab = Lab(target_of(FewChannels(tile)))
    assert read_channels(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters["axis"], finding.parameters["tile"]) == (
        "tile-tail",
        "channels",
        tile,
    )
    assert lab.stopped


def test_the_contract_is_not_reported() -> None:
    assert silent(read_channels)


@pytest.mark.parametrize("kept", [lambda d: d // 2, lambda d: d - 3], ids=["half", "all but three"])
def test_other_channels_that_are_lost_are_no_tail(kept: Any) -> None:
    def fewer(q: Any, k: Any, v: Any) -> Any:
        return Planted(returns_lse=False)(np.where(np.arange(q.shape[3]) < kept(q.shape[3]), q, 0), k, v)

    lab = Lab(target_of(fewer))
    assert not read_channels(lab)
    assert lab.findings == []


def test_scores_that_no_channels_explain_are_no_tail() -> None:
    def normalised(q: Any, k: Any, v: Any) -> Any:
        return Planted(returns_lse=False)(q / np.linalg.norm(q, axis=-1, keepdims=True), k, v)

    lab = Lab(target_of(normalised))
    assert not read_channels(lab)
    assert lab.findings == []


def test_a_wrong_scale_is_no_tail() -> None:
    lab = Lab(target_of(Planted(scale="1 / D")))
    assert not read_channels(lab)
