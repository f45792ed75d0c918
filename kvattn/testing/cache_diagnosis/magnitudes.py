"""Rows whose sizes differ by head, token, feature and field: what a cache that stores codes gives back of them.

    read[b, h, t, d] / written[b, h, t, d]  =  1  up to the step of its codes

Where a scale is missing, of another head or token, or applied along the wrong axis, the ratio is far from 1 and varies
along that axis; where it is near 1, its distance says how many bits are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
import math
from typing import Any

import numpy as np

from kvattn.testing.conformance.adapter import CacheAdapter
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array

AXES = ("sequence", "head", "token", "feature")
FAR = 0.35
"""A ratio farther from 1 than this, in logarithms, is no rounding: a code of two bits is off by less at its largest."""


@dataclass(frozen=True)
class Sizes:
    """What was read of the sizes of one field.

    Attributes
    ----------
    field
        ``"k"`` or ``"v"``.
    ratio
        Median of what came back over what was written, at the largest feature of each row.
    varies
        Axes along which it varies.
    error
        Median relative error of the largest feature of each row: 2**-9 for bfloat16.
    rounded
        No number is farther off than a code of two bits may be, whose scale is of its row, or of its channel.

    Examples
    --------
    >>> Sizes("k", 1.0, (), 2.0**-9).wrong
    False
    """

    field: str
    ratio: float
    varies: tuple[str, ...]
    error: float
    rounded: bool = False

    @property
    def wrong(self) -> bool:
        """Whether that is more than rounding.

        >>> Sizes("v", 4.0, ("head",), 3.0).wrong
        True
        """
        if self.rounded or self.ratio <= 0:
            return not self.rounded
        return bool(self.varies) or not abs(math.log(self.ratio)) < FAR


def written(batch: int = 2, tokens: int = 6) -> tuple[Array, Array]:
    """Keys and values ``[B, 2, T, 64]`` whose sizes differ along every axis.

    >>> k, v = written()
    >>> k.shape, float(v.max() > k.max())
    ((2, 2, 6, 64), 1.0)
    """
    generator = np.random.default_rng(0)
    heads = np.array([1.0, 24.0])[:, None, None]
    places = (1.0 + np.arange(tokens))[:, None]
    rows = np.linspace(1.0, 2.0, batch)[:, None, None, None]
    features = np.where(np.arange(WIDTH) % 32 < 16, 1.0, 0.6)
    signs = generator.choice((-1.0, 1.0), (batch, HEADS, tokens, WIDTH))
    k = rows * heads * places * features * signs
    return k.astype(np.float32), (3.0 * k[:, ::-1, ::-1]).astype(np.float32)


def read_sizes(adapter: CacheAdapter) -> Iterator[Sizes]:
    """Append rows of different sizes, and read them back beside a few more; keys, then values.

    Parameters
    ----------
    adapter
        The cache; its first part is read, as far as it is not cut off by a window.

    Examples
    --------
    >>> from kvattn.testing.conformance import PagedAdapter
    >>> [one.wrong for one in read_sizes(PagedAdapter())], [one.error for one in read_sizes(PagedAdapter())]
    ([False, False], [0.0, 0.0])
    """
    most = fitting(adapter, 6)
    if most < 2:
        return
    k, v = written(tokens=most)
    for name, got, wanted, _ in fetched(adapter, k, v):
        yield _sizes(name, got, wanted)


def fitting(adapter: CacheAdapter, tokens: int) -> int:
    """How many of so many tokens the first part of a cache can show at once.

    >>> from kvattn.testing.planted_caches import PlantedRing
    >>> fitting(PlantedRing(4), 6)
    4
    """
    part = adapter.capabilities.parts[0]
    return min(n for n in (part.window, adapter.capabilities.capacity, tokens) if n is not None)


def fetched(adapter: CacheAdapter, k: Array, v: Array) -> Iterator[tuple[str, Array, Array, str]]:
    """Append all rows but the newest, then that one; what comes back of both fields, beside what was written.

    Parameters
    ----------
    adapter
        The cache; its first part is read.
    k, v
        ``[2, 2, T, 64]``, of no more tokens than are `fitting`.

    Yields
    ------
    tuple
        ``"k"`` or ``"v"``, what came, as float64, what was written, and the dtype of what came, for as long as every
        row comes; a source has no newest row.

    Examples
    --------
    >>> from kvattn.testing.conformance import PagedAdapter
    >>> [(name, bool((got == sent).all()), of) for name, got, sent, of in fetched(PagedAdapter(), *written(tokens=3))]
    [('k', True, 'float32'), ('v', True, 'float32')]
    """
    part = adapter.capabilities.parts[0]
    cache = adapter.start(2)
    cache, _ = adapter.append(cache, k[:, :, :-1], v[:, :, :-1])
    _, seen = adapter.append(cache, k[:, :, -1:], v[:, :, -1:])
    if part.source:
        k, v = k[:, :, :-1], v[:, :, :-1]
    for name, found, wanted in (("k", seen[0].keys, k), ("v", seen[0].values, v)):
        got = np.asarray(found, np.float64)
        if got.ndim != 4 or got.shape[2] < wanted.shape[2] or seen[0].visible is not None:
            return
        if seen[0].positions is None:
            got = got[:, :, -wanted.shape[2] :] if not part.source else got[:, :, : wanted.shape[2]]
        else:
            places = {int(p): n for n, p in enumerate(np.asarray(seen[0].positions))}
            if not all(p in places for p in range(wanted.shape[2])):
                return
            got = got[:, :, [places[p] for p in range(wanted.shape[2])]]
        if got.shape != wanted.shape or not got.any(axis=-1).all():
            return  # rows that are lost have no size
        yield name, got, wanted, np.asarray(found).dtype.name


def _sizes(name: str, got: Array, wanted: Array) -> Sizes:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Any = np.log(np.abs(got / wanted))
    logs = np.where(np.isfinite(logs), logs, 40.0 * np.sign(np.where(np.isnan(logs), 1.0, logs)))
    varies = []
    for axis, label in enumerate(AXES):
        other = tuple(n for n in range(4) if n != axis)
        along = np.median(logs, axis=other)
        if np.ptp(along) > FAR:
            varies.append(label)
    large = np.abs(wanted) >= np.abs(wanted).max(axis=-1, keepdims=True)
    error = float(np.median(np.abs(got - wanted)[large] / np.abs(wanted)[large]))
    scale = np.maximum(np.abs(wanted).max(axis=3, keepdims=True), np.abs(wanted).max(axis=2, keepdims=True))
    rounded = bool((np.abs(got - wanted) <= scale / 3).all())
    return Sizes(name, float(np.exp(np.median(logs))), tuple(varies), error, rounded)
