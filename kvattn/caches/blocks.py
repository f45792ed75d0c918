"""Blocks of 256 keys aligned to slot 0: the shape in which storage hands keys to arithmetic.

A *slot* is a key's place in the order of arrival; its *position* is what masks and schemes see.
Block ``n`` holds slots ``256 n`` to ``256 n + 255``, however many of them exist, whoever stores
them and whatever the page size.  A column that holds no key is exactly zero and is never visible.
Because blocks depend on slots alone, a query adds its keys in the same order whether the keys came
one at a time or all at once: this is half of why cached decoding equals recomputation to the bit
(the other half is `kvattn.blas`).

Shapes: keys ``[Hkv, D, 256]``, stored with time last so that the score product needs no transpose;
values ``[Hkv, 256, Dv]``.
"""

from typing import NamedTuple

import numpy as np

from kvattn.typing import Array, Positions, Visible

BLOCK = 256
"""Slots in a block."""


class KeyBlock(NamedTuple):
    """One block of one sequence.

    Attributes
    ----------
    start
        The first slot, a multiple of `BLOCK`.
    k, v
        ``[Hkv, D, 256]`` and ``[Hkv, 256, Dv]``; unheld columns are zero.
    positions
        ``[256]``; an unheld column repeats the position of a held one.
    held
        ``[256]``, or None when every column holds a key.
    inside
        Whether the values are part of the keys' numbers, as in latent attention: reading one reads both.
    notes
        ``[F, 256]``, further numbers of each key, which mods read as ``place.key_notes``; None without.
    stored
        Bytes that reading the block takes where it is kept in another form, as codes and scales; None: its own.
    """

    start: int
    k: Array
    v: Array
    positions: Positions
    held: Visible | None
    inside: bool = False
    notes: Array | None = None
    stored: int | None = None

    @property
    def key_count(self) -> int:
        """How many columns hold a key.

        >>> import numpy as np
        >>> [block.key_count for block in blocks_of(np.ones((1, 300, 2)), np.ones((1, 300, 2)), np.arange(300))]
        [256, 44]
        """
        return BLOCK if self.held is None else int(np.count_nonzero(self.held))


def blocks_of(k: Array, v: Array, positions: Positions) -> tuple[KeyBlock, ...]:
    """Cut plain arrays into blocks; row ``j`` is slot ``j``.

    Parameters
    ----------
    k, v
        ``[Hkv, S, D]`` and ``[Hkv, S, Dv]``.
    positions
        ``[S]``, in any order.

    Returns
    -------
    tuple of KeyBlock
        None of them empty; no block at all when S = 0.

    Examples
    --------
    >>> import numpy as np
    >>> (block,) = blocks_of(np.ones((1, 3, 2)), np.ones((1, 3, 2)), np.arange(3))
    >>> block.k.shape, block.v.shape, block.key_count
    ((1, 2, 256), (1, 256, 2), 3)
    """
    heads, length, width = k.shape
    found = []
    # a transposed matrix takes another kernel, with other last bits: only what lies row by row is read in place
    if v.strides[1:] != (v.shape[2] * v.itemsize, v.itemsize):
        v = np.ascontiguousarray(v)
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        count = stop - start
        keys = np.zeros((heads, width, BLOCK), k.dtype)
        keys[:, :, :count] = k[:, start:stop].swapaxes(1, 2)
        if count == BLOCK:
            found.append(KeyBlock(start, keys, v[:, start:stop], positions[start:stop], None))
            continue
        values = np.zeros((heads, BLOCK, v.shape[2]), v.dtype)
        values[:, :count] = v[:, start:stop]
        places = np.full(BLOCK, positions[start], np.int64)
        places[:count] = positions[start:stop]
        found.append(KeyBlock(start, keys, values, places, np.arange(BLOCK) < count))
    return tuple(found)
