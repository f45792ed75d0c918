"""What is checked: a function that counts, FLOPs of one attention or bytes of its cache, from sizes alone.

The contract, of integers by keyword, any subset of them::

    flops(*, batch, layers, query_heads, kv_heads, queries, keys, width, value_width, hidden,
          causal=False, window=None, window_layers)                                    -> FLOPs of the attention
    cache_bytes(*, batch, layers, query_heads, kv_heads, queries, tokens, width, value_width, hidden,
                itemsize, bits, group, scale_itemsize, page, window=None, window_layers) -> bytes of keys and values

A size that it does not take is neutral: one sequence, one layer, ``kv_heads = query_heads``, ``keys = queries``,
``value_width = width``, ``width = hidden // query_heads``.  What is expected:

* FLOPs: ``2 (D + Dv)`` for every pair that a query sees, in every query head: products of queries with keys and of
  weights with values, a multiply-add as two; no projections, no softmax.  With ``causal`` the queries are the last T
  of S positions, with ``window`` each sees W keys, its own included; ``window_layers`` of the layers have the window.
* Bytes: ``D + Dv`` numbers for every cached token in every key/value head, ``itemsize`` bytes or ``bits`` bits each.
  With a ``window`` W tokens stay; with ``queries`` it is what one step of so many new tokens (the last of ``tokens``)
  reads, each row once; with ``page`` whole pages; with ``group`` one scale of ``scale_itemsize`` bytes for so many
  numbers.

The usual names of other projects (``seq_len``, ``num_kv_heads``, ``head_dim``, …) are known: `SYNONYMS`.  Where neither
these names nor its own (``…flop…``; ``…byte…``, ``…cache…``, ``…memory…``) tell what it counts, ``f.counts = "flops"``
or ``"bytes"`` says so.
"""

from collections.abc import Callable, Mapping
import contextlib
from dataclasses import dataclass
from functools import cached_property
import inspect
import sys
from types import MappingProxyType
from typing import Any, Literal, TypeAlias
import warnings

import numpy as np

from kvattn.errors import ArgumentError

Counts: TypeAlias = Literal["flops", "bytes"]
"""What a counter counts."""

_BOTH = ("batch", "layers", "query_heads", "kv_heads", "queries", "width", "value_width", "hidden")
FLOPS = (*_BOTH, "keys", "causal", "window", "window_layers")
"""Sizes that a counter of FLOPs may take."""

BYTES = (*_BOTH, "tokens", "itemsize", "bits", "group", "scale_itemsize", "page", "window", "window_layers")
"""Sizes that a counter of bytes may take."""

SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "batch": ("batch_size", "bsz"),
        "layers": ("num_layers", "n_layers", "num_hidden_layers"),
        "query_heads": ("heads", "num_heads", "n_heads", "nheads", "num_attention_heads", "num_query_heads"),
        "kv_heads": ("num_kv_heads", "n_kv_heads", "num_key_value_heads"),
        "queries": ("seqlen_q", "q_len", "query_length"),
        "keys": ("seqlen_k", "kv_len", "key_length"),
        "width": ("head_dim", "headdim", "head_size", "d_head"),
        "value_width": ("v_head_dim", "value_head_dim"),
        "hidden": ("hidden_size", "d_model", "hidden_dim"),
        "causal": ("is_causal",),
        "window": ("sliding_window",),
        "itemsize": ("dtype_bytes", "bytes_per_element", "element_size"),
        "page": ("page_size", "block_size"),
        "length": ("seq_len", "seqlen", "sequence_length", "context_length"),
    }
)
"""Other names of each size; ``length`` is that of queries and keys alike, and of the cached tokens."""

_KNOWN = {other: name for name, others in SYNONYMS.items() for other in (name, *others)}
_KNOWN |= {name: name for name in (*FLOPS, *BYTES)}
_MARKS = {"bytes": {"tokens", "itemsize", "bits", "scale_itemsize"}, "flops": {"keys", "queries", "causal"}}
_CALLED = {"flops": ("flop",), "bytes": ("byte", "cache", "memory")}
_EXPECTED = (
    "expected flops(*, batch, query_heads, kv_heads, queries, keys, width, value_width, causal=False, window=None) or"
    " cache_bytes(*, batch, kv_heads, tokens, width, value_width, itemsize, window=None), any subset"
)


