"""``check_cache``: drive somebody's cache, and name what is wrong with it.

First the scripts of `kvattn.testing.cache_diagnosis.scripts`, each compared with plain lists by
`kvattn.testing.conformance.Session`.  Where one fails it is made small; then the models of
`kvattn.testing.cache_diagnosis.habits` are asked which of them shows, in every script, exactly what this cache shows.
The one that does is the finding's name; where none does, the finding is the failure itself, by the name that the
session gave it, with the smallest script.  Rows of different sizes say whether scales come back right.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from dataclasses import dataclass
import importlib
import math
from pathlib import Path
import sys
import textwrap
from typing import Any, Literal, TypeVar

from kvattn.errors import ArgumentError
from kvattn.testing.cache_diagnosis.habits import Habit, Model, Suspect, suspects
from kvattn.testing.cache_diagnosis.magnitudes import FAR, Sizes, read_sizes
from kvattn.testing.cache_diagnosis.observing import Shown, alike, observe, showing
from kvattn.testing.cache_diagnosis.scales import Kept, read_scales
from kvattn.testing.cache_diagnosis.scripts import (
    Script,
    borders,
    negative,
    oversize,
    script,
    scripts_of,
    smaller,
    undeclared,
)
from kvattn.testing.cache_diagnosis.storing import Stored, read_formats
from kvattn.testing.conformance import CacheAdapter, CacheFault, Capabilities, Session
from kvattn.testing.diagnosis.finding import Finding
from kvattn.testing.formats import format_of

Told = TypeVar("Told")

METHODS = ("start", "append", "rollback", "select", "branch")
"""What an adapter has, beside ``capabilities``."""


@dataclass(frozen=True)
class CacheReport:
    """What a check of a cache found.

    Attributes
    ----------
    target
        Name of what was checked.
    findings
        What is wrong.
    scripts, failing
        How many scripts ran, and how many failed.
    notes
        What else a reader should know.
    seed
        Of the drawn scripts.

    Examples
    --------
    >>> from kvattn.testing.conformance import PagedAdapter
    >>> report = check_cache(PagedAdapter(), drawn=5)
    >>> report.verdict, report.findings, report.failing
    ('pass', (), 0)
    """

    target: str
    findings: tuple[Finding, ...]
    scripts: int
    failing: int
    notes: tuple[str, ...]
    seed: int

    @property
    def verdict(self) -> Literal["pass", "fault"]:
        """Say ``"fault"`` if there is any finding.

        >>> CacheReport("mine", (), 1, 0, (), 0).verdict
        'pass'
        """
        return "fault" if self.findings else "pass"

    def as_dict(self) -> dict[str, Any]:
        """Return what ``kvattn check --json`` prints.

        >>> CacheReport("mine", (), 1, 0, (), 0).as_dict()["verdict"]
        'pass'
        """
        return {
            "schemaVersion": 1,
            "target": self.target,
            "verdict": self.verdict,
            "findings": [finding.as_dict() for finding in self.findings],
            "scripts": self.scripts,
            "failing": self.failing,
            "seed": self.seed,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return the report as text that fits on one screen."""
        lines = [f"{self.target}: {self.verdict}", f"  {self.scripts} scripts, {self.failing} failed; seed {self.seed}"]
        for finding in self.findings[:6]:
            lines += ["", f"  {finding.kind}: {finding.fault_class}"]
            lines += textwrap.wrap(finding.detail, 100, initial_indent="    ", subsequent_indent="    ")
            lines += ["    reproduce:", f"      {finding.reproduce}"]
        if len(self.findings) > 6:
            lines += ["", f"  and {len(self.findings) - 6} more: --json lists them"]
        if self.notes:
            lines += ["", *textwrap.wrap("; ".join(self.notes), 100, initial_indent="  ", subsequent_indent="  ")]
        return "\n".join(lines)


