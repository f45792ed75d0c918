"""Options that are kept between calls: a mask or bias made once for a shape, and used in every later call of it.

Method: two calls of a shape that no reading uses, with options that differ; where the second answers as the first's
options would have it, and a first call of another shape does not, they were kept.
"""

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import expected_of
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import FLAT, Recipe, Sizes
from kvattn.testing.keywords import fed

Options = dict[str, str]

_HOLES = "(r.random(({B}, {Hq}, {T}, {S})) < 0.5) | np.eye({T}, {S}, dtype=bool)"
_OTHER = _HOLES.replace("< 0.5", ">= 0.5")
_LENGTHS = "np.minimum({S}, np.array([5, 9, 7])[:{B}])"
_PARTS = "np.arange({S}) // 4 + np.zeros(({B}, 1), int)"

_PAIRS: tuple[tuple[str, Options, Options], ...] = (
    ("causal", {}, {"causal": "True"}),
    ("causal", {"causal": "True"}, {}),
    ("window", {"window": "2"}, {"window": "4"}),
    ("mask", {"mask": _HOLES}, {"mask": _OTHER}),
    ("mask", {"mask": _HOLES}, {}),
    ("bias", {"bias": "r.standard_normal(({B}, {Hq}, {T}, {S}))"}, {"bias": "r.random(({B}, {Hq}, {T}, {S}))"}),
    ("lengths", {"lengths": _LENGTHS}, {"lengths": f"{_LENGTHS} - 2"}),
    ("starts", {"starts": f"{_LENGTHS} - 4"}, {"starts": f"{_LENGTHS} - 5"}),
    ("segments", {"segments": _PARTS}, {"segments": _PARTS.replace("4", "3")}),
    ("alibi_slopes", {"alibi_slopes": "0.1 + r.random({Hq})"}, {"alibi_slopes": "0.7 + r.random({Hq})"}),
    ("sinks", {"sinks": "r.standard_normal({Hq})"}, {"sinks": "r.random({Hq})"}),
)
"""Argument, and the options of two calls."""


def read_kept(lab: Lab) -> None:
    """Find an option of an earlier call in a later one.

    Examples
    --------
    >>> from kvattn.testing.planted.wrapped import Keeps
    >>> from kvattn.testing.targets import target_of
    >>> lab = Lab(target_of(Keeps("mask")))
    >>> read_kept(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('stale-state', {'property': 'arguments', 'kept': 'mask'})
    """
    for n, (argument, *pair) in enumerate(_PAIRS):
        names = [fed(options, lab.target.features) for options in pair]
        if lab.can(argument) and all(lab.can(*each) for each in names):
            try:
                first, second = (_case(lab, n, options) for options in pair)
                found = _kept(lab, argument, first, second, _case(lab, n + len(_PAIRS), pair[1]))
            except Refused:
                continue  # what is refused is told where the option is read
            if found:
                lab.stopped = True
                return


def _case(lab: Lab, n: int, options: Options) -> Recipe:
    """A case of a size of its own, at which all anchors agree."""
    given = {name: options.get(name, "True") for name in fed(options, lab.target.features)}
    return lab.case(Sizes(2, 4, 4, 18 + n, 18 + n, 18 + n, 18 + n), FLAT, **given)


def _kept(lab: Lab, argument: str, first: Recipe, second: Recipe, fresh: Recipe) -> bool:
    before, after = (_expected(lab, case) for case in (first, second))
    if not _close(lab, lab.weights(first), before):
        return False
    read = lab.weights(second)
    if _close(lab, read, after) or not _close(lab, read, before):
        return False
    if not _close(lab, lab.weights(fresh), _expected(lab, fresh)):
        return False  # another fault, without any memory
    far = np.abs(read - after)
    b, h, t, _ = (int(i) for i in np.unravel_index(int(np.argmax(far)), far.shape))
    pick = "" if lab.see(second).lse is None else "[0]"
    kept = f"{argument}={dict(first.options).get(argument, 'False')}"
    detail = f"A later call of the same shape is answered with the {argument} of an earlier one, which was kept."
    if len(kept) < 24:
        detail = detail[:-1] + f": with {kept}."
    line = f"{first.code()}; {first.call()}; {second.code()}; "
    line += (
        f"print(np.round(np.asarray({second.call()}{pick})[{b}, {h}, {t}, :8].astype(float), 4).tolist(), 'expected', "
    )
    line += f"{np.round(after[b, h, t, :8], 4).tolist()})"
    lab.add("stale-state", {"property": "arguments", "kept": argument}, detail, reproduce=lab.script(line))
    return True


def _expected(lab: Lab, case: Recipe) -> NDArray[np.float64]:
    return np.asarray(expected_of(case, lab.behaviour).out[..., : case.sizes.S], np.float64)


def _close(lab: Lab, got: NDArray[np.float64], want: NDArray[np.float64]) -> bool:
    return bool((np.abs(got - want) <= 5 * lab.sharp).all())
