"""What a cache of any library must be able to say, in five methods, to be driven by kvattn.

`start`, `append`, `rollback`, `select`, `branch` on a cache that may be a value or may change in place: each returns
the cache to go on with, and where it changes in place that is the same one.  `append` also returns what attention would
see: the keys and values that came back, and where the library's own mask takes them to be.  What must work is declared
in `Capabilities`; what is not declared must be refused by an exception, or work: no operation may be silently wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kvattn.typing import Array


class Seen(NamedTuple):
    """What attention would see of one part of a cache while the tokens just appended are computed.

    Attributes
    ----------
    keys, values
        ``[B, H, S, 64]``, everything that came back, unwritten rows too.
    positions
        ``[S]``, where the library's mask takes each row to be; None: the rows are in order and the last is the newest.
    visible
        ``[T, S]``, the library's mask itself, for caches that do not keep their rows in order; it goes before
        ``positions``.
    length
        How many tokens the cache says that it holds, those just appended included; None where it does not say.
    """

    keys: Array
    values: Array
    positions: NDArray[Any] | None = None
    visible: NDArray[np.bool_] | None = None
    length: int | None = None


@dataclass(frozen=True)
class Part:
    """One layer of a cache, or one of its stores.

    Attributes
    ----------
    window
        Keys that a query sees, itself included; None for all.
    sinks
        First tokens that every query sees as well.
    source
        Only the first append writes; every query sees all of it, and no rollback shortens it: cross-attention.
    """

    window: int | None = None
    sinks: int = 0
    source: bool = False


@dataclass(frozen=True)
class Capabilities:
    """What must work; what is not declared must be refused or work.

    Attributes
    ----------
    parts
        What `append` returns, in order.
    rollback
        The newest tokens that can be taken back, at most, between one append and the next; None for any number.
    capacity
        Tokens that fit; one more must be refused.  None for any number.
    many
        Several tokens onto a cache that is not empty.
    none
        An append of no token.
    select
        Sequences can be reordered.
    resize
        Sequences can be repeated and dropped as well.
    branch
        A copy can be made that shares nothing that changes.
    recovers
        A refusal leaves the cache as it was; where it does not, the cache is not used any more.
    store
        Number format in which rows must come back, by a name of `kvattn.testing.formats.FORMATS`: rows are given in it
        where NumPy has it, and else in float32, to be rounded to it once.  Empty: what becomes of float32 is told and
        not judged.
    untried
        What is known to be silently wrong and is left out: ``"rollback"`` (beyond what is declared), ``"select"``,
        ``"resize"``, ``"overflow"``, ``"many"``, ``"none"``, ``"negative"``, ``"oversize"`` (rollbacks), ``"scale"``
        (rows far larger than those of the first append).
    """

    parts: tuple[Part, ...] = (Part(),)
    rollback: int | None = None
    capacity: int | None = None
    many: bool = True
    none: bool = True
    select: bool = True
    resize: bool = True
    branch: bool = True
    recovers: bool = True
    store: str = ""
    untried: frozenset[str] = frozenset()


class CacheAdapter(Protocol):
    """Five methods and a declaration."""

    @property
    def capabilities(self) -> Capabilities:
        """What must work."""

    def start(self, batch: int) -> Any:
        """The empty cache of so many sequences."""

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Add ``[B, H, T, 64]`` keys and values to every part, and say what attention would see of each."""

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Take the newest tokens back."""

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Reorder, repeat or drop sequences."""

    def branch(self, cache: Any) -> Any:
        """Another cache with the same content."""
