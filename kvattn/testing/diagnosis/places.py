"""Where queries and keys stand, and what a case is without pages, factors and what must change nothing.

Query t of sequence b stands at ``n[b] - T + t``, n[b] being S or ``lengths[b]``; key s at s.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.recipe import PAGE, Built
from kvattn.typing import Visible

Places = NDArray[np.int64]

_WITHOUT_EFFECT = frozenset(("block_table", "k_scale", "v_scale", "splits", "dropout", "training", "return_weights"))


def dense(built: Built) -> Built:
    """Gather pages and multiply by ``k_scale`` and ``v_scale``; slots that hold no key are 0.

    >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
    >>> case = Recipe(Sizes(Hkv=1), options=(("v_scale", "np.array([2.0])"),)).build()
    >>> bool((dense(case).v == 2 * case.v).all()), dense(case).options
    (True, {})
    """
    options = built.options
    k, v = built.k, built.v
    table = options.get("block_table")
    if table is not None:
        held = np.asarray(options["lengths"])[:, None] > np.arange(table.shape[1] * k.shape[2])
        k, v = (np.where(held[:, None, :, None], _gathered(x, table), 0).astype(x.dtype) for x in (k, v))
    for name in ("k_scale", "v_scale"):
        if options.get(name) is not None:
            factor = np.asarray(options[name], np.float64)[:, None, None]
            k, v = (k * factor, v) if name == "k_scale" else (k, v * factor)
    return Built(built.q, k, v, {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT})


def _gathered(pool: NDArray[np.floating], table: Places) -> NDArray[np.floating]:
    """Pages ``[N, Hkv, P, D]`` in the table's order, ``[B, Hkv, pages · P, D]``."""
    pages = pool[np.asarray(table)].swapaxes(1, 2)  # [B, Hkv, pages, P, D]
    return np.asarray(pages.reshape(*pages.shape[:2], -1, pages.shape[-1]))


def paged(x: NDArray[Any], table: Places, lengths: Places, page: int = PAGE) -> NDArray[Any]:
    """Lay keys or values ``[B, Hkv, S, D]`` out in the pages of a table; slots that hold no key are full of sevens.

    >>> pool = paged(np.ones((1, 1, 5, 2)), np.array([[2, 0]]), np.array([5]))
    >>> pool[:, 0, :, 0]
    array([[1., 7., 7., 7.],
           [7., 7., 7., 7.],
           [1., 1., 1., 1.],
           [7., 7., 7., 7.],
           [7., 7., 7., 7.]])
    """
    batch, heads, count, width = x.shape
    rows = np.full((batch, heads, table.shape[1] * page, width), 7.0, x.dtype)
    rows[:, :, :count] = x
    for b, length in enumerate(lengths):
        rows[b, :, length:] = 7.0
    pool = np.full((table.size + 3, heads, page, width), 7.0, x.dtype)
    pool[table] = rows.reshape(batch, heads, -1, page, width).swapaxes(1, 2)
    return pool


def seen_by(mask: Any) -> Visible:
    """Return what a mask shows, in whichever form of `kvattn.testing.diagnosis.recipe.MASK_FORMS` it is.

    >>> seen_by([True, False]).tolist(), seen_by([0.0, -np.inf]).tolist(), seen_by([1, 0]).tolist()
    ([True, False], [True, False], [True, False])
    """
    given = np.asarray(mask)
    return given == 0 if np.issubdtype(given.dtype, np.floating) else given.astype(np.bool_)


def keys_of(built: Built) -> Places:
    """Return how many keys each sequence has, ``[B]``.

    >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
    >>> keys_of(Recipe(Sizes(B=2, S=7)).build())
    array([7, 7])
    """
    lengths = built.options.get("lengths")
    return np.full(built.q.shape[0], built.k.shape[2]) if lengths is None else np.asarray(lengths, np.int64)


def query_places(built: Built, anchor: str = "bottom_right", shift: int = 0) -> Places:
    """Return where the queries stand, ``[B, 1, T, 1]``.

    ``anchor`` is ``"bottom_right"`` (the contract's), ``"top_left"`` (the first query at 0) or ``"buffer_end"`` (the
    last one at the last slot, whatever ``lengths`` says).

    >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
    >>> query_places(Recipe(Sizes(T=2, S=5)).build()).ravel()
    array([3, 4])
    """
    given = built.options.get("q_positions")
    if given is not None:
        return np.asarray(given, np.int64)[:, None, :, None] + shift
    length = built.q.shape[2]
    last = np.full(built.q.shape[0], built.k.shape[2]) if anchor == "buffer_end" else keys_of(built)
    first = np.zeros_like(last) if anchor == "top_left" else last - length
    return np.asarray(first[:, None, None, None] + np.arange(length)[:, None] + shift)


def key_places(built: Built) -> Places:
    """Return where the keys stand, ``[B, 1, 1, S]``.

    >>> from kvattn.testing.diagnosis.recipe import Recipe, Sizes
    >>> key_places(Recipe(Sizes(S=3)).build()).ravel()
    array([0, 1, 2])
    """
    given = built.options.get("k_positions")
    if given is not None:
        return np.asarray(given, np.int64)[:, None, None, :]
    return np.broadcast_to(np.arange(built.k.shape[2]), (built.q.shape[0], 1, 1, built.k.shape[2]))


def lineage(parents: Places) -> Visible:
    """Return who is an ancestor of whom, or the same, ``[T, T]``.

    >>> lineage(np.array([-1, 0, 0]))
    array([[ True, False, False],
           [ True,  True, False],
           [ True, False,  True]])
    """
    seen = np.eye(len(parents), dtype=np.bool_)
    for t, parent in enumerate(parents):
        if parent >= 0:
            seen[t] |= seen[parent]
    return seen


def _tree(built: Built) -> Visible:
    length, count = built.q.shape[2], built.k.shape[2]
    keep = np.ones((length, count), np.bool_)
    keep[:, count - length :] = lineage(np.asarray(built.options["parents"]))
    return keep


def _same_document(built: Built) -> Visible:
    owner = np.asarray(built.options["segments"])
    return np.asarray(owner[:, None, -built.q.shape[2] :, None] == owner[:, None, None, :])


def _before(built: Built, i: Places, j: Places) -> Visible:
    keep = j <= i
    prefix = built.options.get("prefix")
    return np.asarray(keep if prefix is None else keep | (j < np.asarray(prefix)[:, None, None, None]))


def _slots(built: Built) -> Places:
    return np.arange(built.k.shape[2])


SEES: Mapping[str, Callable[[Built, Places, Places], Visible]] = MappingProxyType(
    {
        "causal": _before,
        "ahead": lambda built, i, j: np.asarray(j - i <= built.options["ahead"]),
        "chunk": lambda built, i, j: np.asarray(i // built.options["chunk"] == j // built.options["chunk"]),
        "lengths": lambda built, i, j: np.asarray(_slots(built) < keys_of(built)[:, None, None, None]),
        "starts": lambda built, i, j: np.asarray(
            _slots(built) >= np.asarray(built.options["starts"])[:, None, None, None]
        ),
        "segments": lambda built, i, j: _same_document(built),
        "parents": lambda built, i, j: _tree(built),
        "bias": lambda built, i, j: ~np.isneginf(built.options["bias"]),
    }
)
"""Who sees whom by one keyword, from the places of queries and keys; window and mask are `Behaviour`'s."""
