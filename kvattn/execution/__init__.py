"""Other ways to compute the same attention: tiles, splits, rings, shared prefixes, trees.

>>> import numpy as np
>>> from kvattn.execution import Question, online_attend
>>> x = np.eye(3)[None, None]
>>> bool(np.allclose(online_attend(Question(x, x, x), columns=2).out, Question(x, x, x).attend().out))
True
"""

from kvattn.execution.block_table import BlockTable
from kvattn.execution.cascade import Segment, bytes_read, cascade_attend
from kvattn.execution.chunked_prefill import Work, chunked_attend, chunked_cost, plan
from kvattn.execution.context_parallel import context_parallel_attend, context_parallel_bytes
from kvattn.execution.lazy import lazy_attend, numbers_held
from kvattn.execution.lookahead import Lookahead
from kvattn.execution.online import Tiles, online_attend, tiles
from kvattn.execution.question import Question
from kvattn.execution.ring import Distributed, Layout, contiguous, ring_attend, ring_bytes
from kvattn.execution.smoothing import int8_round_trip, mean_key, smoothed_attend
from kvattn.execution.split import attend_parts, split_attend
from kvattn.execution.striped import striped_attend, stripes
from kvattn.execution.tree import commit, tree_attend
from kvattn.execution.zigzag import folded, zigzag_attend

__all__ = [
    "Question",
    "online_attend",
    "tiles",
    "Tiles",
    "split_attend",
    "attend_parts",
    "context_parallel_attend",
    "context_parallel_bytes",
    "lazy_attend",
    "numbers_held",
    "ring_attend",
    "ring_bytes",
    "Distributed",
    "Layout",
    "contiguous",
    "striped_attend",
    "stripes",
    "zigzag_attend",
    "folded",
    "BlockTable",
    "cascade_attend",
    "Segment",
    "bytes_read",
    "tree_attend",
    "commit",
    "Lookahead",
    "chunked_attend",
    "chunked_cost",
    "plan",
    "Work",
    "smoothed_attend",
    "mean_key",
    "int8_round_trip",
]
