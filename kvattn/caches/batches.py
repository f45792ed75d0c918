"""What is said of each sequence of a batch: one length of all, one number for each, which of them.

Every storage reads these alike, and refuses them in the same words.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from kvattn.arguments import integer
from kvattn.errors import ArgumentError
from kvattn.typing import Positions


def per_sequence(name: str, value: object, most: Sequence[int]) -> tuple[int, ...]:
    """Read one integer for the whole batch, or one for each sequence, in ``0 .. most[b]``.

    >>> per_sequence("length", 2, most=(3, 4)), per_sequence("length", [1, 4], most=(3, 4))
    ((2, 2), (1, 4))
    """
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and np.ndim(cast(Any, value)) == 1:
        values = list(value)
        if len(values) != len(most):
            raise ArgumentError(f"{name} must be one integer or one for each of {len(most)} sequences, got {value!r}")
        return tuple(integer(f"{name} of sequence {b}", v, 0, most[b]) for b, v in enumerate(values))
    return (integer(name, value, 0, min(most)),) * len(most)


def one_length(lengths: Sequence[int]) -> int:
    """The length of every sequence.

    Raises
    ------
    ArgumentError
        The sequences differ in length.

    Examples
    --------
    >>> one_length((3, 3))
    3
    >>> one_length((3, 4))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: length must be the same for all sequences, got (3, 4)
    """
    if len(set(lengths)) > 1:
        raise ArgumentError(f"length must be the same for all sequences, got {tuple(lengths)}")
    return lengths[0]


def picked(indices: Sequence[int] | Positions, batch: int) -> list[int]:
    """Numbers of sequences, in any order and as often as one likes.

    Raises
    ------
    ArgumentError
        No index, or one that is not a sequence's number.

    Examples
    --------
    >>> picked(np.array([1, 0, 0]), batch=2)
    [1, 0, 0]
    """
    if np.ndim(indices) != 1 or not len(indices):
        raise ArgumentError(f"indices must be a row of at least one sequence number, got {indices!r}")
    return [integer("each of indices", i, 0, batch - 1) for i in indices]
