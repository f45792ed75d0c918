"""The machines themselves: what they accept, and that their model is not vacuous (mutants: tests/mutants)."""

from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
import numpy as np
import pytest

from kvattn.caches.paged import Paged
from kvattn.caches.rows import Schema, key_value
from kvattn.testing.machines import Known, PagedMachine, PoolMachine, encode, must, refused
from kvattn.typing import Array

TestPaged = PagedMachine.TestCase
TestPool = PoolMachine.TestCase


class Plain:
    """The least that a foreign cache offers: arrays in lists, copied at every turn."""

    def __init__(self, schema: Schema[Any], sequences: Sequence[tuple[Array, ...]]) -> None:
        self.schema, self.sequences = schema, sequences

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(k.shape[1] for k, _ in self.sequences)

    def append(self, rows: Any) -> "Plain":
        arrays, _ = self.schema.check(rows, len(self.sequences))
        joined = [
            tuple(np.concatenate([old, new[b]], axis=1) for old, new in zip(pair, arrays, strict=True))
            for b, pair in enumerate(self.sequences)
        ]
        return Plain(self.schema, joined)

    def truncate(self, length: Any) -> "Plain":
        lengths = length if isinstance(length, list) else [length] * len(self.sequences)
        for n, most in zip(lengths, self.lengths, strict=True):
            if type(n) is not int or not 0 <= n <= most:
                raise ValueError("length")
        return Plain(self.schema, [(k[:, :n], v[:, :n]) for n, (k, v) in zip(lengths, self.sequences, strict=True)])

    def select(self, indices: Any) -> "Plain":
        if not indices or any(type(i) is not int or not 0 <= i < len(self.sequences) for i in indices):
            raise ValueError("indices")
        return Plain(self.schema, [self.sequences[i] for i in indices])

    def rows(self, *, sequence: int) -> tuple[Array, ...]:
        found = tuple(x[None].copy() for x in self.sequences[sequence])
        for array in found:
            array.flags.writeable = False
        return found


def test_a_foreign_cache_with_the_least_interface_can_be_driven() -> None:
    class Foreign(PagedMachine):
        def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Plain:
            del page
            empty = tuple(np.zeros((f.heads, 0, f.width), f.dtype) for f in schema.fields)
            return Plain(schema, [empty] * batch)

    run_state_machine_as_test(Foreign, settings=settings())


def test_no_two_numbers_of_any_rows_are_equal() -> None:
    parts = encode(key_value(3, 4, 4, np.float32), range(1, 200))
    numbers = np.concatenate([x.ravel() for x in parts])
    assert len(set(numbers.tolist())) == numbers.size == 199 * 3 * 8


def test_a_row_with_too_many_numbers_for_the_code_is_refused() -> None:
    with pytest.raises(AssertionError, match="a row of the machine has at most 64 numbers, got 70"):
        encode(key_value(5, 7), [1])


def test_what_is_not_refused_is_reported() -> None:
    with pytest.raises(AssertionError, match=r"nothing must be refused with a ValueError, but it was taken"):
        refused(lambda: None, "nothing")
    with pytest.raises(AssertionError, match="the sentence"):
        must(False, "the sentence")


def test_a_value_with_other_tokens_is_rejected() -> None:
    machine = PagedMachine()
    machine.schema = key_value(1, 2)
    cache = Paged.start(machine.schema, 1, 4).append([x[None] for x in encode(machine.schema, [1, 2])])
    machine.check(Known(cache, ((1, 2),), 4))
    with pytest.raises(AssertionError, match=r"k of sequence 0 must hold tokens \[2, 1\]"):
        machine.check(Known(cache, ((2, 1),), 4))
    with pytest.raises(AssertionError, match=r"lengths must be \(3,\), got \(2,\)"):
        machine.check(Known(cache, ((1, 2, 3),), 4))
