"""Whether a scale that was computed once still holds for a token that is sixteen times as large.

    cut:     k̂_new = clip(k_new, -m, m),   m = max |k_first|, over what the scale is shared by
    shrunk:  k̂_new = k_new · m / max |k_new|
    grown:   k̂_old = k_old · max |k_new| / m

A cache of codes that keeps the scale of its first append cuts what comes later and is larger; one that reads new codes
by that scale shrinks it; one that reads all codes by the newest scale lets the older ones grow.  Features are large in
other places of the newest token than of the older ones, so that a scale of each channel is told from one of each row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kvattn.testing.cache_diagnosis.magnitudes import Sizes, fetched, fitting
from kvattn.testing.conformance.adapter import CacheAdapter
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array

NEAR = 0.08
"""Of the scale: as far as a code of four bits is from what it stands for."""

SHARED = {
    "sequence and head": (2, 3),
    "head": (0, 2, 3),
    "sequence": (1, 2, 3),
    "tensor": (0, 1, 2, 3),
    "channel": (2,),
    "channel of all sequences": (0, 2),
}
"""What one scale is of, and the axes over which the largest number is taken."""


@dataclass(frozen=True)
class Kept:
    """A scale that is applied where it does not belong.

    Attributes
    ----------
    field
        ``"k"`` or ``"v"``.
    scale
        Which: ``"of the first append"``, ``"of the first token"``, ``"of the newest append"``.
    shared
        What it is of, in the words of `SHARED`.
    effect
        ``"cut"`` or ``"shrunk"``, the newest token; ``"grown"``, the older ones.

    Examples
    --------
    >>> Kept("k", "of the first append", "head", "cut").effect
    'cut'
    """

    field: str
    scale: str
    shared: str
    effect: str


def growing(tokens: int = 6, batch: int = 2) -> tuple[Array, Array]:
    """Keys and values ``[B, 2, T, 64]`` of which the newest is far larger than the others, all below 448.

    >>> k, v = growing()
    >>> (abs(k[:, :, -1]).max(-1) / abs(k[:, :, :-1]).max((2, 3))).round(1).tolist(), float(abs(v).max()) < 448
    ([[8.0, 5.599999904632568], [4.0, 6.800000190734863]], True)
    """
    generator = np.random.default_rng(0)
    rows = np.linspace(1.0, 2.0, batch)[:, None, None, None]
    heads = np.array([1.0, 6.0])[:, None, None]
    places = np.append(np.linspace(1.0, 2.0, tokens - 1), 16.0)[:, None] * np.ones((batch, HEADS, 1, 1))
    places[:, :, -1] *= np.resize([1.0, 0.7, 0.5, 0.85], (batch, HEADS, 1))
    older, newest = (np.where(np.arange(WIDTH) % n < n // 2, 1.0, 0.6) for n in (32, 2))
    features = np.stack([older] * (tokens - 1) + [newest])
    k = rows * heads * places * features * generator.choice((-1.0, 1.0), (batch, HEADS, tokens, WIDTH))
    return k.astype(np.float32), (2.0 * k[:, ::-1]).astype(np.float32)


def read_scales(adapter: CacheAdapter) -> Iterator[Kept | Sizes]:
    """Append small rows, then a large one, and say which scale explains what came back; keys, then values.

    Parameters
    ----------
    adapter
        The cache; its first part is read.

    Yields
    ------
    Kept or Sizes
        The nearest explanation; or, where there is none, in which size the newest token comes back, if it is another.

    Examples
    --------
    >>> from kvattn.testing.planted_caches import PlantedScales
    >>> list(read_scales(PlantedScales("cut", "tensor")))[0]
    Kept(field='k', scale='of the first append', shared='tensor', effect='cut')
    >>> list(read_scales(PlantedScales()))
    []
    """
    most = fitting(adapter, 6)
    if most < 2 or adapter.capabilities.parts[0].source or "scale" in adapter.capabilities.untried:
        return
    for name, got, wanted, _ in fetched(adapter, *growing(most)):
        right = np.abs(wanted).max(axis=-1, keepdims=True)
        if (np.abs(got - wanted) <= NEAR * right).all():
            continue
        found = []
        for scale, shared, effect, expected, size in _explanations(wanted):
            off = np.abs(got - expected)
            if (off <= NEAR * size).all():
                found.append((float(off.sum()), Kept(name, scale, shared, effect)))
        if found:
            yield min(found, key=lambda one: one[0])[1]
        else:
            large = (np.abs(wanted) >= right) & (np.arange(most) == most - 1)[:, None]
            ratio = float(np.median(np.abs(got[large] / wanted[large])))
            newest = Sizes(name, ratio, (), float(np.median(np.abs(got[large] / wanted[large] - 1))))
            if newest.wrong:
                yield replace(newest, varies=("token",))


def _explanations(wanted: Array) -> Iterator[tuple[str, str, str, Array, Any]]:
    """Scale, what it is of, effect, what should come, and how large numbers are of which codes have a share."""
    sizes = np.abs(wanted)
    for shared, axes in SHARED.items():  # of one new token in a channel cut and shrunk are the same
        first, append, newest = (
            rows.max(axis=axes, keepdims=True) for rows in (sizes[:, :, :1], sizes[:, :, :-1], sizes[:, :, -1:])
        )
        yield "of the first append", shared, "cut", np.clip(wanted, -append, append), append
        yield "of the first token", shared, "cut", np.clip(wanted, -first, first), first
        yield "of the newest append", shared, "grown", _times(wanted, slice(-1), newest / append), newest
        if 3 in axes:
            yield "of the first append", shared, "shrunk", _times(wanted, slice(-1, None), append / newest), append


def _times(rows: Array, tokens: slice, factor: Array) -> Array:
    other = np.array(rows, np.float64)
    other[:, :, tokens] *= factor
    return other
