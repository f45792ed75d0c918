"""A test file for somebody's attention function, ready to run: what ``kvattn check TARGET --write-test`` writes.

The file holds one test that checks and names (`kvattn.testing.passing.must_pass`), and one in which Hypothesis draws
calls of all keywords that the function takes, of sizes that it takes, and compares them with the definition.
Conventions that the check has found are written down in it, so that it passes as long as they stay the same; a fault is
not: the file fails until it is mended.  Where a convention leaves nothing to compare with the definition, as a logit in
every denominator does, the first test stands alone.
"""

from collections.abc import Iterable
from dataclasses import fields
import json
from pathlib import Path
import re
from typing import Any

from kvattn.errors import ArgumentError
from kvattn.testing import arithmetic
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.checking import FEW, Report
from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.finding import Finding
from kvattn.testing.keywords import KEYWORDS, whole_signature
from kvattn.testing.shapes import ANY
from kvattn.testing.targets import NEUTRAL, Target, target_of

_WIDTH = 88
"""Columns of a line, as most formatters have it."""

_FILE = '''\
"""{name} against kvattn.

Written by ``kvattn check --write-test``.
"""

{head}


def test_it_is_what_the_contract_says(kvattn_check: Callable[..., object]) -> None:
    kvattn_check({checked})
'''

_DRAWN = """

@settings({settings})
@given({drawn})
def test_it_agrees_with_the_definition(call: Call) -> None:
    {compared}
"""

_FIELDS = {
    "causal-align": ("anchor", "shift"),
    "gqa-map": ("key_map", "value_map"),
    "lse-merge": ("lse_factor",),
    "mask-polarity": ("mask",),
    "sink": ("sink_in_lse",),
    "window-off-by-one": ("extra_keys",),
}
"""What of a `Behaviour` a convention is."""


def text_of(target: Target, report: Report) -> str:
    """Write the text of a test file.

    Parameters
    ----------
    target
        What was checked; it must be importable.
    report
        What the check found.

    Raises
    ------
    ArgumentError
        A target that only its caller can bind.

    Examples
    --------
    >>> from kvattn.testing.checking import check
    >>> from kvattn.testing.targets import load
    >>> target = load("kvattn.testing.contract:attend")
    >>> text = text_of(target, check(target, cases=0))
    >>> text.splitlines()[-1]
    '    call.must_agree(call.run(f))'
    """
    if not target.setup:
        raise ArgumentError(f"target must be importable to be written into a test, got {target.name}")
    binding, bound = _bound(target)
    typed = "" if report.dtype == "float64" else f", dtype={json.dumps(report.dtype)}"
    checked = "f" if _is_declared(target) else json.dumps(target.name)
    if report.margin is None and report.verdict != "fault":  # a convention that leaves nothing to compare with
        return _FILE.format(
            name=target.name, head=_head(*((binding, bound) if checked == "f" else ())), checked=checked + typed
        )
    found = [finding for finding in report.findings if finding.kind == "convention"]
    ways = _ways(report.behaviour, found)
    inside = _inside(report)
    apart = tuple(sorted(tuple(sorted(pair)) for pair in target.exclusive))
    froms = {
        "from hypothesis import given, settings",
        "from kvattn.testing.calls import Call",
        "from kvattn.testing.strategies import calls",
    }
    constants: list[tuple[str, str, str]] = [("FEATURES", _tuple(_features(target, report, found)), "")]
    words = ["FEATURES"] + ([f"dtype={json.dumps(report.dtype)}"] if typed else [])
    if apart:
        constants.append(("APART", _tuple(apart), ""))
        words.append("apart=APART")
    if report.shapes != ANY:
        froms.add("from kvattn.testing.shapes import Shapes")
        constants.append(("SHAPES", _written(report.shapes), ""))
        words.append("shapes=SHAPES")
    if target.mask_form != "boolean":
        words.append(f"mask_form={json.dumps(target.mask_form)}")
    against = ""
    if inside is not None:
        froms.add(f"from kvattn.testing.arithmetic import {inside.partition('(')[0]}")
        constants.append(("INSIDE", inside, "the arithmetic that was found"))
        against += ", arithmetic=INSIDE"
    if ways != Behaviour():
        froms.add("from kvattn.testing.diagnosis.behaviour import Behaviour")
        constants.append(("WAYS", _written(ways), "conventions that were found"))
        against += ", behaviour=WAYS"
    drawn = "CALLS"
    if "empty-row" in {finding.fault_class for finding in found} or "empty rows" in report.behaviour.without:
        sees = "Call.every_row_sees" if ways == Behaviour() else "lambda call: call.every_row_sees(WAYS)"
        drawn += f".filter({sees})"
    others = ""
    if target.required:
        neutral = [f'"{name}": {NEUTRAL.get(name)!r}' for name in KEYWORDS if name in target.required]
        constants.append(("OTHERS", f"{{{', '.join(neutral)}}}", "what it must be given always"))
        others = ", **OTHERS"
    constants.append(("CALLS", f"calls({', '.join(words)})", ""))
    lines = [_laid(f"{name} = {text}", note) for name, text, note in constants]
    head = _head(_sections({*froms, binding}), "\n".join([*([bound] if bound else []), *lines]))
    return _FILE.format(name=target.name, head=head, checked=checked + typed) + _DRAWN.format(
        settings=f"max_examples={FEW}, deadline=None" if report.slow else "deadline=None",
        drawn=drawn,
        compared=_laid(f"call.must_agree(call.run(f{others}){against})", indent="    "),
    )