def check_cache(
    adapter: CacheAdapter,
    *,
    name: str = "",
    seed: int = 0,
    drawn: int = 40,
    progress: Callable[[str], None] = lambda _: None,
) -> CacheReport:
    """Check a cache behind the five methods of `kvattn.testing.conformance`.

    Parameters
    ----------
    adapter
        The cache, and what it declares; only that is driven.
    name
        How the report calls it; its class if empty.
    seed, drawn
        Of the drawn scripts, and how many.
    progress
        Called with the name of each step.

    Returns
    -------
    CacheReport
        Verdict and findings.

    Raises
    ------
    ArgumentError
        What is no adapter, or promises no number format.

    Examples
    --------
    >>> from kvattn.testing.planted_caches import PlantedCache
    >>> report = check_cache(PlantedCache(select_keys_only=True), drawn=0)
    >>> report.findings[0].fault_class, report.findings[0].parameters
    ('beam-reorder', {'reorders': 'keys only'})
    """
    missing = [method for method in (*METHODS, "capabilities") if not hasattr(adapter, method)]
    if missing:
        raise ArgumentError(f"adapter must have {', '.join(METHODS)} and capabilities, got none called {missing[0]}")
    can = adapter.capabilities
    if can.store:
        format_of(can.store)
    every = list(dict.fromkeys(scripts_of(can, seed, drawn)))
    again = _run(adapter, every[0]) is None and _run(adapter, every[0])
    if again:
        detail = f"A new cache is not empty when the same steps run a second time: {again}."
        found = Finding("stale-state", "fault", {"start": "keeps rows"}, detail, _line((*every[0], *every[0])))
        return CacheReport(name or type(adapter).__name__, (found,), 2, 1, (), seed)
    failures: list[tuple[Script, CacheFault]] = []
    for number, steps in enumerate(every):
        progress(f"script {number + 1} of {len(every)}")
        fault = _run(adapter, steps)
        if fault is not None:
            failures.append((steps, fault))
    findings: list[Finding] = []
    notes: list[str] = []
    progress("sizes")
    sizes, formats = _read(adapter, read_sizes), _read(adapter, read_formats)
    notes += [f"{one.field} comes back {one.words}" for one in formats if one.explained and one.formats]
    known = {one.field for one in formats if one.explained} | {one.field for one in sizes if one.wrong}
    errors = [(one.field, math.log2(one.error)) for one in sizes if one.error and one.field not in known]
    notes += [f"{name} comes back with a relative error of 2**{error:.1f}" for name, error in errors]
    if failures:
        progress("naming")
        findings += _named(adapter, every, failures)
    odd = 0
    for what, some in _ODD.items() if not failures else ():
        tried = list(some(can))
        odd += len(tried)
        wrong = [(steps, fault) for steps in tried if (fault := _run(adapter, steps)) is not None]
        told = [_kept(adapter, steps) for steps, _ in wrong]
        if what == "negative" and told == [1, 2]:  # transformers until 5.17 kept that
            notes.append("a rollback of -n keeps n tokens: a convention, which this adapter passes on")
        elif wrong:
            failures += wrong
            findings.append(_of_odd(what, *wrong[0], told[0]))
    numbers = _of_numbers(formats, can.store, sizes, _read(adapter, read_scales))
    bits = any(one.read_as for one in formats)  # of which some look like a row of zeros
    explained = ["a mangled row" in f.detail or (bits and f.parameters.get("failure") == "lost row") for f in findings]
    if not all(explained):
        numbers = [one for one in numbers if one.fault_class == "cache-dtype"]  # others may come of the other fault
        findings += numbers
    elif numbers:
        findings, notes = numbers, []
    return CacheReport(
        name or type(adapter).__name__,
        tuple(findings),
        len(every) + odd,
        len(failures),
        tuple(dict.fromkeys(notes)),
        seed,
    )


