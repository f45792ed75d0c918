"""Who may see whom: one mask per file, on absolute positions, joined with ``&``, ``|`` and ``~``.

>>> from kvattn.masks import Causal, Sink, Window
>>> Causal() & (Window(4) | Sink(2))
Causal() & (Window(4) | Sink(2))
"""

from kvattn.masks.causal import Causal
from kvattn.masks.combine import Both, Either, Everything, Inverse, both, either, inverse
from kvattn.masks.explicit import Explicit
from kvattn.masks.prefix import Prefix
from kvattn.masks.sink import Sink
from kvattn.masks.window import Window

__all__ = [
    "Both",
    "Causal",
    "Either",
    "Everything",
    "Explicit",
    "Inverse",
    "Prefix",
    "Sink",
    "Window",
    "both",
    "either",
    "inverse",
]
