"""A recipe: the inputs of a golden case, and the formula that its expected values are computed by.

A recipe is written by hand, in `kvattn.goldens.recipes`; `kvattn.goldens.recording` runs its formula over
decimal intervals and writes inputs and expected values down, where `kvattn.goldens.load` finds them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
import math
from typing import Any, TypeAlias
import zlib

import numpy as np

from kvattn.goldens.flag import BUG_TYPES, Flag
from kvattn.goldens.formats import Bits, decoded
from kvattn.goldens.numbers import Numbers
from kvattn.typing import Array

__all__ = ["BUG_TYPES", "Bits", "Flag", "Formula", "Ours", "Recipe", "Values", "drawn", "flat", "read"]

Values: TypeAlias = Mapping[str, Any]
"""Name to nested lists: of numbers, plain floats where not finite, integers or booleans."""

Formula: TypeAlias = Callable[[Numbers, Values, Mapping[str, Any]], Values]
"""``formula(n, inputs, parameters)``: loops over nested lists of numbers of the arithmetic ``n``."""

Ours: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]
"""``ours(inputs, parameters)``: what kvattn computes in float64 from the same arrays, under the same names."""


@dataclass(frozen=True, eq=False)
class Recipe:
    """One case, before it is recorded.

    Attributes
    ----------
    name
        ``family/group/case``, in lower case with hyphens; the first two name the file.
    row
        The line of the catalogue that it is about, such as ``masks/window``.
    operation
        What is computed, which says what the inputs, parameters and outputs of these names mean.
    comment
        In one sentence, what a reader should see here.
    inputs
        Arrays: float64 of short binary fractions, int64, bool, or `Bits`.
    parameters
        Plain JSON values.
    formula
        The expected outputs, from inputs and parameters.
    ours
        The same by kvattn, in float64; None only where ``result`` is invalid and ``refused`` says so.
    flags
        Why the case exists.
    result
        ``valid``; ``acceptable``, where other conventions are legal, which ``alternatives`` compute;
        ``invalid``, where an implementation must refuse the call, and nothing is expected.
    alternatives
        Name of a convention to the formula of its outputs.
    mistakes
        What a known mistake is called to the formula of what it gives; an implementation that gives this has
        that mistake.
    sibling
        Name of the plainer case that this one must differ from; None for a plain case.
    supersedes
        Name of an older case that this one replaces; the older stays as it is.

    Examples
    --------
    >>> doubled = lambda n, inputs, parameters: {"y": [2 * x for x in inputs["x"]]}
    >>> Recipe("toy/doubling/one", "mods/bias", "doubling", "Twice.", {"x": np.array([0.5])}, {}, doubled).result
    'valid'
    """

    name: str
    row: str
    operation: str
    comment: str
    inputs: Mapping[str, Any]
    parameters: Mapping[str, Any]
    formula: Formula
    ours: Ours | None = None
    flags: tuple[Flag, ...] = ()
    result: str = "valid"
    alternatives: Mapping[str, Formula] = field(default_factory=dict)
    mistakes: Mapping[str, Formula] = field(default_factory=dict)
    sibling: str | None = None
    supersedes: str | None = None

    def expected(self, n: Numbers) -> Values:
        """The formula over an arithmetic.

        >>> from kvattn.goldens.numbers import Decimals
        >>> doubled = lambda n, inputs, parameters: {"y": [2 * x for x in inputs["x"]]}
        >>> recipe = Recipe("toy/doubling/one", "mods/bias", "doubling", "Twice.", {"x": np.array([0.5])}, {}, doubled)
        >>> recipe.expected(Decimals())["y"][0].rounded()
        1.0
        """
        return self.formula(n, {name: read(n, array) for name, array in self.inputs.items()}, self.parameters)


def read(n: Numbers, array: Any) -> Any:
    """Nested lists of an arithmetic's numbers from an array.

    Floats become numbers, or stay plain floats where they are not finite; integers and booleans stay.

    >>> from kvattn.goldens.numbers import Decimals
    >>> [x if isinstance(x, float) else x.rounded() for x in read(Decimals(), np.array([0.5, -np.inf]))]
    [0.5, -inf]
    """
    if isinstance(array, Bits):
        array = decoded(array)

    def leaf(value: Any) -> Any:
        if isinstance(value, list):
            return [leaf(part) for part in value]
        return n(value) if isinstance(value, float) and math.isfinite(value) else value

    return leaf(np.asarray(array).tolist())


def drawn(label: str, *shape: int, limit: float = 2.0, denominator: int = 16) -> Array:
    """Short binary fractions between ``-limit`` and ``limit``, none of them 0, from a generator of our own.

    It only fills inputs when a recipe is written: a recorded case holds its arrays.

    >>> drawn("q", 3).tolist()
    [-0.75, -0.0625, -1.75]
    """
    state = zlib.crc32(label.encode())
    steps = int(limit * denominator)
    found = []
    for _ in range(math.prod(shape)):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        step = (state >> 33) % (2 * steps)
        found.append((step - steps if step < steps else step - steps + 1) / denominator)
    return np.array(found).reshape(shape)


def flat(values: Any) -> Sequence[Any]:
    """The leaves of nested lists, in row-major order.

    >>> flat([[1, 2], [3]])
    [1, 2, 3]
    """
    return [leaf for part in values for leaf in flat(part)] if isinstance(values, (list, tuple)) else [values]
