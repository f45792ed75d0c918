"""What tests of the operations on a paged cache share: rows, and what it means to hold the same."""

from typing import Any

from hypothesis import strategies as st
import numpy as np

from kvattn.caches import KeyValue, Paged, key_value, placed
from kvattn.positions import Rotary

SCHEMA = key_value(2, 4, 1)
PLACED = placed(SCHEMA)
ROTARY = Rotary.of(4)


def rows(batch: int, count: int, seed: int = 0) -> KeyValue:
    random = np.random.default_rng(seed)
    return KeyValue(random.normal(size=(batch, 2, count, 4)), random.normal(size=(batch, 2, count, 1)))


def part(some: KeyValue, b: int, stop: int) -> KeyValue:
    return KeyValue(*(x[b : b + 1, :, :stop] for x in some))


def same(one: Paged[Any], other: Paged[Any]) -> bool:
    """Whether two caches hold the same tokens at the same positions, to the bit, and go on alike."""
    return (one.lengths, one.ends) == (other.lengths, other.ends) and all(
        np.array_equal(one.positions(b), other.positions(b))
        and all(np.array_equal(x, y) for x, y in zip(one.rows(sequence=b), other.rows(sequence=b), strict=True))
        for b in range(one.batch)
    )


COUNTS = st.sampled_from([0, 1, 3, 4, 5, 9])
