"""A recipe that kvattn computes in several forms, and whose mistakes are changes of its parameters.

The forms, a definition, one step, steps of one token, a paged cache, give the same outputs from the same arrays; the
tests hold each of them against the recorded values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Formula, Ours, Recipe, Values


@dataclass(frozen=True, eq=False)
class Told(Recipe):
    """A recipe with forms.

    Attributes
    ----------
    forms
        Name to what kvattn computes; a form may leave outputs out, but not all.
    """

    forms: Mapping[str, Ours] = field(default_factory=dict)


def told(
    name: str,
    row: str,
    operation: str,
    comment: str,
    inputs: Mapping[str, Any],
    parameters: Mapping[str, Any],
    formula: Formula,
    forms: Mapping[str, Ours],
    mistakes: Mapping[str, Any] | None = None,
    **others: Any,
) -> Told:
    """A recipe whose first form is what kvattn computes; a mistake is the parameters that a faulty program goes by."""
    first = next(iter(forms.values())) if forms else None
    wrong = {word: mistaken(formula, changed) for word, changed in (mistakes or {}).items()}
    return Told(
        name, row, operation, comment, inputs, parameters, formula, first, mistakes=wrong, forms=forms, **others
    )


def mistaken(formula: Formula, changed: Mapping[str, Any]) -> Formula:
    """The formula with some parameters changed."""

    def wrong(n: Numbers, inputs: Values, parameters: Mapping[str, Any]) -> Values:
        return formula(n, inputs, {**parameters, **changed})

    return wrong
