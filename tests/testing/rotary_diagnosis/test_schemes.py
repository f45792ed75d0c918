"""Frequencies of every scheme are named, and their parameters come back."""

import numpy as np
import pytest

from kvattn.positions.linear_interpolation import linear_frequencies
from kvattn.positions.llama3 import llama3_frequencies
from kvattn.positions.ntk import ntk_base, ntk_frequencies
from kvattn.positions.proportional import proportional_frequencies
from kvattn.positions.rotary import geometric
from kvattn.positions.yarn import yarn_frequencies, yarn_range
from kvattn.testing.rotary_diagnosis.schemes import name_scheme, tidy


@pytest.mark.parametrize("width", [8, 32, 64, 128])
@pytest.mark.parametrize("base", [100.0, 10000.0, 500000.0, 1e6, 12345.0])
def test_plain_and_linear(width: int, base: float) -> None:
    assert name_scheme(np.array(geometric(width, base))).parameters == {"base": base}
    named = name_scheme(np.array(linear_frequencies(width, factor=2.5, base=base)))
    assert (named.scheme, named.parameters) == ("linear", {"base": base, "factor": 2.5})


@pytest.mark.parametrize("factor", [8.0, 32.0, 16.0])
@pytest.mark.parametrize("trained", [4096, 8192])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_llama3(width: int, trained: int, factor: float) -> None:
    named = name_scheme(np.array(llama3_frequencies(width, factor=factor, trained=trained)))
    wanted = {"base": 500000.0, "factor": factor, "trained": float(trained), "low": 1.0, "high": 4.0}
    assert (named.scheme, named.parameters) == ("Llama-3", wanted)


def test_llama3_with_other_bands() -> None:
    named = name_scheme(np.array(llama3_frequencies(128, low=1.0, high=6.0, factor=4.0)))
    assert named.parameters == {"base": 500000.0, "factor": 4.0, "trained": 8192.0, "low": 1.0, "high": 6.0}


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("factor", [4.0, 40.0])
def test_yarn(width: int, factor: float) -> None:
    named = name_scheme(np.array(yarn_frequencies(width, factor=factor, trained=4096)))
    low, high = yarn_range(width, trained=4096)
    assert (named.scheme, named.parameters) == ("YaRN", {"base": 1e4, "factor": factor, "low": low, "high": high})


def test_yarn_that_is_not_rounded_to_whole_pairs() -> None:
    named = name_scheme(np.array(yarn_frequencies(128, factor=32.0, trained=4096, base=150000.0, truncate=False)))
    low, high = yarn_range(128, trained=4096, base=150000.0, truncate=False)
    assert named.scheme == "YaRN"
    assert named.parameters["low"] == pytest.approx(low, abs=1e-3)
    assert named.parameters["high"] == pytest.approx(high, abs=1e-3)


def test_ntk_is_its_base() -> None:
    named = name_scheme(np.array(ntk_frequencies(64, alpha=8.0)))
    assert named.scheme == "plain"
    assert named.parameters["base"] == pytest.approx(ntk_base(64, alpha=8.0), rel=1e-5)


def test_proportional() -> None:
    named = name_scheme(np.array(proportional_frequencies(64, share=0.25, base=1e6)))
    assert (named.scheme, named.parameters) == ("proportional", {"share": 0.25, "base": 1e6})


def test_what_is_no_scheme_is_a_list() -> None:
    searched = np.array(geometric(32)) / np.array([1, 1.3, 1.1, 2, 5, 3, 8, 9, 9, 12, 11, 30, 32, 31, 40, 41])
    assert name_scheme(searched).scheme == "list"
    assert name_scheme(np.zeros(4)).scheme == "list"
    assert name_scheme(np.array([1.0, -0.1])).scheme == "list"


def test_float32_noise_changes_no_name() -> None:
    noisy = np.array(llama3_frequencies(128), np.float32).astype(np.float64)
    assert name_scheme(noisy, 3e-5).parameters["trained"] == 8192.0


def test_tidy_keeps_what_it_must() -> None:
    assert tidy(0.0, 1e-6) == 0.0
    assert tidy(123456.7, 1e-9) == 123456.7
