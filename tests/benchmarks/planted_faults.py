"""Which planted faults a check detects and names in float64, float32, bfloat16 and float16, as a page.

    python tests/benchmarks/planted_faults.py run results.json        # as often as it takes, 9 minutes at a time
    python tests/benchmarks/planted_faults.py page results.json > docs/explain/what-a-check-can-see.md

In 16 bits every function computes in float32 on numbers rounded to 16 bits, and its output is rounded to 16 bits
(`kvattn.testing.narrowed.Narrowed`): a kernel that has no wide form, so that the check must read it in 16 bits too.
Each is checked with ``causal`` and the keywords with which it differs from what is right, found by trying them, or
with all where none does.  Nothing is drawn anew: the same code gives the same page.
"""

from collections.abc import Iterable, Iterator
import copy
from dataclasses import replace
from functools import cache
from itertools import combinations
import json
import math
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing import check
from kvattn.testing.arithmetic import BFLOAT16_TENSOR_CORE, FLOAT16_TENSOR_CORE, FLOAT32_BLAS, FLOAT64, Arithmetic
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import LOUD, RANDOM, Sizes
from kvattn.testing.drawn_calls import TEXTS
from kvattn.testing.emulated import emulate
from kvattn.testing.keywords import KEYWORDS, fed, whole
from kvattn.testing.narrowed import Narrowed
from kvattn.testing.planted import MUTANTS, ODD, Mutant, Planted
from kvattn.testing.targets import target_of
from kvattn.testing.tolerance import judge

ARITHMETICS: dict[str, Arithmetic] = {
    "float64": FLOAT64,
    "float32": FLOAT32_BLAS,
    "bfloat16": BFLOAT16_TENSOR_CORE,
    "float16": FLOAT16_TENSOR_CORE,
}
ALL = (*MUTANTS, *ODD)
MINUTES, CASES = 9.0, 12


class Outcome(NamedTuple):
    """What a check said of a mutant in a format."""

    detected: bool
    named: bool
    said: list[str]


def agrees(read: Any, wanted: Any, close: float) -> bool:
    """Whether a parameter was read as planted."""
    if isinstance(wanted, float) and isinstance(read, int | float):
        return math.isclose(read, wanted, rel_tol=close)
    return bool(read == wanted)


def differs(mutant: Mutant, names: Iterable[str]) -> bool:
    """Whether a mutant is wrong with these keywords."""
    right, wrong = Lab(target_of(Planted())), Lab(target_of(copy.deepcopy(mutant.function)))
    texts = {name: {"window": "2", "scale": "0.3", "softcap": "0.6"}.get(name) or TEXTS[name] for name in names}
    for length in (4, 1):
        case = right.case(Sizes(2, 6, 3, length, 9, 5, 5), LOUD, RANDOM, **texts)
        try:
            expected, found = right.see(case), wrong.see(case)
        except Refused:
            return True
        for a, b in ((expected.out, found.out), (expected.lse, found.lse), (expected.weights, found.weights)):
            if a is not None and b is not None and not np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True):
                return True
    return False


@cache
def telling(number: int) -> frozenset[str]:
    """Keywords that show a mutant, and what they need."""
    mutant = ALL[number]
    known = target_of(mutant.function).features
    if len(known) < 12:
        return known
    if differs(mutant, ()):
        return frozenset(("causal", "mask", "scale"))
    singles = [fed((name,), known) for name in KEYWORDS]
    found = {name for names in singles if whole(names) and differs(mutant, names) for name in names}
    if not found:
        pairs = (fed(pair, known) for pair in combinations(KEYWORDS, 2))
        found = set(next((names for names in pairs if whole(names) and differs(mutant, names)), ()))
    return frozenset(found | {"causal"}) if found else known


def checked(number: int, name: str) -> Outcome:
    """Check a mutant in a format."""
    mutant = ALL[number]
    narrow = name in ("bfloat16", "float16")
    function = copy.deepcopy(mutant.function)  # some remember
    target = replace(target_of(Narrowed(function, name) if narrow else function), features=telling(number))
    report = check(target, dtype=name, cases=CASES)
    close = 5e-2 if narrow else 1e-3
    named = any(
        finding.fault_class == mutant.fault_class
        and all(agrees(finding.parameters.get(key), value, close) for key, value in mutant.parameters.items())
        for finding in report.findings
    )
    return Outcome(bool(report.findings), named, sorted({finding.fault_class for finding in report.findings}))


def run(path: Path) -> None:
    """Check what has not been checked, for nine minutes at most."""
    done = json.loads(path.read_text()) if path.is_file() else {}
    started = time.monotonic()
    for number, mutant in enumerate(ALL):
        for name in ARITHMETICS:
            key = f"{name}: {mutant.name}"
            if key in done:
                continue
            if time.monotonic() - started > 60 * MINUTES:
                print(f"{len(done)} of {len(ARITHMETICS) * len(ALL)}; run it again")
                return
            done[key] = checked(number, name)._asdict()
            path.write_text(json.dumps(done, indent=1))
    print(f"all {len(done)}")


