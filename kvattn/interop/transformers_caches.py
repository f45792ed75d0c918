"""The caches of transformers through the five methods of `kvattn.testing.conformance`.

One append goes to every layer, as one forward of a model does: ``get_mask_sizes`` is asked first, then ``update``;
convolution and recurrent states and indexer keys are filled with the same rows.

What attention would see of what a layer has:

- of keys and values, what ``update`` returns, where ``get_mask_sizes`` said that it would be;
- of a convolution state of K columns, what ``update_conv_state`` returns: a window of K;
- of a recurrent state, the row of the newest token, all that it remembers here, and the new rows: a window of 2;
- of indexer keys, what ``update_indexer`` returns.

Shapes: ``[B, 2, T, 64]``, float32.  A branch is ``copy.deepcopy``.

Source: transformers 5.23, ``cache_utils.py``.

Where libraries differ: ``crop`` takes the number of tokens to remove, negative; until 5.17 a positive number was the
length to keep.  What each class keeps of its promises: :doc:`/explain/caches-of-others`.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from kvattn.arguments import integer
from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.testing.conformance import Capabilities, Part, Seen
from kvattn.typing import Array

KERNEL = 4
"""Columns of the convolution states."""

STATES = {"linear_attention": ("conv", "recurrent"), "conv": ("conv",), "hybrid": ("conv", "recurrent")}
"""What beside keys and values a layer of this type holds; ``hybrid_sliding`` holds what ``hybrid`` does."""


def reordered(cache: Any, indices: Sequence[int]) -> None:
    """Select as beam search does, by ``reorder_cache``; this is the default of `TransformersCache`.

    >>> class Cache:
    ...     def reorder_cache(self, beam_idx):
    ...         print(beam_idx)
    >>> reordered(Cache(), [1, 0])  # doctest: +SKIP
    tensor([1, 0])
    """
    cache.reorder_cache(_torch().tensor(list(indices)))


def batch_selected(cache: Any, indices: Sequence[int]) -> None:
    """Select by ``batch_select_indices``.

    >>> class Cache:
    ...     def batch_select_indices(self, indices):
    ...         print(indices)
    >>> batch_selected(Cache(), [1, 0])  # doctest: +SKIP
    tensor([1, 0])
    """
    cache.batch_select_indices(_torch().tensor(list(indices)))


def repeated(cache: Any, indices: Sequence[int]) -> None:
    """Repeat every sequence twice by ``batch_repeat_interleave``, then select by ``reorder_cache``.

    >>> class Cache:
    ...     def batch_repeat_interleave(self, repeats):
    ...         print(repeats)
    ...
    ...     def reorder_cache(self, beam_idx):
    ...         print(beam_idx)
    >>> repeated(Cache(), [1, 0])  # doctest: +SKIP
    2
    tensor([2, 1])
    """
    cache.batch_repeat_interleave(2)
    reordered(cache, [2 * index + place % 2 for place, index in enumerate(indices)])


@dataclass(frozen=True)
class TransformersCache:
    """Any cache of transformers, made anew by ``make``.

    Attributes
    ----------
    make
        The empty cache.
    capabilities
        What must work; its parts in the order of the layers, and in a layer keys and values, convolution, recurrent,
        indexer.
    layer_types
        What each layer is, in the words of ``config.layer_types``.
    recording
        Whether ``activate_past_recording`` is called at the start; ``generate`` calls it after the prompt.
    selecting
        How to select: `reordered`, `batch_selected` or `repeated`.

    Examples
    --------
    >>> dynamic(2).layer_types
    ('full_attention', 'full_attention')
    """

    make: Callable[[], Any] = field(repr=False)
    capabilities: Capabilities
    layer_types: tuple[str, ...]
    recording: bool = False
    selecting: Callable[[Any, Sequence[int]], None] = field(default=reordered, repr=False)

    def start(self, batch: int) -> Any:
        """An empty cache; transformers takes the batch from the first rows.

        Raises
        ------
        MissingExtraError
            Where torch or transformers is not installed.

        Examples
        --------
        >>> dynamic().start(2)  # doctest: +SKIP
        DynamicCache(layers=[DynamicLayer])
        """
        integer("batch", batch, 1)
        _torch()
        cache = self.make()
        if self.recording:
            cache.activate_past_recording()
        return cache

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """What one forward does: every layer takes the rows.

        >>> rows = np.zeros((1, 2, 3, 64), np.float32)
        >>> [seen.length for seen in dynamic().append(dynamic().start(1), rows, rows)[1]]  # doctest: +SKIP
        [3]
        """
        torch = _torch()
        key, value = torch.from_numpy(k.copy()), torch.from_numpy(v.copy())
        own = getattr(cache, "self_attention_cache", cache)
        seen = []
        for layer, kind in enumerate(self.layer_types):
            if kind not in ("linear_attention", "conv"):
                seen.append(_attended(own, layer, key, value))
            states = STATES.get(kind.removesuffix("_sliding"), ())
            seen += [_STATE[state](own, layer, key, value) for state in states]
            if kind == "indexed_attention":
                seen.append(_indexed(own, layer, key, value))
            if hasattr(cache, "cross_attention_cache"):
                seen.append(_crossed(cache, layer, key, value))
        return cache, seen

    def rollback(self, cache: Any, tokens: int) -> Any:
        """``crop``, which takes a negative number of tokens.

        >>> dynamic().rollback(dynamic().start(1), 0)  # doctest: +SKIP
        DynamicCache(layers=[DynamicLayer])
        """
        cache.crop(-tokens)
        return cache

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """As ``selecting`` does.

        >>> dynamic().select(dynamic().start(1), [0])  # doctest: +SKIP
        DynamicCache(layers=[DynamicLayer])
        """
        self.selecting(cache, indices)
        return cache

    def branch(self, cache: Any) -> Any:
        """A deep copy.

        >>> dynamic().branch(dynamic().start(1))  # doctest: +SKIP
        DynamicCache(layers=[DynamicLayer])
        """
        return deepcopy(cache)


def _torch() -> Any:
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package} must be installed for this adapter, got no module {package}")
    import torch

    return torch


def _attended(cache: Any, layer: int, key: Any, value: Any) -> Seen:
    length, offset = cache.get_mask_sizes(key.shape[2], layer)
    keys, values = cache.update(key, value, layer)
    told = int(cache.get_seq_length(layer))
    return Seen(keys.numpy(), values.numpy(), offset + np.arange(int(length)), length=told)


def _convolved(cache: Any, layer: int, key: Any, value: Any) -> Seen:
    columns = [x.transpose(2, 3).flatten(1, 2) for x in (key, value)]
    columns = cache.update_conv_state(_torch().cat(columns, 1), layer, conv_kernel_size=KERNEL)
    k, v = columns.unflatten(1, (2, 2, 64)).transpose(3, 4).unbind(1)
    return Seen(k.numpy(), v.numpy())


def _recalled(cache: Any, layer: int, key: Any, value: Any) -> Seen:
    torch = _torch()
    rows = torch.stack([key, value])
    before = cache.get_recurrent_state(layer)
    if before is not None and cache.layers[layer].is_recurrent_states_initialized[0]:
        rows = torch.cat([before.unsqueeze(3).transpose(0, 1), rows], 3)
    if rows.shape[3]:
        cache.update_recurrent_state(rows[:, :, :, -1].transpose(0, 1), layer)
    return Seen(rows[0].numpy(), rows[1].numpy())


_STATE = {"conv": _convolved, "recurrent": _recalled}


def _indexed(cache: Any, layer: int, key: Any, value: Any) -> Seen:
    rows = cache.update_indexer(_torch().cat([key, value], 1).transpose(1, 2).flatten(2), layer)
    keys, values = rows.unflatten(2, (4, 64)).transpose(1, 2).chunk(2, 1)
    return Seen(keys.numpy(), values.numpy(), np.arange(rows.shape[1]))


def _crossed(cache: Any, layer: int, key: Any, value: Any) -> Seen:
    """As the models do: the source is stored at the first forward and read afterwards."""
    cross = cache.cross_attention_cache
    if cache.is_updated.get(layer):
        stored = cross.layers[layer]
        return Seen(stored.keys.numpy(), stored.values.numpy())
    keys, values = cross.update(key, value, layer)
    cache.is_updated[layer] = True
    return Seen(keys.numpy(), values.numpy())


def _config(layer_types: Sequence[str], window: int | None) -> Any:
    _torch()
    from transformers import PreTrainedConfig

    named: dict[str, Any] = {"num_hidden_layers": len(layer_types), "layer_types": list(layer_types)}
    return PreTrainedConfig(**named, sliding_window=window)


def _parts(layer_types: Sequence[str], window: int | None) -> tuple[Part, ...]:
    parts = []
    for kind in layer_types:
        if kind not in ("linear_attention", "conv"):
            parts.append(Part(window=window if "sliding" in kind else None))
        states = STATES.get(kind.removesuffix("_sliding"), ())
        parts += [Part(window=KERNEL if state == "conv" else 2) for state in states]
        if kind == "indexed_attention":
            parts.append(Part())
    return tuple(parts)


def _checked(layer_types: Sequence[str], window: int | None) -> tuple[str, ...]:
    known = {"full_attention", "sliding_attention", "indexed_attention", "hybrid_sliding", *STATES}
    for kind in layer_types:
        if kind not in known:
            raise ArgumentError(f"layer_types must be among {', '.join(sorted(known))}, got {kind!r}")
        if "sliding" in kind and window is None:
            raise ArgumentError(f"window must be given for {kind}, got None")
    return tuple(layer_types)


def layered(layer_types: Sequence[str], *, window: int | None = None, **declared: Any) -> TransformersCache:
    """``DynamicCache(config=…)`` of layers of these types.

    Parameters
    ----------
    layer_types
        ``full_attention``, ``sliding_attention``, ``indexed_attention``, ``linear_attention`` (convolution and
        recurrent state), ``conv``, ``hybrid``, ``hybrid_sliding``.
    window
        Keys that a query of a sliding layer sees, itself included.
    **declared
        Further `Capabilities`.

    Raises
    ------
    ArgumentError
        An unknown type, or a sliding layer without a window.

    Examples
    --------
    >>> layered(["full_attention", "sliding_attention"], window=4).capabilities.parts[1]
    Part(window=4, sinks=0, source=False)
    """
    kinds = _checked(layer_types, window)

    def make() -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=_config(kinds, window))

    return TransformersCache(make, Capabilities(parts=_parts(kinds, window), **declared), kinds)


def dynamic(layers: int = 1) -> TransformersCache:
    """``DynamicCache()`` without a configuration, which makes its layers as they are used.

    >>> dynamic().capabilities.rollback is None
    True
    """

    def make() -> Any:
        from transformers import DynamicCache

        return DynamicCache()

    return TransformersCache(make, Capabilities(parts=(Part(),) * layers), ("full_attention",) * layers)


def static(
    capacity: int, layer_types: Sequence[str] = ("full_attention",), *, window: int | None = None, **declared: Any
) -> TransformersCache:
    """``StaticCache`` of so many tokens.

    Parameters
    ----------
    capacity
        ``max_cache_len``; it limits nothing where every layer is a ring as long as its window.
    layer_types, window, **declared
        As for `layered`.

    Raises
    ------
    ArgumentError
        As `layered`.

    Examples
    --------
    >>> static(8, rollback=0).capabilities.capacity
    8
    """
    kinds = _checked(layer_types, window)

    def make() -> Any:
        from transformers import StaticCache

        return StaticCache(config=_config(kinds, window), max_cache_len=capacity)

    rings = window is not None and window <= capacity and all("sliding" in kind for kind in kinds)
    declared = {"capacity": None if rings else capacity} | declared
    return TransformersCache(make, Capabilities(parts=_parts(kinds, window), **declared), kinds)


def quantized(backend: str, **declared: Any) -> TransformersCache:
    """``QuantizedCache`` of one layer, with a residual of 4 tokens where the backend has one.

    Parameters
    ----------
    backend
        ``"fp8"``, ``"quanto"`` or ``"hqq"``.
    **declared
        Further `Capabilities`.

    Examples
    --------
    >>> quantized("fp8", rollback=0).layer_types
    ('full_attention',)
    """

    def make() -> Any:
        from transformers import QuantizedCache

        options = {} if backend == "fp8" else {"residual_length": 4}
        return QuantizedCache(backend, _config(["full_attention"], None), **options)

    return TransformersCache(make, Capabilities(**declared), ("full_attention",))


def encoder_decoder(**declared: Any) -> TransformersCache:
    """``EncoderDecoderCache`` of two dynamic caches; the first append is the source of the second one.

    >>> [part.source for part in encoder_decoder().capabilities.parts]
    [False, True]
    """

    def make() -> Any:
        from transformers import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    return TransformersCache(make, Capabilities(parts=(Part(), Part(source=True)), **declared), ("full_attention",))