def _run(adapter: CacheAdapter, steps: Script) -> CacheFault | None:
    session = Session(adapter)
    lines: dict[int, Any] = {}
    try:
        for verb, (line, *rest) in steps:
            if verb == "start":
                lines[line] = session.start(rest[0])
            elif verb == "branch":
                lines[rest[0]] = session.branch(lines[line])
            elif lines[line].over:
                return None
            elif verb == "select":
                session.select(lines[line], rest)
            else:
                (session.append if verb == "append" else session.rollback)(lines[line], rest[0])
    except CacheFault as fault:
        return fault
    return None


def _legal(steps: Script, untried: frozenset[str] = frozenset()) -> bool:
    """Whether each step is of a cache and of sequences that are there, and no rollback is one that is not tried."""
    sizes: dict[int, tuple[int, int]] = {}  # sequences, tokens
    for verb, (line, *rest) in steps:
        batch, length = sizes.get(line, (0, 0))
        if verb == "start":
            sizes[line] = rest[0], 0
        elif not batch:
            return False
        elif verb == "select":
            if not length or max(rest) >= batch:
                return False
            sizes[line] = len(rest), length
        elif verb == "branch":
            sizes[rest[0]] = batch, length
        elif verb == "append":
            sizes[line] = batch, length + rest[0]
        else:
            if ("negative" in untried and rest[0] < 0) or ("oversize" in untried and rest[0] > length):
                return False
            sizes[line] = batch, min(max(length - rest[0], 0), length)
    return True


def _smallest(adapter: CacheAdapter, steps: Script, kind: str, budget: int = 200) -> tuple[Script, CacheFault]:
    """The script made smaller for as long as it fails in the same way."""
    fault = _run(adapter, steps)
    best, moved = steps, True
    while moved and budget:
        moved = False
        for fewer in smaller(best):
            if not budget:
                break
            if not _legal(fewer, adapter.capabilities.untried):
                continue
            budget -= 1
            try:
                found = _run(adapter, fewer)
            except (ArgumentError, IndexError):
                continue
            if found is not None and found.kind == kind:
                best, fault, moved = fewer, found, True
                break
    return best, fault if fault is not None else CacheFault(kind, "")


