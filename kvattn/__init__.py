"""kvattn: the reference that attention code is tested against.

>>> import numpy as np, kvattn
>>> x = np.eye(2)[None]
>>> kvattn.attention(x, x, x, mask=kvattn.masks.Causal(), scale=float(np.log(3)))[0]
array([[1.  , 0.  ],
       [0.25, 0.75]])
"""

from kvattn import caches, masks, mods, positions
from kvattn.core.merge import merge
from kvattn.counting import Tally, counting
from kvattn.errors import KvattnError
from kvattn.one_liners import attend, attention
from kvattn.typing import Attended

__version__ = "0.1.0"

__all__ = [
    "Attended",
    "KvattnError",
    "Tally",
    "attend",
    "attention",
    "caches",
    "counting",
    "masks",
    "merge",
    "mods",
    "positions",
]
