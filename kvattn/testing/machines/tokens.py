"""Tokens as rows: what the machines write, so that any mix-up of any two numbers shows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kvattn.caches.rows import Schema, key_value
from kvattn.errors import MissingExtraError
from kvattn.typing import Array

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise MissingExtraError("kvattn.testing.machines needs Hypothesis: install kvattn[testing]") from error

_CODES = 64

Tokens = tuple[int | None, ...]
"""The tokens of one sequence by slot; None where the cache was told to forget."""


class Place(NamedTuple):
    """Where a token stands that keeps its position, and how far its keys were turned since it was written."""

    position: int
    turned: int = 0


class Known(NamedTuple):
    """A cache and what it must hold.

    Attributes
    ----------
    cache, tokens, page
        The value, its tokens by sequence and slot, and tokens per page.
    places
        Where its schema is placed: for each token its `Place`.  None where slots are positions.
    behind
        Where its schema is placed: for each sequence the next position at every length, 0 and the whole included.
    """

    cache: Any
    tokens: tuple[Tokens, ...]
    page: int
    places: tuple[tuple[Place, ...], ...] | None = None
    behind: tuple[tuple[int, ...], ...] = ()


class Doubling:
    """What "turns" the machine's keys: times two for each position, which is exact, and forgets nothing.

    >>> Doubling().shift(np.array([3.0]), np.array(2)), Doubling().shift(np.array([12.0]), np.array(-2))
    (array([12.]), array([3.]))
    """

    def shift(self, x: Array, by: Any) -> Array:
        """Move rows by so many positions.

        >>> Doubling().shift(np.ones(1, np.float32), np.array(3))
        array([8.], dtype=float32)
        """
        return np.ldexp(x, int(by))


def must(holds: bool, sentence: str) -> None:
    """Fail with a sentence unless something holds.

    >>> must(True, "one is one")
    """
    if not holds:
        raise AssertionError(sentence)


def encode(schema: Schema[Any], tokens: Sequence[int]) -> list[Array]:
    """The rows of some tokens, ``[heads, T, width]`` per field; no two numbers of any rows are equal.

    >>> [x.ravel() for x in encode(key_value(1, 2), [3])]
    [array([192., 193.]), array([194., 195.])]
    """
    found, code = [], 0
    for field in schema.fields:
        size = field.heads * field.width
        codes = np.arange(code, code + size).reshape(field.heads, 1, field.width)
        found.append((np.array(tokens, np.int64).reshape(1, -1, 1) * _CODES + codes).astype(field.dtype))
        code += size
    must(code <= _CODES, f"a row of the machine has at most {_CODES} numbers, got {code}")
    return found


def refused(action: Callable[[], object], what: str) -> None:
    """Fail unless an action raises `ValueError`.

    >>> refused(lambda: int("x"), "int('x')")
    """
    try:
        action()
    except ValueError:
        return
    raise AssertionError(f"{what} must be refused with a ValueError, but it was taken")


SCHEMAS = st.builds(
    key_value,
    heads=st.integers(1, 3),
    width=st.integers(1, 4),
    value_width=st.integers(1, 4),
    dtype=st.sampled_from([np.float64, np.float32]),
)
"""Small key/value schemas of both dtypes."""
