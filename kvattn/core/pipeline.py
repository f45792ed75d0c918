"""How raw products become scores: what a layer says about attention besides its weights and its keys.

    scale → softcap → mods → mask → sinks → softmax → mix

A layer is a frozen dataclass with some of the fields ``mask``, ``mods``, ``scale``, ``softcap``, ``sinks``.
`settle` reads and checks them once, when the layer is made; `arguments_of` hands them to
`kvattn.core.streaming.attend` and to `kvattn.core.definition.definition`, which take the same ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import DTypeLike

from kvattn.arguments import optional_real, shown
from kvattn.arrays import floating
from kvattn.axes import sizes
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.typing import Array, Mask, Mod

SEQUENCES = (("mods", "__call__", "mods"), ("query_key", "queries", "schemes and norms"), ("finish", "finish", "gates"))
"""Fields that are sequences of values: name, what each value must have, and what the values are called."""

FIELDS = ("mask", "mods", "scale", "softcap", "sinks")
"""Fields of a layer that bend scores."""


class Pipeline(NamedTuple):
    """Everything about attention but its arrays, read.

    Attributes
    ----------
    mask, mods, scale, softcap
        As in `kvattn.attend`; ``scale`` is a Python float.
    sinks
        ``[Hq]`` or None.
    """

    mask: Mask | None
    mods: tuple[Mod, ...]
    scale: float
    softcap: float | None
    sinks: Array | None


def settle(layer: Any, heads: int, dtype: DTypeLike) -> None:
    """Check the fields of a frozen layer that bend scores, and keep plain values and read-only copies in them.

    Parameters
    ----------
    layer
        A frozen dataclass with some of `FIELDS`.
    heads, dtype
        Hq and the weights' dtype, for the sinks.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        One sentence that names the field.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> layer = SimpleNamespace(scale=1, mods=[], sinks=[0])
    >>> settle(layer, heads=1, dtype="float32")
    >>> layer
    namespace(scale=1.0, mods=(), sinks=array([0.], dtype=float32))
    """
    held = {name: getattr(layer, name) for name in FIELDS if hasattr(layer, name)}
    if "mask" in held:
        check_mask(held["mask"])
    for name, verb, what in SEQUENCES:
        if not hasattr(layer, name):
            continue
        values = getattr(layer, name)
        if not isinstance(values, (tuple, list)) or any(isinstance(v, type) or not hasattr(v, verb) for v in values):
            raise ArgumentError(f"{name} must be a sequence of {what}, got {shown(values)}")
        held[name] = tuple(values)
    if "scale" in held:
        held["scale"] = optional_real("scale", held["scale"])
    if "softcap" in held:
        held["softcap"] = optional_real("softcap", held["softcap"], above=0.0)
    if held.get("sinks") is not None:
        sinks = floating("sinks", held["sinks"], dtype).copy()
        sizes(("sinks", sinks, str(heads)))
        sinks.flags.writeable = False
        held["sinks"] = sinks
    for name, value in held.items():
        object.__setattr__(layer, name, value)


def check_mask(mask: Any) -> None:
    """Refuse what cannot answer for pairs and for blocks.

    >>> check_mask(3)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: mask must be a mask of kvattn.masks or None, got 3
    """
    if mask is not None and (isinstance(mask, type) or not callable(mask) or not hasattr(mask, "block")):
        raise ArgumentError(f"mask must be a mask of kvattn.masks or None, got {shown(mask)}")


def mods_cost(mods: Sequence[Mod], *, pairs: int, width: int) -> Tally:
    """What bending so many scores counts: the mods that state a cost, each for every computed pair.

    Parameters
    ----------
    mods
        Any; one without a ``cost`` counts nothing.
    pairs, width
        Scores, and D.

    Examples
    --------
    >>> from kvattn.mods import Softcap
    >>> mods_cost((Softcap(2.0), lambda scores, place: scores), pairs=10, width=4)
    Tally(arithmetic=20, transcendental=10)
    """
    stated = [mod.cost for mod in mods if hasattr(mod, "cost")]
    return sum((cost(pairs=pairs, width=width) for cost in stated), Tally())


def bends_of(layer: Any) -> dict[str, Any]:
    """What the layer's fields add to the cost, as keyword arguments of `kvattn.core.accounting.attend_cost`.

    >>> from types import SimpleNamespace
    >>> bends_of(SimpleNamespace(scale=None, softcap=30.0))
    {'softcap': True, 'sinks': False, 'mods': ()}
    """
    given = {name: getattr(layer, name, None) is not None for name in ("softcap", "sinks")}
    return given | {"mods": getattr(layer, "mods", ())}


def arguments_of(layer: Any, **others: Any) -> dict[str, Any]:
    """The layer's fields as keyword arguments, with ``others`` in place of its own.

    >>> from types import SimpleNamespace
    >>> arguments_of(SimpleNamespace(scale=None, softcap=30.0), scale=0.5)
    {'scale': 0.5, 'softcap': 30.0}
    """
    return {name: getattr(layer, name) for name in FIELDS if hasattr(layer, name)} | others
