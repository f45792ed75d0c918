"""Rules by which people count the rows of a cache: those that it keeps, and those that a step reads.

S tokens, a step of T queries (0 where none is meant), a window W that has the query's own key.
"""

from fractions import Fraction

from kvattn.testing.counter_diagnosis.pairs import Node, Rule

TOKENS: tuple[Rule, ...] = (
    Rule(lambda node: node[1], "takes every token", "right", {"tokens": "S"}),
    Rule(lambda node: node[1] + 1, "takes one token more", "fault", {"tokens": "S + 1"}),
    Rule(lambda node: node[1] - 1, "takes one token less", "fault", {"tokens": "S - 1"}),
    Rule(lambda node: node[1] ** 2, "takes the square of the tokens", "fault", {"tokens": "S * S"}),
    Rule(lambda _: 1, "takes one token, however many there are", "fault", {"tokens": "ignored"}),
    Rule(lambda node: node[0] * node[1], "takes every row once for each query", "fault", {"reads": "once per query"}),
    Rule(lambda node: node[0], "takes the new tokens alone", "fault", {"tokens": "T"}),
    Rule(lambda node: node[1] - node[0], "leaves the new tokens out", "fault", {"tokens": "S - T"}),
    Rule(lambda node: node[1] + node[0], "takes the new tokens twice", "fault", {"tokens": "S + T"}),
    Rule(lambda node: node[1] * (node[1] + 1) // 2, "adds up over all steps", "fault", {"tokens": "S (S + 1) / 2"}),
)
"""Without a window."""


def pages(tokens: Rule) -> tuple[Rule, ...]:
    """Return the rules for rows in pages, W being their size, where rows without pages are those of another rule.

    >>> pages(TOKENS[0])[0].count((0, 17, 16))
    Fraction(32, 1)
    """

    def parts(node: Node) -> tuple[Fraction, int]:
        return Fraction(tokens.count((*node[:2], None))), node[2] or 1

    def up(node: Node) -> Fraction:
        rows, page = parts(node)
        return Fraction(-(-rows // page) * page)

    return (
        Rule(up, "takes whole pages", "right", {}),
        Rule(lambda node: parts(node)[0], "takes no notice of the page", "fault", {"page": "ignored"}),
        Rule(lambda node: parts(node)[0] // parts(node)[1] * parts(node)[1],
             "leaves the last page out where it is not full", "fault", {"page": "rounded down"}),
        Rule(lambda node: (parts(node)[0] // parts(node)[1] + 1) * parts(node)[1],
             "takes one page more where the last one is full", "fault", {"page": "one more"}),
        Rule(lambda node: up(node) / parts(node)[1], "counts pages, each as one token", "fault", {"page": "one token"}),
        Rule(lambda node: parts(node)[0] * parts(node)[1], "takes a page for each token", "fault",
             {"page": "for each token"}),
    )  # fmt: skip


def paged(page: int) -> Rule:
    """Tokens rounded up to whole pages.

    >>> paged(16).count((0, 17, None))
    32
    """
    words = f"rounds the tokens up to whole pages of {page}"
    return Rule(lambda node: -(-node[1] // page) * page, words, "convention", {"page": page})


def _w(node: Node) -> int:
    return node[1] if node[2] is None else node[2]


def _step(node: Node) -> int:
    """New tokens of a step beside the first."""
    return max(0, node[0] - 1)


WINDOW: tuple[Rule, ...] = (
    Rule(lambda node: min(node[1], _w(node) + _step(node)), "takes the rows of the window", "right", {}),
    Rule(lambda node: min(node[1], _w(node)), "takes W rows for a step of more than one query", "fault",
         {"window": "one query"}),
    Rule(lambda node: min(node[1], _w(node) - 1), "keeps W - 1 rows, what the next query sees beside its own",
         "convention", {"window": "W - 1 between steps"}),
    Rule(lambda node: min(node[1], _w(node) - 1 + _step(node)), "takes W - 1 rows for a window of W", "fault",
         {"window": "W - 1"}),
    Rule(lambda node: min(node[1], _w(node) + 1 + _step(node)), "takes W + 1 rows for a window of W", "fault",
         {"window": "W + 1"}),
    Rule(_w, "takes all W rows from the start, a ring that is allocated whole", "convention",
         {"window": "whole ring"}),
    Rule(lambda node: node[1], "takes every token, as if there were no window", "fault", {"window": "ignored"}),
    Rule(lambda node: node[0] * min(node[1], _w(node)), "takes the rows of the window once for each query", "fault",
         {"reads": "once per query"}),
    Rule(lambda node: node[0] * min(node[1], _w(node) + _step(node)),
         "takes the rows of the window once for each query", "fault", {"reads": "once per query"}),
    Rule(lambda node: max(0, node[1] - _w(node)), "takes the rows that the window has dropped", "fault",
         {"window": "dropped rows"}),
    Rule(lambda node: min(node[1], 2 * _w(node)), "takes 2 W rows for a window of W", "fault", {"window": "2 W"}),
    Rule(lambda node: Fraction(min(node[1], _w(node)), 2), "takes half of the window", "fault", {"window": "W / 2"}),
    Rule(lambda node: min(node[1], _w(node)) + min(node[1], _w(node)) % 2, "rounds the window up to two", "convention",
         {"window": "even"}),
)  # fmt: skip
"""With a window.  Conventions stand before faults wherever a counter takes no sizes that tell the two apart."""


def blocks(block: int) -> Rule:
    """Count the rows of a step's window from the start of a block, as what skips whole blocks of keys reads them.

    >>> blocks(256).count((1, 600, 100))  # rows 500 to 599, and their block begins at 256
    344
    """
    return Rule(
        lambda node: node[1] - max(0, node[1] - _w(node) - _step(node)) // block * block,
        f"reads whole blocks of {block} keys",
        "convention",
        {"blocks": block},
    )
