"""Masks joined: ``&`` (both), ``|`` (either), ``~`` (inverse), and the mask that hides nothing.

    (a & b)(q, k) = a(q, k) and b(q, k)      (a | b)(q, k) = a(q, k) or b(q, k)      (~a)(q, k) = not a(q, k)

Shapes: whatever the parts broadcast to.  Nothing is simplified when masks are joined, so that the
representation says what was written; only a block answer uses algebra: one NONE settles ``&``, one
ALL settles ``|``.  Masks share no base class: each assigns `both`, `either` and `inverse` to its
operators, and so can yours.

Where libraries differ: FlexAttention joins with ``and_masks`` and ``or_masks`` (2412.05496 §3.2);
an additive mask of -inf can only be joined with "and".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.typing import Answer, Indices, Mask, Positions, Span, Visible

_OPPOSITE = {Answer.ALL: Answer.NONE, Answer.NONE: Answer.ALL, Answer.LOOK: Answer.LOOK}


def both(left: Mask, right: Mask) -> "Both":
    """What both masks show; ``left & right``.

    Raises
    ------
    ArgumentError
        When a side is no mask.

    Examples
    --------
    >>> from kvattn.masks import Causal, Window
    >>> both(Causal(), Window(4))
    Causal() & Window(4)
    """
    return Both(_mask("left", left), _mask("right", right))


def either(left: Mask, right: Mask) -> "Either":
    """What at least one mask shows; ``left | right``.

    Raises
    ------
    ArgumentError
        When a side is no mask.

    Examples
    --------
    >>> from kvattn.masks import Causal, Prefix
    >>> either(Causal(), Prefix(3))
    Causal() | Prefix(3)
    """
    return Either(_mask("left", left), _mask("right", right))


def inverse(mask: Mask) -> "Inverse":
    """What the mask hides; ``~mask``.

    Raises
    ------
    ArgumentError
        When ``mask`` is no mask.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> inverse(Causal())
    ~Causal()
    """
    return Inverse(_mask("mask", mask))


@dataclass(frozen=True, repr=False)
class Both:
    """What two masks both show.

    >>> from kvattn.masks import Causal, Window
    >>> at = np.arange(3)
    >>> (Causal() & Window(2))(0, 0, at[:, None], at).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """

    left: Mask
    right: Mask

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        return self.left(b, h, q_positions, k_positions) & self.right(b, h, q_positions, k_positions)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """NONE when a part says so, ALL when both do.

        >>> from kvattn.masks import Causal, Window
        >>> (Causal() & Window(4)).block(0, Span(10, 12), Span(0, 6))
        <Answer.NONE: 'none'>
        """
        answers = {self.left.block(b, q, k), self.right.block(b, q, k)}
        if Answer.NONE in answers:
            return Answer.NONE
        return Answer.LOOK if Answer.LOOK in answers else Answer.ALL

    def __repr__(self) -> str:
        return f"{_nested(self.left, Either)} & {_nested(self.right, Both | Either)}"

    __and__ = both
    __or__ = either
    __invert__ = inverse


@dataclass(frozen=True, repr=False)
class Either:
    """What at least one of two masks shows.

    >>> from kvattn.masks import Causal, Prefix
    >>> at = np.arange(3)
    >>> (Causal() | Prefix(2))(0, 0, at[:, None], at).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """

    left: Mask
    right: Mask

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        return self.left(b, h, q_positions, k_positions) | self.right(b, h, q_positions, k_positions)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """ALL when a part says so, NONE when both do.

        >>> from kvattn.masks import Causal, Prefix
        >>> (Causal() | Prefix(3)).block(0, Span(0, 0), Span(0, 2))
        <Answer.ALL: 'all'>
        """
        answers = {self.left.block(b, q, k), self.right.block(b, q, k)}
        if Answer.ALL in answers:
            return Answer.ALL
        return Answer.LOOK if Answer.LOOK in answers else Answer.NONE

    def __repr__(self) -> str:
        return f"{_nested(self.left, Both)} | {_nested(self.right, Both | Either)}"

    __and__ = both
    __or__ = either
    __invert__ = inverse


@dataclass(frozen=True, repr=False)
class Inverse:
    """What a mask hides.

    >>> from kvattn.masks import Causal
    >>> at = np.arange(3)
    >>> (~Causal())(0, 0, at[:, None], at).astype(int)
    array([[0, 1, 1],
           [0, 0, 1],
           [0, 0, 0]])
    """

    mask: Mask

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        return ~self.mask(b, h, q_positions, k_positions)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """ALL and NONE change places.

        >>> from kvattn.masks import Causal
        >>> (~Causal()).block(0, Span(0, 3), Span(4, 9))
        <Answer.ALL: 'all'>
        """
        return _OPPOSITE[self.mask.block(b, q, k)]

    def __repr__(self) -> str:
        return f"~{_nested(self.mask, Both | Either)}"

    __and__ = both
    __or__ = either
    __invert__ = inverse


@dataclass(frozen=True)
class Everything:
    """Every query sees every key: what ``&`` leaves as it is.

    >>> Everything()(0, 0, np.arange(2)[:, None], np.arange(2))
    array([[ True,  True],
           [ True,  True]])
    """

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """True for every pair, the four arguments broadcasting."""
        return np.ones(np.broadcast_shapes(np.shape(q_positions), np.shape(k_positions)), np.bool_)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """ALL.

        >>> Everything().block(0, Span(0, 3), Span(4, 9))
        <Answer.ALL: 'all'>
        """
        return Answer.ALL

    __and__ = both
    __or__ = either
    __invert__ = inverse


def _mask(name: str, value: Any) -> Mask:
    """``value``, when it can do what a mask must."""
    if not callable(value) or not callable(getattr(value, "block", None)):
        kind = type(value).__name__
        hint = "; an array becomes a mask as Explicit(array)" if isinstance(value, np.ndarray) else ""
        raise ArgumentError(f"{name} must be a mask, callable and with a block method, got {kind}{hint}")
    mask: Mask = value
    return mask


def _nested(mask: Mask, wrapped: Any) -> str:
    """A part's representation, in brackets where Python or a reader needs them."""
    return f"({mask!r})" if isinstance(mask, wrapped) else repr(mask)
