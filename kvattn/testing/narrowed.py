"""A function as a kernel of fewer bits would compute it: 16 bits in and out, float32 inside.

    narrowed(f)(q, k, v) = round(f(round(q), round(k), round(v)))

with ``round`` to a format of `kvattn.testing.formats`.  Whatever a function does in float32, right or wrong, it then
does in the arithmetic of a flash kernel: something to see what a check can still tell.  The log-sum-exp stays
float32, as kernels return it.

Shapes: those of the function.
"""

from collections.abc import Callable
from dataclasses import dataclass
import inspect
from typing import Any

import numpy as np

from kvattn.testing.formats import format_of
from kvattn.testing.keywords import FLOATING


@dataclass(frozen=True)
class Narrowed:
    """A callable of the contract's form (`kvattn.testing.targets`), narrowed.

    Attributes
    ----------
    function
        A callable of the contract's form, which keeps float32.
    format
        Name of a format.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 1, 2))
    >>> third = np.full((1, 1, 1, 2), 1 / 3)
    >>> Narrowed(lambda q, k, v: v, "bfloat16")(q, k, third)
    array([[[[0.33398438, 0.33398438]]]], dtype=float32)
    """

    function: Callable[..., Any]
    format: str

    def __call__(self, q: Any, k: Any, v: Any, **options: Any) -> Any:
        """Call the function; options are its own."""
        round_to = format_of(self.format).round

        def narrow(x: Any) -> Any:
            return np.asarray(round_to(np.asarray(x).astype(np.float64)), np.float32)

        given = {n: narrow(x) if n in FLOATING and x is not None else x for n, x in options.items()}
        found = self.function(narrow(q), narrow(k), narrow(v), **given)
        own = np.asarray(q).dtype
        dtype = own if own.itemsize == 2 else np.dtype(np.float32)
        if not isinstance(found, tuple):
            return narrow(found).astype(dtype)
        out, *more = found
        return (narrow(out).astype(dtype), *more)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.function)
