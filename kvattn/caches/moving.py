"""Keeping some tokens of a paged cache and forgetting the others: gaps close, kept rows stay as they are to the bit.

Pages before that of the first gap are shared; the rows behind it that stay are read where they lie and written behind
them, into pages of the new value's own.  Nothing of the old value changes, and what is refused has written nothing.

Cost: what moves is charged as ``kv_copied``; a path or a choice that leaves everything in place moves nothing.

Source: the two uses are Leviathan et al. 2023 (2211.17192) section 2, whose accepted tokens `commit` keeps in a tree
as Miao et al. 2023 (SpecInfer, 2305.09781) section 4 does, and every policy of `kvattn.eviction`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.caches.batches import per_sequence
from kvattn.caches.rows import R
from kvattn.caches.tables import extend, pick
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, PositionError
from kvattn.typing import Positions, Visible

if TYPE_CHECKING:
    from kvattn.caches.paged import Paged


def commit(cache: "Paged[R]", prefix: int | Sequence[int], path: Sequence[int] | Sequence[Sequence[int]]) -> "Paged[R]":
    """What `kvattn.caches.paged.Paged.commit` gives: one path of a tree that was appended behind ``prefix`` tokens.

    >>> from kvattn.caches import Paged, latent
    >>> held = Paged.start(latent(1)).append([np.arange(6.0).reshape(1, 1, 6, 1)])
    >>> commit(held, 2, [1, 3]).rows().latent.ravel()
    array([0., 1., 3., 5.])
    """
    starts = per_sequence("prefix", prefix, cache.lengths)
    if not _is_row(path):
        raise ArgumentError(f"path must be a row of node numbers, or one for each sequence, got {shown(path)}")
    paths: Sequence[Any] = path if len(path) and all(map(_is_row, path)) else (path,) * cache.batch
    if len(paths) != cache.batch:
        raise ArgumentError(f"path must be one for all or one for each of {cache.batch} sequences, got {shown(path)}")
    stays, rest = [], []
    for b, (start, nodes, length) in enumerate(zip(starts, paths, cache.lengths, strict=True)):
        slots = start + _increasing(f"path of sequence {b}", nodes, length - start)
        settled = _settled(slots, start)
        stays.append(start + settled)
        rest.append(slots[settled:])
    return _moved(cache, stays, rest)


def evict(cache: "Paged[R]", keep: Sequence[Any] | Visible) -> "Paged[R]":
    """What `kvattn.caches.paged.Paged.evict` gives: the slots of ``keep``, each at its position.

    >>> from kvattn.caches import Paged, latent, placed
    >>> held = Paged.start(placed(latent(1))).append([np.arange(6.0).reshape(1, 1, 6, 1)])
    >>> evict(held, [[0, 4, 5]]).positions(0)
    array([0, 4, 5])
    """
    needs_places(cache, "evict")
    if not _is_row(keep) or len(keep) != cache.batch:
        raise ArgumentError(f"keep must be slots for each of {cache.batch} sequences, got {shown(keep)}")
    slots = [_chosen(f"keep of sequence {b}", k, n) for b, (k, n) in enumerate(zip(keep, cache.lengths, strict=True))]
    for b, chosen in enumerate(slots):
        lost = chosen[~cache.held(b)[chosen]]
        if lost.size:
            raise PositionError(f"keep of sequence {b} must name slots that are held, got {lost[0]}, which is not")
    stays = [_settled(chosen, 0) for chosen in slots]
    moved = _moved(cache, stays, [chosen[n:] for chosen, n in zip(slots, stays, strict=True)])
    return replace(moved, ends=cache.ends, _marks=tuple(zip(moved.lengths, cache.ends, strict=True)))


def needs_places(cache: "Paged[Any]", verb: str) -> None:
    """Refuse a cache whose tokens do not keep positions of their own.

    >>> from kvattn.caches import Paged, latent
    >>> needs_places(Paged.start(latent(1)), "evict")
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: schema must be placed to evict, so that tokens keep positions of their own, got Latent
    """
    if not cache.schema.placed:
        raise ArgumentError(
            f"schema must be placed to {verb}, so that tokens keep positions of their own, got {cache.schema.name}"
        )


def _moved(cache: "Paged[R]", stays: Sequence[int], rest: Sequence[Positions]) -> "Paged[R]":
    """The first ``stays[b]`` slots, and behind them the rows of the slots ``rest[b]``."""
    rows = [pick(cache.schema, cache.page, *each) for each in zip(cache._tables, rest, strict=True)]
    base = cache.truncate(stays)
    tables, lengths, ends, copied = [], [], [], 0
    for table, length, end, new in zip(base._tables, base.lengths, base.ends, rows, strict=True):
        count = new[0].shape[1]
        longer, more = extend(cache.schema, cache.page, table, length, new) if count else (table, 0)
        tables.append(longer)
        lengths.append(length + count)
        ends.append(int(new[-1][0, -1, 0]) + 1 if count and cache.schema.placed else end + count)
        copied += more + count
    charge(Tally(kv_copied=copied * cache.schema.nbytes))
    return replace(base, lengths=tuple(lengths), ends=tuple(ends), _tables=tuple(tables))


def _is_row(given: object) -> bool:
    """Whether something has entries in an order."""
    return hasattr(given, "__len__") and not isinstance(given, (str, bytes, Mapping, set, frozenset))


def _chosen(name: str, given: Any, length: int) -> Positions:
    """Slots that stay: increasing numbers, or the places of the true ones of ``length`` truth values."""
    if _is_row(given) and len(given) and all(isinstance(x, (bool, np.bool_)) for x in given):
        if len(given) != length:
            raise ArgumentError(f"{name} must have a truth value for each of {length} slots, got {len(given)}")
        return np.flatnonzero(given)
    return _increasing(name, given, length)


def _increasing(name: str, given: Any, most: int) -> Positions:
    """Increasing numbers in ``0 .. most - 1``."""
    if not _is_row(given) or getattr(given, "ndim", 1) != 1:
        raise ArgumentError(f"{name} must be a row of numbers, got {shown(given)}")
    read = np.array([integer(f"{name}[{n}]", x, 0, most - 1) for n, x in enumerate(given)], np.int64)
    if (np.diff(read) <= 0).any():
        raise ArgumentError(f"{name} must be increasing, got {shown(given)}")
    return read


def _settled(slots: Positions, start: int) -> int:
    """How many of the slots stand at ``start``, ``start + 1``, … already."""
    away = np.flatnonzero(slots != start + np.arange(len(slots)))
    return int(away[0]) if len(away) else len(slots)
