"""Questions about penalties on distance."""

import numpy as np

from kvattn.positions.alibi import slopes
from kvattn.testing.disagreements.reading import Disagreement, Reading


def slopes_of_six() -> Disagreement:
    """Six heads, which is no power of two.

    >>> [reading.result.round(4).tolist() for reading in slopes_of_six().readings][0]
    [0.25, 0.0625, 0.0156, 0.0039, 0.5, 0.125]
    """
    table = np.array(slopes(6))
    rule = 2.0 ** (-8 * np.arange(1, 7) / 6)
    return Disagreement(
        "Which slopes do six heads have?",
        "positions/alibi",
        {"heads": 6},
        (
            Reading("those of four heads, then two of eight", ("ALiBi's code", "BLOOM", "MPT"), table),
            Reading("2^(-8h/6) for h = 1 … 6", ("engines with one rule",), rule),
        ),
    )
