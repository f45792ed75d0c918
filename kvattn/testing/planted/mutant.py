"""A mutant: a function with one fault, and what a check must say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """A function with one fault.

    Attributes
    ----------
    name
        What is wrong, in words.
    function
        A callable of the contract's form.
    fault_class
        Class under which a check must report it; empty for what stands in no list and can only be described.
    parameters
        What a finding must have fitted, at least.

    Examples
    --------
    >>> Mutant("no scale", lambda q, k, v: v, "scale", {"rule": "1"}).fault_class
    'scale'
    """

    name: str
    function: Callable[..., Any]
    fault_class: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