@dataclass(frozen=True)
class CounterTarget:
    """A counter under test.

    Attributes
    ----------
    name
        How the report calls it.
    function
        The callable.
    counts
        ``"flops"`` or ``"bytes"``.
    names
        The contract's sizes that it takes, each with its own name for it.
    setup
        Python that binds ``f``, for the line that reproduces a finding; empty where only the caller can.
    untested
        Optional parameters that the contract does not know; they stay at their defaults.

    Examples
    --------
    >>> def cache(seq_len, num_kv_heads, head_dim, dtype_bytes=2):
    ...     return 2 * seq_len * num_kv_heads * head_dim * dtype_bytes
    >>> target = counter_target_of(cache)
    >>> target.counts, sorted(target.features)
    ('bytes', ['itemsize', 'kv_heads', 'tokens', 'width'])
    >>> target({"tokens": 3, "kv_heads": 2, "width": 4, "itemsize": 2})
    96
    """

    name: str
    function: Callable[..., Any]
    counts: Counts
    names: Mapping[str, str]
    setup: str = ""
    untested: tuple[str, ...] = ()

    @cached_property
    def required(self) -> frozenset[str]:
        """Its own names of what it must be given.

        >>> sorted(counter_target_of(lambda *, queries, width, window=None: 0).required)
        ['queries', 'width']
        """
        return frozenset(p.name for p in _parameters(self.function) if p.default is p.empty)

    @property
    def features(self) -> frozenset[str]:
        """Names of the contract's sizes that it takes.

        >>> CounterTarget("mine", len, "flops", {"queries": "seqlen"}).features
        frozenset({'queries'})
        """
        return frozenset(self.names)

    def keywords(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Say sizes in the counter's own names; what is None or False is left out where it may be.

        >>> target = CounterTarget("mine", len, "flops", {"queries": "seqlen", "causal": "causal"})
        >>> target.keywords({"queries": 3, "causal": False, "batch": 2})
        {'seqlen': 3}
        """
        required = self.required
        asked = {own: sizes.get(name) for name, own in self.names.items()}
        return {own: x for own, x in asked.items() if not (x is None or x is False) or own in required}

    def __call__(self, sizes: Mapping[str, Any]) -> Any:
        """Count; what the function prints goes to stderr, what it warns is dropped."""
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return self.function(**self.keywords(sizes))


def is_counter(function: object) -> bool:
    """Say whether a callable's signature is that of a counter, or an attribute ``counts`` says so.

    >>> is_counter(lambda *, queries, keys, width: 0), is_counter(lambda q, k, v: v), is_counter(lambda a, b: a)
    (True, False, False)
    """
    if getattr(function, "counts", None) in _MARKS:
        return True
    parameters = _parameters(function)
    known = {_KNOWN[p.name] for p in parameters if p.name in _KNOWN}
    foreign = [p for p in parameters if p.name not in _KNOWN and p.default is p.empty and p.kind != p.VAR_KEYWORD]
    marks = known & {*_MARKS["bytes"], *_MARKS["flops"], "length"}
    return bool(marks and known & {"width", "hidden"} and not foreign)


def counter_target_of(function: Callable[..., Any], name: str | None = None, setup: str = "") -> CounterTarget:
    """Read a counter's signature.

    Raises
    ------
    ArgumentError
        Where it needs more than the contract has, takes two names for one size, or leaves open what it counts.

    Examples
    --------
    >>> counter_target_of(lambda seq_len, head_dim: 0)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: target must say what it counts, f.counts = "flops" or "bytes", got (seq_len, head_dim)
    """
    parameters = _parameters(function)
    told = ", ".join(p.name for p in parameters)
    if not is_counter(function):
        raise ArgumentError(f"target must be a counter, got ({told}); {_EXPECTED}")
    known = {_KNOWN[p.name] for p in parameters if p.name in _KNOWN}
    counts: Any = getattr(function, "counts", None)
    if counts is None:
        called = str(name or getattr(function, "__name__", "")).rpartition(":")[2].lower()
        counts = next((kind for kind, marks in _MARKS.items() if known & marks), None)
        counts = counts or next((kind for kind, words in _CALLED.items() if any(w in called for w in words)), None)
        if counts is None:
            raise ArgumentError(f'target must say what it counts, f.counts = "flops" or "bytes", got ({told})')
    names: dict[str, str] = {}
    untested = []
    for p in parameters:
        size = _KNOWN.get(p.name, "")
        if size == "length":
            size = "tokens" if counts == "bytes" else "queries"
        if size not in (FLOPS if counts == "flops" else BYTES) or p.kind is p.POSITIONAL_ONLY:
            if p.default is p.empty and p.kind not in {p.VAR_KEYWORD, p.VAR_POSITIONAL}:
                raise ArgumentError(f"target must need only what the contract has, got required {p.name}; {_EXPECTED}")
            untested += [p.name] if p.kind not in {p.VAR_KEYWORD, p.VAR_POSITIONAL} else []
        elif size in names:
            raise ArgumentError(f"target must have one name for {size}, got {names[size]} and {p.name}")
        else:
            names[size] = p.name
    found = getattr(function, "__qualname__", type(function).__qualname__)
    return CounterTarget(
        name=f"{getattr(function, '__module__', '')}:{found}" if name is None else name,
        function=function,
        counts=counts,
        names=names,
        setup=setup,
        untested=tuple(untested),
    )


def _parameters(function: object) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values()) if callable(function) else []
    except (TypeError, ValueError):
        return []
