"""Recorded cases as calls of the contract: what of `kvattn.goldens` a function of q, k and v can be given.

The operation ``attention`` says some things in other words: ``slopes`` are ``alibi_slopes``, ``documents`` are
``segments``, a ``prefix`` is as long in every sequence, and positions are left out where a call has the same without
them.  What the contract has no word for, or says nothing about (no key, no query, more queries than keys under a
causal mask, a call that must be refused), is no call.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError
from kvattn.goldens import Case, cases
from kvattn.testing.diagnosis.places import key_places, query_places
from kvattn.testing.diagnosis.recipe import MASK_FORMS, Built, Recipe, Sizes
from kvattn.testing.keywords import FLOATING, KEYWORDS, whole

_WORDS: Mapping[str, str] = MappingProxyType({"slopes": "alibi_slopes", "documents": "segments"})
_PLACES = ("q_positions", "k_positions")
_PLACED = frozenset(("causal", "window", "segments", "alibi_slopes"))


@dataclass(frozen=True)
class Recorded(Recipe):
    """The recipe of a recorded case, whose texts load it.

    Attributes
    ----------
    name
        Of the case.

    Examples
    --------
    >>> recipe = recorded_calls()["dense/softcap/mask"]
    >>> recipe.call(), [name for name, _ in recipe.options]
    ('f(q, k, v, **options)', ['softcap', 'mask'])
    """

    name: str = ""

    def code(self) -> str:
        """Return the statements that load the case.

        >>> recorded_calls()["dense/grouped/plain"].code().split("; ")[-1]
        "q, k, v, options = given(kvattn.goldens.load('dense/grouped/plain'))"
        """
        case = recorded_cases()[self.name]
        words = "" if self.dtype == "float64" else f", {self.dtype!r}"
        words += "" if self.mask_form == "boolean" else f", mask_form={self.mask_form!r}"
        words += "" if self.sizes.Dv == case.inputs["v"].shape[3] else f", value_width={self.sizes.Dv}"
        lines = "import kvattn; from kvattn.testing.recorded_calls import given"
        return f"{lines}; q, k, v, options = given(kvattn.goldens.load({self.name!r}){words})"

    def call(self, function: str = "f") -> str:
        """Return the call on what `code` loads.

        >>> recorded_calls()["dense/grouped/plain"].call("mine")
        'mine(q, k, v, **options)'
        """
        return f"{function}(q, k, v, **options)"

    def build(self) -> Built:
        """Return the arrays and keywords.

        >>> recorded_calls()["dense/softcap/mask"].build().options["softcap"]
        1.5
        """
        return given(recorded_cases()[self.name], self.dtype, mask_form=self.mask_form, value_width=self.sizes.Dv)


@cache
def recorded_cases() -> Mapping[str, Case]:
    """The recorded cases of the operation ``attention``, by their names, read once.

    >>> recorded_cases()["dense/softcap/mask"].row
    'mods/softcap'
    """
    return MappingProxyType({case.name: case for case in cases(operation="attention")})


def recorded_calls() -> dict[str, Recorded]:
    """Every recorded case that is a call of the contract, by its name; the plainest first.

    Cases of the sizes that most cases have come before others: what compiles for each size is spared the most.

    >>> next(iter(recorded_calls()))
    'dense/grouped/plain'
    """
    return dict(_recipes())


@cache
def _recipes() -> tuple[tuple[str, Recorded], ...]:
    found = []
    for case in recorded_cases().values():
        built = _said(case)
        if built is not None:
            (b, hq, t, d), (hkv, s), dv = built.q.shape, built.k.shape[1:3], built.v.shape[3]
            names = tuple((name, "") for name in KEYWORDS if name in built.options)
            found.append(Recorded(Sizes(b, hq, hkv, t, s, d, dv), options=names, name=case.name))
    sizes = [recipe.sizes for recipe in found]
    found.sort(key=lambda x: (x.name != "dense/grouped/plain", -sizes.count(x.sizes), len(x.options), x.name))
    return tuple((recipe.name, recipe) for recipe in found)


def given(case: Case, dtype: str = "float64", *, mask_form: str = "boolean", value_width: int | None = None) -> Built:
    """Return a case as arrays and keywords of the contract.

    Parameters
    ----------
    case
        Of the operation ``attention``.
    dtype
        Element type of q, k, v, bias, sinks and slopes, which has all their numbers.
    mask_form
        How a mask is written: ``"boolean"``, ``"additive"`` or ``"zero-one"``.
    value_width
        How many columns of v to give, zeros where it has not as many; all of them if None.

    Returns
    -------
    Built
        ``q``, ``k``, ``v`` and the keywords; ``mask`` and ``bias`` are ``[B, Hq, T, S]``.

    Raises
    ------
    ArgumentError
        A case that is no call of the contract, or has numbers that the type has not.

    Examples
    --------
    >>> from kvattn.goldens import load
    >>> q, k, v, options = given(load("dense/slopes/causal"))
    >>> list(options)
    ['alibi_slopes', 'causal']
    """
    built = _said(case)
    if built is None:
        raise ArgumentError(f"case must be a call of the contract, got {case.name}")
    options = {name: _cast(x, dtype, name) if name in FLOATING else x for name, x in built.options.items()}
    if mask_form not in MASK_FORMS:
        raise ArgumentError(f"mask_form must be one of {', '.join(MASK_FORMS)}, got {mask_form!r}")
    if "mask" in options and mask_form != "boolean":
        mask = options["mask"]
        options["mask"] = _cast(np.where(mask, 0.0, -np.inf), dtype, "mask") if mask_form == "additive" else mask * 1
    q, k, v = (_cast(x, dtype, name) for name, x in zip("qkv", built[:3], strict=True))
    if value_width is not None and value_width != v.shape[3]:
        wide = np.zeros((*v.shape[:3], max(value_width, v.shape[3])), v.dtype)
        wide[..., : v.shape[3]] = v
        v = wide[..., :value_width]
    return Built(q, k, v, options)


def _cast(x: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    """The same numbers in another type."""
    with np.errstate(over="ignore"):
        cast = np.asarray(x).astype(dtype)
    if not np.array_equal(cast.astype(np.float64), x, equal_nan=True):
        raise ArgumentError(f"{name} must have numbers of {dtype}, got others")
    return cast


def _said(case: Case) -> Built | None:
    """A case in the contract's words, in float64; None where it has none."""
    if case.operation != "attention" or case.result == "invalid":
        return None
    words = {_WORDS.get(name, name): value for name, value in case.arguments().items()}
    q, k, v = (np.asarray(words.pop(name), np.float64) for name in "qkv")
    batch, heads, queries, keys = *q.shape[:3], k.shape[2]
    if not queries or not keys or not words.keys() <= KEYWORDS.keys():
        return None
    if words.keys() & _PLACED and queries > keys:
        return None
    for name in {"mask", "bias"} & words.keys():
        words[name] = np.broadcast_to(words[name], (batch, heads, queries, keys)).copy()
    if "prefix" in words:
        words["prefix"] = np.full(batch, words["prefix"])
    if "segments" in words and (words["segments"].min() < 0 or words["segments"].shape[1] != keys):
        return None
    if "alibi_slopes" in words and "causal" not in words:  # a bias without an absolute value
        return None
    return _placed(Built(q, k, v, words))


def _placed(built: Built) -> Built | None:
    """Drop positions that a call has without them."""
    words, (queries, keys) = built.options, (built.q.shape[2], built.k.shape[2])
    usual = Built(*built[:3], {name: x for name, x in words.items() if name not in _PLACES})
    at_q = words.get("q_positions", np.arange(keys - queries, keys))
    at_k = words.get("k_positions", np.arange(keys))
    same = (query_places(usual)[:, 0, :, 0] == at_q).all() and (key_places(usual)[:, 0, 0] == at_k).all()
    if same or not words.keys() & _PLACED:
        built = usual
    elif "q_positions" not in words:
        return None
    if "lengths" in words and (words["lengths"] < queries).any():  # queries before the first key
        return None
    return built if whole(built.options) else None
