"""What is raised in place of what a target raised."""

import pytest

from kvattn.testing.diagnosis.raised import Misshapen, Refused, Untaken, told


class Unreadable(Exception):  # noqa: N818 - a target's own
    def __str__(self) -> str:
        raise ValueError("no message")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (KeyError(), "KeyError: without a message"),
        (Unreadable(), "Unreadable: its message cannot be read"),
    ],
    ids=["two lines", "nothing", "unreadable"],
)
def test_an_exception_is_told_on_one_line(error: Exception, line: str) -> None:
    assert told(error) == line


def test_a_long_message_is_cut() -> None:
    assert len(told(ValueError("x" * 500))) == 160


@pytest.mark.parametrize("kind", [Misshapen, Untaken])
def test_whoever_catches_a_refusal_catches_all(kind: type[Refused]) -> None:
    with pytest.raises(Refused, match="why"):
        raise kind("why")
