"""What is checked: an attention layer that takes hidden states, brought by name or by hand.

The contract, with weights as arguments, so that a check may choose them::

    layer(x, *, w_q, w_k, w_v, w_o, heads, kv_heads, q_norm=None, k_norm=None,
          own_k=None, own_v=None, positions=None, valid=None, cache=None) -> y,   or (y, cache) if it takes cache

Only ``x`` and what the layer needs must be taken.  ``x [B, T, M]``; ``w_q [M, Hq·D]``, ``w_k [M, Hkv·D]``,
``w_v [M, Hkv·D]``, ``w_o [Hq·D, M]`` multiply from the right, head h owns columns ``h·D .. (h+1)·D - 1``;
``q_norm``, ``k_norm`` ``[D]`` are the weights of norms of queries and keys; a layer that takes ``own_k``, ``own_v``, of
the shapes of ``w_k`` and ``w_v``, says that it shares another layer's keys and values: those are made with ``w_k`` and
``w_v``, and its own matrices are left unused; ``positions [B, T]`` are integers, with
several coordinates ``[A, B, T]``; ``valid [B, T]`` is False for padding, at the left or at the right;
``cache`` is None in a first call and what the last call returned in a later one.

A layer with weights of its own takes ``layer(x, *, positions=None, valid=None, cache=None)``, and they stand beside it
as a `Weights`.  What the layer should be stands beside it too::

    layer.expects = Plan(rotary=Rotary.of(64), norm="before")
    layer.weights = Weights(w_q, w_k, w_v, w_o, heads=8, kv_heads=2)      only where it has its own

Multi-head latent attention takes ``layer(x, *, positions=None, valid=None, cache=None)`` too, and what it should be
stands beside it as kvattn's own, weights and all, however it caches::

    layer.latent = Absorbed(LatentProjections(…), rotation=Rotary.of(64, layout="adjacent"), scale=…)

A layer of another kind (linear attention, a state space) says its hidden size alone, ``layer.hidden = 32``, and is
asked what holds of any layer (`kvattn.testing.layer_diagnosis.opaque`).
"""

from collections.abc import Callable, Mapping
import contextlib
from dataclasses import dataclass, field
import inspect
import sys
from typing import Any
import warnings

import numpy as np
from numpy.typing import NDArray

from kvattn.arguments import integer, shown
from kvattn.errors import ArgumentError, ShapeError
from kvattn.masks.causal import Causal
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.typing import Array
from kvattn.variants.compressed.latent import Absorbed, Expanded
from kvattn.variants.compressed.latent_projections import LatentProjections

MATRICES = ("w_q", "w_k", "w_v", "w_o", "q_norm", "k_norm", "own_k", "own_v")
"""The weights among them."""

KEYWORDS = (*MATRICES[:4], "heads", "kv_heads", *MATRICES[4:], "positions", "valid", "cache")
"""Every keyword of the contract."""

