"""What makes one prefix another one: its tokens, and everything else that its rows depend on.

Rows are a function of the tokens before them, of the weights, of the positions and of how they were computed, so
all of these are the key.  An `Origin` has no defaults: a part that could be left out would mean "may be shared",
and so it must be said.  A token is an integer, or bytes where an integer says too little: all images share one
placeholder id, so the digest of the image stands in its place.  `encoded` writes values so that different lists
never give the same bytes, whatever their types and lengths.

Source: what vLLM calls extra keys (its design document on automatic prefix caching).
Where libraries differ: the adapter missing from the key (vLLM #3264), its name in place of its weights (#30931,
#42125), name and salt without tags (#44701), placeholder ids alone (LMCache #690).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import integer, shown
from kvattn.errors import ArgumentError
from kvattn.typing import Indices

Token: TypeAlias = int | bytes
"""A token's number, or the digest of what stands in its place."""

Tokens: TypeAlias = tuple[Token, ...]
"""Tokens of one sequence, in order."""


class Reusable(Protocol):
    """What a cache must have to be reused: lengths, a cut, and its pages with their bytes."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence."""

    def truncate(self, length: int, /) -> Any:
        """The first tokens, by reference; `RollbackError` where they are no longer remembered."""

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once."""


C = TypeVar("C", bound=Reusable)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What rows depend on beside their tokens; two prefixes of different origin never share.

    Attributes
    ----------
    model
        Which weights: a name with a version, or a digest.
    adapter
        Which adapter's weights, by a name that changes when they do; None for the model alone.
    dtype
        In what the model computes.
    salt
        Whatever else keeps prefixes apart: a tenant, a source that is attended to; None for nothing.
    start
        Position of the first token.

    Raises
    ------
    ArgumentError
        A model that is no text or empty, an adapter or salt that is neither text nor None, a negative start.

    Examples
    --------
    >>> plain = Origin(model="m 1", adapter=None, dtype=np.float32, salt=None, start=0)
    >>> plain == Origin(model="m 1", adapter="law", dtype=np.float32, salt=None, start=0)
    False
    """

    model: str
    adapter: str | None
    dtype: DTypeLike
    salt: str | None
    start: int

    def __post_init__(self) -> None:
        given: tuple[tuple[str, object], ...] = (("adapter", self.adapter), ("salt", self.salt))
        if self.model == "" or not isinstance(self.model, str):
            raise ArgumentError(f"model must be a text that is not empty, got {shown(self.model)}")
        for name, value in given:
            if not isinstance(value, str | None):
                raise ArgumentError(f"{name} must be a text or None, got {shown(value)}")
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "start", integer("start", self.start, 0))

    @property
    def parts(self) -> tuple[str | int | None, ...]:
        """All of it as plain values, in a fixed order.

        >>> Origin(model="m", adapter=None, dtype="f4", salt="s", start=0).parts
        ('m', None, 'float32', 's', 0)
        """
        return self.model, self.adapter, str(self.dtype), self.salt, self.start


def encoded(values: Iterable[Token | str | None]) -> bytes:
    """Values as bytes, each with its type and its length: different values never look alike.

    >>> encoded(["x", None]) == encoded([None, "x"]), encoded([12]) == encoded([1, 2]), encoded(["1"]) == encoded([1])
    (False, False, False)
    """
    parts = []
    for value in values:
        tag = {str: b"s", bytes: b"b", type(None): b"n"}.get(type(value), b"i")
        body = value if isinstance(value, bytes) else str(value).encode()
        parts.append(b"%b%d:%b" % (tag, len(body), body))
    return b"".join(parts)


def read_tokens(tokens: Sequence[Token] | Indices) -> Tokens:
    """Tokens as a tuple of integers >= 0 and bytes.

    Raises
    ------
    ArgumentError
        Anything else.

    Examples
    --------
    >>> read_tokens(np.array([3, 4])), read_tokens([3, b"digest"])
    ((3, 4), (3, b'digest'))
    """
    if np.ndim(tokens) != 1 and len(tokens):
        raise ArgumentError(f"tokens must be a row of integers or bytes, got {shown(tokens)}")
    return tuple(
        token if isinstance(token, bytes) else integer(f"tokens[{n}]", token, 0) for n, token in enumerate(tokens)
    )


def check_cache(cache: Reusable, origin: Origin, tokens: Tokens) -> None:
    """Refuse a cache that does not hold exactly these tokens, at least one, in one sequence.

    >>> from kvattn.caches.paged import Paged
    >>> from kvattn.caches.rows import latent
    >>> origin = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
    >>> check_cache(Paged.start(latent(2)), origin, (5,))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: cache must hold the 1 tokens and one sequence, got lengths (0,)
    """
    if not tokens:
        raise ArgumentError("tokens must be at least one, got none")
    if tuple(cache.lengths) != (len(tokens),):
        raise ArgumentError(f"cache must hold the {len(tokens)} tokens and one sequence, got lengths {cache.lengths}")
    held = getattr(cache, "held", None)
    if held is not None and not held(0).all():
        raise ArgumentError(f"cache must hold every slot, got one that has released {int((~held(0)).sum())} of them")
    if getattr(getattr(cache, "schema", None), "placed", False):
        places = cast(Any, cache).positions(0)
        if (places != origin.start + np.arange(len(tokens))).any():
            raise ArgumentError(f"cache must hold positions from {origin.start} on, one by one, got {shown(places)}")


class Found(NamedTuple, Generic[C]):
    """The longest known prefix: a cache that holds exactly its tokens, None where there is none; and how many."""

    cache: C | None
    length: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked for and what was found, all integers.

    Attributes
    ----------
    asked, found
        Tokens.
    shared
        Bytes of the pages that were handed out again in place of new ones.
    collisions
        How often a hash stood for other tokens, and was not believed.

    Examples
    --------
    >>> Usage(asked=10, found=4).hit_rate
    0.4
    """

    asked: int = 0
    found: int = 0
    shared: int = 0
    collisions: int = 0

    @property
    def hit_rate(self) -> float:
        """Tokens found for each token asked for; 0 before anything was asked.

        >>> Usage().hit_rate
        0.0
        """
        return self.found / self.asked if self.asked else 0.0

    def after(self, tokens: int, found: Found[Any], collisions: int = 0) -> "Usage":
        """What is known after one more question.

        >>> Usage().after(10, Found(None, 0)).asked
        10
        """
        shared = sum(found.cache.footprint().values()) if found.cache is not None else 0
        return Usage(self.asked + tokens, self.found + found.length, self.shared + shared, self.collisions + collisions)


def too_many(caches: Sequence[Reusable], budget: int) -> int:
    """How many of these caches, from the first on, must go until the pages of the rest fit into a budget.

    >>> from kvattn.caches.paged import Paged
    >>> from kvattn.caches.rows import latent
    >>> long = Paged.start(latent(2), page=4).append([np.ones((1, 1, 8, 2))])  # 2 pages of 64 bytes
    >>> too_many([long.truncate(4), long], 128), too_many([long.truncate(4), long], 127)
    (0, 2)
    """
    holders: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for cache in caches:
        for serial, nbytes in cache.footprint().items():
            holders[serial] = holders.get(serial, 0) + 1
            sizes[serial] = nbytes
    total = sum(sizes.values())
    for gone, cache in enumerate(caches):
        if total <= budget:
            return gone
        for serial in cache.footprint():
            holders[serial] -= 1
            if not holders[serial]:
                total -= sizes[serial]
    return len(caches)