def _named(
    adapter: CacheAdapter, every: Sequence[Script], failures: Sequence[tuple[Script, CacheFault]]
) -> list[Finding]:
    ordered = sorted(failures, key=lambda failure: (len(failure[0]), str(failure[0])))
    shown: dict[Script, tuple[Shown, ...]] = {}

    def same(one: Suspect, steps: Script) -> bool:
        if steps not in shown:
            shown[steps] = observe(adapter, steps)
        return alike(showing(Model(adapter.capabilities, one.habit), steps), shown[steps])

    asked = [steps for steps, _ in ordered]
    asked = asked[:12] + asked[12 :: max(1, len(asked) // 8)]  # the shortest, and some others
    scores = {n: (0, one) for n, one in enumerate(suspects(adapter.capabilities))}
    for number, steps in enumerate(asked):
        scores = {n: (score + same(one, steps), one) for n, (score, one) in scores.items()}
        most = max(score for score, _ in scores.values())
        if number >= 4:  # those that explain next to nothing by now are no suspects any more
            scores = {n: (score, one) for n, (score, one) in scores.items() if score >= most - 2}
    most = max(score for score, _ in scores.values())
    best = [one for score, one in scores.values() if score == most and 2 * score >= len(asked)]
    right = [steps for steps in every if steps not in dict(failures)][::4]
    best = [one for one in best if sum(same(one, steps) for steps in right) >= 0.9 * len(right)]
    for steps in (*every, *borders(adapter.capabilities)) if len(best) > 1 else ():
        best = [one for one in best if same(one, steps)] or best
        if len(best) == 1:
            break
    small, fault = _smallest(adapter, *_first(ordered))
    if best:
        one = best[0]
        part = "" if most == len(asked) else f" (this explains {most} of {len(asked)} failing scripts)"
        parameters = dict(one.parameters)
        if len(best) > 1:
            parameters["or"] = [{"class": other.fault_class, **other.parameters} for other in best[1:]]
        return [Finding(one.fault_class, "fault", parameters, f"{one.words}{part}: {fault}.", _line(small))]
    found = []
    for kind in dict.fromkeys(fault.kind for _, fault in ordered):
        steps = next(steps for steps, fault in ordered if fault.kind == kind)
        small, fault = _smallest(adapter, steps, kind)
        words = f"{str(fault)[0].upper()}{str(fault)[1:]}."
        found.append(Finding(_CLASSES.get(kind, "unclassified"), "fault", {"failure": kind}, words, _line(small)))
    return found


_CLASSES = {
    "stale after rollback": "crop-rollback",
    "resurrected row": "crop-rollback",
    "alias after branch": "block-ownership",
    "silent overflow": "ring-wrap",
    "wrong length": "byte-count",
}
"""Class of a failure that belongs to one by what it is, where no habit explains it; of the others any may be."""


def _first(ordered: Sequence[tuple[Script, CacheFault]]) -> tuple[Script, str]:
    return ordered[0][0], ordered[0][1].kind


def _line(steps: Script) -> str:
    return ", ".join(map(str, steps))


def _read(adapter: CacheAdapter, reader: Callable[[CacheAdapter], Iterator[Told]]) -> list[Told]:
    try:
        return list(reader(adapter))
    except Exception:  # noqa: BLE001 - what a foreign cache raises was told by the scripts
        return []


_ODD: dict[str, Callable[[Capabilities], Iterator[Script]]] = {
    "oversize": oversize,
    "negative": negative,
    "undeclared": undeclared,
}
_WORDS = {
    "oversize": "more tokens than there are is neither refused nor empties the cache",
    "negative": "fewer tokens than none is neither refused nor takes back none",
    "undeclared": "more tokens than is declared is neither refused nor right",
}


def _kept(adapter: CacheAdapter, steps: Script) -> int | None:
    """How many tokens are left, as far as one model alone shows the same."""
    shown, held = observe(adapter, steps), steps[1].numbers[1]
    most = held + abs(steps[2].numbers[1])
    models = {n: observe(Model(adapter.capabilities, Habit(odd_keeps=n)), steps) for n in range(most + 1)}
    found = [n for n, model in models.items() if alike(model, shown)]
    return found[0] if len(found) == 1 else None


def _of_odd(what: str, steps: Script, fault: CacheFault, kept: int | None) -> Finding:
    held, amount = steps[1].numbers[1], steps[2].numbers[1]
    left = "" if kept is None else f", and leaves {kept} of {held}"
    detail = f"A rollback of {_WORDS[what]}{left}: {fault}."
    parameters: dict[str, Any] = {"rollback": what, "amount": amount, "held": held}
    parameters |= {"failure": fault.kind} if kept is None else {"keeps": kept}
    return Finding("crop-rollback", "fault", parameters, detail, _line(steps))


def _of_sizes(sizes: Sizes) -> Finding:
    what = "Keys" if sizes.field == "k" else "Values"
    if sizes.varies:
        words = f"{what} come back in other sizes, by a factor that varies along {' and '.join(sizes.varies)}"
    else:
        words = f"{what} come back {sizes.ratio:.3g} times as large"
    parameters: dict[str, Any] = {
        "field": sizes.field,
        "varies": list(sizes.varies),
        "ratio": round(sizes.ratio, 1 if sizes.ratio > 1 else 2),
    }
    within = f" (rounding stays within a factor of {math.exp(FAR):.2f})"
    return Finding("quantised-kv", "fault", parameters, f"{words}{within}.", "read_sizes(adapter)")


def _of_scale(kept: Kept) -> Finding:
    what = "Keys" if kept.field == "k" else "Values"
    who = "older tokens" if kept.effect == "grown" else "a larger newest token"
    how = {"cut": "cuts", "shrunk": "shrinks", "grown": "enlarges"}[kept.effect]
    words = f"{what}: the scale {kept.scale}, one for each {kept.shared}, {how} {who}."
    parameters = {"field": kept.field, "scale": kept.scale, "shared": kept.shared}
    parameters["older" if kept.effect == "grown" else "newest"] = kept.effect
    return Finding("quantised-kv", "fault", parameters, words, "read_scales(adapter)")


def _of_format(stored: Stored, promised: str) -> Finding | None:
    what = "Keys" if stored.field == "k" else "Values"
    parameters: dict[str, Any] = {"field": stored.field}
    if stored.explained and stored.read_as:
        parameters |= {"formats": list(stored.formats), "read_as": stored.read_as}
        return Finding("cache-dtype", "fault", parameters, f"{what} come back {stored.words}.", "read_formats(adapter)")
    if not promised:
        return None
    parameters["promised"] = promised
    words = f"{what} are promised in {promised} and come back {stored.words}."
    if not stored.explained:
        parameters = {"failure": "other numbers", **parameters}
        return Finding("unclassified", "fault", parameters, words, "read_formats(adapter)")
    if stored.cut or stored.formats != (() if promised == stored.given else (promised,)):
        parameters["formats"] = list(stored.formats or (stored.given,))
        parameters |= {"rounding": "towards 0"} if stored.cut else {}
    elif promised == stored.given and stored.dtype != promised:
        parameters["dtype"] = stored.dtype
        words = f"{what} are given in {stored.given} and come back in {stored.dtype}."
    else:
        return None
    return Finding("cache-dtype", "fault", parameters, words, "read_formats(adapter)")


def _of_numbers(
    formats: Sequence[Stored], promised: str, sizes: Sequence[Sizes], scales: Sequence[Kept | Sizes]
) -> list[Finding]:
    """One finding for each field: bits of another format, else a scale, else sizes, else a format."""
    found = {one.field: told for one in formats if (told := _of_format(one, promised))}
    if not any(one.read_as for one in formats):
        found |= {one.field: _of_sizes(one) for one in scales if isinstance(one, Sizes)}
        found |= {one.field: _of_sizes(one) for one in sizes if one.wrong}
        found |= {one.field: _of_scale(one) for one in scales if isinstance(one, Kept)}
    return [found[field] for field in sorted(found)]


def replay(adapter: CacheAdapter, steps: str) -> None:
    """Do again what a finding's ``reproduce`` says: the first number of each step says of which cache.

    Raises
    ------
    CacheFault
        What is wrong, at the step where it is seen.
    ArgumentError
        Words that are no steps, or steps with what is not there.

    Examples
    --------
    >>> from kvattn.testing.conformance import PagedAdapter
    >>> replay(PagedAdapter(), "start 0 2, append 0 3, branch 0 1, append 1 2, select 0 1 0")
    """
    try:
        read = script(steps)
        legal = bool(read) and all(step.verb in METHODS for step in read) and _legal(read)
    except (ValueError, IndexError):
        read, legal = (), False
    if not legal:
        raise ArgumentError(f"steps must be of caches and sequences that are there, got {steps!r}")
    fault = _run(adapter, read)
    if fault is not None:
        raise fault


def load_cache(name: str) -> CacheAdapter | None:
    """Import ``module:name`` where it is a cache adapter, or a class of one; None elsewhere.

    Raises
    ------
    ArgumentError
        A class that needs arguments.

    Examples
    --------
    >>> load_cache("kvattn.testing.conformance:PagedAdapter")
    PagedAdapter(page=4)
    >>> load_cache("math:sin") is None
    True
    """
    module, colon, path = name.partition(":")
    if not colon or not path:
        return None
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            value: Any = importlib.import_module(module)
        for step in path.split("."):
            value = getattr(value, step)
    except Exception:  # noqa: BLE001 - `kvattn.testing.targets.load` says what is wrong
        return None
    if not all(hasattr(value, method) for method in METHODS):
        return None
    try:
        adapter: CacheAdapter = value() if isinstance(value, type) else value
    except TypeError as error:
        raise ArgumentError(
            f"target must be an adapter, or a class that takes no argument, got {name}: {error}"
        ) from error
    return adapter
