"""Self-Extend: near keys at their own distance, far keys at the distance between groups of tokens.

    place of a pair  =  i - j                                  where i - j < W
                        ⌊i / G⌋ + W - ⌊W / G⌋ - ⌊j / G⌋        where i - j >= W

A far key is never nearer than W.  A model trained for L0 tokens reads about (L0 - W) · G + W, without training.

Two ways of `kvattn.variants.dense.placed`: near and far share one softmax.
Cached per token: an unturned key and a value; a far key is turned to ``j // G``, a near one to ``j``.
Cost: two attentions over disjoint keys, and their join.

Source: Jin et al. 2024 (arXiv 2401.01325) §3.2 and the authors' released code.

Where libraries differ: the released code caches each key twice, turned to both places, and takes a prompt in
one piece.  llama.cpp's group attention (``--grp-attn-n``, ``--grp-attn-w``) is another scheme: it divides the
positions of the cached keys themselves, a window at a time, and moves them by rotation, so that a token's
place changes while the text grows.
"""

from kvattn.arguments import integer
from kvattn.masks.combine import inverse
from kvattn.masks.window import Window
from kvattn.variants.dense.placed import Floor, Way


def self_extend(*, group: int, window: int) -> tuple[Way, Way]:
    """The two ways, near and far.

    Parameters
    ----------
    group
        G >= 1: neighbours that share a place, for far pairs.
    window
        W >= 1: keys at their own distance, self included.

    Raises
    ------
    ArgumentError
        When a number is no integer or too small.

    Examples
    --------
    >>> import numpy as np
    >>> near, far = self_extend(group=2, window=4)
    >>> int(far.queries(np.array(9)) - far.keys(np.array(0)))  # 9 tokens apart: 4 + 4 - 2 - 0
    6
    """
    group, window = integer("group", group, 1), integer("window", window, 1)
    far = Way(inverse(Window(window)), Floor(group, window - window // group), Floor(group))
    return Way(Window(window), Floor(), Floor()), far
