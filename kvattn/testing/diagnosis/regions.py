"""Shapes of sight beside the triangle: keys ahead of the query, chunks, a prefix that everybody sees.

Method: `readings`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.padding import STARTS
from kvattn.testing.diagnosis.places import key_places, query_places
from kvattn.testing.diagnosis.readings import Reading, read_sight, with_options, without
from kvattn.testing.diagnosis.recipe import FLAT, Built, Sizes
from kvattn.typing import Visible

PREFIX = "np.minimum({S}, np.array([3, 0, 6])[:{B}])"
"""Prefixes of three sequences."""

_LONG, _SQUARE = Sizes(3, 4, 2, 4, 9, 12, 12), Sizes(3, 4, 2, 7, 7, 12, 12)


def _table(sees: Callable[[Any, Any, dict[str, Any]], Any]) -> Callable[[Built], Visible]:
    """Who sees whom, from the places of queries and keys and the keywords."""

    def read(built: Built) -> Visible:
        keep = sees(query_places(built), key_places(built), built.options)
        return np.broadcast_to(keep, (*built.q.shape[:3], built.k.shape[2]))

    return read


def read_ahead(lab: Lab) -> None:
    """Fit both bounds of a window that looks ahead.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"ahead": "j - i < a"}))
    >>> read_ahead(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('window-off-by-one', {'argument': 'ahead', 'extra': -1})
    """
    cases = [
        lab.case(sizes, FLAT, window=str(w), ahead=str(a))
        for sizes in (_SQUARE, _LONG)
        for w, a in ((3, 1), (2, 2), (1, 3), (4, 0))
    ]

    def moved(by: int) -> Reading:
        words = f"A window that looks A keys ahead shows A {'+' if by > 0 else '-'} {abs(by)} of them"
        change = with_options(lab, lambda built: {"ahead": built.options["ahead"] + by})
        return Reading("window-off-by-one", {"argument": "ahead", "extra": by}, words, change)

    def wider(by: int) -> Reading:
        def sees(built: Built) -> Visible:
            behaviour = replace(lab.behaviour, extra_keys=lab.behaviour.extra_keys + by)
            return behaviour.visible(built)

        words = f"A window of W shows W {'+' if by > 0 else '-'} {abs(by)} keys beside ahead="
        return Reading("window-off-by-one", {"argument": "window", "extra": by, "with": ["ahead"]}, words, sees)

    readings = [
        Reading(
            "mask-dropped",
            {"argument": "ahead"},
            "ahead= changes nothing: every later key is seen",
            without(lab, "ahead"),
        ),
        Reading(
            "mask-dropped",
            {"argument": "ahead", "value": 0},
            "ahead= changes nothing: no later key is seen",
            with_options(lab, lambda built: {"ahead": 0}),
        ),
        Reading("mask-dropped", {"argument": "window"}, "With ahead= the window is lost", without(lab, "window")),
        *(moved(by) for by in (1, -1)),
        *(wider(by) for by in (1, -1)),
        Reading(
            "mask-compose",
            {"argument": "ahead", "reads": "window and ahead swapped"},
            "window and ahead are swapped",
            _table(lambda i, j, o: (i - j <= o["ahead"]) & (j - i < o["window"])),
        ),
        Reading(
            "mask-compose",
            {"argument": "ahead", "reads": "the window both ways"},
            "The window reaches as far ahead as back, whatever ahead= says",
            _table(lambda i, j, o: (i - j < o["window"]) & (j - i < o["window"])),
        ),
        Reading(
            "mask-compose",
            {"operator": "or", "of": ["window", "ahead"]},
            "window and ahead are joined by OR",
            _table(lambda i, j, o: (i - j < o["window"]) | (j - i <= o["ahead"])),
        ),
    ]
    read_sight(lab, "ahead", cases, readings)


def read_chunk(lab: Lab) -> None:
    """Fit what ``chunk=C`` shows.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"chunk": "t // c == j // c"}))
    >>> read_chunk(lab)
    >>> lab.findings[0].parameters["reads"]
    'chunks of queries counted from the first query'
    """
    cases = [lab.case(sizes, FLAT, chunk=str(c)) for sizes in (_SQUARE, _LONG) for c in (3, 2, 5)]

    def reading(words: str, sees: Callable[[Any, Any, dict[str, Any]], Any]) -> Reading:
        return Reading("mask-compose", {"argument": "chunk", "reads": words}, f"chunk= means {words}", _table(sees))

    def first_query(built: Built) -> Visible:
        i, j = query_places(built, "top_left"), key_places(built)
        keep = i // built.options["chunk"] == j // built.options["chunk"]
        return np.broadcast_to(keep, (*built.q.shape[:3], built.k.shape[2]))

    def resized(by: int, i: Any, j: Any, options: dict[str, Any]) -> Any:
        size = max(1, options["chunk"] + by)
        return i // size == j // size

    first = "chunks of queries counted from the first query"
    readings = [
        Reading("mask-dropped", {"argument": "chunk"}, "chunk= changes nothing", without(lab, "chunk")),
        Reading("mask-compose", {"argument": "chunk", "reads": first}, f"chunk= means {first}", first_query),
        *(reading(f"chunks of C {by:+d}", partial(resized, by)) for by in (1, -1)),
        reading("chunks that begin one later", lambda i, j, o: (i - 1) // o["chunk"] == (j - 1) // o["chunk"]),
        reading("chunks that begin one earlier", lambda i, j, o: (i + 1) // o["chunk"] == (j + 1) // o["chunk"]),
        reading("a window of C keys", lambda i, j, o: (i - j < o["chunk"]) & (j <= i)),
        reading("a distance below C", lambda i, j, o: abs(i - j) < o["chunk"]),
        reading("the query's chunk and all before", lambda i, j, o: i // o["chunk"] >= j // o["chunk"]),
        reading("the query's chunk and the one before", lambda i, j, o: (i // o["chunk"] - j // o["chunk"]) // 2 == 0),
    ]
    if read_sight(lab, "chunk", cases, readings) and lab.can("causal", "chunk"):
        both = [lab.case(sizes, FLAT, causal="True", chunk="3") for sizes in (_SQUARE, _LONG)]
        joined = Reading(
            "mask-compose",
            {"operator": "or", "of": ["causal", "chunk"]},
            "causal and chunk are joined by OR",
            _table(lambda i, j, o: (j <= i) | (i // o["chunk"] == j // o["chunk"])),
        )
        read_sight(lab, "chunk", both, [joined, *_lost(lab, "causal", "chunk")])


def read_prefix(lab: Lab) -> None:
    """Fit what ``prefix=`` opens, and that it opens no padding.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"prefix": "before & (j >= p)"}))
    >>> read_prefix(lab)
    >>> lab.findings[0].parameters["reads"]
    'the prefix hidden'
    """
    cases = [case for sizes in (_SQUARE, _LONG) for case in lab.each(sizes, FLAT, causal="True", prefix=PREFIX)]

    def column(options: dict[str, Any], by: int = 0) -> Any:
        return np.asarray(options["prefix"])[:, None, None, None] + by

    def reading(words: str, sees: Callable[[Any, Any, dict[str, Any]], Any]) -> Reading:
        return Reading("mask-compose", {"argument": "prefix", "reads": words}, f"It reads: {words}", _table(sees))

    def grown(by: int, i: Any, j: Any, options: dict[str, Any]) -> Any:
        return (j <= i) | (j < column(options, by))

    readings = [
        Reading("mask-dropped", {"argument": "prefix"}, "prefix= changes nothing", without(lab, "prefix")),
        Reading(
            "mask-dropped",
            {"argument": "causal", "with": ["prefix"]},
            "With prefix= the causal part is lost",
            without(lab, "causal"),
        ),
        Reading(
            "batch-row-state",
            {"argument": "prefix", "of": "sequence 0"},
            "The prefix of the first sequence holds for all",
            with_options(
                lab, lambda built: {"prefix": np.full_like(built.options["prefix"], built.options["prefix"][0])}
            ),
        ),
        *(reading(f"a prefix of p {by:+d} keys", partial(grown, by)) for by in (1, -1)),
        reading("the prefix alone", lambda i, j, o: j < column(o)),
        reading("the prefix hidden", lambda i, j, o: (j <= i) & (j >= column(o))),
        reading("causal AND prefix", lambda i, j, o: (j <= i) & (j < column(o))),
        reading("everything from the prefix on", lambda i, j, o: (j <= i) | (j >= column(o))),
    ]
    if not read_sight(lab, "prefix", cases, readings):
        return
    for name, text in (("starts", STARTS), ("lengths", "np.minimum({S}, np.array([7, 2, 5])[:{B}])")):
        if lab.can("causal", "prefix", name):
            both = lab.each(Sizes(3, 4, 2, 2, 9, 12, 12), FLAT, causal="True", prefix=PREFIX, **{name: text})
            after = Reading(
                "mask-compose",
                {"order": "prefix after padding", "with": [name]},
                f"The prefix is opened after {name}= has hidden the padding, which is seen again",
                lambda built: lab.behaviour.visible(built) | (key_places(built) < column(built.options)),
            )
            read_sight(lab, "prefix", both, [after, *_lost(lab, "prefix", name)])


def _lost(lab: Lab, *names: str) -> list[Reading]:
    """Readings in which one of two keywords is lost beside the other."""
    return [
        Reading("mask-dropped", {"argument": a, "with": [b]}, f"With {b}= {a} is lost", without(lab, a))
        for a, b in (names, names[::-1])
    ]
