"""Calls that mix features and stand at boundaries, made from integers: `recipe_of` and `call_of`.

At least two features at once where there are two; sizes that differ from each other; a window, a length, a page or a
tile that is met exactly, missed by one, or passed by one; rows that see nothing once in a while.  A check draws its
cases here, and so do the strategies of `kvattn.testing.strategies`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
import importlib
from importlib.util import find_spec
from itertools import combinations
from types import MappingProxyType

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.testing.calls import Call
from kvattn.testing.choices import Choices, pick
from kvattn.testing.diagnosis.bends import BIAS
from kvattn.testing.diagnosis.recipe import DRAWN, LOUD, MASK_FORMS, RANDOM, TABLE, Recipe, Sizes
from kvattn.testing.diagnosis.sight import MASK
from kvattn.testing.diagnosis.totals import SINKS
from kvattn.testing.keywords import KEYWORDS, PLAIN, fed, whole
from kvattn.testing.shapes import ANY, Shapes

FEATURES = PLAIN
"""Keywords of the plain contract, which are drawn unless others are named."""

SPARSE = "r.random(({B}, {Hq}, {T}, {S})) < 0.3"
"""A mask that leaves many rows with nothing to see."""

TILES = (16, 32, 64, 128)
"""Numbers of keys that long calls have, or one more, or one less."""

PAGES = (4, 1, 3, 7, 16)
"""Keys in a page: odd numbers, one, and more than most calls have keys."""

TEXTS: Mapping[str, str] = MappingProxyType(
    {
        "causal": "True",
        "mask": MASK,
        "bias": BIAS,
        "sinks": SINKS,
        "ahead": "1",
        "chunk": "3",
        "prefix": "r.integers(0, {S} + 1, {B})",
        "lengths": "r.integers(min({T}, {S}), {S} + 1, {B})",
        "starts": "r.integers(0, {S} // 2 + 1, {B})",
        "segments": "np.sort(r.integers(0, 3, ({B}, {S})), -1)",
        "parents": "np.minimum(np.arange({T}) - 1, r.integers(-1, {T}, {T}))",
        "q_positions": "np.arange({S} - {T}, {S}) + np.zeros(({B}, 1), int)",
        "k_positions": "np.argsort(r.random(({B}, {S})))",
        "alibi": "True",
        "alibi_slopes": "0.1 + r.random({Hq})",
        "block_table": TABLE,
        "splits": "3",
        "k_scale": "0.5 + r.random({Hkv})",
        "v_scale": "0.5 + r.random({Hkv})",
        "dropout": "0.5",
        "training": "False",
        "return_weights": "True",
    }
)
"""An expression for each keyword whose value is not drawn from a list."""


def recipe_of(
    choices: Choices,
    features: Sequence[str],
    *,
    together: Callable[[Sequence[str]], bool] = whole,
    long: bool | None = None,
    sparse: bool = True,
    least: int = 1,
    shapes: Shapes = ANY,
) -> Recipe:
    """Make the recipe of a call, in float64.

    Parameters
    ----------
    choices
        Where its integers come from.
    features
        Keywords that may be given.
    together
        Says whether keywords make a call.
    long
        Whether keys fill a tile; None for one call in eight.
    sparse
        Whether a mask may leave a row with nothing to see.
    least
        The smallest window.
    shapes
        Sizes that may be given; boundaries stand at these.

    Examples
    --------
    >>> from kvattn.testing.choices import Recorded
    >>> recipe_of(Recorded(seed=2), ("causal", "window", "softcap")).call()
    'f(q, k, v, causal=True, window=2, softcap=30.0)'
    """
    batch, kv_heads, group = (choices.integer(1, 3, name) for name in ("B", "Hkv", "G"))
    if choices.integer(0, 7, "long") == 7 if long is None else long:
        batch, kv_heads, group = 1, 1, min(group, 2)
        keys = pick(choices, TILES, "tile") + choices.integer(0, 2, "around the tile") - 1
        queries = pick(choices, (1, 2, 5), "queries")
    else:
        keys = choices.integer(1, 11, "S")
        queries = pick(choices, (1, keys, choices.integer(1, keys, "T")), "queries")
    width = pick(choices, (4, 3, 6, 8, 16, 24), "D")
    values = pick(choices, (width, 5, 7, 1), "Dv")
    chosen = _mixed(choices, features, together)
    sizes = shapes.fit(Sizes(batch, kv_heads * group, kv_heads, queries, keys, width, values), chosen)
    page = pick(choices, PAGES, "page") if "block_table" in chosen else PAGES[0]
    options = tuple((name, text_of(choices, name, sizes, sparse=sparse, least=least)) for name in chosen)
    scores = pick(choices, (DRAWN, DRAWN, DRAWN, LOUD), "scores")
    return Recipe(sizes, scores, RANDOM, options, page=page, seed=choices.integer(0, 2**16, "seed"))


def _mixed(choices: Choices, features: Sequence[str], together: Callable[[Sequence[str]], bool]) -> list[str]:
    """Take two to five keywords that go together, and what they need."""
    chosen: list[str] = []
    rest = [name for name in KEYWORDS if name in features]
    wanted = pick(choices, (2, 3, 3, 4, 5), "keywords")
    while rest and len(chosen) < wanted:
        name = rest.pop(choices.integer(0, len(rest) - 1, "keyword"))
        more = fed([*chosen, name], features)
        if name not in chosen and together(more):
            chosen = [*more]
    return chosen


def text_of(choices: Choices, name: str, sizes: Sizes, *, sparse: bool = False, least: int = 1) -> str:
    """Return an expression for a keyword, at a boundary where it has one.

    Parameters
    ----------
    choices
        Where its integers come from.
    name
        The keyword.
    sizes
        Of the call.
    sparse
        Whether a mask may leave a row with nothing to see.
    least
        The smallest window.

    Examples
    --------
    >>> from kvattn.testing.choices import Recorded
    >>> text_of(Recorded([3]), "window", Sizes(T=3, S=9))
    '8'
    """
    keys = sizes.S
    if name == "window":
        return str(max(least, pick(choices, (1, 2, sizes.T, keys - 1, keys, keys + 1, keys // 2), name)))
    if name in {"scale", "softcap"}:
        return pick(choices, ("0.3", "0.07", "1.1") if name == "scale" else ("2.0", "0.6", "30.0"), name)
    if name == "mask" and sparse:
        return pick(choices, (MASK, SPARSE), name)
    if name == "splits":
        return pick(choices, ("2", "1", "3", str(keys + 2)), name)
    return TEXTS[name]


def must_know(dtype: str) -> None:
    """Make NumPy know an element type by its name: bfloat16 is ml_dtypes'.

    Raises
    ------
    MissingExtraError
        Where dtype is ``"bfloat16"`` and ml_dtypes is not installed.

    Examples
    --------
    >>> must_know("float64")
    """
    if dtype == "bfloat16":
        if find_spec("ml_dtypes") is None:
            raise MissingExtraError("ml_dtypes must be installed for dtype bfloat16, got no module ml_dtypes")
        importlib.import_module("ml_dtypes")


def call_of(
    choices: Choices,
    features: Iterable[str],
    dtype: str = "float64",
    apart: Iterable[Iterable[str]] = (),
    *,
    shapes: Shapes = ANY,
    mask_form: str = "boolean",
) -> Call:
    """Make a call.

    Parameters
    ----------
    choices
        Where its integers come from.
    features
        Keywords of the contract that may be given, each with one that it needs.
    dtype
        Element type of the arrays.
    apart
        Pairs of features that never come together.
    shapes
        Sizes that may be given.
    mask_form
        How a mask is written: ``"boolean"``, ``"additive"`` or ``"zero-one"``.

    Raises
    ------
    ArgumentError
        A feature that is no keyword of the contract, or one without those that it needs; no such form of a mask.
    MissingExtraError
        Where dtype is ``"bfloat16"`` and ml_dtypes is not installed.

    Examples
    --------
    >>> from kvattn.testing.choices import Recorded
    >>> call_of(Recorded(), ("causal", "scale"))
    Call(f(q, k, v, causal=True, scale=0.3), where r = np.random.default_rng(0); \
q = 0.7 * r.standard_normal((1, 1, 1, 4)); k = 0.7 * r.standard_normal((1, 1, 1, 4)); \
v = r.standard_normal((1, 1, 1, 4)))
    """
    known = tuple(dict.fromkeys(features))
    for name in known:
        if name not in KEYWORDS:
            raise ArgumentError(f"features must be from {', '.join(KEYWORDS)}, got {name}")
        for need in KEYWORDS[name].needs:
            if not {*need.split("|")} & {*known}:
                words = need.replace("|", " or ")
                raise ArgumentError(f"features must have {words} where they have {name}, got {name} alone")
    if mask_form not in MASK_FORMS:
        raise ArgumentError(f"mask_form must be one of {', '.join(MASK_FORMS)}, got {mask_form!r}")
    must_know(dtype)
    never = {frozenset(pair) for pair in apart}

    def together(names: Sequence[str]) -> bool:
        return whole(names) and not any(frozenset(pair) in never for pair in combinations(names, 2))

    recipe = recipe_of(choices, known, together=together, shapes=shapes)
    return Call(replace(recipe, dtype=dtype, mask_form=mask_form))
