"""A mutant: a function with one fault, and what a check must say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvattn.testing.diagnosis.finding import Finding


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

    def is_named_by(self, finding: Finding) -> bool:
        """Say whether a finding has the class and the parameters; numbers to a thousandth.

        >>> found = Finding("scale", "fault", {"rule": "other", "factor": 1.3699999}, "", "")
        >>> Mutant("", max, "scale", {"factor": 1.37}).is_named_by(found)
        True
        """
        read = finding.parameters
        return finding.fault_class == self.fault_class and all(
            name in read and _same(read[name], value) for name, value in self.parameters.items()
        )


def _same(read: Any, value: Any) -> bool:
    numbers = isinstance(value, float) and isinstance(read, int | float) and not isinstance(read, bool)
    return abs(read - value) <= 1e-3 * max(1.0, abs(value)) if numbers else bool(read == value)
