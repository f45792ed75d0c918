"""A test file for somebody's attention function, ready to run: what ``kvattn check TARGET --write-test`` writes.

The file holds one test that checks and names (`kvattn.testing.passing.must_pass`), and one in which Hypothesis draws
calls and compares them with the definition.  Conventions that the check has found are written down in it, so that it
passes as long as they stay the same; a fault is not: the file fails until it is mended.
"""

from dataclasses import fields
from pathlib import Path
import re

from kvattn.errors import ArgumentError
from kvattn.testing.checking import Report
from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.drawn_calls import FEATURES
from kvattn.testing.targets import Target

_FILE = '''\
"""{name} against kvattn, as ``kvattn check {name} --write-test`` wrote it."""

from hypothesis import given, settings
{imports}

{setup}

{lines}


def test_it_is_what_the_contract_says(kvattn_check):
    kvattn_check({target})


@settings(deadline=None)
@given({strategy})
def test_it_agrees_with_the_definition(call):
    call.must_agree(call.run(f){agreed})
'''


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
    taken = target.features - ({"mask"} if target.mask_form != "boolean" else set())  # calls have booleans
    features = tuple(name for name in FEATURES if name in taken)
    apart = tuple(sorted(tuple(sorted(pair)) for pair in target.exclusive))
    lines = [f"FEATURES = {features!r}"]
    imports = ["from kvattn.testing.strategies import calls"]
    arguments, strategy, agreed = "f", "calls(FEATURES", ""
    if apart:
        lines.append(f"APART = {apart!r}")
        strategy += ", apart=APART"
    strategy += ")"
    conventions = {finding.fault_class for finding in report.findings if finding.kind == "convention"}
    if "empty-row" in conventions or "empty rows" in report.behaviour.without:
        strategy += ".filter(lambda call: call.visible.any(-1).all())"
    ways = _ways(report.behaviour) if report.verdict == "convention" else ""
    if ways:
        imports.insert(0, "from kvattn.testing.diagnosis.behaviour import Behaviour")
        lines.append(f"WAYS = Behaviour({ways})  # conventions that were found")
        agreed = ", behaviour=WAYS"
    return _FILE.format(
        name=target.name,
        imports="\n".join(imports),
        setup=target.setup.replace("; ", "\n"),
        lines="\n".join(lines),
        target=arguments,
        strategy=strategy,
        agreed=agreed,
    )


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


def _ways(behaviour: Behaviour) -> str:
    """Write the fields that differ from the contract's, as arguments."""
    plain = Behaviour()
    differ = ((field.name, getattr(behaviour, field.name)) for field in fields(behaviour) if field.name != "without")
    return ", ".join(f"{name}={value!r}" for name, value in differ if value != getattr(plain, name))
