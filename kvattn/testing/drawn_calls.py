"""Calls that mix features and stand at boundaries, made from integers: `call_of`.

At least two features at once where there are two; sizes that differ from each other; a window, a length or a tile
that is met exactly, missed by one, or passed by one; rows that see nothing once in a while.
"""

from collections.abc import Iterable

from kvattn.errors import ArgumentError
from kvattn.testing.calls import Call
from kvattn.testing.choices import Choices, pick
from kvattn.testing.diagnosis.bends import BIAS
from kvattn.testing.diagnosis.recipe import DRAWN, LOUD, RANDOM, Recipe, Sizes
from kvattn.testing.diagnosis.sight import MASK
from kvattn.testing.diagnosis.totals import SINKS

FEATURES = ("causal", "window", "mask", "bias", "scale", "softcap", "sinks")
"""Keywords of the contract that `call_of` knows."""

SPARSE = "r.random(({B}, {Hq}, {T}, {S})) < 0.3"
"""A mask that leaves many rows with nothing to see."""


def call_of(
    choices: Choices, features: Iterable[str], dtype: str = "float64", apart: Iterable[Iterable[str]] = ()
) -> Call:
    """Make a call.

    Parameters
    ----------
    choices
        Where its integers come from.
    features
        Keywords that may be given; window needs causal.
    dtype
        Element type of the arrays.
    apart
        Pairs of features that never come together.

    Raises
    ------
    ArgumentError
        A feature that is not in `FEATURES`.

    Examples
    --------
    >>> from kvattn.testing.choices import Recorded
    >>> call_of(Recorded(), ("causal", "scale"))
    Call(f(q, k, v, causal=True, scale=0.07), where r = np.random.default_rng(0); \
q = 0.7 * r.standard_normal((1, 1, 1, 4)); k = 0.7 * r.standard_normal((1, 1, 1, 4)); \
v = r.standard_normal((1, 1, 1, 1)))
    """
    known = [name for name in FEATURES if name in set(features)]
    unknown = sorted(set(features) - set(known))
    if unknown:
        raise ArgumentError(f"features must be from {', '.join(FEATURES)}, got {unknown[0]}")
    if "window" in known and "causal" not in known:
        raise ArgumentError("features must have causal where they have window, got window alone")
    batch, kv_heads = choices.integer(1, 3, "B"), choices.integer(1, 3, "Hkv")
    heads = kv_heads * choices.integer(1, 3, "G")
    if choices.integer(0, 15, "long") == 15:
        batch = 1
        keys = pick(choices, (16, 32, 64, 128), "tile") + choices.integer(0, 2, "around the tile") - 1
    else:
        keys = choices.integer(1, 11, "S")
    queries = pick(choices, (1, min(keys, 24), choices.integer(1, min(keys, 11), "T")), "queries")
    width, value_width = pick(choices, (4, 3, 6, 8, 16, 24), "D"), choices.integer(1, 9, "Dv")
    sizes = Sizes(batch, heads, kv_heads, queries, keys, width, value_width)

    given = [name for name in known if choices.integer(0, 1, name)]
    while len(given) < min(2, len(known)):
        given.append(pick(choices, [name for name in known if name not in given], "one more"))
    if "window" in given and "causal" not in given:
        given.append("causal")
    for pair in map(set, apart):
        if pair <= set(given):
            given.remove(pick(choices, sorted(pair), "leave out"))
    if "window" in given and "causal" not in given:
        given.remove("window")
    texts = {"causal": "True", "mask": MASK, "bias": BIAS, "sinks": SINKS}
    options = []
    for name in (name for name in FEATURES if name in given):
        if name == "window":
            edges = sorted({max(1, n) for n in (1, 2, queries, keys - 1, keys, keys + 1, keys // 2)})
            options.append((name, str(pick(choices, edges, name))))
        elif name == "scale":
            options.append((name, pick(choices, ("0.07", "0.3", "1.1"), name)))
        elif name == "softcap":
            options.append((name, pick(choices, ("30.0", "2.0", "0.6"), name)))
        elif name == "mask":
            options.append((name, pick(choices, (MASK, SPARSE), name)))
        else:
            options.append((name, texts[name]))
    scores = pick(choices, (DRAWN, DRAWN, LOUD), "scores")
    seed = choices.integer(0, 2**16, "seed")
    return Call(Recipe(sizes, scores, RANDOM, tuple(options), dtype=dtype, seed=seed))
