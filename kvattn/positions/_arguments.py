"""Checks of plain arguments, shared by schemes, masks and mods: each returns a plain Python value or raises.

A bool is not an integer; a NumPy integer is, and becomes a plain one, so that representations read well.
"""

from collections.abc import Iterable, Mapping
import math
from typing import Any

import numpy as np

from kvattn.errors import ArgumentError


def integer(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an int, at least ``least``."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or (least is not None and value < least):
        bound = "" if least is None else f" >= {least}"
        raise ArgumentError(f"{name} must be an integer{bound}, got {_shown(value)}")
    return int(value)


def integers(name: str, values: Any, least: int | None = None) -> tuple[int, ...]:
    """``values`` as a non-empty tuple of ints, each at least ``least``."""
    bound = "" if least is None else f" >= {least}"
    problem = f"{name} must be a non-empty sequence of integers{bound}, got {_shown(values)}"
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping | set | frozenset):
        raise ArgumentError(problem)
    found = tuple(np.asarray(values).tolist()) if hasattr(values, "__array__") else tuple(values)
    if not found:
        raise ArgumentError(problem)
    return tuple(integer(f"{name}[{n}]", value, least) for n, value in enumerate(found))


def real(name: str, value: Any, above: float | None = None) -> float:
    """``value`` as a finite float, greater than ``above``."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or (above is not None and value <= above):
        bound = "" if above is None else f" > {above:g}"
        raise ArgumentError(f"{name} must be a finite number{bound}, got {_shown(value)}")
    return float(value)


def reals(name: str, values: Any) -> tuple[float, ...]:
    """``values`` as a non-empty tuple of finite floats."""
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | Mapping | set | frozenset):
        raise ArgumentError(f"{name} must be a non-empty sequence of finite numbers, got {_shown(values)}")
    found = tuple(np.asarray(values).tolist()) if hasattr(values, "__array__") else tuple(values)
    if not found:
        raise ArgumentError(f"{name} must be a non-empty sequence of finite numbers, got {_shown(values)}")
    return tuple(real(f"{name}[{n}]", value) for n, value in enumerate(found))


def _shown(value: Any) -> str:
    """A short representation for a message."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