EXPECTED = f"expected layer(x, *, {', '.join(KEYWORDS)}) with any subset of these keywords"


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a layer and its heads.

    Raises
    ------
    ShapeError
        When a matrix does not fit the others.

    Examples
    --------
    >>> one = np.ones((8, 8))
    >>> Weights(one, one[:, :4], one[:, :4], one, heads=4, kv_heads=2).width
    2
    """

    w_q: Array
    w_k: Array
    w_v: Array
    w_o: Array
    heads: int
    kv_heads: int
    q_norm: Array | None = None
    k_norm: Array | None = None
    own_k: Array | None = None
    own_v: Array | None = None

    def __post_init__(self) -> None:
        if integer("heads", self.heads, 1) % integer("kv_heads", self.kv_heads, 1):
            raise ArgumentError(f"heads must be a multiple of kv_heads, {self.kv_heads}, got {self.heads}")
        hidden, columns = np.shape(self.w_q)
        width = columns // self.heads
        wanted = {
            "w_q": (hidden, self.heads * width),
            "w_k": (hidden, self.kv_heads * width),
            "w_v": (hidden, self.kv_heads * width),
            "w_o": (self.heads * width, hidden),
        }
        for name, shape in wanted.items():
            if np.shape(getattr(self, name)) != shape:
                raise ShapeError(f"{name} must have shape {shape}, got {np.shape(getattr(self, name))}")
        row, matrix = (width,), wanted["w_k"]
        for name, shape in {"q_norm": row, "k_norm": row, "own_k": matrix, "own_v": matrix}.items():
            given = getattr(self, name)
            if given is not None and np.shape(given) != shape:
                raise ShapeError(f"{name} must have shape {shape}, got {np.shape(given)}")

    @property
    def width(self) -> int:
        """D.

        >>> Weights(*(np.ones((4, 4)),) * 4, heads=2, kv_heads=2).width
        2
        """
        return int(np.shape(self.w_q)[1] // self.heads)

    @property
    def hidden(self) -> int:
        """M.

        >>> Weights(*(np.ones((4, 4)),) * 4, heads=2, kv_heads=2).hidden
        4
        """
        return int(np.shape(self.w_q)[0])

    def matrix(self, name: str) -> NDArray[np.float64]:
        """Return one of the matrices in float64.

        >>> Weights(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1).matrix("w_o")
        array([[1.]])
        """
        return np.asarray(getattr(self, name), np.float64)


@dataclass(frozen=True)
class LayerTarget:
    """A layer under test, with what is declared about it.

    Attributes
    ----------
    name
        How the report calls it.
    function
        The callable, of the contract's form.
    expects
        What it should be.
    weights
        Its own weights; None where it takes them.
    features
        The contract's keywords that it takes.
    width
        D, where it takes only one.
    setup
        Python that binds ``f``, for the line that reproduces a finding; empty where only the caller can.
    untested
        Optional parameters that the contract does not know; they stay at their defaults.
    required
        Keywords that it cannot do without.
    hidden
        M of a layer of which nothing else is known; None for the others.
    latent
        What a latent layer should be, with its weights; None for the others.

    Examples
    --------
    >>> def layer(x, *, w_q, w_k, w_v, w_o, heads):
    ...     return x @ w_v @ w_o
    >>> layer_target_of(layer).features == {"w_q", "w_k", "w_v", "w_o", "heads"}
    True
    """

    name: str
    function: Callable[..., Any]
    expects: Plan = field(default_factory=Plan)
    weights: Weights | None = None
    features: frozenset[str] = frozenset()
    width: int | None = None
    setup: str = ""
    untested: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    hidden: int | None = None
    latent: Absorbed | Expanded | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.expects, Plan):
            raise ArgumentError(f"expects must be a Plan, got {shown(self.expects)}")
        if self.weights is not None and not isinstance(self.weights, Weights):
            raise ArgumentError(f"weights must be Weights, got {shown(self.weights)}")
        if self.latent is not None:
            _check_latent(self.latent)
        if self.hidden is not None:
            integer("hidden", self.hidden, 1)
        if self.width is not None and integer("width", self.width, 2) % 2:
            raise ArgumentError(f"width must be even, got {self.width}")

    @property
    def own(self) -> Weights | LatentProjections | None:
        """The weights that are its own; None where it takes them.

        >>> LayerTarget("mine", print).own is None
        True
        """
        return self.weights if self.latent is None else self.latent.projections

    def __call__(self, x: Array, weights: Any, options: Mapping[str, Any]) -> tuple[Array, Any]:
        """Call the layer; what it prints goes to stderr, what it warns is dropped.

        Returns
        -------
        tuple
            The output, and the cache or None.
        """
        given: dict[str, Any] = {}
        for name in MATRICES:
            if name in self.features:
                value = getattr(weights, name)
                given[name] = None if value is None else np.array(value, x.dtype)
        given |= {name: getattr(weights, name) for name in ("heads", "kv_heads") if name in self.features}
        given |= options
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            returned = self.function(x, **given)
        if "cache" in self.features and isinstance(returned, tuple) and len(returned) == 2:
            return np.asarray(returned[0]), returned[1]
        return np.asarray(returned[0] if isinstance(returned, tuple) else returned), None


def is_layer(function: object) -> bool:
    """Say whether a callable is a layer: it takes weights, or they stand beside it.

    >>> is_layer(lambda x, *, w_q, w_k, w_v, w_o, heads: x), is_layer(lambda q, k, v: q)
    (True, False)
    """
    if not callable(function):
        return False
    kinds = {"weights": Weights, "hidden": int, "latent": Absorbed | Expanded}
    beside = any(isinstance(getattr(function, name, None), kind) for name, kind in kinds.items())
    return "w_q" in _parameters(function) or beside


def layer_target_of(function: Callable[..., Any], name: str | None = None, setup: str = "") -> LayerTarget:
    """Read a layer's signature and the attributes that stand beside it.

    Raises
    ------
    ArgumentError
        Where it is no layer of the contract's form, or needs more than the contract has.

    Examples
    --------
    >>> layer_target_of(lambda x, *, w_q, w_k, w_v, heads: x)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: target must take every matrix, got none for w_o; expected layer(x, *, w_q, w_k, w_v, \
w_o, heads, kv_heads, q_norm, k_norm, own_k, own_v, positions, valid, cache) with any subset of these keywords
    """
    parameters = _parameters(function)
    weights = getattr(function, "weights", None)
    weights = weights if isinstance(weights, Weights) else None
    known = frozenset(n for n in parameters if n in KEYWORDS)
    rest = [p for n, p in list(parameters.items())[1:] if n not in known and p.kind is not p.VAR_KEYWORD]
    needed = [p.name for p in rest if p.default is p.empty]
    if not parameters or next(iter(parameters)) in KEYWORDS:
        raise ArgumentError(f"target must take hidden states first, got ({', '.join(parameters)}); {EXPECTED}")
    if needed:
        raise ArgumentError(f"target must need only what the contract has, got required {needed[0]}; {EXPECTED}")
    hidden, latent = getattr(function, "hidden", None), getattr(function, "latent", None)
    if weights is None and hidden is None and latent is None:
        missing = [n for n in ("w_q", "w_k", "w_v", "w_o", "heads") if n not in known]
        if missing:
            what = "every matrix" if missing[0].startswith("w") else "the number of heads"
            raise ArgumentError(f"target must take {what}, got none for {missing[0]}; {EXPECTED}")
    found = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__qualname__)}"
    return LayerTarget(
        name=found if name is None else name,
        function=function,
        expects=getattr(function, "expects", Plan()),
        weights=weights,
        features=known,
        width=getattr(function, "width", None),
        setup=setup,
        untested=tuple(p.name for p in rest),
        required=frozenset(n for n in known if parameters[n].default is inspect.Parameter.empty),
        hidden=hidden,
        latent=latent,
    )


def _check_latent(latent: Any) -> None:
    if not isinstance(latent, Absorbed | Expanded):
        raise ArgumentError(f"latent must be an Absorbed or Expanded layer, got {shown(latent)}")
    if latent.mods or latent.sinks is not None or not (latent.mask is None or latent.mask == Causal()):
        raise ArgumentError("latent must be a layer without mods and sinks, causal or without a mask, got another")


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}
