"""A cache of several layers, of which a step may leave some behind."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kvattn.testing.conformance.adapter import Capabilities, Part, Seen
from kvattn.testing.planted_caches.grown import PlantedCache
from kvattn.typing import Array


@dataclass(frozen=True)
class PlantedLayers:
    """Several caches that are used as one.

    Attributes
    ----------
    layers
        How many.
    rollback_skips, select_skips
        The layer that a rollback, a select, leaves as it is; -1 for none.
    late
        Layers behind the first read its length when it has taken the new tokens already, and add them once more.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedLayers()).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    layers: int = 2
    rollback_skips: int = -1
    select_skips: int = -1
    late: bool = False
    store: PlantedCache = field(default_factory=PlantedCache)

    @property
    def capabilities(self) -> Capabilities:
        """As many parts as layers.

        >>> len(PlantedLayers(3).capabilities.parts)
        3
        """
        return Capabilities(parts=(Part(),) * self.layers)

    def start(self, batch: int) -> Any:
        """An empty cache for each layer.

        >>> len(PlantedLayers(3).start(1))
        3
        """
        return [self.store.start(batch) for _ in range(self.layers)]

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """The rows to every layer.

        >>> import numpy as np
        >>> rows = np.zeros((1, 2, 3, 64))
        >>> [seen.length for seen in PlantedLayers(late=True).append(PlantedLayers().start(1), rows, rows)[1]]
        [3, 6]
        """
        taken = [self.store.append(layer, k, v) for layer in cache]
        seen = [one for _, (one,) in taken]
        late = [k.shape[2] * (self.late and n > 0) for n in range(self.layers)]
        told = [one._replace(length=(one.length or 0) + more) for one, more in zip(seen, late, strict=True)]
        return [layer for layer, _ in taken], told

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Every layer cut.

        >>> len(PlantedLayers().rollback(PlantedLayers().start(1), 0))
        2
        """
        return [x if n == self.rollback_skips else self.store.rollback(x, tokens) for n, x in enumerate(cache)]

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched in every layer; one that is skipped takes the old ones, the last again if there are more.

        >>> len(PlantedLayers().select(PlantedLayers().start(2), [1, 0]))
        2
        """
        batch = len(cache[0][0].k)
        old = [min(b, batch - 1) for b in range(len(indices))]
        return [self.store.select(x, old if n == self.select_skips else indices) for n, x in enumerate(cache)]

    def branch(self, cache: Any) -> Any:
        """Every layer branched.

        >>> len(PlantedLayers().branch(PlantedLayers().start(1)))
        2
        """
        return [self.store.branch(layer) for layer in cache]
