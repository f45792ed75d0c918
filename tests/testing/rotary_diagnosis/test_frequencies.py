"""Known changes are computed apart from the target; what none of them gives is described."""

import numpy as np

from kvattn.positions import Rotary, llama3_rotary
from kvattn.testing.rotary_diagnosis.bench import bench_of
from kvattn.testing.rotary_diagnosis.frequencies import changes, close, read_frequencies
from kvattn.testing.rotary_diagnosis.structure import read_structure


def test_changes_differ_from_what_is_expected_and_from_each_other() -> None:
    expected = np.array(llama3_rotary(64).frequencies)
    found = list(changes(expected, 128, 1e-6))
    assert len(found) > 8
    for n, change in enumerate(found):
        assert len(change.frequencies) == len(expected)
        assert not close(change.frequencies, expected, 1e-6), change.words
        for other in found[:n]:
            assert not close(change.frequencies, other.frequencies, 1e-6), (change.words, other.words)


def test_the_terms_of_llama3s_smoothing_are_exchanged_between_the_bands_alone() -> None:
    right = np.array(llama3_rotary(64).frequencies)
    names = {change.parameters.get("smoothing") for change in changes(right, 64, 1e-6)}
    assert names > {"exchanged", "kept", "divided"}
    for change in changes(right, 64, 1e-6):
        if change.parameters.get("smoothing") == "exchanged":
            plain = 500000.0 ** -(np.arange(32) / 32)
            shares = [(theta / unscaled - 1 / 8) / (1 - 1 / 8) for theta, unscaled in zip(right, plain, strict=True)]
            wanted = [
                p * ((1 - t) + t / 8) if 0 < round(t, 9) < 1 else r
                for p, t, r in zip(plain, shares, right, strict=True)
            ]
            np.testing.assert_allclose(change.frequencies, wanted, rtol=1e-12)


def test_a_pair_that_is_off_is_told_with_its_numbers() -> None:
    theta = [*Rotary.of(16).frequencies]
    theta[3] = 0.73
    bench = bench_of(Rotary(tuple(theta)).rotate, Rotary.of(16), 16)
    read_structure(bench)
    read_frequencies(bench)
    (finding,) = bench.findings
    assert finding.detail.startswith(
        "Frequencies are of no known scheme; pair 3 turns by 0.73 per position, expected 0.03"
    )
    assert bench.stopped


def test_whole_turns_are_no_difference() -> None:
    assert close(np.array([1.0 + 2 * np.pi]), np.array([1.0]), 1e-9)
