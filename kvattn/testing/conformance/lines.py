"""What must be in a cache, line by line, and the names of what can be wrong with it."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kvattn.testing.conformance.rows import Token

FAULTS = {
    "lost row": "a row that a query must see is not there",
    "resurrected row": "a row that was taken back is seen again, in another place",
    "stale after rollback": "a row that was taken back is still in its old place, where a new one must be",
    "wrong owner": "a row belongs to another sequence",
    "wrong order": "a row of the sequence is in another row's place",
    "alias after branch": "a row was written through another branch",
    "row out of sight": "a query sees a row that its window does not reach, or one in front of the oldest",
    "mangled row": "a row is no row that was ever written: mixed, cut, NaN, a key for a value, another head's",
    "silent overflow": "more than fits was taken without a word",
    "wrong length": "the cache says that it holds another number of tokens",
    "rows do not fit the mask": "the mask describes another number of rows than came back",
    "refused": "something that was declared was refused",
    "changed by a refusal": "a step was refused, but the cache is not as it was",
}
"""Names of failures, and what they mean."""


class CacheFault(AssertionError):  # noqa: N818 -- a fault of the cache
    """What a cache did wrong; ``kind`` is one of `FAULTS`.

    >>> CacheFault("lost row", "the row of position 3 is not there").kind
    'lost row'
    """

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(f"{kind}: {sentence}")
        self.kind = kind


class Held(NamedTuple):
    """What a sequence must hold: its tokens, and what its first append wrote, which a source keeps."""

    tokens: tuple[Token, ...] = ()
    source: tuple[Token, ...] = ()


@dataclass(eq=False)
class Line:
    """One cache of a session, what it must hold, and the numbers of all tokens that it ever held.

    ``recent`` counts the tokens of its last append that are still there: how far back it can surely go.  ``over`` is
    set where a step failed, or was refused by a cache that does not recover.

    >>> Line(None, (Held(),)).over
    False
    """

    cache: Any
    held: tuple[Held, ...]
    history: frozenset[int] = frozenset()
    recent: int = 0
    over: bool = field(default=False)

    @property
    def length(self) -> int:
        """Tokens of every sequence.

        >>> Line(None, (Held(),)).length
        0
        """
        return len(self.held[0].tokens)
