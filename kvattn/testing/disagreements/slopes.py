"""Questions about penalties on distance."""

import numpy as np

from kvattn.positions.alibi import Alibi, KeyAlibi, slopes
from kvattn.testing.disagreements.reading import Disagreement, Reading
from kvattn.typing import Place


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


def slope_scale() -> Disagreement:
    """One head of 16 features, slope 1/2, a key two tokens back.

    >>> [reading.result.tolist() for reading in slope_scale().readings]
    [[-1.0], [-0.25]]
    """
    alibi, heads, q, k = Alibi((0.5,)), np.zeros((1, 1, 1), np.int64), np.array([[[2]]]), np.array([[[0]]])
    place = Place(0, heads, None, q, k)
    plain, scaled = (mod(np.zeros((1, 1, 1)), place)[0, 0] for mod in (alibi, alibi.scaled(1 / 4)))
    return Disagreement(
        "Is the penalty on distance multiplied by the scale of the scores?",
        "positions/alibi",
        {"slope": 0.5, "distance": 2, "width": 16},
        (Reading("no", ("BLOOM", "MPT"), plain), Reading("yes: by 1/sqrt(D)", ("Falcon",), scaled)),
    )


def slope_from() -> Disagreement:
    """Two keys of slope 1/2 for a query at position 3: its log-sum-exp, not its weights.

    >>> [reading.result.round(3).tolist() for reading in slope_from().readings]
    [[0.474], [1.974]]
    """
    heads, at = np.zeros((1, 1, 1), np.int64), np.array([[[3]]])
    place = Place(0, heads, None, at, np.array([[[2, 3]]]))
    logs = [
        np.log(np.exp(mod(np.zeros((1, 1, 2)), place)).sum(axis=-1))[0] for mod in (Alibi((0.5,)), KeyAlibi((0.5,)))
    ]
    return Disagreement(
        "Is the penalty slope · (k - q), or slope · k, which is as much more in every score of a row?",
        "positions/alibi",
        {"slope": 0.5, "query_position": 3, "key_positions": np.array([2, 3])},
        (Reading("slope · (k - q)", ("ALiBi's paper",), logs[0]), Reading("slope · k", ("BLOOM", "Falcon"), logs[1])),
    )
