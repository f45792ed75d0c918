"""The zoo of wrong attention functions: each is detected; each that a list knows is named, with its parameters.

CI runs the first of each class with the keywords that most functions take and its class's own, every twenty-fourth of
all with every keyword, and every fourth that no list knows; ``KVATTN_PROFILE=deep`` runs all with every keyword.
``python -m tests.mutants.test_planted_zoo`` prints the table of what was not named, and the numbers that the pages and
the report quote.
"""

import ast
from collections import Counter
import contextlib
from dataclasses import replace
import io
import os
import sys
import time

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.checking import folded
from kvattn.testing.keywords import PLAIN
from kvattn.testing.planted import MUTANTS, ODD, Mutant, Planted
from kvattn.testing.targets import Target, target_of

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"

NOT_NAMED: dict[str, str] = {}
"""Mutants that are detected and not named as they should be, and why."""

CLASSES = {
    *("causal-align", "window-off-by-one", "mask-compose", "mask-dropped", "mask-polarity", "mask-fill-overflow"),
    *("masked-nan", "empty-row", "scale", "softcap", "sink", "gqa-map", "alibi-slopes", "lse-merge", "varlen"),
    *("padding-positions", "batch-row-state", "paged-table", "ring-wrap", "rope-offset", "chunked-prefill"),
    *("spec-tree", "quantised-kv", "dropout-eval", "stale-state", "precision", "tile-tail"),
}
"""Classes that a function of q, k and v can show."""


def fits_a_screen(text: str) -> None:
    """At most 40 lines of 100 columns."""
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def differs(line: str, function: object) -> bool:
    """Whether a reproduction prints something else than what it says was expected, or raises."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), np.errstate(all="ignore"):
        exec(line, {"f": function})  # noqa: S102 - that it runs is what is tested
    got, _, expected = out.getvalue().partition("expected")
    return bool(got.strip()) and got.strip() != expected.strip()


def test_the_zoo_is_large_and_has_every_class() -> None:
    classes = Counter(mutant.fault_class for mutant in MUTANTS)
    assert classes.keys() >= CLASSES
    assert len(MUTANTS) + len(ODD) >= 110
    names = [mutant.name for mutant in (*MUTANTS, *ODD)]
    assert len({*names}) == len(names)
    assert set(NOT_NAMED) <= {*names}
    assert len(NOT_NAMED) <= 0.05 * len(MUTANTS)


OWN: dict[str, tuple[str, ...]] = {
    "mask-dropped": ("alibi_slopes",),
    "alibi-slopes": ("alibi", "alibi_slopes"),
    "padding-positions": ("lengths", "starts"),
    "batch-row-state": ("lengths", "starts"),
    "varlen": ("segments",),
    "spec-tree": ("parents",),
    "ring-wrap": ("q_positions", "k_positions"),
    "rope-offset": ("q_positions", "k_positions"),
    "chunked-prefill": ("q_positions", "k_positions"),
    "paged-table": ("lengths", "block_table"),
    "quantised-kv": ("k_scale", "v_scale"),
    "dropout-eval": ("dropout", "training"),
    "lse-merge": ("splits",),
}
"""Keywords beside the plain ones, without which the first mutant of a class is right."""


WHOLE = MUTANTS[:: 1 if DEEP else 24]
"""Mutants that are checked with every keyword: most of a check's time goes into pairs of them."""


def target(mutant: Mutant) -> Target:
    """A mutant with the keywords that this profile gives it."""
    found = target_of(mutant.function)
    few = {*PLAIN, *OWN.get(mutant.fault_class, ())}
    return found if DEEP or mutant in WHOLE else replace(found, features=found.features & few)


def chosen() -> list[Mutant]:
    """What this profile runs."""
    first = {mutant.fault_class: mutant for mutant in reversed(MUTANTS)}
    return [mutant for mutant in MUTANTS if mutant in WHOLE or first[mutant.fault_class] is mutant]


@pytest.mark.parametrize("mutant", chosen(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_named(mutant: Mutant) -> None:
    report = check(target(mutant), cases=0)
    findings = report.findings
    assert findings, "not detected"
    named = [finding for finding in findings if mutant.is_named_by(finding)]
    assert bool(named) != (mutant.name in NOT_NAMED), [(f.fault_class, f.parameters) for f in findings]
    fits_a_screen(str(report))
    for finding in findings:
        assert ast.dump(ast.parse("\n".join(folded(finding.reproduce, 94)))) == ast.dump(ast.parse(finding.reproduce))
    if isinstance(mutant.function, Planted) and named:
        assert differs(named[0].reproduce, mutant.function)


@pytest.mark.parametrize("mutant", ODD if DEEP else ODD[::4], ids=lambda mutant: mutant.name)
def test_what_stands_in_no_list_is_caught_and_described(mutant: Mutant) -> None:
    report = check(target(mutant), cases=40 if DEEP else 16)
    assert report.verdict == "fault"
    assert all(len(finding.detail) > 40 for finding in report.findings)
    fits_a_screen(str(report))


def test_the_attention_without_a_fault_passes() -> None:
    """What is found in the mutants is what was planted; in float64, see the next test."""
    assert check(Planted(), dtype="float32", cases=8).findings == ()


def test_a_check_of_every_keyword_takes_less_than_half_a_minute_and_says_where_it_is() -> None:
    steps: list[str] = []
    start = time.process_time()
    assert check(Planted(), progress=steps.append).findings == ()
    assert time.process_time() - start < 30
    assert {"head map", "window=", "block_table=", "tails", "pairs of keywords", "drawn cases"} <= {*steps}


def main() -> None:
    """Print what the zoo measures."""
    times, detected, named = [], 0, 0
    for mutant in (*MUTANTS, *ODD):
        start = time.perf_counter()
        findings = check(mutant.function, cases=40).findings
        times.append(time.perf_counter() - start)
        detected += bool(findings)
        right = any(mutant.is_named_by(finding) for finding in findings)
        named += right
        if mutant.fault_class and not right:
            told = "; ".join(f"{finding.fault_class} {dict(finding.parameters)}" for finding in findings)
            sys.stdout.write(f"{mutant.name}: {NOT_NAMED.get(mutant.name, 'NOT EXPECTED')}: {told or 'not detected'}\n")
    sys.stdout.write(
        f"{len(MUTANTS) + len(ODD)} mutants, {detected} detected; {len(MUTANTS)} to be named, {named} named;"
        f" {sum(times) / len(times):.2f} s each, {max(times):.2f} s at most\n"
    )


if __name__ == "__main__":
    main()
