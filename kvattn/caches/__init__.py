"""What is remembered: one storage per file, no arithmetic.

>>> import numpy as np
>>> from kvattn.caches import Paged, latent
>>> Paged.start(latent(4), page=16).append([np.ones((1, 1, 3, 4))])
Paged(Latent, page=16, lengths=(3,))
"""

from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.caches.layered import Layered
from kvattn.caches.paged import Paged, live_bytes
from kvattn.caches.pool import BlockPool, Handle
from kvattn.caches.rows import Field, KeyValue, Latent, Schema, key_value, latent, left_aligned, placed
from kvattn.caches.sink_window import SinkWindow
from kvattn.caches.snapshots import Snapshots
from kvattn.caches.static import Static

__all__ = [
    "Paged",
    "Static",
    "SinkWindow",
    "Snapshots",
    "Layered",
    "BlockPool",
    "Handle",
    "Schema",
    "Field",
    "KeyValue",
    "Latent",
    "key_value",
    "latent",
    "placed",
    "left_aligned",
    "KeyBlock",
    "BLOCK",
    "blocks_of",
    "live_bytes",
]
