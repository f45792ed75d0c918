"""The axis legend: one letter for each size, and the check that arrays agree on them.

Layout is ``[*batch, heads, time, dim]`` everywhere.  `sizes` reads a row of named arrays against
their specifications and returns what each letter stands for, or says in one sentence which
argument does not fit.
"""

from collections.abc import Mapping
from typing import Any

from kvattn.errors import ShapeError

LEGEND: Mapping[str, str] = {
    "B": "batch: independent sequences",
    "Hq": "query heads",
    "Hkv": "key/value heads",
    "G": "query heads that share one key/value head, Hq / Hkv",
    "T": "new queries",
    "S": "keys",
    "D": "width of a query and of a key",
    "Dv": "width of a value",
    "M": "width of the hidden state x",
}


def sizes(*arguments: tuple[str, Any, str]) -> dict[str, int]:
    """Bind the letters of each specification to the sizes of its array.

    Parameters
    ----------
    arguments
        Triples ``(name, array, specification)``; a specification is letters and numbers
        separated by spaces, such as ``"B Hkv S D"``.

    Returns
    -------
    dict
        Letter to size.

    Raises
    ------
    ShapeError
        The first argument whose rank or size disagrees, with what was expected and what came.

    Examples
    --------
    >>> import numpy as np
    >>> sizes(("q", np.zeros((2, 4, 3, 8)), "B Hq T D"), ("k", np.zeros((2, 1, 5, 8)), "B Hkv S D"))
    {'B': 2, 'Hq': 4, 'T': 3, 'D': 8, 'Hkv': 1, 'S': 5}
    >>> sizes(("q", np.zeros((2, 8)), "T D"), ("k", np.zeros((5, 7)), "S D"))
    Traceback (most recent call last):
    kvattn.errors.ShapeError: k must have shape [S, D] with D=8, got (5, 7)
    """
    bound: dict[str, int] = {}
    for name, array, specification in arguments:
        letters = specification.split()
        shape = tuple(int(n) for n in array.shape)
        fits = len(shape) == len(letters)
        here = dict(bound)
        for letter, size in zip(letters, shape, strict=False):
            wanted = int(letter) if letter.isdigit() else here.setdefault(letter, size)
            fits = fits and wanted == size
        if not fits:
            known = ", ".join(f"{x}={bound[x]}" for x in letters if x in bound)
            raise ShapeError(
                f"{name} must have shape [{', '.join(letters)}]"
                + (f" with {known}" if known else "")
                + f", got {shape}"
            )
        bound = here
    return bound
