"""Readings: who sees whom if a keyword is taken in another way, and the choice among them.

A reading is tried on several cases; the first that agrees with all of them names what was read.  What agrees
with none is described by the first row that differs.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import Built, Recipe
from kvattn.testing.diagnosis.sight import agree, describe
from kvattn.typing import Visible


@dataclass(frozen=True)
class Reading:
    """One way to take a keyword.

    Attributes
    ----------
    fault_class, parameters, words
        Of the finding, where it agrees.
    sees
        Who sees whom under it, ``[B, Hq, T, S]``.

    Examples
    --------
    >>> Reading("mask-dropped", {"argument": "chunk"}, "chunk= changes nothing", lambda built: ...).parameters
    {'argument': 'chunk'}
    """

    fault_class: str
    parameters: dict[str, Any]
    words: str
    sees: Callable[[Built], Visible]


def without(lab: Lab, *names: str) -> Callable[[Built], Visible]:
    """Return who sees whom where keywords change nothing.

    >>> from kvattn.testing.diagnosis.lab import planted
    >>> from kvattn.testing.diagnosis.recipe import Sizes
    >>> case = Recipe(Sizes(), options=(("chunk", "2"),))
    >>> bool(without(Lab(planted()), "chunk")(case.build()).all())
    True
    """
    return with_options(lab, lambda built: dict.fromkeys(names))


def with_options(lab: Lab, change: Callable[[Built], dict[str, Any]]) -> Callable[[Built], Visible]:
    """Return who sees whom where some keywords have other values.

    >>> from kvattn.testing.diagnosis.lab import planted
    >>> from kvattn.testing.diagnosis.recipe import Sizes
    >>> case = Recipe(Sizes(T=1, S=3), options=(("lengths", "np.array([2])"),))
    >>> more = with_options(Lab(planted()), lambda built: {"lengths": built.options["lengths"] + 1})
    >>> int(more(case.build()).sum())
    3
    """

    def sees(built: Built) -> Visible:
        options = {name: x for name, x in {**built.options, **change(built)}.items() if x is not None}
        return lab.behaviour.visible(built._replace(options=options))

    return sees


def read_sight(lab: Lab, argument: str, cases: Sequence[Recipe], readings: Iterable[Reading]) -> bool:
    """Say whether a keyword is taken as the contract has it; where not, name the reading, and set it aside.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> from kvattn.testing.diagnosis.recipe import FLAT, Sizes
    >>> lab = Lab(planted(ignore=("chunk",)))
    >>> case = lab.case(Sizes(T=4, S=4), FLAT, chunk="2")
    >>> lost = Reading("mask-dropped", {"argument": "chunk"}, "chunk= changes nothing", without(lab, "chunk"))
    >>> read_sight(lab, "chunk", [case], [lost]), lab.findings[0].detail
    (False, 'chunk= changes nothing.')
    """
    built = [case.build() for case in cases]
    read = [lab.support(case) for case in cases]
    wanted = [lab.behaviour.visible(b) for b in built]
    wrong = [n for n, (w, r) in enumerate(zip(wanted, read, strict=True)) if not agree(w, r)]
    if not wrong:
        return True
    lab.set_aside(argument)
    first = cases[wrong[0]]
    for reading in readings:
        if all(_fits(reading.sees(b), r, w) for b, r, w in zip(built, read, wanted, strict=True)):
            lab.add(reading.fault_class, reading.parameters, f"{reading.words}.", first)
            return False
    parameters, words = describe(wanted[wrong[0]], read[wrong[0]])
    names = ", ".join(f"{name}={text}" if len(text) < 12 else name for name, text in first.options)
    size = first.sizes
    detail = f"With {names}, T={size.T}, S={size.S}, {words}."
    lab.add("mask-compose", {"argument": argument, **parameters}, detail, first)
    return False


def _fits(table: Visible, read: Visible, wanted: Visible) -> bool:
    """Say whether a table agrees; a row that it leaves empty may read as no key or, being 0/0 or a mean, as all."""
    rows = wanted.any(-1)
    table, read = np.broadcast_to(table, wanted.shape)[rows], read[rows]
    empty = ~table.any(-1)
    uniform = (read[empty] == read[empty][:, :1]).all()
    return bool(uniform) and np.array_equal(table[~empty], read[~empty])
