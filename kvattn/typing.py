"""The types that signatures speak of: arrays, and the seams between masks, mods, schemes and arithmetic.

Shapes stand in docstrings, in the letters of `kvattn.axes`.  The protocols say what a mask, a mod
or a positional scheme must be able to do; nothing needs to inherit from them.
"""

from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvattn.counting import Tally

Array: TypeAlias = NDArray[np.floating[Any]]
"""A floating-point array; kvattn computes in float64 or float32."""

Positions: TypeAlias = NDArray[np.int64]
"""Absolute token positions, counted from 0."""

Indices: TypeAlias = NDArray[np.int64]
"""Batch or head numbers, counted from 0."""

Visible: TypeAlias = NDArray[np.bool_]
"""A mask's answer: True where the query may see the key."""


class Answer(Enum):
    """What a mask says of a whole block of pairs; ``LOOK`` is always a legal answer."""

    ALL = "all"
    NONE = "none"
    LOOK = "look"


class Span(NamedTuple):
    """The lowest and the highest position in a block, both included; not every position between need occur."""

    low: int
    high: int


class Mask(Protocol):
    """Who may see whom, as a function of absolute positions."""

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair; the four arguments broadcast against each other."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Answer for all heads and all pairs of two spans at once."""


class Place(NamedTuple):
    """Where a block of scores stands; every array broadcasts against the scores.

    Attributes
    ----------
    batch
        Number of the sequence.
    heads
        Query head of each score row.
    queries
        The query rows before scaling, ``[..., rows, D]``; None where a caller has none.
    q_positions, k_positions
        Absolute positions of the score rows and columns.
    keys
        The key rows, time last, ``[..., D, columns]``; None where a caller has none.
    query_notes
        Further numbers of each query, ``[..., rows, E]``, for mods that read them; None without.
    key_notes
        Further numbers of each key, time last, ``[..., F, columns]``; None without.
    """

    batch: int
    heads: Indices
    queries: Array | None
    q_positions: Positions
    k_positions: Positions
    keys: Array | None = None
    query_notes: Array | None = None
    key_notes: Array | None = None


class Mod(Protocol):
    """How a score is bent: elementwise, after scale and softcap, before the mask.

    A mod that also has ``cost(*, pairs, width) -> Tally`` is counted: so many pairs whose score it bends, of
    queries with so many features.  Its own arithmetic is not counted otherwise.
    """

    def __call__(self, scores: Array, place: Place) -> Array:
        """Return scores of the same shape and dtype."""


class QueryKey(Protocol):
    """What is done to queries and keys between projection and product: rotations, norms, temperatures.

    Keys are cached as it leaves them, so a key's row may depend on that key and its position alone.
    A value that gives rows of another width also has ``widened(width) -> int``.
    """

    def queries(self, q: Array, positions: Positions) -> Array:
        """Return queries ``[B, Hq, T, D]`` for positions ``[B, 1, T]``."""

    def keys(self, k: Array, positions: Positions) -> Array:
        """Return keys ``[B, Hkv, T, D]`` for positions ``[B, 1, T]``."""

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts, in closed form; ``tokens`` over all sequences."""

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts, in closed form."""


class Finish(Protocol):
    """What is done to the mixed values between attention and the output projection: gates, norms, turns."""

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        """Return ``mixed [B, Hq, T, Dv]``, given the layer's input ``x [B, T, M]`` and positions ``[B, T]``."""

    def finish_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `finish` counts, in closed form; ``width`` is Dv."""


class Embedding(Protocol):
    """A positional scheme that is added to hidden states."""

    def embed(self, x: Array, positions: Positions) -> Array:
        """Return ``x`` ``[..., T, M]`` with the position mixed in."""


class Attended(NamedTuple):
    """What attention returns, always: the mixed values and the log of the softmax denominator.

    Attributes
    ----------
    out
        ``[*batch, Hq, T, Dv]`` from the core, ``[B, T, M]`` from a variant that projects its output.
        0 in a row that sees no key.
    lse
        ``[*batch, Hq, T]``, natural logarithm, sinks included; -inf in a row that sees no key,
        NaN where a variant has no softmax.
    """

    out: Array
    lse: Array