def _head(*parts: str) -> str:
    return "\n\n".join(part for part in ("from collections.abc import Callable", *parts) if part)


def new_file(target: Target, path: str = "") -> Path:
    """Say where the test of a target goes: ``path``, or ``test_<name>.py`` in the working directory.

    Raises
    ------
    ArgumentError
        A file that exists: what is there stays.

    Examples
    --------
    >>> from kvattn.testing.targets import load
    >>> new_file(load("kvattn.testing.contract:attend")).name
    'test_attend.py'
    """
    place = Path(path or f"test_{re.split(r'[^0-9A-Za-z_]+', target.name)[-1]}.py")
    if place.exists():
        raise ArgumentError(f"--write-test must name a new file, got {place}, which exists")
    return place


def _features(target: Target, report: Report, found: list[Finding]) -> tuple[str, ...]:
    """What is drawn: all that it takes, but for what it was found to do by a convention that has no model."""
    fault = report.verdict == "fault"  # what is wrong is drawn: it will be mended
    told = {str(finding.parameters.get("argument")) for finding in found}
    without = report.behaviour.without & told if fault else report.behaviour.without
    names = target.features - without
    return tuple(name for name in KEYWORDS if name in names and whole_signature(name, names))


def _ways(behaviour: Behaviour, found: list[Finding]) -> Behaviour:
    """The conventions among what a target does, faults left out."""
    names = {name for finding in found for name in _FIELDS.get(finding.fault_class, ())}
    return Behaviour(**{name: getattr(behaviour, name) for name in sorted(names)})


def _inside(report: Report) -> str | None:
    """Write the arithmetic in which a target answers, where it is not that of its inputs."""
    wide = {"float64", "float32"} & {report.dtype}
    wrong = any(finding.kind == "fault" and finding.fault_class == "precision" for finding in report.findings)
    if (
        report.within is None
        or wrong
        or any(report.within == Arithmetic(x, tiles=t, merges=m) for x in wide for t, m in _PLAIN)
    ):
        return None
    if report.within == Arithmetic(report.within.compute):
        return _written(report.within)
    names = [name for name, value in vars(arithmetic).items() if value == report.within and name.isupper()]
    return names[0] if names else _written(report.within)


_PLAIN = ((8, 0), (0, 1))
"""Tiles and merges of the arithmetics that a call allows for by itself."""


def _is_declared(target: Target) -> bool:
    """Say whether the function alone says what is known of the target."""
    try:
        own = target_of(target.function)
    except ArgumentError:
        return False
    return all(
        getattr(own, name) == getattr(target, name)
        for name in ("features", "conventions", "exclusive", "mask_form", "shapes", "slow")
    )


def _bound(target: Target) -> tuple[str, str]:
    """The import of a target, and the statement that binds it to ``f`` where the import does not."""
    first, _, rest = target.setup.partition("; ")
    return first, rest.replace("; ", "\n")


def _sections(imports: Iterable[str]) -> str:
    """Lay imports out as formatters sort them: installed packages, then what lies in the working directory."""
    rows: dict[bool, list[str]] = {False: [], True: []}
    for line in sorted(imports, key=lambda line: (line.startswith("from"), line.split()[1])):
        root = line.split()[1].partition(".")[0]
        rows[any(Path(base, name).exists() for base in (".", "src") for name in (f"{root}.py", root))].append(line)
    return "\n\n".join("\n".join(part) for part in rows.values() if part)


def _written(value: Any) -> str:
    """Write a value as Python, the fields of a dataclass that differ from what they are by themselves."""
    if hasattr(value, "__dataclass_fields__"):
        plain = Arithmetic(value.compute) if isinstance(value, Arithmetic) else type(value)()
        given = ((field.name, getattr(value, field.name)) for field in fields(value))
        words = [f"{name}={_written(x)}" for name, x in given if x != getattr(plain, name) or name == "compute"]
        return f"{type(value).__name__}({', '.join(words)})"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, set | frozenset):
        return f"frozenset({_tuple(sorted(value))})"
    if isinstance(value, tuple | list):
        return _tuple(value)
    return repr(value)


def _tuple(values: Iterable[Any]) -> str:
    written = [_written(value) for value in values]
    return f"({', '.join(written)}{',' if len(written) == 1 else ''})"


def _laid(text: str, note: str = "", indent: str = "") -> str:
    """Lay a statement out on one line, or where it is too long with each part of its first bracket on one."""
    rows = [f"# {note}"] if note else []
    if len(indent + text) <= _WIDTH:
        return f"\n{indent}".join([*rows, text])
    opened = re.search(r"[({]", text)
    if opened is None:
        return f"\n{indent}".join([*rows, text])
    parts, depth = [""], 0
    for letter in text[opened.end() : -1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    rows += [text[: opened.end()], *(f"    {part.strip()}," for part in parts if part.strip()), text[-1]]
    return f"\n{indent}".join(rows)
