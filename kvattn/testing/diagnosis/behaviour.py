"""What a target does, as far as it has been read; and what attention gives under that behaviour.

A check begins with the contract and replaces a field whenever a read-out shows that the target does
something else.  Later read-outs and the drawn cases are compared under what is known by then, so
that one fault is one finding.  The arithmetic is `kvattn.core.definition`, in float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
import math
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.core.definition import definition
from kvattn.positions.alibi import slopes as paper_slopes
from kvattn.testing.diagnosis.places import SEES, dense, key_places, query_places, seen_by
from kvattn.testing.diagnosis.recipe import Built, Recipe, Sizes
from kvattn.testing.tolerance import Arithmetic, Bounds, bounds
from kvattn.typing import Attended, Visible

HEAD_MAPS: Mapping[str, Callable[[int, int, int], int]] = MappingProxyType(
    {
        "h // (Hq // Hkv)": lambda h, hq, hkv: h // (hq // hkv),
        "h % Hkv": lambda h, hq, hkv: h % hkv,
        "h // Hkv": lambda h, hq, hkv: min(h // hkv, hkv - 1),
        "0": lambda h, hq, hkv: 0,
        "Hkv - 1": lambda h, hq, hkv: hkv - 1,
        "min(h, Hkv - 1)": lambda h, hq, hkv: min(h, hkv - 1),
        "Hkv - 1 - h // (Hq // Hkv)": lambda h, hq, hkv: hkv - 1 - h // (hq // hkv),
        "Hkv - 1 - h % Hkv": lambda h, hq, hkv: hkv - 1 - h % hkv,
    }
)
"""Key/value head of query head h; the contract's first."""

SCALES: Mapping[str, Callable[[Mapping[str, int]], float]] = MappingProxyType(
    {
        "1 / sqrt(D)": lambda n: n["D"] ** -0.5,
        "1": lambda n: 1.0,
        "2 / sqrt(D)": lambda n: 2 * n["D"] ** -0.5,
        "0.5 / sqrt(D)": lambda n: 0.5 * n["D"] ** -0.5,
        "1 / D": lambda n: 1 / n["D"],
        "1 / sqrt(Hq * D)": lambda n: (n["Hq"] * n["D"]) ** -0.5,
        "1 / sqrt(Hkv * D)": lambda n: (n["Hkv"] * n["D"]) ** -0.5,
        "1 / sqrt(D / Hq)": lambda n: (n["D"] / n["Hq"]) ** -0.5,
        "1 / sqrt(S)": lambda n: n["S"] ** -0.5,
        "1 / sqrt(T)": lambda n: n["T"] ** -0.5,
        "1 / sqrt(Hq)": lambda n: n["Hq"] ** -0.5,
        "1 / sqrt(Hkv)": lambda n: n["Hkv"] ** -0.5,
        "1 / sqrt(B)": lambda n: n["B"] ** -0.5,
        "1 / sqrt(D + 1)": lambda n: (n["D"] + 1) ** -0.5,
        "1 / sqrt(D - 1)": lambda n: max(n["D"] - 1, 0.5) ** -0.5,
        "D ** -0.25": lambda n: n["D"] ** -0.25,
        "1 / sqrt(Dv)": lambda n: n["Dv"] ** -0.5,
        "sqrt(D)": lambda n: n["D"] ** 0.5,
        "-1 / sqrt(D)": lambda n: -(n["D"] ** -0.5),
        "log(S) / sqrt(D)": lambda n: math.log(n["S"]) * n["D"] ** -0.5,
        "0": lambda n: 0.0,
    }
)
"""Default scale from the sizes; the contract's first."""

GIVEN: Mapping[str, Callable[[float, float], float]] = MappingProxyType(
    {
        "scale": lambda g, own: g,
        "ignored": lambda g, own: own,
        "scale / sqrt(D)": lambda g, own: g * own,
        "1 / scale": lambda g, own: 1 / g,
        "scale ** 2": lambda g, own: g * g,
        "sqrt(scale)": lambda g, own: g**0.5,
        "2 * scale": lambda g, own: 2 * g,
        "1": lambda g, own: 1.0,
    }
)
"""Scale used where ``scale`` is given, from it and the default; the contract's first."""


KEPT, SMALL = 4096, 1 << 12
"""How many cases are kept from check to check, and how many numbers one of them may have."""


