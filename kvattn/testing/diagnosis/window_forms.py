"""Forms of a window: what W is known to be taken for, in tables of who sees whom.

A window of W is ``i - j < W`` beside the triangle, for a query at i and a key at j.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.places import key_places, query_places
from kvattn.testing.diagnosis.recipe import Built
from kvattn.typing import Visible

FORMS: Mapping[str, tuple[str, Callable[[Any, Any, int], Any]]] = MappingProxyType(
    {
        "|i - j| < W": ("symmetric: it reaches as far ahead as back", lambda i, j, w: abs(i - j) < w),
        "|i - j| <= W": ("symmetric: W keys on both sides", lambda i, j, w: abs(i - j) <= w),
        "|i - j| <= W // 2": ("centred: half of W on both sides", lambda i, j, w: abs(i - j) <= w // 2),
        "i // W == j // W": ("blockwise: it shows the query's block of W keys", lambda i, j, w: i // w == j // w),
        "i // W - j // W in (0, 1)": (
            "blockwise: it shows the query's block of W keys and the one before",
            lambda i, j, w: (i // w - j // w == 0) | (i // w - j // w == 1),
        ),
        "i - j < W // 2": ("of half the size", lambda i, j, w: i - j < w // 2),
        "i - j < 2 * W": ("of twice the size", lambda i, j, w: i - j < 2 * w),
        "(i - j) % W == 0": ("a stride: it shows every W-th key", lambda i, j, w: (i - j) % w == 0),
        "j < W": ("counted from the first key", lambda i, j, w: j < w + 0 * i),
        "i - j >= W": ("the wrong way round: it hides the last W keys", lambda i, j, w: i - j >= w),
    }
)
"""Form and what it is."""


class Form(NamedTuple):
    """A form of window, beside the triangle or without it."""

    reads: str
    words: str
    causal: bool
    sees: Callable[[Built], Visible]


def forms(behaviour: Behaviour) -> Iterator[Form]:
    """Yield every form beside the triangle, and then without it.

    Examples
    --------
    >>> next(forms(Behaviour())).reads
    '|i - j| <= W'
    """
    for causal in (True, False):
        for reads, (words, form) in FORMS.items():
            if reads != ("|i - j| < W" if causal else "i - j >= W"):  # the window itself; the same once more
                yield Form(reads, words, causal, _table(behaviour, form, causal))


def fixed(behaviour: Behaviour, size: int) -> Callable[[Built], Visible]:
    """Return who sees whom in a window of one size, whatever W is.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
    >>> case = Recipe(Sizes(T=1, S=5), options=(("causal", "True"), ("window", "4")))
    >>> int(fixed(Behaviour(), 3)(case.build()).sum())
    3
    """
    return _table(behaviour, lambda i, j, w: i - j < size, True)


def _table(behaviour: Behaviour, form: Callable[[Any, Any, int], Any], causal: bool) -> Callable[[Built], Visible]:
    def sees(built: Built) -> Visible:
        i, j = query_places(built, behaviour.anchor, behaviour.shift), key_places(built)
        keep = form(i, j, built.options["window"])
        return np.broadcast_to(keep & (j <= i) if causal else keep, (*built.q.shape[:3], built.k.shape[2]))

    return sees
