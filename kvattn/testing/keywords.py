"""Every keyword of the contract of `kvattn.testing.targets`: what it means, what it needs, what it excludes.

Words that several rows share: query t of sequence b stands at position ``n[b] - T + t``, where n[b] counts its keys
(S, or ``lengths[b]``), key s at position s; ``q_positions`` and ``k_positions`` say otherwise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType


@dataclass(frozen=True)
class Keyword:
    """One keyword.

    Attributes
    ----------
    meaning
        Shape and meaning, in a line.
    needs
        Keywords that it comes together with; of a group in one string, ``"causal|ahead"``, any.
    apart
        Keywords that it does not come together with.

    Examples
    --------
    >>> KEYWORDS["window"].needs
    ('causal|ahead',)
    """

    meaning: str
    needs: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


_PLACED = ("q_positions", "k_positions")

KEYWORDS: Mapping[str, Keyword] = MappingProxyType(
    {
        "causal": Keyword("key position <= query position"),
        "window": Keyword("W keys up to the query, its own counted: q - k < W", ("causal|ahead",)),
        "scale": Keyword("factor on q·k; 1/sqrt(D) if None"),
        "softcap": Keyword("c * tanh(score / c) after the scale, before bias and mask"),
        "sinks": Keyword("[Hq], one logit per head in the denominator, without a value, counted in the lse"),
        "bias": Keyword("[B, Hq, T, S], added after scale and cap; -inf hides"),
        "mask": Keyword("boolean [B, Hq, T, S], True = may see"),
        "ahead": Keyword("A keys after the query are seen beside the window: k - q <= A", ("window",), ("causal",)),
        "chunk": Keyword("query and key in the same chunk of C positions: q // C == k // C"),
        "prefix": Keyword("[B], first keys, seen by every query of a causal call", ("causal",), ("window", "chunk")),
        "lengths": Keyword("[B], real keys of each sequence; what follows is padding, and n[b] = lengths[b]"),
        "starts": Keyword("[B], first real key of each sequence; what precedes it is padding"),
        "segments": Keyword(
            "integers [B, S], the document of each key; queries are the last T and see their own document",
            apart=("lengths", "starts", "prefix", "chunk", "parents"),
        ),
        "parents": Keyword(
            "[T], draft tree over the last T keys: the parent's number, -1 for none; a query sees what stands before"
            " the tree, its ancestors and itself",
            apart=("causal", "window", "ahead", "chunk", "prefix", "lengths", "segments", "alibi", "alibi_slopes"),
        ),
        "q_positions": Keyword(
            "[B, T], where the queries stand",
            ("k_positions",),
            ("lengths", "starts", "prefix", "segments", "parents", "block_table"),
        ),
        "k_positions": Keyword(
            "[B, S], where the keys stand, in any order",
            ("q_positions",),
            ("lengths", "starts", "prefix", "segments", "parents", "block_table"),
        ),
        "alibi": Keyword("-slope[h] * |q - k| is added, with the slopes of the paper", apart=("alibi_slopes",)),
        "alibi_slopes": Keyword("[Hq], the same with these slopes"),
        "block_table": Keyword(
            "[B, pages], where k and v are pools [N, Hkv, P, D]: key s lies in page block_table[b, s // P] at s % P",
            ("lengths",),
            ("segments", "parents", "starts", "bias", "mask", "return_weights", *_PLACED),
        ),
        "splits": Keyword("in how many parts the keys are cut and merged; changes nothing"),
        "k_scale": Keyword("[Hkv], k is multiplied by it"),
        "v_scale": Keyword("[Hkv], v is multiplied by it"),
        "dropout": Keyword("probability, without effect unless training", ("training",)),
        "training": Keyword("False: dropout has no effect", ("dropout",)),
        "return_weights": Keyword("the probabilities [B, Hq, T, S] are returned too, last"),
    }
)
"""Keyword and its row; the first seven are the plain contract's."""

PLAIN = tuple(KEYWORDS)[:7]
"""Keywords of the plain contract."""

ARRAYS = frozenset(
    ("sinks", "bias", "mask", "prefix", "lengths", "starts", "segments", "parents", "q_positions", "k_positions")
) | {"alibi_slopes", "block_table", "k_scale", "v_scale"}
"""Keywords whose value is an array."""

FLOATING = frozenset(("sinks", "bias", "alibi_slopes", "k_scale", "v_scale"))
"""Keywords whose value is an array in the dtype of q, k and v."""


def whole(names: Iterable[str]) -> bool:
    """Say whether keywords make a call: each has what it needs, and none excludes another.

    Examples
    --------
    >>> whole(["causal", "window"]), whole(["window"]), whole(["causal", "ahead", "window"])
    (True, False, False)
    """
    given = set(names)
    fed = all(given & set(need.split("|")) for name in given for need in KEYWORDS[name].needs)
    return fed and not any(excludes(a, b) for a, b in combinations(given, 2))


def excludes(one: str, other: str) -> bool:
    """Say whether two keywords do not come together.

    Examples
    --------
    >>> excludes("causal", "ahead"), excludes("causal", "window")
    (True, False)
    """
    return other in KEYWORDS[one].apart or one in KEYWORDS[other].apart


def fed(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Add what the keywords need, from those that are known.

    Examples
    --------
    >>> fed(["window"], ["causal", "window", "ahead"])
    ('causal', 'window')
    >>> fed(["ahead"], ["causal", "window", "ahead"])
    ('window', 'ahead')
    """
    given = set(names)
    for _ in range(2):
        for name in sorted(given):
            for need in KEYWORDS[name].needs:
                choices = need.split("|")
                if not given & set(choices):
                    given |= set([c for c in choices if c in known][:1])
    return tuple(name for name in KEYWORDS if name in given)


def whole_signature(name: str, features: Iterable[str]) -> bool:
    """Say whether a function that takes a keyword takes one of those that it needs, too.

    Examples
    --------
    >>> whole_signature("dropout", ["dropout", "training"]), whole_signature("dropout", ["dropout"])
    (True, False)
    """
    return all({*features} & set(need.split("|")) for need in KEYWORDS[name].needs)
