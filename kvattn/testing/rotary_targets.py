"""What is checked: a rotation of queries and keys, brought by name or by hand.

The contract, on ``x [B, H, T, D]`` and integer positions ``[B, T]``, each row with its own (where that is refused,
``[B, 1, T]`` and ``[T]`` are tried)::

    rotate(x, positions) -> x'                       the same for queries and keys
    rotate(q, k, positions) -> (q', k')              Hq a multiple of Hkv

What it should be stands beside it, as attributes of the function or as a `RotaryTarget`::

    rotate.expects = Rotary.of(64, base=500000.0)    or anything with rotary_at(length): DynamicNTK, LongRope
    rotate.width = 128                               D, where it takes only one
    rotate.context = 8192                            the longest sequence it is made for

Without ``expects`` it is compared with the paper's rotation of the whole width, base 10000, halves paired, and
what differs but is somebody's legal choice is a convention, by name.
"""

from collections.abc import Callable
import contextlib
from dataclasses import dataclass
import inspect
import sys
from typing import Any, NamedTuple, Protocol
import warnings

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.errors import ArgumentError
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Positions

EXPECTED = "expected rotate(x, positions) or rotate(q, k, positions)"


class Scheme(Protocol):
    """A rotation that depends on the length of the sequence."""

    def rotary_at(self, length: int) -> Rotary:
        """The rotation for a sequence of ``length`` tokens."""


class Turned(NamedTuple):
    """Queries and keys as a rotation leaves them."""

    q: Array
    k: Array


@dataclass(frozen=True)
class RotaryTarget:
    """A rotation under test, with what is declared about it.

    Attributes
    ----------
    name
        How the report calls it.
    function
        The callable, of the contract's form.
    expects
        What it should be; None where that is not said.
    width
        D; None where it takes any.
    context
        The longest sequence that it is made for.
    pair
        Whether it takes queries and keys together.
    setup
        Python that binds ``f``, for the line that reproduces a finding; empty where only the caller can.

    Examples
    --------
    >>> target = RotaryTarget("mine", Rotary.of(4).rotate, expects=Rotary.of(4))
    >>> x = np.ones((1, 1, 2, 4))
    >>> target(x, x, np.arange(2)[None]).k[0, 0, 1].round(3)
    array([-0.301,  0.99 ,  1.382,  1.01 ])
    """

    name: str
    function: Callable[..., Any]
    expects: Rotary | Scheme | None = None
    width: int | None = None
    context: int = 4096
    pair: bool = False
    setup: str = ""

    def __post_init__(self) -> None:
        integer("context", self.context, 64)
        if self.width is not None and integer("width", self.width, 2) % 2:
            raise ArgumentError(f"width must be even, got {self.width}")
        if self.expects is not None and not isinstance(self.expects, Rotary) and not hasattr(self.expects, "rotary_at"):
            raise ArgumentError(f"expects must be a Rotary or have rotary_at, got {shown(self.expects)}")
        if getattr(self.expects, "axes", None) is not None:
            raise ArgumentError(
                f"expects must be a Rotary without axes, whose layer can be checked, got {self.expects}"
            )

    def rotary_at(self, length: int, width: int) -> Rotary:
        """What is expected for a sequence of ``length`` tokens and heads of ``width`` features.

        >>> RotaryTarget("mine", Rotary.of(4).rotate).rotary_at(9, 4) == Rotary.of(4)
        True
        """
        if self.expects is None:
            return Rotary.of(width)
        return self.expects if isinstance(self.expects, Rotary) else self.expects.rotary_at(length)

    def __call__(self, q: Array, k: Array, positions: Positions) -> Turned:
        """Rotate both; what the function prints goes to stderr, what it warns is dropped."""
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if self.pair:
                first, second = self.function(q, k, positions)
                return Turned(np.asarray(first), np.asarray(second))
            return Turned(np.asarray(self.function(q, positions)), np.asarray(self.function(k, positions.copy())))


def is_rotation(function: object) -> bool:
    """Say whether a callable's signature begins as a rotation's does.

    >>> is_rotation(lambda x, positions: x), is_rotation(lambda q, k, v: q)
    (True, False)
    """
    names = _names(function)
    return any(len(names) > n and _is_positions(names[n]) for n in (1, 2)) and "v" not in names[:3]


def rotary_target_of(function: Callable[..., Any], name: str | None = None, setup: str = "") -> RotaryTarget:
    """Read a rotation's signature and the attributes that stand beside it.

    Raises
    ------
    ArgumentError
        Where it is no function of the contract's form, or needs more than the contract has.

    Examples
    --------
    >>> rotary_target_of(lambda x, positions, table: x)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: target must need only what the contract has, got required table; expected \
rotate(x, positions) or rotate(q, k, positions)
    """
    names = _names(function)
    if not is_rotation(function):
        raise ArgumentError(f"target must take positions last, got ({', '.join(names)}); {EXPECTED}")
    count = 2 if _is_positions(names[1]) else 3
    parameters = list(inspect.signature(function).parameters.values())
    needed = [p.name for p in parameters[count:] if p.default is p.empty and p.kind != p.VAR_KEYWORD]
    if needed:
        raise ArgumentError(f"target must need only what the contract has, got required {needed[0]}; {EXPECTED}")
    found = getattr(function, "__qualname__", type(function).__qualname__)
    return RotaryTarget(
        name=f"{getattr(function, '__module__', '')}:{found}" if name is None else name,
        function=function,
        expects=getattr(function, "expects", None),
        width=getattr(function, "width", None),
        context=getattr(function, "context", 4096),
        pair=count == 3,
        setup=setup,
    )


def _is_positions(name: str) -> bool:
    return name.startswith("pos")


def _names(function: object) -> list[str]:
    if not callable(function):
        raise ArgumentError(f"target must be callable, got {type(function).__name__}; {EXPECTED}")
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []
