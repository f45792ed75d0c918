"""Planted faults of who sees whom: triangle, window, masks, padding, regions, documents, trees, places, pages."""

from kvattn.testing.planted.attention import Planted
from kvattn.testing.planted.mutant import Mutant
from kvattn.testing.planted.wrapped import MasksLate, Turns


def _sees(name: str, keyword: str, formula: str, fault_class: str, **parameters: object) -> Mutant:
    """A keyword whose formula is replaced."""
    return Mutant(name, Planted(formulas={keyword: formula}), fault_class, parameters)


TRIANGLE = (
    Mutant(
        "triangle after the softmax",
        MasksLate(),
        "mask-compose",
        {"argument": "causal", "applied": "after the softmax"},
    ),
    Mutant(
        "triangle in the top left corner",
        Planted(anchor="top_left"),
        "causal-align",
        {"anchor": "top_left", "shift": 0},
    ),
    Mutant("triangle one late", Planted(shift=1), "causal-align", {"anchor": "bottom_right", "shift": 1}),
    Mutant("triangle one early", Planted(shift=-1), "causal-align", {"anchor": "bottom_right", "shift": -1}),
    Mutant("triangle two late", Planted(shift=2), "causal-align", {"anchor": "bottom_right", "shift": 2}),
    Mutant(
        "top left, one early", Planted(anchor="top_left", shift=-1), "causal-align", {"anchor": "top_left", "shift": -1}
    ),
    _sees(
        "offset that wraps", "causal", "j <= (i if placed else t + (n - T) % 2**32)", "causal-align", offset="unsigned"
    ),
    _sees(
        "offset by its absolute value",
        "causal",
        "j <= (i if placed else t + abs(n - T))",
        "causal-align",
        offset="absolute",
    ),
    _sees(
        "offset cut at 0",
        "causal",
        "j <= (i if placed else t + maximum(n - T, 0))",
        "causal-align",
        anchor="top_left",
        when="T > S",
        otherwise="bottom_right",
    ),
    _sees("rows in groups of four", "causal", "j <= i // 4 * 4 + 3", "mask-compose", argument="causal", row_group=4),
    *(
        _sees(
            f"rows in groups of {group} in longer calls",
            "causal",
            f"j <= (t // {group} * {group} + {group - 1} + n - T if T > {group} and not placed else i)",
            "mask-compose",
            row_group=group,
            of="rows of the call",
        )
        for group in (4, 8, 64)
    ),
    _sees(
        "top left unless T > S",
        "causal",
        "j <= (i if placed else t + minimum(n - T, 0))",
        "causal-align",
        anchor="bottom_right",
        when="T > S",
        otherwise="top_left",
    ),
    _sees("rows in pairs", "causal", "j <= i // 2 * 2 + 1", "mask-compose", argument="causal", row_group=2),
    _sees("future in place of past", "causal", "j >= i", "mask-polarity", argument="causal"),
    Mutant("causal ignored", Planted(ignore=("causal",)), "mask-dropped", {"argument": "causal"}),
    Mutant(
        "causal lost beside a mask",
        Planted(lost={"causal": "mask is not None"}),
        "mask-dropped",
        {"argument": "causal"},
    ),
    Mutant(
        "causal lost where the weights are asked for",
        Planted(lost={"causal": "return_weights"}),
        "mask-dropped",
        {"argument": "causal", "with": ["return_weights"]},
    ),
    Mutant(
        "causal lost beside dropout", Planted(lost={"causal": "dropout > 0"}), "mask-dropped", {"argument": "causal"}
    ),
    Mutant(
        "half the offset for the upper heads",
        Planted(formulas={"causal": "j <= where(h < H // 2, i, i // 2)"}),
        "mask-compose",
        {"argument": "causal"},
    ),
)