@dataclass(frozen=True)
class Behaviour:
    """What a target does; the defaults are the contract.

    Attributes
    ----------
    anchor
        Corner of the causal triangle.
    shift
        Positions added to each query.
    extra_keys
        Keys that a window shows beyond W.
    key_map, value_map
        Names in `HEAD_MAPS`.
    scale, given
        Names in `SCALES` and `GIVEN`.
    factor
        Factor on the scale, where no name fits.
    bias_factor, sink_factor, sink_count, lse_factor
        What bias, sink logits, the sinks' weights and the lse are multiplied with.
    sink_in_lse
        Whether the lse counts the sinks.
    mask
        ``"may see"``, ``"blocked"``.
    without
        Keywords that differ in a way that has no model here: left out of later cases.

    Examples
    --------
    >>> Behaviour().anchor
    'bottom_right'
    """

    anchor: str = "bottom_right"
    shift: int = 0
    extra_keys: int = 0
    key_map: str = "h // (Hq // Hkv)"
    value_map: str = "h // (Hq // Hkv)"
    scale: str = "1 / sqrt(D)"
    given: str = "scale"
    factor: float = 1.0
    bias_factor: float = 1.0
    sink_factor: float = 1.0
    sink_count: float = 1.0
    sink_in_lse: bool = True
    lse_factor: float = 1.0
    mask: str = "may see"
    without: frozenset[str] = field(default=frozenset())

    def used_scale(self, sizes: Sizes, given: float | None) -> float:
        """Return the factor between q·k and the score.

        >>> Behaviour().used_scale(Sizes(D=4), None)
        0.5
        """
        own = self.factor * SCALES[self.scale](vars(sizes))
        return own if given is None else GIVEN[self.given](given, own)

    def heads(self, which: str, hq: int, hkv: int) -> list[int]:
        """Return the key/value head of each query head, for ``which`` "key" or "value".

        >>> Behaviour(key_map="h % Hkv").heads("key", 4, 2)
        [0, 1, 0, 1]
        """
        rule = HEAD_MAPS[self.key_map if which == "key" else self.value_map]
        return [rule(h, hq, hkv) for h in range(hq)]

    def visible(self, built: Built) -> Visible:
        """Return who sees whom, ``[B, Hq, T, S]``.

        >>> from kvattn.testing.diagnosis.recipe import Recipe
        >>> case = Recipe(Sizes(T=1, S=3)).with_option("causal", "True").build()
        >>> Behaviour(anchor="top_left").visible(case)[0, 0]
        array([[ True, False, False]])
        """
        built = dense(built)
        options = built.options
        keep = np.ones((*built.q.shape[:3], built.k.shape[2]), np.bool_)
        i, j = query_places(built, self.anchor, self.shift), key_places(built)
        for name, sees in SEES.items():
            if options.get(name) is not None and options[name] is not False:
                keep &= sees(built, i, j)
        if options.get("window") is not None:
            keep &= i - j < options["window"] + self.extra_keys
        if options.get("mask") is not None:
            keep &= seen_by(options["mask"]) if self.mask == "may see" else ~seen_by(options["mask"])
        return keep

    def bias(self, built: Built) -> NDArray[np.float64] | None:
        """Return what is added to the scores, ``[B, Hq, T, S]``; None where nothing is.

        >>> from kvattn.testing.diagnosis.recipe import Recipe
        >>> case = Recipe(Sizes(T=1, S=3), options=(("alibi_slopes", "np.array([0.5])"),)).build()
        >>> Behaviour().bias(case)[0, 0]
        array([[-1. , -0.5, -0. ]])
        """
        built = dense(built)
        options = built.options
        shape = (*built.q.shape[:3], built.k.shape[2])
        total: NDArray[np.float64] | None = None
        if options.get("bias") is not None:
            given = np.asarray(options["bias"], np.float64)
            total = np.broadcast_to(np.where(np.isneginf(given), given, self.bias_factor * given), shape)
        slopes = options.get("alibi_slopes")
        if options.get("alibi"):
            slopes = paper_slopes(shape[1])
        if slopes is not None:
            far = np.abs(query_places(built) - key_places(built))
            penalty = -np.asarray(slopes, np.float64)[:, None, None] * far
            total = np.broadcast_to(penalty if total is None else total + penalty, shape)
        return total

    def expected(self, built: Built) -> Attended:
        """Return what attention gives under this behaviour, in float64.

        >>> from kvattn.testing.diagnosis.recipe import FLAT, ONE_HOT, Recipe
        >>> case = Recipe(Sizes(T=1, S=2, D=2, Dv=2), FLAT, ONE_HOT).build()
        >>> Behaviour().expected(case).out[0, 0]
        array([[0.5, 0.5]])
        """
        built = dense(built)
        q, k, v = (np.asarray(x, np.float64) for x in (built.q, built.k, built.v))
        options = built.options
        sizes = sizes_of(built)
        keep = self.visible(built)
        bias = self.bias(built)
        sinks = options.get("sinks")
        plain = None if sinks is None or self.sink_in_lse else self.expected(_without_sinks(built))
        if sinks is not None:
            sinks = self.sink_factor * np.asarray(sinks, np.float64) + math.log(self.sink_count)
        mods = [] if bias is None else [_Added(bias)]
        rows = np.arange(sizes.B)[:, None]
        out, lse = definition(
            q,
            k[:, self.heads("key", sizes.Hq, sizes.Hkv)],
            v[:, self.heads("value", sizes.Hq, sizes.Hkv)],
            q_positions=np.arange(sizes.T) + 0 * rows,
            k_positions=np.arange(sizes.S) + 0 * rows,
            mask=_Table(keep),
            mods=mods,
            scale=self.used_scale(sizes, options.get("scale")),
            softcap=options.get("softcap"),
            sinks=sinks,
        )
        return Attended(out, self.lse_factor * lse if plain is None else plain.lse)

    def bounds(self, built: Built, arithmetic: Arithmetic) -> Bounds:
        """Return how far from `expected` the target may be in an arithmetic.

        >>> from kvattn.testing.diagnosis.recipe import Recipe
        >>> bool((Behaviour().bounds(Recipe(Sizes()).build(), Arithmetic()).worst < 1e-13).all())
        True
        """
        built, sizes = dense(built), sizes_of(built)
        options, bias = built.options, self.bias(built)
        return bounds(
            built.q,
            built.k[:, self.heads("key", sizes.Hq, sizes.Hkv)],
            built.v[:, self.heads("value", sizes.Hq, sizes.Hkv)],
            arithmetic=arithmetic,
            scale=self.used_scale(sizes, options.get("scale")),
            softcap=options.get("softcap"),
            bias=None if bias is None else np.where(np.isneginf(bias), 0, bias),
            visible=self.visible(built),
            sinks=options.get("sinks"),
        )


