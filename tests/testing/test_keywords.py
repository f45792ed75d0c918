"""The table of keywords: every name that a row mentions is a row, and what is needed can be had."""

import inspect
from pathlib import Path

from kvattn.testing.keywords import ARRAYS, FLOATING, KEYWORDS, PLAIN, excludes, fed, whole, whole_signature
from kvattn.testing.planted import Planted


def test_rows_name_rows() -> None:
    mentioned = {word for row in KEYWORDS.values() for text in (*row.needs, *row.apart) for word in text.split("|")}
    assert mentioned | ARRAYS | FLOATING <= set(KEYWORDS)
    assert set(PLAIN) == {"causal", "window", "scale", "softcap", "sinks", "bias", "mask"}


def test_every_keyword_can_be_given_with_what_it_needs() -> None:
    for name in KEYWORDS:
        assert whole(fed([name], KEYWORDS)), name
        assert whole_signature(name, KEYWORDS)
        assert not KEYWORDS[name].needs or not whole([name])
        assert not any(excludes(name, other) for other in fed([name], KEYWORDS))


def test_the_planted_attention_takes_them_all() -> None:
    assert list(inspect.signature(Planted()).parameters)[3:] == list(KEYWORDS)


def test_the_page_has_every_row_as_it_is() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/testing/keywords.md").read_text(encoding="utf-8")
    for name, row in KEYWORDS.items():
        needs = ", ".join(need.replace("|", " or ") for need in row.needs)
        meaning = row.meaning.replace("|", "\\|")
        assert f"| `{name}` | {meaning} | {needs} | {', '.join(row.apart)} |" in page
