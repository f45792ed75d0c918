"""What cannot be named is described."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.prose import reads_like
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of

RIGHT = Planted(returns_lse=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out, q, v: 0.9 * out, "in rows that sum to 0.9; the output is 0.9 of the exact output"),
        (lambda out, q, v: 0 * out, "the output is 0"),
        (lambda out, q, v: out * np.nan, "NaN or infinity"),
        (lambda out, q, v: out[:, :, :1] + 0 * out, "weights exp("),
    ],
)
def test_the_sentence_says_what_was_read(change: Any, words: str) -> None:
    def function(q: Any, k: Any, v: Any) -> Any:
        return change(RIGHT(q, k, v), q, v)

    assert words in reads_like(Lab(target_of(function)))


def test_attention_reads_like_attention() -> None:
    assert reads_like(Lab(planted())) == (
        "It reads like weights exp(0.3536 q·k) over all keys, in rows that sum to 1;"
        " the output is 1 of the exact output."
    )