def built_of(recipe: Recipe) -> Built:
    """Build a case, read-only; checks of one program build the same small cases, which are kept.

    >>> built_of(Recipe(Sizes())).q is built_of(Recipe(Sizes())).q
    True
    """
    return _built(recipe) if _small(recipe) else recipe.build()


def expected_of(recipe: Recipe, behaviour: Behaviour) -> Attended:
    """Return what a behaviour gives in a case, read-only; it is computed once for small ones.

    >>> expected_of(Recipe(Sizes(T=1, S=1)), Behaviour()).out.flags.writeable
    False
    """
    found = _expected if _small(recipe) else _expected.__wrapped__
    return found(recipe, replace(behaviour, without=frozenset()))


def bounds_of(recipe: Recipe, behaviour: Behaviour, arithmetic: Arithmetic) -> Bounds:
    """Return how far from `expected_of` a target may be in an arithmetic, read-only; once for small cases.

    >>> bool((bounds_of(Recipe(Sizes()), Behaviour(), Arithmetic()).worst < 1e-13).all())
    True
    """
    found = _bounds if _small(recipe) else _bounds.__wrapped__
    return found(recipe, replace(behaviour, without=frozenset()), arithmetic)


def _small(recipe: Recipe) -> bool:
    size = recipe.sizes
    return size.B * (size.Hq * size.T + size.Hkv * size.S) * max(size.D, size.Dv) <= SMALL


@lru_cache(maxsize=KEPT)
def _built(recipe: Recipe) -> Built:
    built = recipe.build()
    for array in (*built[:3], *built.options.values()):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return built


@lru_cache(maxsize=KEPT)
def _expected(recipe: Recipe, behaviour: Behaviour) -> Attended:
    return Attended(*map(_read_only, behaviour.expected(built_of(recipe))))


@lru_cache(maxsize=KEPT)
def _bounds(recipe: Recipe, behaviour: Behaviour, arithmetic: Arithmetic) -> Bounds:
    return Bounds(*map(_read_only, behaviour.bounds(built_of(recipe), arithmetic)))


def _read_only(x: Any) -> Any:
    found = np.asarray(x)
    found.setflags(write=False)
    return found


def sizes_of(built: Built) -> Sizes:
    """Read the sizes off the arrays.

    >>> from kvattn.testing.diagnosis.recipe import Recipe
    >>> sizes_of(Recipe(Sizes(T=3)).build()).T
    3
    """
    b, hq, t, d = built.q.shape
    table = built.options.get("block_table")
    keys = built.k.shape[2] * (1 if table is None else table.shape[1])
    return Sizes(b, hq, built.k.shape[1], t, keys, d, built.v.shape[3])


def _without_sinks(built: Built) -> Built:
    return built._replace(options={name: value for name, value in built.options.items() if name != "sinks"})


class _Table:
    """A mask by row number: ``definition`` is given row numbers for positions."""

    def __init__(self, keep: Visible) -> None:
        self.keep = keep

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Visible:
        return np.asarray(self.keep[b, h, q_positions, k_positions])

    def block(self, b: int, q: Any, k: Any) -> Any:
        raise LookupError("definition looks at single pairs")


class _Added:
    """A bias by row number."""

    def __init__(self, bias: NDArray[Any]) -> None:
        self.bias = bias

    def __call__(self, scores: Any, place: Any) -> Any:
        return scores + self.bias[place.batch]
