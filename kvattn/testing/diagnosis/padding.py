"""Sequences of unequal length in one batch: ``lengths`` (padding behind) and ``starts`` (padding in front).

Method: `readings`.  First without a triangle, where only the padding shows, then with one, whose corner must
be that of each sequence and not of the buffer or of the first sequence.
"""

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.readings import Reading, read_sight, with_options, without
from kvattn.testing.diagnosis.recipe import FLAT, Built, Sizes
from kvattn.typing import Visible

LENGTHS = "np.minimum({S}, np.array([7, 4, 8])[:{B}])"
"""Lengths of three sequences, none of them a whole number of pages."""

STARTS = "np.array([2, 0, 3])[:{B}]"
"""First real keys of three sequences."""

_SIZES = (Sizes(3, 4, 2, 3, 9, 12, 12), Sizes(3, 4, 2, 1, 9, 12, 12))


def read_lengths(lab: Lab) -> None:
    """Fit what ``lengths=`` hides, and where the queries of a shorter sequence stand.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"lengths": "s <= n"}))
    >>> read_lengths(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('padding-positions', {'argument': 'lengths', 'extra': 1})
    """
    cases = [case for sizes in _SIZES for case in lab.each(sizes, FLAT, lengths=LENGTHS)]
    if read_sight(lab, "lengths", cases, _of(lab, "lengths")) and lab.can("causal", "lengths"):
        _corner(lab)


def _of(lab: Lab, name: str) -> list[Reading]:
    """Readings of lengths or starts."""

    def given(built: Built) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.asarray(built.options[name])

    def moved(by: int) -> Reading:
        words = f"A padding key is visible: {name} counts {by:+d}" if (by > 0) == (name == "lengths") else ""
        words = words or f"A real key is hidden: {name} counts {by:+d}"
        changed = with_options(lab, lambda built: {name: given(built) + by})
        return Reading("padding-positions", {"argument": name, "extra": by}, words, changed)

    def one(which: str, pick: str) -> Reading:
        def change(built: Built) -> dict[str, object]:
            value = {"sequence 0": given(built)[0], "the longest": given(built).max()}[pick]
            return {name: np.full_like(given(built), value)}

        words = f"The {name} of {which} holds for all sequences"
        return Reading("batch-row-state", {"argument": name, "of": pick}, words, with_options(lab, change))

    def other_side(built: Built) -> Visible:
        count = built.k.shape[2]
        slots, n = np.arange(count), given(built)[:, None, None, None]
        return np.asarray(
            (slots >= count - n if name == "lengths" else slots < count - n)
            & np.ones((*built.q.shape[:3], count), np.bool_)
        )

    def complement(built: Built) -> Visible:
        return ~with_options(lab, lambda b: {})(built) & without(lab, name)(built)

    def whole_pages(built: Built) -> Visible:
        return with_options(lab, lambda b: {name: -(-given(b) // 4) * 4})(built)

    side = "front" if name == "lengths" else "back"
    return [
        Reading("mask-dropped", {"argument": name}, f"{name}= changes nothing: padding is seen", without(lab, name)),
        one("the first sequence", "sequence 0"),
        one("the longest sequence", "the longest"),
        *(moved(by) for by in (1, -1, 2, -2)),
        Reading("padding-positions", {"argument": name, "side": side}, f"Padding is taken off the {side}", other_side),
        Reading("mask-polarity", {"argument": name}, f"{name}= hides the real keys and shows the padding", complement),
        Reading(
            "padding-positions", {"argument": name, "extra": "to a whole page of 4"}, "Pages end full", whole_pages
        ),
    ]


def _corner(lab: Lab) -> None:
    cases = [case for sizes in _SIZES for case in lab.each(sizes, FLAT, causal="True", lengths=LENGTHS)]

    def placed(first: str) -> Reading:
        def sees(built: Built) -> Visible:
            b, _, t, _ = built.q.shape
            n, count = np.asarray(built.options["lengths"]), built.k.shape[2]
            corner = {"buffer_end": count - t, "top_left": 0, "sequence 0": n[0] - t, "the longest": n.max() - t}
            ahead = {"one late": n - t + 1, "one early": n - t - 1}
            at = np.broadcast_to(corner[first] if first in corner else ahead[first], (b,))
            i = at[:, None, None, None] + np.arange(t)[:, None]
            hidden = np.arange(count) >= n[:, None, None, None]
            return np.broadcast_to((np.arange(count) <= i) & ~hidden, (*built.q.shape[:3], count))

        if first in {"sequence 0", "the longest"}:
            words = f"Where the queries stand is taken from {first} for all"
            return Reading("batch-row-state", {"argument": "lengths", "what": "corner", "of": first}, words, sees)
        words = f"With lengths= the causal triangle is tied to the {first.replace('_', ' ')}"
        return Reading("causal-align", {"anchor": first, "with": "lengths"}, words, sees)

    lost = Reading(
        "mask-dropped",
        {"argument": "causal", "with": ["lengths"]},
        "With lengths= causal is lost",
        without(lab, "causal"),
    )
    dropped = Reading(
        "mask-dropped",
        {"argument": "lengths", "with": ["causal"]},
        "With causal= lengths is lost",
        without(lab, "lengths"),
    )
    corners = ("buffer_end", "top_left", "sequence 0", "the longest", "one late", "one early")
    read_sight(lab, "lengths", cases, [*(placed(first) for first in corners), lost, dropped])


def read_starts(lab: Lab) -> None:
    """Fit what ``starts=`` hides.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(ignore=("starts",)))
    >>> read_starts(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('mask-dropped', {'argument': 'starts'})
    """
    cases = [case for sizes in _SIZES for case in lab.each(sizes, FLAT, starts=STARTS)]
    if read_sight(lab, "starts", cases, _of(lab, "starts")) and lab.can("causal", "starts"):
        both = (_SIZES[0], Sizes(3, 4, 2, 6, 6, 12, 12))
        cases = [case for sizes in both for case in lab.each(sizes, FLAT, causal="True", starts=STARTS)]
        names = ("causal", "starts")
        lost = [
            Reading("mask-dropped", {"argument": a, "with": [b]}, f"With {b}= {a} is lost", without(lab, a))
            for a, b in (names, names[::-1])
        ]
        read_sight(lab, "starts", cases, lost)
