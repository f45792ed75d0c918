"""Rows that say their token, head and column."""

import numpy as np

from kvattn.caches import KeyValue, key_value

SCHEMA = key_value(2, 2, 1)


def rows(tokens: list[list[int]]) -> KeyValue:
    """Keys and values of some tokens, ``[B, 2, T, 2]`` and ``[B, 2, T, 1]``."""
    numbers = np.array(tokens, float).reshape(len(tokens), 1, -1, 1)
    heads = np.array([0.25, 0.75]).reshape(1, 2, 1, 1)
    return KeyValue(np.concatenate([numbers + heads, heads - numbers], 3), -numbers - heads)