WINDOW = (
    Mutant("window one too wide", Planted(extra_keys=1), "window-off-by-one", {"extra": 1, "visible_keys": "W + 1"}),
    Mutant("window one too narrow", Planted(extra_keys=-1), "window-off-by-one", {"extra": -1}),
    Mutant("window two too wide", Planted(extra_keys=2), "window-off-by-one", {"extra": 2}),
    Mutant("window ignored", Planted(ignore=("window",)), "mask-dropped", {"argument": "window"}),
    Mutant(
        "window ignored without a mask",
        Planted(lost={"window": "mask is None"}),
        "mask-dropped",
        {"argument": "window"},
    ),
    Mutant(
        "window ignored at decode",
        Planted(lost={"window": "T == 1"}),
        "mask-dropped",
        {"argument": "window", "when": "T = 1"},
    ),
    _sees("window from the top left corner", "window", "t - j < w", "causal-align", anchor="top_left", of="window"),
    Mutant(
        "causal or window",
        Planted(formulas={"window": "(j <= i) | (i - j < w)"}, lost={"causal": "window is not None"}),
        "mask-compose",
        {"operator": "or", "of": ["causal", "window"]},
    ),
    *(
        Mutant(
            f"window {reads}{' beside the triangle' if causal else ''}",
            Planted(formulas={"window": formula}, lost={} if causal else {"causal": "window is not None"}),
            "mask-compose",
            {"argument": "window", "reads": reads, "causal": causal},
        )
        for reads, formula, causal in (
            ("|i - j| <= W", "abs(i - j) <= w", False),
            ("|i - j| <= W // 2", "abs(i - j) <= w // 2", False),
            ("i // W == j // W", "i // w == j // w", True),
            ("i // W == j // W", "i // w == j // w", False),
            ("i // W - j // W in (0, 1)", "i // w - j // w < 2", True),
            ("i - j < 2 * W", "i - j < 2 * w", True),
            ("(i - j) % W == 0", "(i - j) % w == 0", True),
        )
    ),
    Mutant(
        "window |i - j| < W",
        Planted(formulas={"window": "abs(i - j) < w"}, lost={"causal": "window is not None"}),
        "mask-dropped",
        {"argument": "causal", "reads": "|i - j| < W"},
    ),
    *(
        _sees(f"window of {size}, whatever is asked", "window", f"i - j < {size}", "mask-compose", size=size)
        for size in (3, 64, 128)
    ),
    _sees("one key less ahead", "ahead", "j - i < a", "window-off-by-one", argument="ahead", extra=-1),
    _sees("one key more ahead", "ahead", "j - i <= a + 1", "window-off-by-one", argument="ahead", extra=1),
    Mutant("ahead ignored", Planted(ignore=("ahead",)), "mask-dropped", {"argument": "ahead"}),
)

MASKS = (
    Mutant("True hides", Planted(mask_reads="blocked"), "mask-polarity", {"true_means": "blocked"}),
    Mutant("mask added", Planted(mask_reads="added"), "mask-polarity", {"encoding": "added", "true": 1.0}),
    Mutant("mask read as a length", Planted(mask_reads="length"), "mask-polarity", {"encoding": "length"}),
    Mutant("mask ignored", Planted(ignore=("mask",)), "mask-dropped", {"argument": "mask"}),
    Mutant("mask transposed", Turns("mask"), "mask-compose", {"argument": "mask", "reads": "the mask transposed"}),
    Mutant("mask ignored beside causal", Planted(lost={"mask": "causal"}), "mask-dropped", {"argument": "mask"}),
    Mutant("bias ignored", Planted(ignore=("bias",)), "mask-dropped", {"argument": "bias"}),
    Mutant(
        "bias ignored beside a mask", Planted(lost={"bias": "mask is not None"}), "mask-dropped", {"argument": "bias"}
    ),
)

