"""Rows that say whose they are: a number written in signs, which even a cache of two bits gives back.

    row = (s, -s),   s_i = +1 where bit i of the name is set, else -1

Shapes: ``[B, H, T, 64]``, float32.  A name has five parts: the token's number, its position, the sequence that it was
appended to (its owner), the head, and whether it is a key or a value.  A row of zeros was never written; anything else
that is not 32 signs and then the same signs turned round is mangled: two rows mixed, NaN, half of one.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.typing import Array

WIDTH = 64
"""Numbers in a row."""

HEADS = 2
"""Heads that a session writes."""

_BITS = {"number": 13, "position": 10, "owner": 4, "head": 3, "field": 1}
SLACK = 0.25
"""How far from 1 a sign may be: quantised rows come back a little longer or shorter."""


class Token(NamedTuple):
    """What was appended: a number of its own, where, and to which sequence."""

    number: int
    position: int
    owner: int


class Name(NamedTuple):
    """What a row says of itself; ``field`` is 0 for a key and 1 for a value."""

    number: int
    position: int
    owner: int
    head: int
    field: int

    @property
    def token(self) -> Token:
        """The token, whatever the head and the field.

        >>> Name(7, 3, 1, 0, 1).token
        Token(number=7, position=3, owner=1)
        """
        return Token(self.number, self.position, self.owner)


def write(tokens: Sequence[Token], *, heads: int, field: int) -> Array:
    """The rows of some tokens, ``[heads, T, 64]``.

    Raises
    ------
    ArgumentError
        A part that does not fit its bits.

    Examples
    --------
    >>> write([Token(5, 0, 0)], heads=1, field=0)[0, 0, :4]
    array([ 1., -1.,  1., -1.], dtype=float32)
    """
    return _written(tuple(tokens), heads, field).copy()


@lru_cache(maxsize=1024)  # the same tokens are written in every script
def _written(tokens: tuple[Token, ...], heads: int, field: int) -> Array:
    names = [[Name(*token, head, field) for token in tokens] for head in range(heads)]
    codes = np.array([[_code(name) for name in row] for row in names], np.uint32).reshape(heads, len(tokens))
    half = np.where((codes[..., None] >> np.arange(32, dtype=np.uint32)) & 1, np.float32(1), np.float32(-1))
    return np.concatenate([half, -half], axis=-1)


def _code(name: Name) -> int:
    code = shift = 0
    for (part, bits), value in zip(_BITS.items(), name, strict=True):
        if not 0 <= value < 1 << bits:
            raise ArgumentError(f"{part} must be 0 .. {(1 << bits) - 1}, got {value}")
        code |= value << shift
        shift += bits
    return code | 1 << 31  # so that no row is all minus


def read(rows: Array) -> list[Name | str]:
    """The names of rows ``[S, 64]``: ``"nothing"`` where none was written, ``"a mangled row"`` where none can be read.

    >>> read(np.concatenate([write([Token(5, 2, 1)], heads=1, field=1)[0], np.zeros((1, 64))]))
    [Name(number=5, position=2, owner=1, head=0, field=1), 'nothing']
    >>> read(np.full((1, 64), np.nan))
    ['a mangled row']
    """
    rows = np.asarray(rows, np.float64)
    sizes = np.abs(rows)
    with np.errstate(invalid="ignore"):
        signs = (np.abs(sizes - 1) <= SLACK).all(-1) & (rows[:, :32] * rows[:, 32:] < 0).all(-1)
        zeros = (sizes <= SLACK).all(-1)
    packed = np.packbits(rows[:, :32] > 0, axis=-1, bitorder="little")  # in the order of rows in memory
    codes = np.ascontiguousarray(packed).view("<u4")[:, 0]
    return [
        _name(code) if sign and code >> 31 else "nothing" if zero else "a mangled row"
        for code, sign, zero in zip(codes.tolist(), np.asarray(signs).tolist(), np.asarray(zeros).tolist(), strict=True)
    ]


@lru_cache(maxsize=1 << 14)
def _name(code: int) -> Name:
    parts = []
    for bits in _BITS.values():
        parts.append(code & (1 << bits) - 1)
        code >>= bits
    return Name(*parts)
