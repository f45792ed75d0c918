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