PADDING = (
    _sees("one padding key", "lengths", "s <= n", "padding-positions", argument="lengths", extra=1),
    _sees("one real key missing", "lengths", "s < n - 1", "padding-positions", argument="lengths", extra=-1),
    _sees("pages end full", "lengths", "s < (n + 3) // 4 * 4", "padding-positions", argument="lengths"),
    _sees("the first length for all", "lengths", "s < n[0]", "batch-row-state", argument="lengths", of="sequence 0"),
    _sees("the longest for all", "lengths", "s < n.max()", "batch-row-state", argument="lengths", of="the longest"),
    _sees(
        "padding taken off the front", "lengths", "s >= S - n", "padding-positions", argument="lengths", side="front"
    ),
    _sees("only padding seen", "lengths", "s >= n", "mask-polarity", argument="lengths"),
    _sees("lengths without effect", "lengths", "s == s", "mask-dropped", argument="lengths"),
    _sees("triangle at the buffer's end", "at", "given if placed else t + S - T", "causal-align", anchor="buffer_end"),
    _sees(
        "triangle of sequence 0 for all", "at", "given if placed else t + n[0] - T", "batch-row-state", of="sequence 0"
    ),
    _sees("each chunk from position 0", "at", "given if placed else t + 0 * n", "causal-align", anchor="top_left"),
    _sees("one real key missing in front", "starts", "s > b", "padding-positions", argument="starts", extra=1),
    _sees("one padding key in front", "starts", "s >= b - 1", "padding-positions", argument="starts", extra=-1),
    _sees("the first start for all", "starts", "s >= b[0]", "batch-row-state", argument="starts", of="sequence 0"),
    Mutant("starts ignored", Planted(ignore=("starts",)), "mask-dropped", {"argument": "starts"}),
    Mutant(
        "starts ignored beside a window",
        Planted(lost={"starts": "window is not None"}),
        "mask-dropped",
        {"argument": "starts"},
    ),
)

REGIONS = (
    Mutant("chunks ignored", Planted(ignore=("chunk",)), "mask-dropped", {"argument": "chunk"}),
    _sees("chunks one too long", "chunk", "i // (c + 1) == j // (c + 1)", "mask-compose", reads="chunks of C +1"),
    _sees(
        "chunks of queries from the first query",
        "chunk",
        "t // c == j // c",
        "mask-compose",
        reads="chunks of queries counted from the first query",
    ),
    _sees("chunks that slide", "chunk", "(i - j < c) & (j <= i)", "mask-compose", reads="a window of C keys"),
    _sees(
        "chunks and all before", "chunk", "i // c >= j // c", "mask-compose", reads="the query's chunk and all before"
    ),
    _sees("prefix one too long", "prefix", "before | (j <= p)", "mask-compose", reads="a prefix of p +1 keys"),
    _sees("prefix alone", "prefix", "j < p + 0 * i", "mask-compose", reads="the prefix alone"),
    _sees("prefix AND causal", "prefix", "before & (j < p)", "mask-compose", reads="causal AND prefix"),
    _sees(
        "the first prefix for all",
        "prefix",
        "before | (j < p[0])",
        "batch-row-state",
        argument="prefix",
        of="sequence 0",
    ),
    Mutant("prefix ignored", Planted(ignore=("prefix",)), "mask-dropped", {"argument": "prefix"}),
)

DOCUMENTS = (
    Mutant("documents ignored", Planted(ignore=("segments",)), "varlen", {"reads": "no documents"}),
    _sees(
        "one list of documents for queries and keys",
        "segments",
        "first == owner",
        "varlen",
        reads="the first T keys' documents for the queries",
    ),
    _sees("earlier documents seen", "segments", "own >= owner", "varlen", reads="own and earlier documents"),
    _sees("other documents only", "segments", "own != owner", "varlen", reads="other documents only"),
    _sees(
        "document 0 is padding",
        "segments",
        "(own == owner) & (owner != 0)",
        "varlen",
        reads="documents, 0 being padding",
    ),
    _sees(
        "the first sequence's documents for all",
        "segments",
        "own[:1] == owner[:1]",
        "batch-row-state",
        argument="segments",
        of="sequence 0",
    ),
    Mutant(
        "causal lost in documents",
        Planted(lost={"causal": "segments is not None"}),
        "mask-dropped",
        {"argument": "causal", "with": ["segments"]},
    ),
)

