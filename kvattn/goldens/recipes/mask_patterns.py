"""Patterns of who sees whom beyond causal and window: dilated, strided, blocks, neighbourhoods, trees, images.

"attention with a pattern": inputs ``q``, ``k``, ``v``; queries stand at the last T of S positions i, keys at all of
them.  ``pattern`` says which key a query sees; all but those marked * are causal.

    all *, causal, tree              everything; j <= i; j < start, or an ancestor by parents, or itself
    dilated                          i - j a multiple of rate, size keys
    strided, local and strided       i - j a multiple of size; the latter on odd heads, size + 1 keys on even ones
    columns, chunk and columns       count of each size from first on; the last count on odd heads, the
                                     own chunk of size on even ones
    chunked, sinks and window, duo   own chunk of size; first sinks keys and last size; the same, but not on
                                     the first full heads
    phi                              blocks of size: the last local, and block b where b + 1 + slide · h
                                     is a multiple of vertical
    blocks *, block diffusion *      own and earlier blocks of size; a noisy copy of length tokens first
    bigbird *, global *              blocks of size: neighbours, ends, table; size - 1 to each side and
                                     tokens
    neighbourhood *, tiles *         window nearest on a grid, of tokens or of tiles of size
    images *                         causal, own image of images [S] (0 is text) both ways, all of it less than
                                     window away
    prefix *                         causal or among the first prefix, and behind the first pads

Expected: ``visible [Hq, T, S]``, ``out`` and ``lse``.  Sources: Child et al. 2019 (arXiv 1904.10509) §4.3; Beltagy et
al. 2020 (2004.05150) §3.1; Zaheer et al. 2020 (2007.14062) §2; Hassani et al. 2023 (2204.07143) §3.1; Xiao et al. 2023
(2309.17453) §3.2; Miao et al. 2023 (2305.09781) §4.2; Arriola et al. 2025 (2503.09573) §3.1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._forms import Asked, Worn, attention_forms, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested
from kvattn.goldens.recipes._told import told
from kvattn.masks.block_diffusion import BlockDiffusion
from kvattn.masks.block_wise import BlockWise
from kvattn.masks.causal import Causal
from kvattn.masks.chosen import Chosen
from kvattn.masks.chunked import Chunked
from kvattn.masks.columns import Columns
from kvattn.masks.dilated import Dilated
from kvattn.masks.explicit import Explicit
from kvattn.masks.global_tokens import KeysAt, QueriesAt
from kvattn.masks.neighbourhood import Neighbourhood
from kvattn.masks.padding import Padding
from kvattn.masks.per_head import PerHead
from kvattn.masks.prefix import Prefix
from kvattn.masks.sink import Sink
from kvattn.masks.strided import Strided
from kvattn.masks.tree import Tree
from kvattn.masks.window import Window
from kvattn.typing import Mask
from kvattn.variants.dense.grouped import Grouped

Sees = Callable[[int, int, int], bool]
"""Whether head h lets the query at position i see the key at position j."""

BOUNDS = Flag(
    "PatternBounds",
    "MASKING",
    "Is off by one at an end of the pattern, or counts its steps from another place.",
    ("huggingface/transformers#39408", "microsoft/onnxruntime#25927", "zml/zml#763"),
)
HEADS = Flag("PatternOfHead", "MASKING", "Gives a head another head's pattern.", ("Xilinx/mlir-air#1428",))
CHUNKS = Flag(
    "ChunkedAttention",
    "KNOWN_BUG",
    "Counts chunks back from the query, or lets a token see later ones of its chunk.",
    ("huggingface/transformers#37351",),
)
KEPT = Flag("SinksAndWindow", "MASKING", "Forgets the first tokens, or counts them in the window.")
BLOCKS = Flag("Blocks", "MASKING", "Lets pairs of a block differ, or a block see another one than it may.")
GLOBAL = Flag("GlobalTokens", "MASKING", "Lets listed tokens be seen without seeing, or see without being seen.")
GRID = Flag("Neighbourhood", "MASKING", "Loses keys at a border, or takes rows of the grid for columns.")
TREE = Flag(
    "TreeMask",
    "KNOWN_BUG",
    "Lets a draft token see a sibling that came before it.",
    ("PaddlePaddle/FastDeploy#3514", "NVIDIA/TensorRT-LLM#13006"),
)
IMAGES = Flag(
    "ImageBlocks",
    "KNOWN_BUG",
    "Lets images see each other, drops the two-sided part, or lets it reach beyond the window.",
    ("huggingface/transformers#38080", "huggingface/transformers#39389", "huggingface/transformers#46850"),
)
PREFIX = Flag(
    "PrefixAndPadding",
    "KNOWN_BUG",
    "Opens the prefix after padding was closed, so that pads are seen; or forgets to be causal behind it.",
    ("huggingface/transformers#35859", "huggingface/transformers#30918"),
)
ROWS = Flag(
    "CausalByGroups",
    "KNOWN_BUG",
    "Takes one row of the triangle for a group of four rows.",
    ("pytorch/pytorch#195910",),
)


def _patterns(p: Mapping[str, Any], a: Mapping[str, Nested]) -> Sees:
    """Each pattern by its own sentence."""
    name, size, more = p["pattern"], p.get("size", 0), p.get("more", 0)

    def near(i: int, j: int, w: int) -> bool:
        return 0 <= i - j < w

    def inside(i: int, j: int) -> bool:
        return all(
            start <= there < start + w
            for start, there, w in zip(_starts(i, p), _coordinates(j, p["grid"]), p["window"], strict=True)
        )

    patterns: dict[str, Sees] = {
        "causal": lambda h, i, j: j <= (i // size * size + size - 1 if size else i),
        "all": lambda h, i, j: True,
        "dilated": lambda h, i, j: 0 <= i - j < size * p["rate"] and (i - j) % p["rate"] == 0,
        "strided": lambda h, i, j: j <= i and (i - j + more) % size == 0,
        "local and strided": lambda h, i, j: (
            near(i, j, size + p.get("local", 1)) if (h + more) % 2 == 0 else j <= i and (i - j) % size == 0
        ),
        "chunk and columns": lambda h, i, j: (
            j <= i and (i // size == j // size if (h + more) % 2 == 0 else j % size >= size - p["count"])
        ),
        "columns": lambda h, i, j: j <= i and p["first"] <= j % size < p["first"] + p["count"],
        "chunked": lambda h, i, j: (j <= i or p.get("two_sided", False)) and (i + more) // size == (j + more) // size,
        "last of chunk": lambda h, i, j: near(i, j, size),
        "sinks and window": lambda h, i, j: j <= i and (j < p["sinks"] or i - j < size),
        "duo": lambda h, i, j: j <= i and (h < p["full"] or j < p["sinks"] or i - j < size),
        "blocks": lambda h, i, j: j // size <= i // size,
        "block diffusion": lambda h, i, j: _diffused(p, i, j),
        "bigbird": lambda h, i, j: _bigbird(p, a, i // size, j // size),
        "phi": lambda h, i, j: (
            j <= i
            and (i // size - j // size < p["local"] or (j // size + h * p["slide"] + 1 + more) % p["vertical"] == 0)
        ),
        "global": lambda h, i, j: (
            abs(i - j) < size
            or (j in p["tokens"] and p.get("seen", True))
            or (i in p["tokens"] and p.get("seeing", True))
        ),
        "neighbourhood": lambda h, i, j: inside(i, j),
        "tiles": lambda h, i, j: inside(i // size, j // size),
        "tree": lambda h, i, j: _in_tree(p, i, j),
        "images": lambda h, i, j: _seen_image(p, a["images"], i, j),
        "prefix": lambda h, i, j: (j <= i or j < p["prefix"]) and (j >= p["pads"] or p.get("pads_open", False)),
    }
    return patterns[name]


def _coordinates(place: int, grid: list[int]) -> list[int]:
    """The last axis fastest."""
    found = []
    for side in reversed(grid):
        found.append(place % side)
        place //= side
    return found[::-1]


def _starts(i: int, p: Mapping[str, Any]) -> list[int]:
    there = _coordinates(i, p["grid"])
    centred = [at - w // 2 for at, w in zip(there, p["window"], strict=True)]
    if p.get("lost_at_borders"):
        return centred
    return [min(max(at, 0), side - w) for at, side, w in zip(centred, p["grid"], p["window"], strict=True)]


def _diffused(p: Mapping[str, Any], i: int, j: int) -> bool:
    """Positions 0 … length - 1 are noisy, the text itself lies behind them."""
    length, size = p["length"], p["size"]
    mine, theirs = i % length // size, j % length // size
    if i < length and j < length:
        return bool(mine == theirs)
    if i < length:
        return bool(mine > theirs or (p.get("own_block_clean") and mine == theirs))
    return bool(j >= length and mine >= theirs)


def _bigbird(p: Mapping[str, Any], a: Mapping[str, Nested], i: int, j: int) -> bool:
    """Blocks: a window of one to each side, global ones, and those that a table chooses."""
    return abs(i - j) <= 1 or i in p["ends"] or j in p["ends"] or (j in a["table"][i] and not p.get("none_chosen"))


def _in_tree(p: Mapping[str, Any], i: int, j: int) -> bool:
    start, parents = p["start"], p["parents"]
    if j < start or p.get("causal_slots"):
        return j <= i
    node = i - start
    while node >= 0 and node != j - start:
        node = parents[node]
    return bool(node == j - start)


def _seen_image(p: Mapping[str, Any], images: list[int], i: int, j: int) -> bool:
    """An image's tokens see each other, text sees what came before; all of it within the window."""
    together = images[i] > 0 and (images[i] == images[j] or (bool(p.get("one_for_all")) and images[j] > 0))
    seen = j <= i or (together and not p.get("text_only"))
    within = abs(i - j) < p["window"]
    return bool(seen and (within or (p.get("image_beyond") and together)))


