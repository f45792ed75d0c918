"""What is remembered: one storage per file, no arithmetic.

>>> import numpy as np
>>> from kvattn.caches import Paged, latent
>>> Paged.start(latent(4), page=16).append([np.ones((1, 1, 3, 4))])
Paged(Latent, page=16, lengths=(3,))
"""

from kvattn.caches.accounting import live_bytes, padded_bytes, shared_bytes
from kvattn.caches.block_tables import export_block_table, import_block_table
from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.caches.cache import Cache
from kvattn.caches.chunked_local import ChunkedLocal
from kvattn.caches.coded import Coded
from kvattn.caches.contiguous import Contiguous
from kvattn.caches.kivi_cache import KiviCache, step_in_windows
from kvattn.caches.layered import Layered
from kvattn.caches.paged import Paged
from kvattn.caches.pool import BlockPool, Handle
from kvattn.caches.prefix_hash import PrefixBlocks
from kvattn.caches.prefix_keys import Origin
from kvattn.caches.prefix_trie import PrefixTrie
from kvattn.caches.ring import Ring
from kvattn.caches.rows import Field, KeyValue, Latent, Schema, key_value, latent, left_aligned, placed
from kvattn.caches.saved import restore_npz, restore_safetensors, save_npz, save_safetensors
from kvattn.caches.shared_layers import SharedLayers
from kvattn.caches.sink_window import SinkWindow
from kvattn.caches.snapshots import Snapshots
from kvattn.caches.static import Static
from kvattn.caches.summaries import Summaries, Summary
from kvattn.caches.tiered import Tiered

__all__ = [
    "Cache",
    "Paged",
    "Contiguous",
    "Tiered",
    "Static",
    "Summaries",
    "Summary",
    "SinkWindow",
    "Ring",
    "ChunkedLocal",
    "Coded",
    "KiviCache",
    "step_in_windows",
    "Snapshots",
    "Layered",
    "SharedLayers",
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
    "shared_bytes",
    "padded_bytes",
    "Origin",
    "PrefixTrie",
    "PrefixBlocks",
    "save_npz",
    "restore_npz",
    "save_safetensors",
    "restore_safetensors",
    "export_block_table",
    "import_block_table",
]
