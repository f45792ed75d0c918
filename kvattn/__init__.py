"""kvattn: the reference that attention code is tested against.

What most readers need is here; everything is loaded on first use, so that ``import kvattn`` costs
no more than a name.

>>> import numpy as np
>>> import kvattn
>>> x = np.eye(2)[None]
>>> kvattn.attention(x, x, x, mask=kvattn.masks.Causal(), scale=float(np.log(3)))[0]
array([[1.  , 0.  ],
       [0.25, 0.75]])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# not on first use: the module would take the function's name when somebody imports it
from kvattn.counting import Tally, counting

if TYPE_CHECKING:
    from kvattn import caches, execution, goldens, masks, mods, positions, testing, variants
    from kvattn.core.merge import merge
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
    "execution",
    "goldens",
    "masks",
    "merge",
    "mods",
    "positions",
    "testing",
    "variants",
]

_HOME = {
    "Attended": "typing",
    "KvattnError": "errors",
    "attend": "one_liners",
    "attention": "one_liners",
    "merge": "core.merge",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kvattn' has no attribute {name!r}")
    module = import_module(f"kvattn.{_HOME.get(name, name)}")
    value = getattr(module, name) if name in _HOME else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
