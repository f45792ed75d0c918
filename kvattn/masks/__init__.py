"""Who may see whom: one mask per file, on absolute positions, joined with ``&``, ``|`` and ``~``.

>>> from kvattn.masks import Causal, Sink, Window
>>> Causal() & (Window(4) | Sink(2))
Causal() & (Window(4) | Sink(2))
"""

from kvattn.masks.anchors import bottom_right, bottom_right_positions, top_left, top_left_positions
from kvattn.masks.block_diffusion import BlockDiffusion
from kvattn.masks.block_wise import BlockWise
from kvattn.masks.causal import Causal
from kvattn.masks.chosen import Chosen
from kvattn.masks.chunked import Chunked
from kvattn.masks.columns import Columns
from kvattn.masks.combine import Both, Either, Everything, Inverse, both, either, inverse
from kvattn.masks.dilated import Dilated
from kvattn.masks.document import Document
from kvattn.masks.explicit import Explicit
from kvattn.masks.global_tokens import KeysAt, QueriesAt
from kvattn.masks.neighbourhood import Neighbourhood
from kvattn.masks.padding import Padding
from kvattn.masks.per_head import PerHead
from kvattn.masks.prefix import Prefix
from kvattn.masks.sink import Sink
from kvattn.masks.strided import Strided
from kvattn.masks.tree import Tree
from kvattn.masks.window import Window

__all__ = [
    "Causal",
    "Window",
    "Sink",
    "Prefix",
    "Chunked",
    "Dilated",
    "Document",
    "Padding",
    "Tree",
    "Strided",
    "Columns",
    "KeysAt",
    "QueriesAt",
    "Neighbourhood",
    "BlockDiffusion",
    "BlockWise",
    "PerHead",
    "Chosen",
    "Explicit",
    "Everything",
    "Both",
    "Either",
    "Inverse",
    "both",
    "either",
    "inverse",
    "top_left",
    "bottom_right",
    "top_left_positions",
    "bottom_right_positions",
]
