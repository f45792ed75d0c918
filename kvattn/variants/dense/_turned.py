"""Turn the keys of a block on the way from the cache to the products."""

import numpy as np

from kvattn.caches.blocks import KeyBlock
from kvattn.positions.rotary import Rotary
from kvattn.typing import Positions


def turned(block: KeyBlock, rotary: Rotary, places: Positions) -> KeyBlock:
    """The block with its keys turned to ``places [256]``; columns that hold no key stay zero, and are not counted.

    >>> from kvattn.caches.blocks import blocks_of
    >>> (block,) = blocks_of(np.ones((1, 3, 2)), np.ones((1, 3, 2)), np.arange(3))
    >>> turned(block, Rotary.of(2), np.zeros(256, np.int64)).k[0, :, :4]
    array([[1., 1., 1., 0.],
           [1., 1., 1., 0.]])
    """
    count = block.key_count
    keys = np.zeros_like(block.k)  # [Hkv, D, 256]
    keys[..., :count] = rotary.rotate(block.k[..., :count].swapaxes(1, 2), places[:count]).swapaxes(1, 2)
    return block._replace(k=keys)