def power() -> Iterator[str]:
    """What correct attention's tolerance would show in each format: 16 random queries over 512 keys of width 64."""
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal((1, 1, n, 64)) for n in (16, 512, 512))
    columns = (
        "format",
        "bound",
        "a dropped key over",
        "share of keys",
        "a scale off by",
        "a total off by",
        "an lse off by",
    )
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|---|---|---|---|---|"
    for name, arithmetic in ARITHMETICS.items():
        done = emulate(q, k, v, arithmetic=arithmetic)
        verdict = judge(done.out, q, k, v, lse=done.lse, arithmetic=arithmetic)
        for word, seen in (("suspect", verdict.sees), ("fail", verdict.proves)):
            key = "none is seen" if not seen.keys else f"{seen.dropped_key:.1e}" if seen.dropped_key else "any"
            numbers = " | ".join(f"{x:.1e}" if np.isfinite(x) else "—" for x in (seen.scale, seen.total, seen.lse))
            yield f"| {name} | {word} | {key} | {seen.keys:.0%} | {numbers} |"


def table(done: dict[str, dict[str, Any]]) -> Iterator[str]:
    """By class: how many there are, are detected, and are named."""
    classes = [*sorted({mutant.fault_class for mutant in ALL} - {""}), ""]
    yield f"| class | mutants | {' | '.join(ARITHMETICS)} |"
    yield f"|---|---|{'---|' * len(ARITHMETICS)}"
    for fault_class in [*classes, None]:
        mine = [mutant for mutant in ALL if fault_class is None or mutant.fault_class == fault_class]
        cells = []
        for name in ARITHMETICS:
            found = [done[f"{name}: {mutant.name}"] for mutant in mine]
            detected, named = sum(x["detected"] for x in found), sum(x["named"] for x in found)
            nameable = sum(bool(mutant.fault_class) for mutant in mine)
            cells.append(f"{detected}" + (f", {named} named" if nameable else ""))
        words = {None: "**all**", "": "in no list"}.get(fault_class, f"`{fault_class}`")
        yield f"| {words} | {len(mine)} | {' | '.join(cells)} |"


def missed(done: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Each mutant that some format did not detect, or not name."""
    for mutant in ALL:
        words = []
        for name in ARITHMETICS:
            found = done[f"{name}: {mutant.name}"]
            if not found["detected"]:
                words.append(f"not detected in {name}")
            elif mutant.fault_class in found["said"] and not found["named"]:
                words.append(f"its parameters misread in {name}")
            elif mutant.fault_class and not found["named"]:
                words.append(f"called {', '.join(f'`{word}`' for word in found['said'])} in {name}")
        of = f" (`{mutant.fault_class}`)" if mutant.fault_class else ""
        if words:
            yield f"- {mutant.name}{of}: {'; '.join(words)}."


PAGE = """\
# What a check can see

`kvattn check` was run on every planted fault of {{py:mod}}`kvattn.testing.planted`, {count} of them, in four number
formats.  *Detected*: the report has a finding.  *Named*: a finding has the class of the fault, and every parameter as
it was planted, within 0.1 % in float64 and float32, 5 % in 16 bits.  In 16 bits the function computes in float32 on
rounded numbers and rounds its output ({{py:class}}`~kvattn.testing.narrowed.Narrowed`), and has no wide form that could
be read instead; where a function has one, a check in 16 bits reads it there, and sees what the first column sees.
Each check was told of ``causal`` and of the keywords with which the fault shows, which takes less time than all of
them.  The page is written by

```console
$ python tests/benchmarks/planted_faults.py run results.json
$ python tests/benchmarks/planted_faults.py page results.json > docs/explain/what-a-check-can-see.md
```

## What is detected and named

{table}

What was not detected, or called something else:

{missed}

Some of these are no faults in that format: a stage rounded to float32 is right in float32, one rounded to 16 bits in
16 bits.  Faults that write into their arguments or answer in one buffer do not show in 16 bits because the wrapper
hands over copies.

## Why not more

A finding needs an error that rounding cannot explain.  How small an error that is depends on the data; for 16 random
queries over 512 keys of width 64, emulated in {{py:mod}}`kvattn.testing.arithmetic`'s `FLOAT64`, `FLOAT32_BLAS`,
`BFLOAT16_TENSOR_CORE` and `FLOAT16_TENSOR_CORE`, {{py:func}}`~kvattn.testing.tolerance.judging.judge` says:

{power}

The read-outs of a check use data of their own, one-hot values and flat scores above all, where far less is lost: a
key too many in a window of three moves every weight by a twelfth, in any format.  What remains hidden in 16 bits is
what such data cannot magnify: a softmax whose weights are rounded to 16 bits is right there.
"""


def page(path: Path) -> None:
    """Print the page."""
    done = json.loads(path.read_text())
    texts = {
        "table": "\n".join(table(done)),
        "missed": "\n".join(missed(done)) or "Nothing.",
        "power": "\n".join(power()),
    }
    print(PAGE.format(count=len(ALL), **texts), end="")


if __name__ == "__main__":
    {"run": run, "page": page}[sys.argv[1]](Path(sys.argv[2]))
