"""A cache that reads through int8 codes, with a scale for each row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.testing.conformance.adapter import Capabilities, Seen
from kvattn.testing.conformance.rows import HEADS
from kvattn.testing.planted_caches.grown import PlantedCache
from kvattn.typing import Array


@dataclass(frozen=True)
class PlantedCodes:
    """int8 codes with a scale for each row.

    Attributes
    ----------
    unscaled
        ``"k"`` or ``"v"``: its scales are not applied.
    of_head
        The scale of this head is applied to all; -1 for its own.
    of_token
        The scale of this token is applied to all; -1 for its own.
    factor
        On every scale.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedCodes()).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    unscaled: str = ""
    of_head: int = -1
    of_token: int = -1
    factor: float = 1.0
    store: PlantedCache = field(default_factory=PlantedCache)

    @property
    def capabilities(self) -> Capabilities:
        """Everything.

        >>> PlantedCodes().capabilities.rollback is None
        True
        """
        return Capabilities()

    def start(self, batch: int) -> Any:
        """Nothing yet.

        >>> PlantedCodes().start(1)[0].length
        0
        """
        return self.store.start(batch)

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Rows as they are, and read through codes.

        >>> rows = np.ones((1, 2, 1, 64))
        >>> float(PlantedCodes().append(PlantedCodes().start(1), rows, rows)[1][0].keys[0, 0, 0, 0])
        1.0
        """
        cache, (seen,) = self.store.append(cache, k, v)
        keys, values = (self._read(x, name) for x, name in ((seen.keys, "k"), (seen.values, "v")))
        return cache, [Seen(keys, values, length=seen.length)]

    def _read(self, rows: Array, name: str) -> Any:
        scales = np.abs(rows).max(axis=-1, keepdims=True, initial=0) / 127.0
        codes = np.rint(rows / np.where(scales == 0, 1, scales))
        if name == self.unscaled:
            scales = np.full_like(scales, 1.0 / 127.0)
        if self.of_head >= 0:
            scales = np.repeat(scales[:, self.of_head : self.of_head + 1], HEADS, axis=1)
        if self.of_token >= 0 and rows.shape[2] > self.of_token:
            scales = np.repeat(scales[:, :, self.of_token : self.of_token + 1], rows.shape[2], axis=2)
        return codes * scales * self.factor

    def rollback(self, cache: Any, tokens: int) -> Any:
        """As the store does.

        >>> PlantedCodes().rollback(PlantedCodes().start(1), 0)[0].length
        0
        """
        return self.store.rollback(cache, tokens)

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """As the store does.

        >>> len(PlantedCodes().select(PlantedCodes().start(2), [0])[0].k)
        1
        """
        return self.store.select(cache, indices)

    def branch(self, cache: Any) -> Any:
        """As the store does.

        >>> PlantedCodes().branch(PlantedCodes().start(1))[0].length
        0
        """
        return self.store.branch(cache)
