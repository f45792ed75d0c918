"""A cache of int8 codes whose scales are stored beside them, or kept from one append to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.testing.conformance.adapter import Capabilities, Seen
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array

_SHARED = {"sequence and head": (2, 3), "head": (0, 2, 3), "sequence": (1, 2, 3), "tensor": None, "channel": (2,)}


@dataclass(frozen=True)
class PlantedScales:
    """int8 codes with scales that are stored beside them, of each append, or kept from one to the next.

    Attributes
    ----------
    effect
        ``""``: each append has its own, which is right; ``"cut"``: that of the first is kept, and what is larger is
        cut; ``"shrunk"``: codes are made by their own scale and read by that of the first; ``"grown"``: all codes are
        read by that of the newest.
    shared
        What a scale is of: ``"sequence and head"``, ``"head"``, ``"sequence"``, ``"tensor"``, ``"channel"``.
    token
        The scale is of the first token of an append.
    levels
        Codes are -levels … levels.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedScales()).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    effect: str = ""
    shared: str = "sequence and head"
    token: bool = False
    levels: int = 127

    @property
    def capabilities(self) -> Capabilities:
        """Everything.

        >>> PlantedScales().capabilities.rollback is None
        True
        """
        return Capabilities()

    def start(self, batch: int) -> Any:
        """No codes, and no scales: [codes of k, scales of k, codes of v, scales of v].

        >>> len(PlantedScales().start(1))
        4
        """
        return [np.zeros((batch, HEADS, 0, WIDTH))] * 4

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Codes and scales behind those that are there.

        >>> rows = np.ones((1, 2, 3, 64))
        >>> float(PlantedScales().append(PlantedScales().start(1), rows, rows)[1][0].keys[0, 0, 0, 0])
        1.0
        """
        fields: list[Array] = [
            *self._joined(cache[0], cache[1], k),
            *self._joined(cache[2], cache[3], v),
        ]
        return fields, [Seen(fields[0] * fields[1], fields[2] * fields[3], length=fields[0].shape[2])]

    def _joined(self, codes: Any, scales: Any, rows: Array) -> tuple[Any, Any]:
        axes = _SHARED[self.shared]
        judged = np.abs(rows[:, :, :1] if self.token else rows)
        own: Any = judged.max(axis=axes, keepdims=True, initial=0) / self.levels + np.zeros(rows.shape)
        old = scales[:, :, :1] + np.zeros(rows.shape) if scales.shape[2] else own
        made, read = {"": (own, own), "cut": (old, old), "shrunk": (own, old), "grown": (own, own)}[self.effect]
        new = np.clip(np.rint(rows / np.where(made == 0, 1, made)), -self.levels, self.levels)
        if self.effect == "grown" and rows.shape[2]:
            scales = own[:, :, :1] + np.zeros(scales.shape)
        return np.concatenate([codes, new], axis=2), np.concatenate([scales, read], axis=2)

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Codes and scales cut.

        >>> PlantedScales().rollback(PlantedScales().start(1), 0)[0].shape[2]
        0
        """
        left = max(cache[0].shape[2] - max(tokens, 0), 0)
        return [each[:, :, :left] for each in cache]

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched.

        >>> len(PlantedScales().select(PlantedScales().start(2), [0])[0])
        1
        """
        return [each[list(indices)] for each in cache]

    def branch(self, cache: Any) -> Any:
        """The same value.

        >>> PlantedScales().branch("cache")
        'cache'
        """
        return cache
