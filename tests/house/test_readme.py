"""What the README shows is what happens."""

import doctest
from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def failures(text: str) -> int:
    """Run every example of a page, one after the other, and count those that print something else."""
    example = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
    assert example.examples, "a page without examples proves nothing"
    return doctest.DocTestRunner(verbose=False).run(example).failed


def test_every_example_prints_what_is_shown() -> None:
    assert failures(README.read_text(encoding="utf-8")) == 0


def test_it_opens_with_two_commands_that_do_all_the_set_up() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    install, test = commands[:2]
    assert install == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/kvattn check"
    assert test == "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/python -m pytest -n auto"


def test_the_site_takes_in_the_part_between_the_markers() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.index("<!-- site starts -->") < text.index("## You have a kernel") < text.index("<!-- site ends -->")


@pytest.mark.parametrize("text", [">>> 1 + 1\n3\n", ">>> nothing\n1\n", ">>> int('x')\n1\n"])
def test_a_wrong_example_is_noticed(text: str) -> None:
    assert failures(text) == 1
