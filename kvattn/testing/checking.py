"""``check``: run a foreign attention function, and name what is wrong with it.

First what follows from the read-outs of `kvattn.testing.diagnosis`, one feature after the other, each under
what the ones before have learned; then drawn cases that mix features, against
`kvattn.core.definition` under a derived bound; then the recorded cases that the target takes
(`kvattn.testing.recorded`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
import textwrap
from typing import Any, Literal

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.testing import kinds
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.diagnosis import (
    bends,
    differential,
    documents,
    dropped,
    edges,
    factors,
    fills,
    heads,
    leftovers,
    manners,
    masks,
    padding,
    pages,
    positions,
    precision,
    refusals,
    regions,
    settling,
    shown,
    sight,
    slopes,
    splits,
    tails,
    totals,
    trees,
    weights,
)
from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.differential import Margin
from kvattn.testing.diagnosis.finding import Finding, plain
from kvattn.testing.diagnosis.lab import CONTRACT, Lab
from kvattn.testing.diagnosis.raised import Misshapen, Refused, Untaken
from kvattn.testing.drawn_calls import must_know
from kvattn.testing.recorded import Given, read_recorded
from kvattn.testing.shapes import ANY, Shapes
from kvattn.testing.targets import Target

DTYPES = ("float64", "float32", "float16", "bfloat16")
"""Element types that a check can run in."""

CASES, FEW = 80, 24
"""How many cases are drawn where nothing else is asked for, and where calls are slow."""

SLOW = 0.04
"""Seconds that a call takes, on average, from which on they are slow, where the target does not say so itself."""

_STEPS: tuple[tuple[str, tuple[str, ...], Callable[[Lab], None]], ...] = (
    ("leftovers", (), leftovers.read_leftovers),
    ("manners", (), manners.read_manners),
    ("number formats", (), precision.read_precision),
    ("head map", (), heads.read_heads),
    ("weights and scale", (), weights.read_weights),
    ("scale=", ("scale",), weights.read_given_scale),
    ("sinks=", ("sinks",), totals.read_sinks),
    ("lse", (), totals.read_lse),
    ("causal=", ("causal",), sight.read_causal),
    ("window=", ("causal", "window"), sight.read_window),
    ("mask=", ("mask",), masks.read_mask),
    ("softcap=", ("softcap",), bends.read_softcap),
    ("ahead=", ("window", "ahead"), regions.read_ahead),
    ("chunk=", ("chunk",), regions.read_chunk),
    ("lengths=", ("lengths",), padding.read_lengths),
    ("starts=", ("starts",), padding.read_starts),
    ("prefix=", ("causal", "prefix"), regions.read_prefix),
    ("segments=", ("segments",), documents.read_segments),
    ("parents=", ("parents",), trees.read_parents),
    ("q_positions=, k_positions=", ("q_positions",), positions.read_positions),
    ("block_table=", ("block_table",), pages.read_pages),
    ("alibi=", ("alibi",), slopes.read_alibi),
    ("alibi_slopes=", ("alibi_slopes",), slopes.read_alibi_slopes),
    ("k_scale=, v_scale=", (), factors.read_factors),
    ("dropout=", ("dropout",), dropped.read_dropout),
    ("masks together", (), sight.read_together),
    ("bias=", ("bias",), bends.read_bias),
    ("splits=", ("splits",), splits.read_splits),
    ("return_weights=", ("return_weights",), shown.read_shown),
    ("empty rows", ("mask",), edges.read_empty_rows),
    ("fills", (), fills.read_fills),
    ("poison", (), edges.read_poison),
    ("extremes", (), edges.read_extremes),
    ("tails", (), tails.read_tails),
)


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes
    ----------
    target
        Name of what was checked.
    findings
        Differences, conventions first.
    features
        Keywords of the contract that were exercised.
    untested
        Parameters of the target that the contract does not know.
    dtype, seed
        Element type and seed of the cases.
    arithmetic
        Number format whose bounds were used.
    calls
        How often the target ran.
    margin
        How the drawn cases went; None where the read-outs left nothing to draw.
    notes
        What else a reader should know.
    behaviour
        What the target does, as far as it was read.
    recorded
        How the recorded cases went; None where none was given.
    slow
        Whether fewer calls were made, as they are slow.
    shapes
        Sizes that it takes, declared or found.
    within
        Arithmetic whose bounds every drawn case is within, or would be but for a fault; None where none was drawn.

    Examples
    --------
    >>> import kvattn
    >>> report = check(kvattn.attention, cases=8)
    >>> report.verdict, report.findings
    ('pass', ())
    """

    target: str
    findings: tuple[Finding, ...]
    features: tuple[str, ...]
    untested: tuple[str, ...]
    dtype: str
    seed: int
    arithmetic: str
    calls: int
    margin: Margin | None
    notes: tuple[str, ...]
    behaviour: Behaviour = CONTRACT
    recorded: Given | None = None
    slow: bool = False
    shapes: Shapes = ANY
    within: Arithmetic | None = None

    @property
    def verdict(self) -> Literal["pass", "convention", "fault"]:
        """Say ``"fault"`` if any finding is one, else ``"convention"`` if there is any, else ``"pass"``.

        >>> import kvattn
        >>> check(lambda q, k, v: kvattn.attention(q, k, v, scale=1.0), cases=0).verdict
        'fault'
        """
        kinds = {finding.kind for finding in self.findings}
        return "fault" if "fault" in kinds else "convention" if kinds else "pass"

    def as_dict(self) -> dict[str, Any]:
        """Return what ``kvattn check --json`` prints.

        >>> import kvattn
        >>> check(lambda q, k, v: kvattn.attention(q, k, v), cases=0).as_dict()["schemaVersion"]
        1
        """
        margin = self.margin
        return {
            "schemaVersion": 1,
            "target": self.target,
            "verdict": self.verdict,
            "findings": [finding.as_dict() for finding in self.findings],
            "features": list(self.features),
            "untested": list(self.untested),
            "dtype": self.dtype,
            "seed": self.seed,
            "arithmetic": self.arithmetic,
            "calls": self.calls,
            "slow": self.slow,
            "drawn": None
            if margin is None
            else plain(
                {"cases": margin.cases, "worstRatio": margin.worst, "suspect": margin.suspect, "bound": margin.bound}
            ),
            "recorded": None
            if self.recorded is None
            else {
                "cases": self.recorded.cases,
                "failed": list(self.recorded.failed),
                "leftOut": list(self.recorded.left),
            },
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return the report as text that fits on one screen."""
        head = textwrap.wrap(f"{self.target}: {self.verdict}", 100, subsequent_indent="  ")
        told = f"exercised: {', '.join(self.features) or 'q, k, v alone'}; {self.dtype}, seed {self.seed}"
        head += _indented(told, 2)
        if self.untested:
            head += _indented(f"left at their defaults: {', '.join(self.untested)}", 2)
        tail = [""]
        if self.margin is not None and self.arithmetic == "integers":
            tail.append(f"  {self.margin.cases} drawn sizes: every count was as it was read, to the last digit")
        elif self.margin is not None:
            tail.append(
                f"  {self.margin.cases} drawn cases: largest error {self.margin.worst:.2g} of the {self.arithmetic}"
                f" {self.margin.bound} bound" + (f", {self.margin.suspect} suspect" if self.margin.suspect else "")
            )
            if self.recorded is not None:
                failed = len(self.recorded.failed)
                fine = "nothing else was found in them" if self.findings else "all as they should be"
                said = f"{failed} not as they should be" if failed else fine
                tail.append(f"  {self.recorded.cases} recorded cases: {said}")
        elif self.findings:
            tail.append("  The rest was not compared: what was read leaves nothing to compare it with.")
        notes = _indented("; ".join(self.notes), 2)
        tail += notes if len(notes) <= 4 else [*notes[:3], notes[3][:80] + " …"]
        body: list[str] = []
        findings = sorted(self.findings, key=lambda finding: finding.kind != "fault")
        for n, finding in enumerate(findings):
            block = ["", f"  {finding.kind}: {finding.fault_class}", *_indented(finding.detail, 4), "    reproduce:"]
            block += folded(finding.reproduce, 94, "      ")
            if n and len(head) + len(body) + len(block) + len(tail) + 2 > 40:
                body += ["", f"  and {len(findings) - n} more: --json lists them"]
                break
            body += block
        return "\n".join([*head, *body, *tail])


def _indented(text: str, by: int) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent=" " * by, subsequent_indent=" " * by)


def folded(line: str, width: int, indent: str = "") -> list[str]:
    """Lay one line of Python out on several, each of which ends where a statement ends or a bracket is open.

    Examples
    --------
    >>> folded("a = 1; b = 2; print(a, b, 'expected', 3)", 16)
    ['a = 1; b = 2', 'print(a, b,', "'expected', 3)"]
    """
    rows: list[str] = []
    for statement in line.split("; "):
        if rows and len(f"{rows[-1]}; {statement}") <= width:
            rows[-1] += f"; {statement}"
            continue
        rows.append("")
        room, depth = -1, 0  # where the row can end: after a word inside brackets
        for word in statement.split(" "):
            rows[-1] += f" {word}" if rows[-1] else word
            if len(rows[-1]) > width and room > 0:
                rows[-1:] = [rows[-1][:room], rows[-1][room + 1 :]]
                room = -1
            depth += sum(word.count(c) for c in "([{") - sum(word.count(c) for c in ")]}")
            room = len(rows[-1]) if depth > 0 else room
    return [indent + row for row in rows]


def check(
    target: str | kinds.Checked | Callable[..., Any],
    *,
    seed: int = 0,
    dtype: str = "float64",
    arithmetic: Arithmetic | None = None,
    cases: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Check an attention function, a rotation, a layer or a counter.

    Parameters
    ----------
    target
        ``"module:callable"``, a callable of a contract's form, or a target; the contracts stand in
        `kvattn.testing.kinds`.
    seed
        Seed of every case; the same seed gives the same report.
    dtype
        Element type of the inputs: ``"float64"``, ``"float32"``, ``"float16"`` or ``"bfloat16"``, which is ml_dtypes'.
        In 16 bits, what the target does is read in wide numbers where it takes them and answers as finely.
    arithmetic
        Number formats in which the target computes; None to take the finest that explains its answers.
    cases
        How many cases to draw after the read-outs; recorded cases follow, unless it is 0.  If None, 80; where calls are
        slow, as where each shape is compiled, 24.  Where calls are slow, no more recorded cases are given than drawn.
    progress
        Called with the name of each step.

    Returns
    -------
    Report
        Verdict and findings.

    Raises
    ------
    ArgumentError
        Where the target is not of the contract's form, or dtype or a number is not legal.
    MissingExtraError
        Where dtype is ``"bfloat16"`` and ml_dtypes is not installed.

    Examples
    --------
    >>> import kvattn
    >>> def mine(q, k, v, *, causal=False, window=None):
    ...     mask = kvattn.masks.Causal() if window is None else kvattn.masks.Window(window + 1)
    ...     return kvattn.attention(q, k, v, mask=mask if causal else None)
    >>> report = check(mine, cases=8)
    >>> report.verdict, report.findings[0].fault_class
    ('fault', 'window-off-by-one')
    """
    if dtype not in DTYPES:
        raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
    numbers: tuple[tuple[str, object], ...] = (("seed", seed), ("cases", 0 if cases is None else cases))
    for name, number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ArgumentError(f"{name} must be an integer >= 0, got {number!r}")
    must_know(dtype)
    target = kinds.load(target) if isinstance(target, str) else kinds.target_for(target)
    if not isinstance(target, Target):
        wanted = CASES if cases is None else cases
        bench, drawn = kinds.look(target, seed=seed, dtype=dtype, cases=wanted, progress=progress)
        return _report_of(target, bench, drawn, seed, dtype)
    lab = Lab(target, seed=seed, dtype=dtype)
    with np.errstate(all="ignore"):  # what a wrong target returns may be anything
        margin, recorded = _look(lab, cases, arithmetic, progress)
    if lab.findings and not target.setup:
        lab.notes.append("In the lines that reproduce, f is the function that was checked")
    return Report(
        target=target.name,
        findings=tuple(sorted(lab.findings, key=lambda finding: finding.kind)),
        features=tuple(sorted(target.features)),
        untested=target.untested,
        dtype=dtype,
        seed=seed,
        arithmetic=_called(lab.arithmetic),
        calls=lab.calls,
        margin=margin,
        notes=tuple(dict.fromkeys(lab.notes)),
        behaviour=lab.behaviour,
        recorded=recorded,
        slow=lab.slow,
        shapes=lab.shapes if lab.grouped else replace(lab.shapes, group_sizes=(1,)),
        within=None if margin is None else lab.arithmetic,
    )


def _called(arithmetic: Arithmetic) -> str:
    inside, stored = arithmetic.compute, arithmetic.store
    return inside if inside == stored else f"{stored} (inside {inside})"


def _report_of(target: kinds.Other, bench: kinds.Bench, margin: Margin | None, seed: int, dtype: str) -> Report:
    """Say what was read of a rotation, a layer or a counter."""
    if bench.findings and not target.setup:
        bench.notes.append("In the lines that reproduce, f is the function that was checked")
    return Report(
        target=target.name,
        findings=tuple(sorted(bench.findings, key=lambda finding: finding.kind)),
        features=tuple(sorted(getattr(target, "features", ("positions",)))),
        untested=getattr(target, "untested", ()),
        dtype="integers" if bench.compute == "integers" else dtype,
        seed=seed,
        arithmetic=bench.compute,
        calls=bench.calls,
        margin=margin,
        notes=tuple(dict.fromkeys(bench.notes)),
    )


def _look(
    lab: Lab, cases: int | None, arithmetic: Arithmetic | None, progress: Callable[[str], None]
) -> tuple[Margin | None, Given | None]:
    asked = lab.dtype
    refusals.read_shapes(lab)
    lab.dtype = settling.reading_dtype(lab)
    if lab.dtype != asked:
        lab.notes.append(f"What it does was read in {lab.dtype}; {asked} was compared in drawn cases")
    began, made = lab.seconds, lab.calls  # what is imported at the first call is by now
    known = lab.target.slow is not None
    lab.slow = bool(lab.target.slow)
    for name, needed, step in _STEPS:
        narrowed = lab.dtype != asked and step is precision.read_precision  # narrow code may well be narrow inside
        if not lab.stopped and lab.can(*needed) and not narrowed:
            progress(name)
            if not known and lab.calls > made + 40:  # once: what a report says of a target is said of all of it
                lab.slow, known = (lab.seconds - began) / (lab.calls - made) > SLOW, True
            _run(lab, name, needed, step)
    if lab.stopped:
        return None, None
    progress("pairs of keywords")
    differential.read_pairs(lab)
    progress("drawn cases")
    lab.dtype = asked
    if lab.slow:
        few = "" if cases is not None else f"{FEW} cases were drawn, not {CASES}, and "
        lab.notes.append(
            f"Calls are slow: {few}fewer ends of tiles were tried; slow = False on the function asks for all"
        )
    if cases is None:
        cases = FEW if lab.slow else CASES
    margin = _draw(lab, cases, lab.stated if arithmetic is None else (arithmetic,))
    if margin is None or not cases:
        return margin, None
    progress("recorded cases")
    return margin, read_recorded(lab, cases if lab.slow else None)


def _run(lab: Lab, name: str, needed: tuple[str, ...], step: Callable[[Lab], None]) -> None:
    try:
        step(lab)
    except Untaken:
        lab.notes.append(f"{name}: not read at the sizes that it takes")
    except Refused as refused:
        if not needed and step in {heads.read_heads, weights.read_weights}:
            lab.stopped = True
        lab.set_aside(*needed[-1:])
        first = str(refused).partition(":")[0]
        given = needed if needed or lab.last is None else [name for name, _ in lab.last.options]
        where = f"with {', '.join(given)}" if given else "on a plain call"
        reproduce = lab.last_line()
        if isinstance(refused, Misshapen):
            lab.add("unclassified", {"step": name}, f"{str(refused).capitalize()}, {where}.", reproduce=reproduce)
        else:
            detail = f"It raises {refused} {where}."
            if any(finding.detail == detail for finding in lab.findings):
                return
            lab.add("unclassified", {"raised": first, "step": name}, detail, reproduce=reproduce)


def _draw(lab: Lab, cases: int, candidates: tuple[Arithmetic, ...]) -> Margin | None:
    try:
        settling.settle(lab, candidates)
        return differential.read_drawn(lab, cases)
    except Refused as refused:
        lab.add("unclassified", {"raised": str(refused)}, f"It raises {refused}.", reproduce=lab.last_line())
        return None
