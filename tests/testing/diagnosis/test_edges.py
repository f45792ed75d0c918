"""Empty rows, poison behind masks, and extreme scores."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.edges import read_empty_rows, read_poison
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of


def filled(fill: float, add: bool = False, last: bool = True) -> Lab:
    """Plain NumPy attention whose mask is a finite number."""

    def function(q: Any, k: Any, v: Any, *, causal: bool = False, mask: Any = None) -> Any:
        group, T, S = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
        s = q @ np.repeat(k, group, 1).swapaxes(2, 3) / q.shape[3] ** 0.5
        keep = np.arange(S) <= np.arange(T)[:, None] + S - T if causal else np.ones((T, S), bool)
        keep = keep if mask is None else keep & mask
        s = np.where(keep, s, s + fill if add else fill)
        e = np.exp(s - s.max(-1, keepdims=True))
        weights = e / e.sum(-1, keepdims=True)
        values = np.where(np.isnan(v), 0, v) if last else v
        return weights @ np.repeat(values, group, 1)

    return Lab(target_of(function))


@pytest.mark.parametrize(("empty", "name"), [("nan", "nan"), ("mean", "mean of v")])
def test_what_an_empty_row_gives_is_named(empty: str, name: str) -> None:
    lab = Lab(planted(empty=empty))
    read_empty_rows(lab)
    assert lab.findings[0].parameters == {"out": name}


def test_an_added_fill_gives_the_row_as_if_it_saw_every_key() -> None:
    lab = filled(-1e9, add=True)
    read_empty_rows(lab)
    assert lab.findings[0].parameters == {"out": "as if it saw every key"}


def test_an_lse_that_is_not_minus_infinity_is_named() -> None:
    def finite(q: Any, k: Any, v: Any, *, mask: Any = None) -> Any:
        out, lse = Planted()(q, k, v, mask=mask)
        return out, np.where(np.isneginf(lse), -1e4, lse)

    lab = Lab(target_of(finite))
    read_empty_rows(lab)
    assert lab.findings[0].parameters == {"lse": -1e4}


def test_a_small_fill_leaks_what_is_large() -> None:
    lab = filled(-20.0)
    read_poison(lab)
    (finding,) = lab.findings
    assert finding.fault_class == "mask-fill-overflow"
    assert 0 < finding.parameters["weight"] < 1e-7
    assert not lab.can("mask")


def test_nan_in_values_leaks_through_a_product() -> None:
    lab = filled(-1e9, last=False)
    read_poison(lab)
    assert lab.findings[0].parameters == {"poison": "nan", "of": ["v"], "behind": ["causal", "mask"]}


def test_an_added_mask_leaks_nan_of_keys_too() -> None:
    lab = filled(-np.inf, add=True)
    read_poison(lab)
    assert lab.findings[0].parameters["of"] == ["k"]


def test_the_contract_is_not_reported() -> None:
    lab = Lab(planted())
    read_empty_rows(lab)
    read_poison(lab)
    assert lab.findings == []
