"""A cache that rounds what it keeps, once or more, or reads its bits as another format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.testing.conformance.adapter import Capabilities, Seen
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array


@dataclass(frozen=True)
class PlantedFormats:
    """Arrays that grow, of numbers that are rounded when they come.

    Attributes
    ----------
    promised
        Format that is declared; none if empty.
    through
        ``"float16"``, ``"bfloat16"``: what rows are rounded to, one after another.
    cut
        Rows are cut to bfloat16, by dropping bits.
    bits
        ``"bfloat16 as float16"`` or ``"float16 as bfloat16"``: how what is kept is read.
    empty
        Dtype of the cache without rows, which later ones are joined to; that of the rows if empty.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedFormats(through=("float16",))).follow("start 2, append 5, rollback 2, append 1, select 1 0")
    """

    promised: str = ""
    through: tuple[str, ...] = ()
    cut: bool = False
    bits: str = ""
    empty: str = ""

    @property
    def capabilities(self) -> Capabilities:
        """Everything, and a format.

        >>> PlantedFormats("float16").capabilities.store
        'float16'
        """
        return Capabilities(store=self.promised)

    def start(self, batch: int) -> Any:
        """Keys and values without rows.

        >>> PlantedFormats(empty="float64").start(1)[0].dtype.name
        'float64'
        """
        return [np.zeros((batch, HEADS, 0, WIDTH), self.empty or np.float16)] * 2

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Rounded rows behind those that are there.

        >>> rows = np.full((1, 2, 3, 64), 0.1, np.float32)
        >>> float(PlantedFormats(through=("float16",)).append([rows, rows], rows, rows)[1][0].keys[0, 0, 3, 0])
        0.0999755859375
        """
        both = [np.concatenate([old, self._kept(new)], axis=2) for old, new in zip(cache, (k, v), strict=True)]
        return both, [Seen(both[0], both[1], length=both[0].shape[2])]

    def _kept(self, rows: Array) -> Any:
        kept: Any = rows
        for name in self.through:
            single = kept.astype(np.float32)
            kept = single.astype(np.float16) if name == "float16" else _bfloat16_bits(single) << 16
            kept = kept.astype(np.float32) if name == "float16" else kept.view(np.float32)
        if self.cut:
            kept = (kept.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        if self.bits == "bfloat16 as float16":
            kept = _bfloat16_bits(kept.astype(np.float32)).astype(np.uint16).view(np.float16)
        elif self.bits:
            kept = (kept.astype(np.float16).view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        return kept.astype(rows.dtype)

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Rows cut off.

        >>> PlantedFormats().rollback(PlantedFormats().start(1), 0)[0].shape[2]
        0
        """
        left = max(cache[0].shape[2] - max(tokens, 0), 0)
        return [rows[:, :, :left] for rows in cache]

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched.

        >>> len(PlantedFormats().select(PlantedFormats().start(2), [0])[0])
        1
        """
        return [rows[list(indices)] for rows in cache]

    def branch(self, cache: Any) -> Any:
        """The same value.

        >>> PlantedFormats().branch("cache")
        'cache'
        """
        return cache


def _bfloat16_bits(rows: Any) -> Any:
    """Upper halves of float32 after rounding to even, as uint32."""
    bits = rows.view(np.uint32)
    return bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)) >> np.uint32(16)
