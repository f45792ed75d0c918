"""A counter that is a drawn formula passes only where it counts right, and no formula stops a check.

What differs in a corner, such as ``kv_heads // width``, is seen where a drawn size is there: at most a tenth of others.

CI draws forty, ``KVATTN_PROFILE=deep`` a thousand.
"""

from collections.abc import Callable
import os
import random
import re
from typing import Any

import pytest

from kvattn.testing.counter_diagnosis.bench import bench_of
from kvattn.testing.counter_diagnosis.looking import draw, look
from kvattn.testing.counter_targets import counter_target_of

COUNT = 1000 if os.environ.get("KVATTN_PROFILE") == "deep" else 40

FLOPS = ("batch", "query_heads", "kv_heads", "queries", "keys", "width", "value_width")
BYTES = ("batch", "kv_heads", "tokens", "width", "value_width", "itemsize")


def formula(r: random.Random, names: tuple[str, ...], depth: int) -> str:
    """An expression of some sizes."""
    if depth == 0 or r.random() < 0.15:
        return r.choice((*names, *names, *names, "1", "2", "3"))
    sign, a, b = r.choice(("*", "*", "*", "*", "+", "-", "//", "min")), *(formula(r, names, depth - 1) for _ in "ab")
    return f"min({a}, {b})" if sign == "min" else f"({a} // max(1, {b}))" if sign == "//" else f"({a} {sign} {b})"


def drawn(seed: int) -> tuple[str, Callable[..., Any]]:
    """A right formula with something added or replaced, or any formula."""
    r = random.Random(seed)
    names, right = (
        (FLOPS, "2 * batch * query_heads * (width + value_width) * queries * keys"),
        (BYTES, "batch * kv_heads * (width + value_width) * tokens * itemsize"),
    )[seed % 2]
    kind = seed % 3
    if kind == 0:
        text = formula(r, names, 3)
    elif kind == 1:
        text = f"{right} {r.choice('+-')} {formula(r, names, 2)}"
    else:
        text = re.sub(rf"\b{r.choice(names)}\b", formula(r, names, 1), right)
    function: Callable[..., Any] = eval(f"lambda *, {', '.join(names)}: {text}")  # noqa: S307 - drawn above
    return text, function


@pytest.mark.parametrize("first", range(0, COUNT, 20))
def test_no_wrong_formula_passes(first: int) -> None:
    for seed in range(first, first + 20):
        text, function = drawn(seed)
        bench, margin = look(counter_target_of(function), cases=80)
        if bench.findings:
            assert all("raised" not in f.parameters for f in bench.findings), text
            continue
        assert margin is not None
        again, r = bench_of(function), random.Random(seed + 1)
        others = [draw(again, r) for _ in range(50)]
        assert sum(again.count(sizes) != again.expected(sizes) for sizes in others) <= 5, text
