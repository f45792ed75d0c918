"""Test other people's attention and caches against kvattn: everything here is public, and loaded on first use.

>>> from kvattn import testing
>>> callable(testing.check)
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvattn.testing.calls import Call
    from kvattn.testing.checking import Report, check
    from kvattn.testing.diagnosis.finding import Finding
    from kvattn.testing.passing import must_pass
    from kvattn.testing.targets import Target
    from kvattn.testing.tolerance import Arithmetic, Verdict, bounds, judge

__all__ = ["Arithmetic", "Call", "Finding", "Report", "Target", "Verdict", "bounds", "check", "judge", "must_pass"]

_HOME = {
    "Arithmetic": "tolerance",
    "Call": "calls",
    "Finding": "diagnosis.finding",
    "Report": "checking",
    "Target": "targets",
    "Verdict": "tolerance",
    "bounds": "tolerance",
    "check": "checking",
    "judge": "tolerance",
    "must_pass": "passing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kvattn.testing' has no attribute {name!r}")
    value = getattr(import_module(f"kvattn.testing.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
