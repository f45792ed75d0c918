"""Wrong functions keep their names where they take only some shapes.

CI gives every fourth mutant to one of the limits, ``KVATTN_PROFILE=deep`` to all of them.
"""

from collections.abc import Callable
import contextlib
import inspect
import io
from itertools import cycle, product
import os
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.keywords import fed
from kvattn.testing.planted import MUTANTS, Mutant
from kvattn.testing.targets import target_of

LIMITS: dict[str, Callable[[Any, Any, Any], bool]] = {
    "multiples of 8": lambda q, k, v: q.shape[3] % 8 == v.shape[3] % 8 == 0,
    "64 only": lambda q, k, v: q.shape[3] == v.shape[3] == 64,
    "one sequence": lambda q, k, v: len(q) == 1,
}

SHOWN_WITH = {
    "tiled heads": (),
    "default scale 1": (),
    "default scale 1 / D": (),
    "default scale off by a factor": (),
    "scale= ignored": ("scale",),
    "bias halved": ("bias",),
    "cap c * tanh(s)": ("softcap",),
    "slopes from h = 0": ("alibi",),
    "triangle in the top left corner": ("causal",),
    "triangle one late": ("causal",),
    "rows in pairs": ("causal",),
    "window one too wide": ("window",),
    "causal or window": ("window",),
    "True hides": ("mask",),
    "mask added": ("mask",),
    "one padding key": ("lengths",),
    "one real key missing in front": ("starts",),
    "prefix one too long": ("prefix",),
    "chunks that slide": ("chunk",),
    "earlier documents seen": ("segments",),
    "ancestors without the node": ("parents",),
    "slots for positions": ("q_positions", "k_positions"),
    "slots in reverse": ("block_table",),
    "sinks twice": ("sinks",),
    "base-2 lse": (),
    "base-2 merge": ("splits",),
    "NaN for nothing": ("mask",),
    "hidden scores are -10000": ("mask",),
    "keys divided": ("k_scale",),
    "dropout at evaluation": ("dropout",),
    "probabilities in bfloat16": (),
    "v of an earlier call": (),
    "the last row never written": (),
    "strides of k ignored": (),
    "last key of 64 + 1 lost": (),
    "last query of 64 + 1 lost": (),
}
"""Mutants and the keywords with which they show."""

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


class Limited:
    """A function that takes some keywords, and raises at most shapes."""

    def __init__(self, mutant: Mutant, limit: str, names: tuple[str, ...]) -> None:
        self.function, self.limit = mutant.function, LIMITS[limit]
        known = target_of(mutant.function).features
        kept = {*fed((*names, *({"causal"} & known)), known)} if names != ("parents",) else {*names}
        every = inspect.signature(mutant.function).parameters.values()
        self.__signature__ = inspect.Signature([p for p in every if p.name in {"q", "k", "v", *kept}])

    def __call__(self, q: Any, k: Any, v: Any, **options: Any) -> Any:
        """Attend, at the shapes that are taken."""
        if not self.limit(q, k, v):
            raise ValueError("no kernel for these shapes")
        return self.function(q, k, v, **options)


def chosen() -> list[tuple[str, str]]:
    """Mutants, and limits in turn."""
    if os.environ.get("KVATTN_PROFILE") == "deep":
        return [*product(SHOWN_WITH, LIMITS)]
    return [*zip(SHOWN_WITH, cycle(LIMITS), strict=False)][::4]


@pytest.mark.parametrize(("name", "limit"), chosen())
def test_a_mutant_keeps_its_name(name: str, limit: str) -> None:
    mutant = BY_NAME[name]
    function = Limited(mutant, limit, SHOWN_WITH[name])
    report = check(function, cases=0)
    named = [finding for finding in report.findings if mutant.is_named_by(finding)]
    assert named, report.as_dict()
    assert any("no kernel for these shapes" in note for note in report.notes)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), np.errstate(all="ignore"):
        exec(named[0].reproduce, {"f": function})  # noqa: S102 - that it runs at the shapes that are taken is tested
    got, _, expected = out.getvalue().partition("expected")
    assert got.strip() != expected.strip()
