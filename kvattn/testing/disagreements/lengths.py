"""Questions about scalings for long contexts: what is rounded, and which length counts."""

import numpy as np

from kvattn.positions.longrope import LongRope
from kvattn.positions.temperature import Stepped
from kvattn.positions.yarn import yarn_frequencies
from kvattn.testing.disagreements.reading import Disagreement, Reading


def yarn_borders() -> Disagreement:
    """Eight pairs, four times a trained length of 64.

    >>> [reading.result[1:5].round(4).tolist() for reading in yarn_borders().readings]
    [[0.2372, 0.05, 0.0079, 0.0025], [0.1986, 0.0256, 0.0079, 0.0025]]
    """
    results = [
        np.array(yarn_frequencies(16, factor=4.0, trained=64, base=10000.0, truncate=truncate))
        for truncate in (True, False)
    ]
    return Disagreement(
        "Are the borders of YaRN's ramp rounded to whole pairs?",
        "positions/yarn",
        {"width": 16, "factor": 4.0, "trained": 64, "base": 10000.0},
        (
            Reading("yes", ("transformers unless told", "mlx-lm always", "DeepSeek"), results[0]),
            Reading("no: truncate=False", ("gpt-oss",), results[1]),
        ),
    )


def longrope_list() -> Disagreement:
    """Length 3 where 4 were trained: short factors 1, long factors 2.

    >>> [reading.result.tolist() for reading in longrope_list().readings]
    [[1.0, 0.01], [0.5, 0.005]]
    """
    scheme = LongRope(short=(1.0, 1.0), long=(2.0, 2.0), trained=4, factor=2.0)
    short, long = (np.array(scheme.frequencies_at(length)) for length in (3, 5))
    return Disagreement(
        "Below the trained length, which list of factors does LongRoPE take?",
        "positions/longrope",
        {"short": (1.0, 1.0), "long": (2.0, 2.0), "trained": 4, "length": 3},
        (
            Reading("the short one", ("transformers",), short),
            Reading("the long one, always", ("mlx-lm SuScaledRoPE",), long),
        ),
    )


def temperature_step() -> Disagreement:
    """A step for each 8 tokens, of strength 1: positions 6, 7 and 8.

    >>> [reading.result.round(3).tolist() for reading in temperature_step().readings]
    [[1.0, 1.693, 1.693], [1.0, 1.0, 1.693]]
    """
    at = np.array([6, 7, 8])
    counted, indexed = (Stepped(1.0, 8, first)(at) for first in (1, 0))
    return Disagreement(
        "Does the temperature of queries step with the eighth token, or behind it?",
        "positions/temperature",
        {"positions": at, "period": 8, "strength": 1.0},
        (
            Reading("with it: tokens are counted from 1", ("Llama-4",), counted),
            Reading("behind it: positions are counted from 0", ("Ministral-3", "Mistral-4"), indexed),
        ),
    )
