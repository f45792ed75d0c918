"""Read plain arguments: each function returns a plain Python value or says in one sentence what is wrong.

A bool is not a number here; NumPy's, torch's and JAX's scalars are, and become plain ones, so that
they promote nothing and representations read well.
"""

from collections.abc import Iterable, Mapping
import math
import operator
from typing import Any

import numpy as np

from kvattn.errors import ArgumentError


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """``value`` as an int in ``least .. most``.

    Raises
    ------
    ArgumentError
        Anything else; a bool or a float, too.

    Examples
    --------
    >>> integer("page", np.int64(16), 1)
    16
    >>> integer("page", 0, 1)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: page must be an integer >= 1, got 0
    """
    bound = "" if least is None else f" >= {least}" if most is None else f" in {least} .. {most}"
    try:
        read = None if _is_bool(value) else operator.index(value)
    except TypeError:
        read = None
    if read is None or (least is not None and read < least) or (most is not None and read > most):
        raise ArgumentError(f"{name} must be an integer{bound}, got {shown(value)}")
    return read


def integers(name: str, values: Any, least: int | None = None) -> tuple[int, ...]:
    """``values`` as a non-empty tuple of ints, each at least ``least``.

    >>> integers("lengths", np.array([3, 4]), 0)
    (3, 4)
    """
    bound = "" if least is None else f" >= {least}"
    found = _listed(f"{name} must be a non-empty sequence of integers{bound}", values)
    return tuple(integer(f"{name}[{n}]", value, least) for n, value in enumerate(found))


def real(name: str, value: Any, *, above: float | None = None, least: float | None = None) -> float:
    """``value`` as a finite float, greater than ``above`` or at least ``least``.

    >>> real("base", 10000, above=0.0)
    10000.0
    >>> real("base", "1", above=0.0)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: base must be a finite number above 0, got '1'
    """
    bound = f" above {above:g}" if above is not None else f" >= {least:g}" if least is not None else ""
    refused = _is_bool(value) or isinstance(value, (str, bytes, bytearray)) or getattr(value, "ndim", 0) > 0
    try:
        read = math.nan if refused else float(value)
    except (TypeError, ValueError, OverflowError):
        read = math.nan
    if not math.isfinite(read) or (above is not None and read <= above) or (least is not None and read < least):
        raise ArgumentError(f"{name} must be a finite number{bound}, got {shown(value)}")
    return read


def optional_real(name: str, value: Any, *, above: float | None = None) -> float | None:
    """`real`, or None for None.

    >>> optional_real("scale", np.float64(0.5)), optional_real("scale", None)
    (0.5, None)
    """
    return None if value is None else real(name, value, above=above)


def reals(name: str, values: Any) -> tuple[float, ...]:
    """``values`` as a non-empty tuple of finite floats.

    >>> reals("slopes", [1, 0.5])
    (1.0, 0.5)
    """
    found = _listed(f"{name} must be a non-empty sequence of finite numbers", values)
    return tuple(real(f"{name}[{n}]", value) for n, value in enumerate(found))


def shown(value: Any) -> str:
    """A short representation for a message.

    >>> shown(np.zeros((2, 3))), shown(np.float64(0.5)), shown("one")
    ('an array of shape (2, 3)', '0.5', "'one'")
    """
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_bool(value: Any) -> bool:
    """Whether this is a truth value of Python, NumPy, torch or JAX."""
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _listed(wanted: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping | set | frozenset):
        raise ArgumentError(f"{wanted}, got {shown(values)}")
    found = tuple(np.asarray(values).tolist()) if hasattr(values, "__array__") else tuple(values)
    if not found:
        raise ArgumentError(f"{wanted}, got {shown(values)}")
    return found
