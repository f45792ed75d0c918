"""The sizes of one question to a counter, and the right answer in closed form.

For L layers of B sequences, Lw of the layers with the window::

    pairs(T, S, W) = Σ_i min(W, S - T + i + 1)              i = 0 … T - 1; W = S without a window
                   = T w - m (m - 1) / 2                    w = min(W, S), m = max(0, w - (S - T))
    FLOPs          = 2 B Hq (D + Dv) ((L - Lw) pairs(T, S, ∞) + Lw pairs(T, S, W))
    rows(T, S, W)  = min(S, W)    or min(S, W + T - 1) for what a step of T queries reads; whole pages
    bytes          = B Hkv rows ((D + Dv) bits / 8 + (⌈D / g⌉ + ⌈Dv / g⌉) scale)

They equal what `kvattn.core.accounting` and `kvattn.caches` count, which is tested, as is that loops count the same.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """One question.

    Attributes
    ----------
    batch, layers, kv_heads, group
        B, L, Hkv, and query heads for each of them.
    queries, keys
        T and S; for a counter of bytes S are the tokens, and T is 0 where no step is meant.
    width, value_width, head
        D, Dv, and ``hidden // query_heads``.
    causal, window, window_layers
        Who sees whom; None for no window, and for all layers.
    itemsize, bits, scale_group, scale_itemsize, page
        How numbers are stored; bits in place of itemsize unless 0, no scales if None, pages of one token.

    Examples
    --------
    >>> Sizes(kv_heads=2, group=4, head=16).query_heads, Sizes(kv_heads=2, group=4, head=16).hidden
    (8, 128)
    """

    batch: int = 1
    layers: int = 1
    kv_heads: int = 1
    group: int = 1
    queries: int = 0
    keys: int = 1
    width: int = 8
    value_width: int = 8
    head: int = 8
    causal: bool = False
    window: int | None = None
    window_layers: int | None = None
    itemsize: int = 2
    bits: int = 0
    scale_group: int | None = None
    scale_itemsize: int = 2
    page: int = 1

    @property
    def query_heads(self) -> int:
        """Hq.

        >>> Sizes(kv_heads=2, group=4).query_heads
        8
        """
        return self.kv_heads * self.group

    @property
    def hidden(self) -> int:
        """M.

        >>> Sizes(kv_heads=2, group=4, head=16).hidden
        128
        """
        return self.query_heads * self.head

    def given(self) -> dict[str, Any]:
        """Return every size by the contract's name.

        >>> Sizes(keys=5).given()["tokens"]
        5
        """
        told = vars(self) | {"query_heads": self.query_heads, "hidden": self.hidden, "tokens": self.keys}
        told["group"] = self.scale_group
        if self.window is None:
            told["window_layers"] = None
        elif self.window_layers is None:
            told["window_layers"] = self.layers
        return told

    def but(self, **changes: Any) -> "Sizes":
        """Return other sizes.

        >>> Sizes().but(keys=4).keys
        4
        """
        return replace(self, **changes)


def pairs(queries: int, keys: int, window: int | None = None) -> int:
    """Pairs of T queries, the last of S positions, with the keys that each sees.

    >>> pairs(3, 5), pairs(3, 5, 2), sum(min(2, 5 - 3 + i + 1) for i in range(3))
    (12, 6, 6)
    """
    wide = keys if window is None else min(window, keys)
    short = max(0, wide - (keys - queries))
    return queries * wide - short * (short - 1) // 2


def flops(sizes: Sizes) -> int:
    """FLOPs of both products.

    >>> flops(Sizes(kv_heads=2, group=2, queries=3, keys=5, width=8, value_width=4)) == 2 * 4 * 3 * 5 * (8 + 4)
    True
    """
    plain = pairs(sizes.queries, sizes.keys) if sizes.causal else sizes.queries * sizes.keys
    near = plain if sizes.window is None else pairs(sizes.queries, sizes.keys, sizes.window)
    narrow = sizes.layers if sizes.window_layers is None else sizes.window_layers
    every = (sizes.layers - narrow) * plain + narrow * near
    return 2 * sizes.batch * sizes.query_heads * every * (sizes.width + sizes.value_width)


def rows(queries: int, keys: int, window: int | None = None, page: int = 1) -> int:
    """Cached rows that are kept, or that a step of T queries reads.

    >>> rows(0, 9, 4), rows(3, 9, 4), rows(0, 9, None, 4)
    (4, 6, 12)
    """
    kept = keys if window is None else min(keys, window + max(0, queries - 1))
    return -(-kept // page) * page


def stored(sizes: Sizes) -> Fraction:
    """Bytes of keys and values.

    >>> stored(Sizes(kv_heads=2, keys=10, width=8, value_width=4, itemsize=2))
    Fraction(480, 1)
    """
    narrow = sizes.layers if sizes.window_layers is None else sizes.window_layers
    every = (sizes.layers - narrow) * rows(sizes.queries, sizes.keys, None, sizes.page)
    every += narrow * rows(sizes.queries, sizes.keys, sizes.window, sizes.page)
    number = Fraction(sizes.bits, 8) if sizes.bits else Fraction(sizes.itemsize)
    row = (sizes.width + sizes.value_width) * number
    if sizes.scale_group is not None:
        scales = -(-sizes.width // sizes.scale_group) - (-sizes.value_width // sizes.scale_group)
        row += scales * sizes.scale_itemsize
    return sizes.batch * sizes.kv_heads * every * row
