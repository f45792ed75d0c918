"""Rules by which people count the pairs of T queries and S keys, for one sequence and head.

The queries are the last T of S positions, T <= S, and a window W has the query's own key.  A rule that other projects
use and say is a convention; one that is right at no alignment is a fault.  Of half a square, ``n * n / 2``, it is
taken for granted that it may be rounded down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, TypeAlias

from kvattn.testing.counter_diagnosis.sizes import pairs
from kvattn.testing.diagnosis.finding import Kind

Node: TypeAlias = tuple[int, int, int | None]
"""T, S and W."""

Table: TypeAlias = Mapping[Node, Fraction]
"""Pairs that were read at each node."""


@dataclass(frozen=True)
class Rule:
    """One way to count pairs, or rows.

    Attributes
    ----------
    count
        Of a node.
    words
        What it does, after "it".
    kind
        ``"right"`` for the contract's.
    parameters
        Of the finding.

    Examples
    --------
    >>> CAUSAL[0].count((3, 5, None)), CAUSAL[0].kind
    (Fraction(12, 1), 'right')
    """

    count: Callable[[Node], int | Fraction]
    words: str
    kind: Kind | str = "fault"
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def settled(self, table: Table) -> "Rule | None":
        """Return the rule, with halves rounded down if that is what was read, or None where it does not explain it.

        >>> half = CAUSAL[2]
        >>> half.settled({(3, 3, None): Fraction(4)}).count((5, 5, None))
        12
        >>> half.settled({(3, 3, None): Fraction(5)}) is None
        True
        """
        if not table:
            return None
        if all(read == self.count(node) for node, read in table.items()):
            return self
        if all(read == self.count(node) // 1 for node, read in table.items()):
            return replace(self, count=lambda node: self.count(node) // 1)
        return None


def _rule(name: str, value: str, kind: Kind | str, words: str, count: Callable[[int, int, int], Any]) -> Rule:
    return Rule(
        lambda node: Fraction(count(node[0], node[1], node[1] if node[2] is None else node[2])),
        words,
        kind,
        {name: value},
    )


DENSE: tuple[Rule, ...] = (
    _rule("pairs", "T * S", "right", "takes all pairs", lambda t, s, _: t * s),
    _rule("keys", "T", "fault", "takes as many keys as there are queries, T * T", lambda t, _s, _: t * t),
    _rule("queries", "S", "fault", "takes as many queries as there are keys, S * S", lambda _t, s, _: s * s),
    _rule("queries", "ignored", "fault", "takes one query, however many there are", lambda _t, s, _: s),
    _rule("keys", "ignored", "fault", "takes one key, however many there are", lambda t, _s, _: t),
    _rule("causal", "always", "fault", "takes the pairs of a causal mask, also without one",
          lambda t, s, _: pairs(t, s)),
    _rule("causal", "always half", "fault", "takes half a square off, also without a causal mask",
          lambda t, s, _: t * s - Fraction(t * t, 2)),
)  # fmt: skip
"""Without causal."""

TOKEN = Rule(lambda node: node[1], "counts for one token of as many", "convention", {"per": "token"})
"""Without causal, of a counter that takes one length."""

CAUSAL: tuple[Rule, ...] = (
    _rule("causal", "exact", "right", "takes the visible pairs", lambda t, s, _: pairs(t, s)),
    _rule("causal", "all pairs", "convention", "takes all pairs, those behind the causal mask too",
          lambda t, s, _: t * s),
    _rule("causal", "half", "convention", "takes half of the square under the causal mask, T * T / 2",
          lambda t, s, _: t * s - Fraction(t * t, 2)),
    _rule("causal", "top-left", "convention", "ties the triangle to the top-left corner, T (T + 1) / 2 pairs",
          lambda t, _s, _: t * (t + 1) // 2),
    _rule("causal", "half top-left", "convention", "ties the triangle to the top-left corner and halves, T * T / 2",
          lambda t, _s, _: Fraction(t * t, 2)),
    _rule("causal", "half at any length", "fault",
          "takes half of all pairs also where T is not S, T * S / 2, which is right at no alignment",
          lambda t, s, _: Fraction(t * s, 2)),
    _rule("causal", "(S - T)**2", "fault", "takes (S - T)**2 in place of T (S - T)",
          lambda t, s, _: (s - t) ** 2 + Fraction(t * t, 2)),
    _rule("causal", "(S - T)**2", "fault", "takes (S - T)**2 in place of T (S - T)",
          lambda t, s, _: (s - t) ** 2 + t * (t + 1) // 2),
    _rule("causal", "diagonal left out", "fault", "leaves out each query's own key", lambda t, s, _: pairs(t, s) - t),
    _rule("causal", "one key more", "fault", "lets each query but the last see one key more",
          lambda t, s, _: pairs(t, s) + t - 1),
    _rule("causal", "one key more each", "fault", "takes one key more for each query", lambda t, s, _: pairs(t, s) + t),
    _rule("causal", "all of the past left out", "fault", "takes (S - T)**2 alone", lambda t, s, _: (s - t) ** 2),
    _rule("causal", "triangle left out", "fault", "takes the keys before the first query alone, T (S - T)",
          lambda t, s, _: t * (s - t)),
    _rule("causal", "queries S", "fault", "takes S queries, S (S + 1) / 2 pairs", lambda _t, s, _: s * (s + 1) // 2),
    _rule("causal", "half of S * S", "fault", "takes S queries and halves, S * S / 2",
          lambda _t, s, _: Fraction(s * s, 2)),
    _rule("causal", "halved twice", "fault", "halves the visible pairs", lambda t, s, _: Fraction(pairs(t, s), 2)),
    _rule("causal", "quarter", "fault", "takes a quarter of all pairs", lambda t, s, _: Fraction(t * s, 4)),
    _rule("causal", "left out", "fault", "counts nothing", lambda _t, _s, _: 0),
)  # fmt: skip
"""With causal; what comes first wins where a counter takes no sizes that would tell two apart."""


def _short(t: int, s: int, w: int) -> int:
    """Queries that see fewer keys than the window has, and one more."""
    return max(0, min(w, s) - (s - t))


WINDOW: tuple[Rule, ...] = (
    _rule("window", "exact", "right", "takes the visible pairs", pairs),
    _rule("window", "T * W", "convention", "lets every query see a whole window, the first ones too: T min(W, S)",
          lambda t, s, w: t * min(w, s)),
    _rule("window", "half", "convention", "takes half of the square where the first queries see fewer than W keys",
          lambda t, s, w: t * min(w, s) - Fraction(_short(t, s, w) ** 2, 2)),
    _rule("window", "top-left", "convention", "ties the window to the top-left corner",
          lambda t, _s, w: pairs(t, t, w)),
    _rule("window", "W + 1", "fault", "takes W + 1 keys for a window of W", lambda t, s, w: pairs(t, s, w + 1)),
    _rule("window", "W - 1", "fault", "takes W - 1 keys for a window of W", lambda t, s, w: pairs(t, s, w - 1)),
    _rule("window", "W + 1", "fault", "takes W + 1 keys for a window of W, T min(W + 1, S)",
          lambda t, s, w: t * min(w + 1, s)),
    _rule("window", "W - 1", "fault", "takes W - 1 keys for a window of W, T min(W - 1, S)",
          lambda t, s, w: t * min(w - 1, s)),
    _rule("window", "not limited", "fault", "takes T * W pairs also where there are fewer than W keys",
          lambda t, _s, w: t * w),
    _rule("window", "both sides", "fault", "takes W keys on either side",
          lambda t, s, w: sum(min(s - 1, q + w - 1) - max(0, q - w + 1) + 1 for q in range(s - t, s))),
    _rule("window", "2 W", "fault", "takes 2 W keys for a window of W", lambda t, s, w: pairs(t, s, 2 * w)),
    _rule("window", "halved", "fault", "takes half of T min(W, S)", lambda t, s, w: Fraction(t * min(w, s), 2)),
    _rule("window", "outside", "fault", "takes the pairs outside of the window",
          lambda t, s, w: pairs(t, s) - pairs(t, s, w)),
    _rule("window", "left out", "fault", "counts nothing", lambda _t, _s, _w: 0),
)  # fmt: skip
"""With a window."""


def tiled(tall: int, wide: int, whole: bool) -> Rule:
    """Count tiles of ``tall`` queries by ``wide`` keys with a visible pair in them, whole or clipped to T and S.

    >>> tiled(4, 4, True).count((6, 6, None)), tiled(4, 4, False).count((6, 6, None))
    (Fraction(48, 1), Fraction(28, 1))
    """

    def count(node: Node) -> Fraction:
        t, s, w = node
        total = 0
        for top in range(0, t, tall):
            bottom = min(top + tall, t)
            first = 0 if w is None else max(0, s - t + top - w + 1)
            last = s - t + bottom - 1
            columns = range(first // wide, last // wide + 1)
            held = len(columns) * wide if whole else min(s, columns.stop * wide) - columns.start * wide
            total += (tall if whole else bottom - top) * held
        return Fraction(total)

    clipped = "" if whole else ", clipped to T and S"
    return Rule(
        count,
        f"takes whole tiles of {tall} queries by {wide} keys wherever a pair in them is visible{clipped}",
        "convention",
        {"tiles": [tall, wide]},
    )


def covered(tall: int, wide: int) -> Rule:
    """Count all pairs, with T and S rounded up to tiles.

    >>> covered(4, 8).count((6, 6, None))
    64
    """
    return Rule(
        lambda node: -(-node[0] // tall) * tall * (-(-node[1] // wide) * wide),
        f"rounds queries up to {tall} and keys to {wide}",
        "convention",
        {"tiles": [tall, wide]},
    )
