"""Memory that nobody wrote: an output that holds what lay there before the call.

Method: while the target runs, ``np.empty`` gives arrays that are full of one number, and arrays of the output's size
that are full of it are freed just before, for code that allocates elsewhere; two numbers must give one result.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, RANDOM, Recipe, Sizes
from kvattn.testing.diagnosis.sight import MASK

_SIZES = Sizes(2, 4, 4, 5, 9, 8, 8)
_HOLE = "(np.arange({T}) < {T} - 1)[:, None] & np.ones(({B}, {Hq}, {T}, {S}), bool)"


def spoilt(value: float, call: Callable[[], Any]) -> Any:
    """Call a function while uninitialised memory holds a number.

    >>> spoilt(3.0, lambda: np.empty(2)), spoilt(5.0, lambda: np.empty_like(np.ones(1)))
    (array([3., 3.]), array([5.]))
    """

    def filled(make: Callable[..., NDArray[Any]]) -> Callable[..., NDArray[Any]]:
        def made(*words: Any, **names: Any) -> NDArray[Any]:
            array = make(*words, **names)
            if np.issubdtype(array.dtype, np.inexact):
                array.fill(value)
            return array

        return made

    with ExitStack() as patches:
        for name in ("empty", "empty_like"):
            patches.enter_context(patch.object(np, name, filled(getattr(np, name))))
        return call()


def read_leftovers(lab: Lab) -> None:
    """Call twice over memory that holds 3.0 and then 5.0.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def careless(q, k, v):
    ...     out = np.empty((*q.shape[:3], v.shape[3]))
    ...     out[:, :, :-1] = v.mean(2, keepdims=True)
    ...     return out
    >>> lab = Lab(target_of(careless), grouped=False)
    >>> read_leftovers(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["property"]
    ('stale-state', 'uninitialised memory')
    """
    cases = [lab.case(_SIZES, DRAWN, RANDOM), lab.case(Sizes(1, 2, 2, 33, 33, 8, 8), DRAWN, RANDOM)]
    if lab.can("mask"):
        cases += [lab.case(_SIZES, DRAWN, RANDOM, mask=text) for text in (MASK, _HOLE)]
    if lab.can("causal"):
        cases.append(lab.case(Sizes(2, 4, 4, 6, 4, 8, 8), DRAWN, RANDOM, causal="True"))
    for case in cases:
        try:
            low, high = (_over(lab, case, value) for value in (3.0, 5.0))
        except Refused as refused:
            lab.notes.append(f"{', '.join(name for name, _ in case.options) or 'a plain call'} is refused: {refused}")
            continue
        held = (low == 3.0) & (high == 5.0)
        if held.any():
            _report(lab, case, held)
            return


def _over(lab: Lab, case: Recipe, value: float) -> NDArray[np.float64]:
    built = case.build()
    shape = (*built.q.shape[:3], built.v.shape[3])
    blocks = [np.full(shape, value, built.v.dtype) for _ in range(12)]
    del blocks
    found: NDArray[np.float64] = spoilt(value, lambda: lab.run(built)).out.astype(np.float64)
    return found


def _report(lab: Lab, case: Recipe, held: NDArray[np.bool_]) -> None:
    b, h, t = (int(i) for i in np.argwhere(held)[0][:3])
    names = [name for name, _ in case.options]
    beside = f", with {', '.join(names)}" if names else ""
    pick = "" if lab.see(case).lse is None else "[0]"
    call = f"lambda: np.array({case.call()}{pick})[{b}, {h}, {t}].tolist()"
    line = f"{case.code()}; from kvattn.testing.diagnosis.leftovers import spoilt; "
    line += f"print(spoilt(3.0, {call}), 'expected', spoilt(5.0, {call}))"
    detail = (
        f"Row {t} of head {h} is never written{beside}, at T={case.sizes.T}, S={case.sizes.S}: it is what lay there."
    )
    parameters = {"property": "uninitialised memory", "row": [b, h, t], "with": names}
    lab.add("stale-state", parameters, detail, reproduce=lab.script(line))
    lab.stopped = not names and case.sizes.T < 33
    lab.set_aside("empty rows")