def _masked(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    sees = _patterns(p, a)
    first = len(a["k"][0][0]) - len(a["q"][0][0])
    answer = attention(n, a["q"], a["k"], a["v"], see=lambda b, h, t, s: sees(h, first + t, s))
    visible = [
        [[sees(h, first + t, s) for s in range(len(a["k"][0][0]))] for t in range(len(a["q"][0][0]))]
        for h in range(len(a["q"][0]))
    ]
    return {"visible": visible, **answer}


def _mask(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Mask | None:
    """kvattn's mask of a pattern."""
    size, images = p.get("size", 0), inputs.get("images", np.zeros(1))
    together = (images[:, None] == images) & (images[:, None] > 0)
    made: dict[str, Callable[[], Mask | None]] = {
        "causal": Causal,
        "all": lambda: None,
        "dilated": lambda: Dilated(size, p["rate"]),
        "strided": lambda: Strided(size),
        "local and strided": lambda: PerHead((Window(size + 1), Strided(size)) * 2),
        "chunk and columns": lambda: PerHead(
            (Causal() & Chunked(size), Causal() & Columns(size, size - p["count"], p["count"])) * 2
        ),
        "columns": lambda: Causal() & Columns(size, p["first"], p["count"]),
        "chunked": lambda: Causal() & Chunked(size),
        "sinks and window": lambda: Causal() & (Window(size) | Sink(p["sinks"])),
        "duo": lambda: PerHead(
            (Causal(),) * p["full"] + (Causal() & (Sink(p["sinks"]) | Window(size)),) * (4 - p["full"])
        ),
        "blocks": lambda: BlockWise(size, Causal()),
        "block diffusion": lambda: BlockDiffusion(size, p["length"]),
        "bigbird": lambda: BlockWise(
            size, Window(2, ahead=1) | QueriesAt(p["ends"]) | KeysAt(p["ends"]) | Chosen(inputs["table"])
        ),
        "phi": lambda: (
            Causal()
            & BlockWise(
                size,
                Window(p["local"])
                | PerHead(
                    [Columns(p["vertical"], (p["vertical"] - 1 - h * p["slide"]) % p["vertical"]) for h in range(4)]
                ),
            )
        ),
        "global": lambda: Window(size, ahead=size - 1) | KeysAt(p["tokens"]) | QueriesAt(p["tokens"]),
        "neighbourhood": lambda: Neighbourhood(p["grid"], p["window"]),
        "tiles": lambda: BlockWise(size, Neighbourhood(p["grid"], p["window"])),
        "tree": lambda: Tree(p["parents"], p["start"]),
        "images": lambda: (Causal() | Explicit(together)) & Window(p["window"], ahead=p["window"] - 1),
        "prefix": lambda: (Causal() | Prefix(p["prefix"])) & Padding(starts=(p["pads"],)),
    }
    return made[p["pattern"]]()


def _asked(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    mask, held = _mask(inputs, p), k.shape[2]
    pairs = (np.arange(4)[:, None, None], np.arange(held - q.shape[2], held)[:, None], np.arange(held))
    shape = (4, q.shape[2], held)
    visible = np.ones(shape, np.bool_) if mask is None else np.broadcast_to(mask(0, *pairs), shape)
    return Asked(q, k, v, None, None, {"mask": mask}, {"visible": visible})


def _worn(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    return Worn(Grouped(projections, mask=_mask(inputs, p)), x, inputs["q"].shape[1], inputs["v"].shape[3])


def _case(
    name: str,
    row: str,
    comment: str,
    parameters: dict[str, Any],
    mistakes: dict[str, dict[str, Any]],
    flag: Flag,
    *,
    queries: int = 9,
    keys: int = 9,
    cut: bool = True,
    further: Mapping[str, Any] | None = None,
    sibling: str | None = "causal",
) -> Recipe:
    """A case of nine tokens, or of so many queries behind so many keys; ``cut`` where a layer may stop anywhere."""
    label = f"patterns {queries} {keys} "
    inputs = {
        "q": drawn(label + "q", 1, 4, queries, 5),
        "k": drawn(label + "k", 1, 2, keys, 5),
        "v": drawn(label + "v", 1, 2, keys, 3),
        **(further or {}),
    }
    forms = attention_forms(_asked)
    if queries == keys:
        forms |= {f"layer: {form}": f for form, f in layer_forms(_worn, whole=not cut).items()}
    words = (f"masks/patterns/{name}", f"masks/{row}", "attention with a pattern", comment)
    sibling = sibling and f"masks/patterns/{sibling}"
    return told(*words, inputs, parameters, _masked, forms, sibling=sibling, flags=(flag,), mistakes=mistakes)


def _causal_ones() -> tuple[Recipe, ...]:
    return (
        _case(
            "causal",
            "causal",
            "The triangle; a faulty kernel took the last row of four for all of them.",
            {"pattern": "causal"},
            {"one row for four": {"size": 4}},
            ROWS,
            sibling=None,
        ),
        _case(
            "dilated",
            "dilated",
            "Three keys, itself included, two positions apart.",
            {"pattern": "dilated", "size": 3, "rate": 2},
            {"one key more": {"size": 4}, "not dilated": {"rate": 1}},
            BOUNDS,
        ),
        _case(
            "strided",
            "strided",
            "Every third key back from the query itself.",
            {"pattern": "strided", "size": 3},
            {"counted from the key before": {"more": 1}, "another stride": {"size": 4}},
            BOUNDS,
        ),
        _case(
            "sparse-transformer-strided",
            "per_head",
            "Even heads see the last three keys beside themselves, odd heads every third.",
            {"pattern": "local and strided", "size": 3},
            {"heads swapped": {"more": 1}, "the query's own key counted": {"local": 0}},
            HEADS,
            sibling="strided",
        ),
        _case(
            "sparse-transformer-fixed",
            "columns",
            "Even heads see their block of four, odd heads the last key of each block.",
            {"pattern": "chunk and columns", "size": 4, "count": 1},
            {"heads swapped": {"more": 1}, "two columns": {"count": 2}},
            HEADS,
        ),
        _case(
            "columns",
            "columns",
            "The second and third key of every four, and nothing for the first query.",
            {"pattern": "columns", "size": 4, "first": 1, "count": 2},
            {"the first two": {"first": 0}},
            BOUNDS,
        ),
        _case(
            "chunked",
            "chunked",
            "Llama 4: a token sees its own chunk of four, up to itself.",
            {"pattern": "chunked", "size": 4},
            {
                "the last four": {"pattern": "last of chunk"},
                "both ways in the chunk": {"two_sided": True},
                "chunks from 1": {"more": 1},
            },
            CHUNKS,
        ),
        _case(
            "chunked-behind-a-cache",
            "chunked",
            "Two queries behind seven keys: one at a border sees itself alone.",
            {"pattern": "chunked", "size": 4},
            {"the last four": {"pattern": "last of chunk"}},
            CHUNKS,
            queries=2,
            sibling=None,
        ),
        _case(
            "sinks-and-window",
            "sink",
            "StreamingLLM: the first two keys and the last three, all at their own positions.",
            {"pattern": "sinks and window", "size": 3, "sinks": 2},
            {"sinks forgotten": {"sinks": 0}, "one key more": {"size": 4}, "sinks count": {"size": 1}},
            KEPT,
        ),
        _case(
            "heads-that-retrieve",
            "per_head",
            "DuoAttention: two heads see everything, two see one sink and the last two keys.",
            {"pattern": "duo", "size": 2, "sinks": 1, "full": 2},
            {"all stream": {"full": 0}, "all retrieve": {"full": 4}},
            HEADS,
            sibling="sinks-and-window",
        ),
        _case(
            "phi-3-small",
            "columns",
            "Blocks of two: the last two blocks, and every third one, another one for each head.",
            {"pattern": "phi", "size": 2, "local": 2, "vertical": 3, "slide": 1},
            {"all heads alike": {"slide": 0}, "counted from 0": {"more": 2}},
            HEADS,
            queries=12,
            keys=12,
            sibling=None,
        ),
        _case(
            "tree",
            "tree",
            "Six draft tokens behind three committed ones: ancestors and itself, never a sibling or a cousin.",
            {"pattern": "tree", "start": 3, "parents": [-1, 0, 0, 1, 1, 2]},
            {"causal over slots": {"causal_slots": True}},
            TREE,
            queries=6,
            sibling=None,
        ),
        _case(
            "tree-of-two-roots",
            "tree",
            "Two first guesses, each with its own continuation.",
            {"pattern": "tree", "start": 3, "parents": [-1, -1, 0, 1, 2, 3]},
            {"causal over slots": {"causal_slots": True}},
            TREE,
            queries=6,
            sibling="tree",
        ),
    )


def _two_sided_ones() -> tuple[Recipe, ...]:
    images = {"images": np.array([0, 1, 1, 1, 0, 2, 2, 2, 0])}
    return (
        _case("all", "combine", "Every query sees every key.", {"pattern": "all"}, {}, BLOCKS, cut=False),
        _case(
            "blocks",
            "block_wise",
            "Blocks of three: both ways inside a block, causal over blocks.",
            {"pattern": "blocks", "size": 3},
            {"causal inside too": {"pattern": "causal", "size": 0}, "another size": {"size": 4}},
            BLOCKS,
            cut=False,
        ),
        _case(
            "block-diffusion",
            "block_diffusion",
            "Four noisy tokens and the four clean ones behind them, in blocks of two.",
            {"pattern": "block diffusion", "size": 2, "length": 4},
            {
                "a noisy block sees its own clean one": {"own_block_clean": True},
                "causal": {"pattern": "causal", "size": 0},
            },
            BLOCKS,
            queries=8,
            keys=8,
            cut=False,
            sibling=None,
        ),
        _case(
            "bigbird",
            "chosen",
            "Blocks of two: neighbours, the first and last one, and one more that a table chooses.",
            {"pattern": "bigbird", "size": 2, "ends": [0, 5]},
            {"none chosen": {"none_chosen": True}, "no global block": {"ends": []}},
            BLOCKS,
            queries=12,
            keys=12,
            cut=False,
            further={"table": np.array([[3], [4], [0], [1], [1], [2]])},
            sibling="phi-3-small",
        ),
        _case(
            "global-tokens",
            "global_tokens",
            "Longformer: a neighbour to each side; tokens 0 and 5 see all and are seen by all.",
            {"pattern": "global", "size": 2, "tokens": [0, 5]},
            {"not seen": {"seen": False}, "not seeing": {"seeing": False}, "one more to each side": {"size": 3}},
            GLOBAL,
            cut=False,
            sibling="all",
        ),
        _case(
            "neighbourhood-line",
            "neighbourhood",
            "Three keys for every query; at an end the window moves inwards.",
            {"pattern": "neighbourhood", "grid": [9], "window": [3]},
            {"lost at borders": {"lost_at_borders": True}},
            GRID,
            cut=False,
            sibling="all",
        ),
        _case(
            "neighbourhood-grid",
            "neighbourhood",
            "Three columns of the own row, of a grid of three by four.",
            {"pattern": "neighbourhood", "grid": [3, 4], "window": [1, 3]},
            {"lost at borders": {"lost_at_borders": True}, "transposed": {"grid": [4, 3], "window": [3, 1]}},
            GRID,
            queries=12,
            keys=12,
            cut=False,
            sibling="bigbird",
        ),
        _case(
            "sliding-tiles",
            "block_wise",
            "Tiles of three tokens on a line of four, three of them for each.",
            {"pattern": "tiles", "size": 3, "grid": [4], "window": [3]},
            {"lost at borders": {"lost_at_borders": True}},
            GRID,
            queries=12,
            keys=12,
            cut=False,
            sibling="neighbourhood-grid",
        ),
        _case(
            "images",
            "combine",
            "Two images of three tokens: each sees itself both ways; text and other images are causal.",
            {"pattern": "images", "window": 9},
            {"one image for all": {"one_for_all": True}, "text only": {"text_only": True}},
            IMAGES,
            cut=False,
            further=images,
        ),
        _case(
            "images-and-window",
            "combine",
            "The same on a layer with a window of two: an image reaches no further.",
            {"pattern": "images", "window": 2},
            {
                "images reach beyond the window": {"image_beyond": True},
                "one token more": {"window": 3},
                "text only": {"text_only": True},
            },
            IMAGES,
            cut=False,
            further=images,
            sibling="images",
        ),
        _case(
            "prefix-behind-padding",
            "prefix",
            "One pad and a prefix of three: the pad is not seen, though it lies in the prefix.",
            {"pattern": "prefix", "prefix": 4, "pads": 1},
            {"pads opened": {"pads_open": True}, "no prefix": {"prefix": 0}, "all visible": {"prefix": 9}},
            PREFIX,
            cut=False,
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of patterns.

    >>> len({recipe.name for recipe in recipes()})
    24
    """
    return _causal_ones() + _two_sided_ones()