TREES = (
    Mutant("tree ignored", Planted(ignore=("parents",)), "spec-tree", {"reads": "every slot"}),
    _sees("triangle over the draft slots", "parents", "s <= S - T + t", "spec-tree", reads="all earlier slots"),
    _sees(
        "ancestors without the node",
        "parents",
        "tree & (s != S - T + t)",
        "spec-tree",
        reads="its ancestors, not itself",
    ),
    _sees(
        "tree without its context",
        "parents",
        "tree & (s >= S - T)",
        "spec-tree",
        reads="the tree, without what stands before it",
    ),
    _sees(
        "a tree mask of another stride",
        "parents",
        "strided(tree, 16)",
        "spec-tree",
        reads="rows of a tree mask read at the wrong stride (T for 16)",
    ),
)

PLACES = (
    Mutant(
        "slots for positions",
        Planted(ignore=("k_positions",)),
        "ring-wrap",
        {"reads": "keys in the order in which they are stored"},
    ),
    Mutant(
        "queries at the end of the keys",
        Planted(ignore=("q_positions",)),
        "rope-offset",
        {"reads": "queries at the end of the keys"},
    ),
    _sees(
        "queries from 0 in each call",
        "at",
        "t if placed else t + n - T",
        "rope-offset",
        reads="queries from 0 on in each call",
    ),
    _sees(
        "queries one late",
        "at",
        "given + 1 if placed else t + n - T",
        "rope-offset",
        reads="queries one later",
    ),
    _sees(
        "queries of sequence 0 for all",
        "at",
        "given[:1] if placed else t + n - T",
        "batch-row-state",
        reads="the queries' positions of sequence 0 for all",
    ),
    _sees(
        "queries in a row from the first",
        "at",
        "given[:, :, :1] + t if placed else t + n - T",
        "rope-offset",
        reads="queries in a row from the first one's position",
    ),
    _sees(
        "keys of sequence 0 for all",
        "key at",
        "given[:1] if given is not None else s",
        "batch-row-state",
        reads="the keys' positions of sequence 0 for all",
    ),
    Mutant(
        "positions ignored",
        Planted(ignore=("q_positions", "k_positions")),
        "chunked-prefill",
        {"reads": "neither: queries at the end of the slots"},
    ),
)

PAGES = (
    _sees(
        "the page before at a boundary",
        "page",
        "table[maximum(s - 1, 0) // P]",
        "paged-table",
        reads="the page before at each page's first slot",
    ),
    _sees("pages in a row from 0", "page", "s // P", "paged-table", reads="pages in a row from 0 for every sequence"),
    _sees("pages in a row from the first", "page", "table[0] + 0 * s", "paged-table", reads="other"),
    _sees("pages sorted", "page", "sort(table)[s // P]", "paged-table", reads="pages in their physical order"),
    _sees("the first slot of each page", "slot", "0 * s", "paged-table", reads="the first slot of each page"),
    _sees("slots in reverse", "slot", "P - 1 - s % P", "paged-table", reads="slots in reverse"),
    _sees(
        "the last page in full",
        "lengths",
        "s < ((n + 3) // 4 * 4 if P else n)",
        "paged-table",
        reads="the last page in full",
    ),
    Mutant(
        "pages of four keys, whatever their size",
        Planted(formulas={"page": "table[s // 4 % table.size]", "slot": "s % 4"}),
        "paged-table",
        {"page": 8, "right_at": 4},
    ),
    _sees("one key more", "lengths", "s < (n + 1 if P else n)", "paged-table", reads="one key more"),
    _sees("whole pages only", "lengths", "s < (n // 4 * 4 if P else n)", "paged-table", reads="whole pages only"),
)
