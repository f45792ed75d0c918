"""Exact polynomials through a grid of numbers.

A function of n arguments that is a polynomial of degree d_a in argument a is known after Π (d_a + 1) values: along
each axis in turn, values at x_0 … x_d become coefficients of x⁰ … x^d, by Lagrange's basis, in fractions.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Monomial: TypeAlias = tuple[tuple[str, int], ...]
"""Arguments with their exponents, those of 0 left out, in the order of the axes."""

Polynomial: TypeAlias = dict[Monomial, Fraction]
"""Coefficients, those of 0 left out."""


def interpolate(f: Callable[[dict[str, int]], Fraction], axes: Mapping[str, Sequence[int]]) -> Polynomial:
    """Return the polynomial through the values of ``f`` on the grid of ``axes``.

    Parameters
    ----------
    f
        Called once with each point of the grid.
    axes
        For each argument one point more than its degree, all different.

    Examples
    --------
    >>> told(interpolate(lambda at: Fraction(3 * at["x"] ** 2 * at["y"] + 1), {"x": (1, 2, 5), "y": (2, 3)}))
    '3 x^2 y + 1'
    """
    names = list(axes)
    values = np.empty([len(points) for points in axes.values()], dtype=object)
    for place in product(*(range(len(points)) for points in axes.values())):
        values[place] = f({name: axes[name][n] for name, n in zip(names, place, strict=True)})
    for n, points in enumerate(axes.values()):
        values = np.moveaxis(np.tensordot(_lagrange(tuple(points)), values, axes=([1], [n])), 0, n)
    return {
        tuple((name, power) for name, power in zip(names, place, strict=True) if power): values[place]
        for place in product(*(range(size) for size in values.shape))
        if values[place]
    }


@cache
def _lagrange(points: tuple[int, ...]) -> NDArray[Any]:
    """``[power, point]``: the coefficient of x^power in the polynomial that is 1 at this point, 0 at the others."""
    table = np.empty((len(points), len(points)), dtype=object)
    for n, here in enumerate(points):
        basis = [Fraction(1)]
        for there in points:
            if there != here:
                shifted = [Fraction(0), *basis]
                basis = [
                    (shifted[power] - there * (basis[power] if power < len(basis) else 0)) / (here - there)
                    for power in range(len(shifted))
                ]
        table[:, n] = basis
    return table


def value(polynomial: Polynomial, at: Mapping[str, int]) -> Fraction:
    """Evaluate; an argument that is not given is 1.

    >>> value({(("x", 2),): Fraction(3), (): Fraction(1)}, {"x": 2})
    Fraction(13, 1)
    """
    total = Fraction(0)
    for monomial, factor in polynomial.items():
        total += factor * prod(at.get(name, 1) ** power for name, power in monomial)
    return total


def told(polynomial: Polynomial, letters: Mapping[str, str] | None = None) -> str:
    """Say a polynomial on one line, as ``2 B Hq D + 4``.

    >>> told({(("batch", 1),): Fraction(1, 2), (): Fraction(-3)}, {"batch": "B"})
    '1/2 B - 3'
    """
    parts = []
    for monomial, factor in sorted(polynomial.items(), key=lambda item: (-len(item[0]), item[0])):
        names = [f"{(letters or {}).get(n, n)}{'' if power == 1 else f'^{power}'}" for n, power in monomial]
        size = [] if abs(factor) == 1 and names else [str(abs(factor))]
        parts.append(("- " if factor < 0 else "+ ") + " ".join([*size, *names]))
    text = " ".join(parts) or "0"
    return text.removeprefix("+ ")
