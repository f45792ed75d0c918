"""Flags say what kind of bug they stand for, and known bugs say where they were."""

import re

from kvattn import goldens
from kvattn.goldens.flag import BUG_TYPES, Flag

INCIDENTS = {
    "7142": "OnnxReshape",
    "7274": "OnnxTile",
    "7297": "OnnxCausalPast",
    "7867": "OnnxSoftcapAfterMask",
    "7913": "OnnxStages",
    "8068": "OnnxExternalCache",
    "2113": "LseBase",
    "4485": "LseBase",
    "4547": "LseBase",
    "4650": "LseBase",
    "28840": "LseBase",
    "35045": "LseBase",
    "181645": "LseBase",
    "688": "CacheSize",
}
"""Numbers of the issues and pull requests that must have a case, and the flag that names them."""


def test_every_flag_has_a_bug_type_and_known_bugs_have_links() -> None:
    flags = {flag for case in goldens.cases() for flag in case.flags}
    assert {flag.bug_type for flag in flags} <= set(BUG_TYPES)
    for flag in flags:
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", flag.name), flag.name
        assert flag.description.endswith(".")
        assert all(link.startswith("https://") for link in flag.links)
        assert flag.links or flag.bug_type != "KNOWN_BUG"


def test_every_incident_has_a_case_that_says_what_the_bug_gives() -> None:
    for number, name in INCIDENTS.items():
        cases = [case for case in goldens.cases(flags=name) if case.mistakes]
        assert cases, name
        links = {link for case in cases for flag in case.flags if flag.name == name for link in flag.links}
        assert any(link.endswith(f"/{number}") for link in links), number


def test_flags_are_values() -> None:
    assert Flag("A", "BASIC", "It is.") == Flag("A", "BASIC", "It is.")
