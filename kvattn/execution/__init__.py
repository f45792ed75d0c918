"""Other ways to compute the same attention: tiles, splits, rings, shared prefixes, trees.

>>> import numpy as np
>>> from kvattn.execution import Question, online_attend
>>> x = np.eye(3)[None, None]
>>> bool(np.allclose(online_attend(Question(x, x, x), columns=2).out, Question(x, x, x).attend().out))
True
"""

from kvattn.execution.online import Tiles, online_attend, tiles
from kvattn.execution.question import Question

__all__ = [
    "Question",
    "online_attend",
    "tiles",
    "Tiles",
]
