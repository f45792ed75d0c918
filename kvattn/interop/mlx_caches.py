"""The caches of mlx-lm through the five methods of `kvattn.testing.conformance`; mlx has a build for CPUs.

One append asks the cache's own ``make_mask`` first and then calls ``update_and_fetch``, as a layer does.  A ring does
not keep its rows in order, so what is compared is what the mask shows, in any order.

Shapes: ``[B, 2, T, 64]``, float32; a quantised cache is read back by ``mx.dequantize``.  A branch is ``copy.deepcopy``.

Source: mlx-lm 0.32, ``mlx_lm/models/cache.py``.

Where libraries differ: ``trim(n)`` takes the number of tokens to remove, positive, and returns how many it removed;
``trim_prompt_cache`` removes none and returns 0 where one layer says that it is not trimmable, which is taken for a
refusal here.  What each class keeps of its promises: :doc:`/explain/caches-of-others`.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from kvattn.arguments import integer
from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.testing.conformance import Capabilities, Part, Seen
from kvattn.typing import Array

GROUP, BITS = 32, 8
"""How the quantised cache is asked to quantise."""


@dataclass(frozen=True)
class MlxCache:
    """Any key/value cache of mlx-lm, made anew by ``make``.

    Attributes
    ----------
    make
        The empty cache of so many sequences.
    capabilities
        What must work; one part.
    mask_window
        The ``window_size`` that ``make_mask`` is asked for.

    Examples
    --------
    >>> rotating(8).capabilities.parts
    (Part(window=8, sinks=0, source=False),)
    """

    make: Callable[[int], Any] = field(repr=False)
    capabilities: Capabilities
    mask_window: int | None = None

    def start(self, batch: int) -> Any:
        """An empty cache.

        Raises
        ------
        MissingExtraError
            Where mlx or mlx-lm is not installed.

        Examples
        --------
        >>> plain().start(2).offset  # doctest: +SKIP
        0
        """
        integer("batch", batch, 1)
        _mlx()
        return self.make(batch)

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """What a layer does: the mask first, then the rows.

        >>> rows = np.zeros((1, 2, 3, 64), np.float32)
        >>> plain().append(plain().start(1), rows, rows)[1][0].length  # doctest: +SKIP
        3
        """
        if not hasattr(cache, "update_and_fetch"):
            return cache, [_recalled(cache, k, v)]
        if hasattr(cache, "maybe_trim_front"):
            cache.maybe_trim_front()
        new = k.shape[2]
        mask = None
        if hasattr(cache, "make_mask") and new:
            mask = cache.make_mask(new, window_size=self.mask_window, return_array=True)
        rows = cache.update_and_fetch(*map(_mlx().array, (k, v)))
        keys, values = (_dense(x, cache) for x in rows)
        length = int(np.array(cache.offset).max())
        if hasattr(cache, "start_position"):
            return cache, [Seen(keys, values, cache.start_position + np.arange(keys.shape[2]), length=length)]
        visible = np.ones((new, keys.shape[2]), bool)  # None shows all
        if mask is not None:
            shown = np.array(mask)  # [S] for one token of a ring, [T, S], or [B, 1, T, S]
            visible = shown[None] if shown.ndim == 1 else shown.reshape(-1, *shown.shape[-2:])[0]
        return cache, [Seen(keys, values, visible=visible, length=length)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        """``trim_prompt_cache``; removing nothing of what was asked is a refusal.

        >>> plain().rollback(plain().start(1), 0).offset  # doctest: +SKIP
        0
        """
        from mlx_lm.models.cache import trim_prompt_cache

        if not trim_prompt_cache([cache], tokens) and tokens:
            raise ArgumentError(f"tokens must be what the cache can take back, got {tokens}")
        return cache

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """``filter``, which the caches of batches have.

        >>> batched().select(batched().start(2), [1]).left_padding.tolist()  # doctest: +SKIP
        [0]
        """
        if not hasattr(cache, "filter"):
            raise ArgumentError(f"indices must be of a cache that has filter, got one of {type(cache).__name__}")
        cache.filter(_mlx().array(list(indices)))
        return cache

    def branch(self, cache: Any) -> Any:
        """A deep copy.

        >>> plain().branch(plain().start(1)).offset  # doctest: +SKIP
        0
        """
        return deepcopy(cache)


def _mlx() -> Any:
    for package in ("mlx", "mlx_lm"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package} must be installed for this adapter, got no module {package}")
    import mlx.core

    return mlx.core


def _dense(rows: Any, cache: Any) -> Array:
    quantised = isinstance(rows, tuple | list)
    return np.array(_mlx().dequantize(*rows, group_size=cache.group_size, bits=cache.bits) if quantised else rows)


def _recalled(cache: Any, k: Array, v: Array) -> Seen:
    """A state of one entry: the newest row of each sequence."""
    rows = np.stack([k, v], 1)
    if not cache.empty():
        rows = np.concatenate([np.array(cache[0]), rows], 3)
    if rows.shape[3]:
        cache[0] = _mlx().array(rows[:, :, :, -1:])
    return Seen(rows[:, 0], rows[:, 1])


def _named(name: str, declared: dict[str, Any], *arguments: Any, per_batch: bool = False) -> MlxCache:
    def make(batch: int) -> Any:
        from mlx_lm.models import cache

        return getattr(cache, name)(*arguments, *([[0] * batch] if per_batch else []))

    return MlxCache(make, Capabilities(**declared))


def plain(**declared: Any) -> MlxCache:
    """``KVCache``.

    >>> plain(select=False).capabilities.select
    False
    """
    return _named("KVCache", declared)


def concatenated(**declared: Any) -> MlxCache:
    """``ConcatenateKVCache``.

    >>> concatenated(select=False).capabilities.branch
    True
    """
    return _named("ConcatenateKVCache", declared)


def quantized(**declared: Any) -> MlxCache:
    """``QuantizedKVCache`` of 8 bits in groups of 32.

    >>> quantized(select=False).capabilities.rollback is None
    True
    """
    return _named("QuantizedKVCache", declared, GROUP, BITS)


def rotating(window: int, keep: int = 0, **declared: Any) -> MlxCache:
    """``RotatingKVCache`` of so many rows, ``keep`` of them the first ones.

    >>> rotating(8, keep=2).capabilities.parts
    (Part(window=6, sinks=2, source=False),)
    """
    parts = (Part(window=window - keep, sinks=keep),)
    return _ring(_named("RotatingKVCache", {"parts": parts} | declared, window, keep), window)


def chunked(chunk: int, **declared: Any) -> MlxCache:
    """``ChunkedKVCache``, which keeps a chunk and what is new.

    >>> chunked(4).capabilities.parts[0].window
    4
    """
    return _named("ChunkedKVCache", {"parts": (Part(window=chunk),)} | declared, chunk)


def batched(**declared: Any) -> MlxCache:
    """``BatchKVCache`` without padding.

    >>> batched().capabilities.select
    True
    """
    return _named("BatchKVCache", declared, per_batch=True)


def batched_rotating(window: int, **declared: Any) -> MlxCache:
    """``BatchRotatingKVCache`` without padding.

    >>> batched_rotating(4).capabilities.parts[0].window
    4
    """
    parts = (Part(window=window),)
    return _ring(_named("BatchRotatingKVCache", {"parts": parts} | declared, window, per_batch=True), window)


def _ring(adapter: MlxCache, window: int) -> MlxCache:
    """The mask of a ring is asked for the whole ring, its sinks included."""
    return replace(adapter, mask_window=window)


def arrays(**declared: Any) -> MlxCache:
    """``ArraysCache`` of one entry, where the newest row is kept as a recurrent layer keeps its state.

    >>> arrays().capabilities.parts[0].window
    2
    """
    return _named("ArraysCache", {"parts": (Part(window=2),), "rollback": 0} | declared, 1)
