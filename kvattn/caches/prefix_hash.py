"""Prefix reuse by chained block hashes, as engines do it, and a look at the tokens before any hit is believed.

    key of block n = H(key of block n - 1, origin, position of its first token, its tokens)

Only full blocks have a key.  The chain makes a block's key depend on everything before it; origin and position are
in every link, each written with its type and length (`kvattn.caches.prefix_keys.encoded`).  Under a key stand the
tokens themselves, and they are compared: two prefixes with one key cost a miss, never a wrong row, however bad H is.

A `PrefixBlocks` is a value, as caches are: `remember` and `longest` return another one, and an old one stays valid.
For each block the cache up to its end is held, by reference, so the blocks of one prompt share their pages; with
blocks that are a multiple of the page, whoever goes on opens a new page and copies nothing.  Eviction drops what
was used longest ago, the later block of a prompt before the earlier, and frees nothing that a live cache holds.

Cost: one hash for each full block of a question; a pointer for each block remembered, and in `remember` a look at
every page of every block.
Source: automatic prefix caching in vLLM (its design document), after Kwon et al. 2023 (arXiv 2309.06180) §4.4.
Where libraries differ: the hash alone is believed (openvino.genai #3722), or 16 bits of it (LMCache #4783); the
adapter is not hashed (vLLM #3264); name and salt are hashed without tags (#44701).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Generic, NamedTuple

from kvattn.arguments import integer
from kvattn.caches.blocks import BLOCK
from kvattn.caches.prefix_keys import (
    C,
    Found,
    Origin,
    Tokens,
    Usage,
    check_cache,
    encoded,
    read_tokens,
    too_many,
)
from kvattn.errors import RollbackError
from kvattn.typing import Indices


class _Block(NamedTuple):
    origin: Origin
    tokens: Tokens  # the prompt that it came from; the first `length` of them are this prefix
    length: int
    cache: Any
    used: int


def strong(payload: bytes) -> bytes:
    """The hash unless another is given: SHA-256.

    >>> strong(b"")[:4].hex()
    'e3b0c442'
    """
    return sha256(payload).digest()


@dataclass(frozen=True, slots=True, eq=False)
class PrefixBlocks(Generic[C]):
    """Caches by the hashes of their full blocks; make one with `PrefixBlocks.start`.

    Attributes
    ----------
    block
        Tokens of a block.
    budget
        Bytes that all blocks may hold together, shared pages once.
    digest
        The hash, bytes to bytes.
    usage
        What was asked for and found so far, and how often the hash was wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn.caches.paged import Paged
    >>> from kvattn.caches.rows import latent
    >>> origin = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
    >>> cache = Paged.start(latent(1), page=2).append([np.arange(5.0).reshape(1, 1, 5, 1)])
    >>> store = PrefixBlocks.start(block=2, budget=1 << 20).remember(origin, [7, 8, 9, 7, 8], cache)
    >>> found, store = store.longest(origin, [7, 8, 9, 7, 8, 9])
    >>> found.length, store.usage
    (4, Usage(asked=6, found=4, shared=32, collisions=0))
    """

    block: int
    budget: int
    digest: Callable[[bytes], bytes]
    usage: Usage
    _blocks: Mapping[bytes, _Block] = field(repr=False)
    _clock: int = field(repr=False)

    @classmethod
    def start(cls, *, budget: int, block: int = BLOCK, digest: Callable[[bytes], bytes] = strong) -> "PrefixBlocks[C]":
        """The empty store.

        Raises
        ------
        ArgumentError
            A block below 1, or a negative budget.

        Examples
        --------
        >>> PrefixBlocks.start(block=16, budget=0)
        PrefixBlocks(block=16, blocks=0, nbytes=0, budget=0)
        """
        return cls(integer("block", block, 1), integer("budget", budget, 0), digest, Usage(), {}, 0)

    def __repr__(self) -> str:
        return f"PrefixBlocks(block={self.block}, blocks={len(self)}, nbytes={self.nbytes}, budget={self.budget})"

    def __len__(self) -> int:
        return len(self._blocks)

    def _payload(self, parent: bytes, origin: Origin, first: int, tokens: Tokens) -> bytes:
        """What is hashed for the block that begins at token ``first``."""
        return encoded((parent, *origin.parts, origin.start + first, *tokens))

    def _chain(self, origin: Origin, tokens: Tokens) -> Iterator[tuple[int, bytes]]:
        """The end of each full block, and its key."""
        key = b""
        for first in range(0, len(tokens) - self.block + 1, self.block):
            end = first + self.block
            key = self.digest(self._payload(key, origin, first, tokens[first:end]))
            yield end, key

    def _is(self, known: _Block, origin: Origin, tokens: Tokens, end: int, before: _Block | None) -> bool:
        """Whether a block stands for these tokens, all of them; what ``before`` has shown is not compared again."""
        first = before.length if before is not None and before.tokens is known.tokens else 0
        return (known.origin, known.length) == (origin, end) and known.tokens[first:end] == tokens[first:end]

    def _known(self, origin: Origin, tokens: Tokens) -> Iterator[tuple[int, bytes, _Block | None, bool]]:
        """For each full block its end and key, the block that is known under it, and whether another one is."""
        before = None
        for end, key in self._chain(origin, tokens):
            known = self._blocks.get(key)
            right = known is not None and self._is(known, origin, tokens, end, before)
            before = known if right else before
            yield end, key, known if right else None, known is not None and not right

    def remember(self, origin: Origin, tokens: Sequence[int | bytes] | Indices, cache: C) -> "PrefixBlocks[C]":
        """Remember the full blocks of one sequence; what was used longest ago goes until the budget is kept.

        A block that is known already stays as it is.  Where a hash stands for other tokens, the new ones take its
        place; where the cache cannot be cut at the end of a block, that block is left out.

        Raises
        ------
        ArgumentError
            No token, a cache that holds another number of tokens or several sequences, or one with released slots.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> origin = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
        >>> cache = Paged.start(latent(1), page=2).append([np.ones((1, 1, 5, 1))])
        >>> PrefixBlocks.start(block=2, budget=16).remember(origin, [1, 2, 3, 4, 5], cache)
        PrefixBlocks(block=2, blocks=1, nbytes=16, budget=16)
        """
        read = read_tokens(tokens)
        check_cache(cache, origin, read)
        blocks = {**self._blocks}
        for end, key, known, _ in self._known(origin, read):
            try:
                block = known or _Block(origin, read, end, cache.truncate(end), self._clock)
            except RollbackError:
                continue
            blocks[key] = block._replace(used=self._clock)
        order = sorted(blocks.items(), key=lambda each: (each[1].used, -each[1].length))
        kept = order[too_many([block.cache for _, block in order], self.budget) :]
        return replace(self, _blocks=dict(kept), _clock=self._clock + 1)

    def longest(self, origin: Origin, tokens: Sequence[int | bytes] | Indices) -> "tuple[Found[C], PrefixBlocks[C]]":
        """The longest known beginning of these tokens in full blocks.

        Returns
        -------
        tuple
            The cache with its length (at most all of the tokens: who needs the output of the last one asks for one
            token less), and the store in which its blocks were just used.

        Raises
        ------
        ArgumentError
            Tokens that are neither integers >= 0 nor bytes.

        Examples
        --------
        >>> import numpy as np
        >>> origin = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
        >>> PrefixBlocks.start(block=2, budget=0).longest(origin, [1, 2])[0]
        Found(cache=None, length=0)
        """
        read = read_tokens(tokens)
        blocks, found, collisions = {**self._blocks}, Found[C](None, 0), 0
        for end, key, known, collides in self._known(origin, read):
            collisions += collides
            if known is not None:
                blocks[key] = known._replace(used=self._clock)
                found = Found(known.cache, end)
        usage = self.usage.after(len(read), found, collisions)
        return found, replace(self, usage=usage, _blocks=blocks, _clock=self._clock + 1)

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once.

        >>> PrefixBlocks.start(block=2, budget=0).footprint()
        {}
        """
        return {serial: nbytes for b in self._blocks.values() for serial, nbytes in b.cache.footprint().items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, shared pages once; at most the budget.

        >>> PrefixBlocks.start(block=2, budget=0).nbytes
        0
        """
        return sum(self.footprint().values())
