"""Lookahead decoding: guesses are made and checked in one pass, without a second model.

A pass brings the newest token and, behind it, two branches::

    window    W columns × N - 1 levels: level 0 is a row of guessed tokens that begins with the newest one itself;
              token c of level l was guessed from token c of level l - 1
    guesses   G continuations of N - 1 tokens, taken from n-grams that earlier windows have made

Token ``(l, c)`` of the window stands l + c behind the newest one, and sees level 0 up to column c, then its own
column up to level l.  Token i of a guess stands i + 1 behind it, and sees it and its own guess so far.  That is a tree:
level 0 is a chain, each of its tokens carries a chain of later levels, and guesses are chains on the newest token.
So `kvattn.execution.tree` computes the pass, and a verdict keeps the newest token and the accepted beginning of one
guess: nothing of the window can enter the cache, as no path of guesses leads through it.

Shapes: nodes in the order level 0, level 1, …, guess 0, guess 1, …; ``(W + G) (N - 1)`` of them in all.
Cached per token: a row per node until the verdict, then a row per accepted token.
Cost: attention for that many queries in place of one; what is gained is up to N tokens per pass.
Source: Fu et al. 2024 (arXiv 2402.02057) §3.1, §3.2 and fig. 2; masks and positions are those of the authors' code.

Where libraries differ: the authors' code brings level 0 as the newest token and W - 1 more, and while a window is
being filled for the first time, with fewer levels and more columns; TensorRT-LLM packs the same mask in bits.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.tree import Tree
from kvattn.typing import Indices


@dataclass(frozen=True)
class Lookahead:
    """The layout of a pass.

    Parameters
    ----------
    window
        Columns W, the newest token's among them.
    ngram
        N: what is found for the last of N - 1 levels completes n-grams; a guess brings N - 1 tokens.
    guesses
        G; 0 while there is none.
    start
        Tokens in the cache: the position of the newest one.

    Raises
    ------
    ArgumentError
        A window below 1, an n-gram below 2, or anything negative.

    Examples
    --------
    >>> one = Lookahead(window=2, ngram=3, guesses=1, start=7)
    >>> one.levels.tolist(), one.verified.tolist()
    ([[0, 1], [2, 3]], [[4, 5]])
    >>> one.tree, one.tree.positions
    (Tree([-1, 0, 0, 1, 0, 4], start=7), array([7, 8, 8, 9, 8, 9]))
    """

    window: int
    ngram: int
    guesses: int
    start: int

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("ngram", 2), ("guesses", 0), ("start", 0)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least))

    @property
    def levels(self) -> Indices:
        """Nodes of the window, ``[N - 1, W]``; the first is the newest token.

        >>> Lookahead(window=3, ngram=2, guesses=0, start=0).levels
        array([[0, 1, 2]])
        """
        return np.arange(self.window * (self.ngram - 1)).reshape(self.ngram - 1, self.window)

    @property
    def verified(self) -> Indices:
        """Nodes of the guesses, ``[G, N - 1]``.

        >>> Lookahead(window=1, ngram=3, guesses=2, start=0).verified
        array([[2, 3],
               [4, 5]])
        """
        first = self.levels.size
        return first + np.arange(self.guesses * (self.ngram - 1)).reshape(self.guesses, self.ngram - 1)

    @property
    def tree(self) -> Tree:
        """Who follows whom.

        >>> Lookahead(window=2, ngram=2, guesses=1, start=0).tree
        Tree([-1, 0, 0], start=0)
        """
        levels, verified = self.levels, self.verified
        parents = np.empty(levels.size + verified.size, np.int64)
        parents[levels[0]] = levels[0] - 1
        parents[levels[1:]] = levels[:-1]
        parents[verified[:, :1]] = 0
        parents[verified[:, 1:]] = verified[:, :-1]
        return Tree(parents, self.start)

    def path(self, guess: int, accepted: int) -> tuple[int, ...]:
        """The nodes to commit: the newest token, and the accepted beginning of a guess.

        Raises
        ------
        ArgumentError
            A guess that does not exist, or more tokens than it has.

        Examples
        --------
        >>> Lookahead(window=2, ngram=3, guesses=2, start=0).path(1, accepted=2)
        (0, 6, 7)
        """
        accepted = integer("accepted", accepted, 0, self.ngram - 1)
        if not accepted:
            return (0,)
        row = self.verified[integer("guess", guess, 0, self.guesses - 1)]
        return (0, *row[:accepted].tolist())
