"""The same attention computed otherwise: in tiles, in parts, on ranks, by levels, through block tables, over trees.

- "attention in parts": inputs ``q``, ``k``, ``v``, causal with queries at the last positions, ``sinks [Hq]``; within a
  ``window``, with a ``softcap`` and ALiBi's ``slopes`` where these are given.
- "attention by levels": ``q``, and segments ``k_n [Hkv, S, D]``, ``v_n`` with their ``members``; a sequence's keys are
  its segments in order, and its queries the last of them; ``sinks``.
- "attention through a block table": ``key_blocks``, ``value_blocks [N, page, Hkv, ..]``, ``table [B, columns]`` and
  ``lengths [B]``.
- "attention over a tree of drafts": tokens are ``start`` committed ones, the nodes of ``parents`` (-1 is the past), and
  one that comes when the nodes of ``path`` have stayed; all turned in halves with ``base`` at their depth; a
  ``window`` in positions.  ``out_after`` and ``lse_after`` are that last token's.

Expected: ``out`` and ``lse`` of attention over all that a query sees; how it was cut does not show.  Sources: Milakov &
Gimelshein 2018 (arXiv 1805.02867) §3.1; Dao et al. 2022 (2205.14135); Liu et al. 2023 (2310.01889); Juravsky et al.
2024 (2402.05099) §3.1; Kwon et al. 2023 (2309.06180) §4.1; Miao et al. 2023 (2305.09781) §4.2; Fu et al. 2024
(2402.02057) §3.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value, placed
from kvattn.execution.block_table import BlockTable
from kvattn.execution.cascade import Segment, cascade_attend
from kvattn.execution.chunked_prefill import chunked_attend
from kvattn.execution.context_parallel import context_parallel_attend
from kvattn.execution.lazy import lazy_attend
from kvattn.execution.lookahead import Lookahead
from kvattn.execution.online import online_attend
from kvattn.execution.question import Question
from kvattn.execution.ring import ring_attend
from kvattn.execution.smoothing import smoothed_attend
from kvattn.execution.split import split_attend
from kvattn.execution.striped import striped_attend
from kvattn.execution.tree import commit, tree_attend
from kvattn.execution.zigzag import zigzag_attend
from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._loops import Nested, Row, geometric, turn
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.masks.tree import Tree
from kvattn.masks.window import Window
from kvattn.positions.alibi import Alibi
from kvattn.positions.rotary import Rotary

MERGE = Flag(
    "PartsMerged",
    "KNOWN_BUG",
    "Merges parts by a log-sum-exp to another base, averages them, or loses one that is empty.",
    (
        "sgl-project/sglang#40903",
        "vllm-project/vllm#52796",
        "vllm-project/vllm#39148",
        "flashinfer-ai/flashinfer#4051",
        "sgl-project/sgl-kernel-xpu#487",
        "sgl-project/sglang#22688",
    ),
)
SINK = Flag(
    "SinkOfParts",
    "KNOWN_BUG",
    "Counts the sink in each part, or not at all where a part is empty.",
    ("ROCm/rocm-libraries#12227", "vllm-project/vllm-metal#550"),
)
EMPTY = Flag(
    "EmptyPart", "EDGE_CASE", "Gives NaN where a tile, a part or a row has no key.", ("flashinfer-ai/flashinfer#4401",)
)
LEVELS = Flag("SharedPrefix", "CACHE_STATE", "Attends to another sequence's level, or to a shared one twice.")
TABLE = Flag(
    "BlockTable",
    "KNOWN_BUG",
    "Reads blocks in the order of the pool, a whole last block, or a neighbour's.",
    (
        "vllm-project/vllm-ascend#14038",
        "hw-native-sys/pypto#470",
        "pegainfer-project/pegainfer#291",
        "EricLBuehler/mistral.rs#552",
        "tanishqkumar/ssd#22",
        "vllm-project/vllm#2231",
    ),
)
DRAFTS = Flag(
    "DraftTree",
    "KNOWN_BUG",
    "Takes a draft's position from its slot in place of its depth, or lets it see a sibling.",
    ("PaddlePaddle/FastDeploy#3514", "NVIDIA/TensorRT-LLM#13006"),
)


def _whole(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Attention in one piece; a mistake cuts the keys at ``edges`` and merges them wrongly."""
    late = len(a["k"][0][0]) - len(a["q"][0][0])
    slopes = [n(slope) for slope in p.get("slopes", ())]

    def run(first: int, last: int, sinks: Nested) -> dict[str, Nested]:
        def see(_b: int, _h: int, t: int, s: int) -> bool:
            i = late + t
            return bool(s <= i and first <= s < last and (p.get("window") is None or i - s < p["window"]))

        def bend(score: Number, _b: int, h: int, t: int, s: int) -> Number:
            return score - slopes[h] * (late + t - s) if slopes else score

        softcap = n(p["softcap"]) if p.get("softcap") else None
        return attention(n, a["q"], a["k"], a["v"], see=see, bend=bend, softcap=softcap, sinks=sinks)

    held, sinks = len(a["k"][0][0]), a.get("sinks")
    if "edges" not in p:
        if sinks is not None and p.get("sink_counts") is not None:
            sinks = [sink + n.log(n(p["sink_counts"])) for sink in sinks] if p["sink_counts"] else None
        return run(0, held, sinks)
    edges = [0, *p["edges"], held]
    parts = [run(first, last, sinks) for first, last in pairwise(edges)]
    return _merged(n, parts, p["merge"])


def _merged(n: Numbers, parts: list[dict[str, Nested]], how: str) -> dict[str, Nested]:
    """Parts put together as faulty programs do."""
    out: Nested = []
    lse: Nested = []
    for b, heads in enumerate(parts[0]["out"]):
        out.append([])
        lse.append([])
        for h, rows in enumerate(heads):
            out[b].append([])
            lse[b].append([])
            for t in range(len(rows)):
                there = [part for part in parts if not isinstance(part["lse"][b][h][t], float)]
                ends = [part["lse"][b][h][t] for part in there]
                if not ends:
                    out[b][h].append(parts[0]["out"][b][h][t])
                    lse[b][h].append(parts[0]["lse"][b][h][t])
                    continue
                if how == "base 2":
                    ends = [end / n.log(n(2)) for end in ends]
                top = n.max(ends)
                shares = [n(1) if how == "average" else n.exp(end - top) for end in ends]
                total = n.sum(shares)
                columns = zip(*(part["out"][b][h][t] for part in there), strict=True)
                out[b][h].append(
                    [n.sum(share * x for share, x in zip(shares, column, strict=True)) / total for column in columns]
                )
                lse[b][h].append(top + n.log(total))
    return {"out": out, "lse": lse}


def _question(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Question:
    mask = Causal() if p.get("window") is None else Causal() & Window(p["window"])
    mods = (Alibi(tuple(p["slopes"])),) if p.get("slopes") else ()
    named: Any = {"mask": mask, "mods": mods, "softcap": p.get("softcap"), "sinks": inputs.get("sinks")}
    return Question(inputs["q"], inputs["k"], inputs["v"], **named)


def _question_forms(p: Mapping[str, Any], square: bool) -> dict[str, Ours]:
    """Every form of the group that takes a question."""

    def form(function: Callable[[Question], Any]) -> Ours:
        def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            answer: dict[str, Any] = function(_question(inputs, p))._asdict()
            return answer

        return ours

    ways: dict[str, Callable[[Question], Any]] = {
        "streamed": lambda asked: asked.attend(),
        "tiles of two keys": lambda asked: online_attend(asked, rows=2, columns=2),
        "tiles of three keys": lambda asked: online_attend(asked, rows=1, columns=3),
        "lazy": lambda asked: lazy_attend(asked, queries=2, keys=3),
        "two parts": lambda asked: split_attend(asked, 2),
        "twenty parts": lambda asked: split_attend(asked, 20),
        "two ranks for keys": lambda asked: context_parallel_attend(asked, 2).answer,
        "a ring of three": lambda asked: ring_attend(asked, 3).answer,
    }
    if square:
        ways |= {
            "stripes": lambda asked: striped_attend(asked, 3).answer,
            "zigzag": lambda asked: zigzag_attend(asked, 2).answer,
        }
        ways |= {"chunks": lambda asked: chunked_attend(asked, (2, 3))}
    if not p.get("softcap"):
        ways |= {"smoothed keys": smoothed_attend}
    return {name: form(way) for name, way in ways.items()}


def _levels(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Of each sequence its levels, one after the other."""
    out: Nested = []
    lse: Nested = []
    for b, queries in enumerate(a["q"]):
        k: Nested = [[] for _ in a["k_0"]]
        v: Nested = [[] for _ in a["k_0"]]
        for level, members in enumerate(p["members"]):
            times = p.get("times", [1] * len(p["members"]))[level]
            if b in members or (p.get("every_member") and level):
                for head in range(len(k)):
                    k[head] += times * a[f"k_{level}"][head]
                    v[head] += times * a[f"v_{level}"][head]
        late = len(k[0]) - len(queries[0])
        answer = attention(n, [queries], [k], [v], see=_behind(late), sinks=a.get("sinks"))
        out.append(answer["out"][0])
        lse.append(answer["lse"][0])
    return {"out": out, "lse": lse}


def _behind(late: int) -> Any:
    return lambda b, h, t, s: s <= late + t


def _levels_forms() -> dict[str, Ours]:
    def cascaded(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        starts: dict[int, int] = dict.fromkeys(range(len(inputs["q"])), 0)
        segments = []
        for level, members in enumerate(p["members"]):
            k, v = inputs[f"k_{level}"], inputs[f"v_{level}"]
            segments.append(Segment(k, v, members, starts[members[0]]))
            starts |= {member: starts[member] + k.shape[1] for member in members}
        length = inputs["q"].shape[2]
        at = [[starts[b] - length + t for t in range(length)] for b in starts]
        answer = cascade_attend(
            inputs["q"], segments, q_positions=np.array(at), mask=Causal(), sinks=inputs.get("sinks")
        )
        return dict(answer._asdict())

    return {"cascade": cascaded}


def _tabled(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Slot s of sequence b lies in block table[b][s // page], row s % page."""
    page = len(a["key_blocks"][0])
    out: Nested = []
    lse: Nested = []
    for b, queries in enumerate(a["q"]):
        length = a["lengths"][b]
        rows = -(-length // page) * page if p.get("whole_last_block") else length
        blocks = sorted(x for x in a["table"][b] if x >= 0) if p.get("in_pool_order") else a["table"][b]
        row_of = 0 if p.get("first_table_for_all") else b
        blocks = a["table"][row_of] if p.get("first_table_for_all") else blocks
        there = [(blocks[s // page], s % page) for s in range(rows)]
        heads = range(len(a["key_blocks"][0][0]))
        k, v = (
            [[a[name][block][row][head] for block, row in there] for head in heads]
            for name in ("key_blocks", "value_blocks")
        )
        late = rows - len(queries[0])
        answer = attention(n, [queries], [k], [v], see=_behind(late))
        out.append(answer["out"][0])
        lse.append(answer["lse"][0])
    return {"out": out, "lse": lse}


def _tabled_forms() -> dict[str, Ours]:
    def tabled(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
        named = [inputs[name] for name in ("key_blocks", "value_blocks", "table", "lengths")]
        return dict(BlockTable(*named).attend(inputs["q"], mask=Causal())._asdict())

    return {"block table": tabled}


def _drafted(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """The past, then the tree; and one more token behind the accepted path."""
    start, parents = p["start"], p["parents"]
    thetas = geometric(n, len(a["q"][0][0][0]), p["base"])

    def lineage(node: int) -> list[int]:
        found = []
        while node >= 0:
            found.append(node)
            node = parents[node]
        return found[::-1]

    nodes = len(parents)
    depths = [start + (x if p.get("position_of_slot") else len(lineage(x)) - 1) for x in range(nodes)]
    at = [*range(start), *depths, start + len(p["path"])]
    order = [*range(start), *(start + x for x in p["path"]), start + nodes]

    def turned(row: Row, place: int) -> Row:
        return turn(n, row, [place * theta for theta in thetas])

    def part(name: str, rows: list[int]) -> Nested:
        return [[[turned(head[x], at[x]) for x in rows] for head in heads] for heads in a[name]]

    def see(_b: int, _h: int, t: int, s: int) -> bool:
        if p.get("window") is not None and depths[t] - at[s] >= p["window"]:
            return False
        return s < start or (s - start <= t if p.get("causal_slots") else s - start in lineage(t))

    drafted = list(range(start, start + nodes))
    v = [[head[: start + nodes] for head in heads] for heads in a["v"]]
    tree = attention(n, part("q", drafted), part("k", [*range(start), *drafted]), v, see=see)
    kept_v = [[[head[x] for x in order] for head in heads] for heads in a["v"]]
    last = order[-1]

    def near(_b: int, _h: int, _t: int, s: int) -> bool:
        return bool(p.get("window") is None or at[last] - at[order[s]] < p["window"])

    after = attention(n, part("q", [last]), part("k", order), kept_v, see=near)
    return {"out": tree["out"], "lse": tree["lse"], "out_after": after["out"], "lse_after": after["lse"]}


def _drafted_forms() -> dict[str, Ours]:
    def form(page: int) -> Ours:
        def drafted(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            q, k, v = (inputs[name] for name in "qkv")
            rotary, tree, start = Rotary.of(k.shape[3], p["base"]), Tree(p["parents"], p["start"]), p["start"]
            nodes = len(p["parents"])
            behind = start + len(p["path"])
            at = np.concatenate([np.arange(start), tree.positions, [behind]])
            q, k = rotary.rotate(q, at), rotary.rotate(k, at)
            schema = placed(key_value(k.shape[1], k.shape[3], v.shape[3]))
            cache = Paged.start(schema, len(k), page=page).append(KeyValue(k[:, :, :start], v[:, :, :start]))
            mask = None if p.get("window") is None else Window(p["window"], ahead=99)
            now = slice(start, start + nodes)
            answer, cache = tree_attend(cache, q[:, :, now], k[:, :, now], v[:, :, now], tree, mask=mask)
            cache = commit(cache, tree, p["path"])
            last = slice(start + nodes, start + nodes + 1)
            cache = cache.append(KeyValue(k[:, :, last], v[:, :, last]), positions=np.full((len(k), 1), behind))
            asked = Question(
                q[:, :, last],
                np.concatenate([cache.rows(sequence=b).k for b in range(len(k))]),
                np.concatenate([cache.rows(sequence=b).v for b in range(len(k))]),
                mask=mask,
                q_positions=[behind],
                k_positions=[cache.positions(b) for b in range(len(k))],
            )
            after = asked.attend()
            return {**answer._asdict(), "out_after": after.out, "lse_after": after.lse}

        return drafted

    return {"pages of 2": form(2), "pages of 256": form(256)}


def _heads(label: str, queries: int, keys: int, batch: int = 1) -> dict[str, Any]:
    return {
        "q": drawn(f"forms {label} q", batch, 4, queries, 6),
        "k": drawn(f"forms {label} k", batch, 2, keys, 6),
        "v": drawn(f"forms {label} v", batch, 2, keys, 3),
    }


def _asked(name: str, row: str, comment: str, inputs: Any, given: Any, mistakes: Any, *flags: Flag) -> Recipe:
    square = inputs["q"].shape[2] == inputs["k"].shape[2]
    words = (f"execution/parts/{name}", f"execution/{row}", "attention in parts", comment)
    return told(*words, inputs, given, _whole, _question_forms(given, square), flags=flags, mistakes=mistakes)


def _parts() -> tuple[Recipe, ...]:
    sinks = {"sinks": np.array([0.5, -1.0, 2.0, 0.0])}
    wrong = {
        "merged by a log-sum-exp to base 2": {"edges": [3], "merge": "base 2"},
        "parts averaged": {"edges": [3], "merge": "average"},
    }
    counted = {"the sink once for each of three parts": {"sink_counts": 3}, "no sink": {"sink_counts": 0}}
    rich = {"window": 4, "softcap": 2.0, "slopes": [0.5, 0.25, 0.125, 0.0625]}
    return (
        _asked(
            "causal",
            "online",
            "Seven tokens: tiles, parts, chunks and ranks of any size give this.",
            _heads("square", 7, 7),
            {},
            wrong,
            MERGE,
            EMPTY,
        ),
        _asked(
            "sinks",
            "split",
            "One query behind a cache: the sink counts once, however many parts there are and whichever is empty.",
            {**_heads("decode", 1, 9), **sinks},
            {},
            {**counted, **wrong},
            SINK,
            MERGE,
        ),
        _asked(
            "everything",
            "split",
            "A window, a softcap, slopes and sinks at once, three queries behind a cache.",
            {**_heads("rich", 3, 9), **sinks},
            rich,
            {**counted, "no softcap": {"softcap": None}, "no window": {"window": None}},
            SINK,
            MERGE,
        ),
        _asked(
            "empty-rows",
            "lazy",
            "Five queries and two keys: the first three see nothing, in any part.",
            _heads("empty", 5, 2),
            {},
            {"parts averaged": {"edges": [1], "merge": "average"}},
            EMPTY,
        ),
        _asked(
            "empty-rows-with-sinks",
            "online",
            "The same with sinks: their logits are all that the first rows have.",
            {**_heads("empty", 5, 2), **sinks},
            {},
            counted,
            SINK,
            EMPTY,
        ),
    )


def _cascades() -> tuple[Recipe, ...]:
    sizes = (4, 3, 2, 2, 1)
    levels = {
        f"{name}_{x}": drawn(f"level {name} {x}", 2, size, width)
        for x, size in enumerate(sizes)
        for name, width in (("k", 6), ("v", 3))
    }
    two = {name: array for name, array in levels.items() if name[-1] != "1"}
    renamed = {name.replace("_2", "_1").replace("_3", "_2").replace("_4", "_3"): array for name, array in two.items()}
    words = ("execution/cascade", "attention by levels")
    return (
        told(
            "execution/levels/two",
            *words,
            "A prefix that three sequences share, and what each has of its own.",
            {"q": drawn("levels q", 3, 4, 1, 6), **renamed},
            {"members": [[0, 1, 2], [0], [1], [2]]},
            _levels,
            _levels_forms(),
            flags=(LEVELS,),
            mistakes={"every sequence sees all": {"every_member": True}, "the prefix twice": {"times": [2, 1, 1, 1]}},
        ),
        told(
            "execution/levels/three",
            *words,
            "Two of the three share a second level too; each query has a sink, counted once.",
            {"q": drawn("levels q", 3, 4, 1, 6), **levels, "sinks": np.array([0.5, -1.0, 2.0, 0.0])},
            {"members": [[0, 1, 2], [0, 1], [0], [1], [2]]},
            _levels,
            _levels_forms(),
            sibling="execution/levels/two",
            flags=(LEVELS, SINK),
            mistakes={
                "every sequence sees all": {"every_member": True},
                "the second level twice": {"times": [1, 2, 1, 1, 1]},
            },
        ),
    )


def _tables() -> tuple[Recipe, ...]:
    pool = {"key_blocks": drawn("pool k", 6, 2, 2, 6), "value_blocks": drawn("pool v", 6, 2, 2, 3)}
    inputs = {
        "q": drawn("pool q", 2, 4, 1, 6),
        **pool,
        "table": np.array([[4, 1, 3], [5, 0, -1]]),
        "lengths": np.array([5, 4]),
    }
    poisoned = {name: array.copy() for name, array in pool.items()}
    for array in poisoned.values():
        array[2] = np.nan
        array[3, 1] = np.nan
    shared = {**inputs, "table": np.array([[4, 1, 3], [4, 0, -1]])}
    wrong = {
        "in the order of the pool": {"in_pool_order": True},
        "the last block whole": {"whole_last_block": True},
    }
    words = ("execution/block_table", "attention through a block table")
    return (
        told(
            "execution/tables/scattered",
            *words,
            "Blocks of two in any order; five tokens leave a row of the last block, four fill it.",
            inputs,
            {},
            _tabled,
            _tabled_forms(),
            flags=(TABLE,),
            mistakes=wrong,
        ),
        told(
            "execution/tables/shared",
            *words,
            "Both sequences have block 4: a shared prefix.",
            shared,
            {},
            _tabled,
            _tabled_forms(),
            sibling="execution/tables/scattered",
            flags=(TABLE,),
            mistakes=wrong,
        ),
        told(
            "execution/tables/poisoned",
            *words,
            "NaN in a block that nobody has, and behind a sequence's end.",
            {**inputs, **poisoned},
            {},
            _tabled,
            _tabled_forms(),
            sibling="execution/tables/shared",
            flags=(TABLE,),
        ),
    )


def _trees() -> tuple[Recipe, ...]:
    words = ("execution/tree", "attention over a tree of drafts")
    given = {"start": 3, "parents": [-1, 0, 0, 1, 2], "path": [0, 2, 4], "base": 100.0}
    wrong = {"positions of slots": {"position_of_slot": True}, "causal over slots": {"causal_slots": True}}
    ahead = Lookahead(window=2, ngram=3, guesses=1, start=3)
    guessed = {"start": 3, "parents": [int(x) for x in ahead.tree.parents], "path": [0, 4], "base": 100.0}
    return (
        told(
            "execution/trees/drafts",
            *words,
            "Five drafts behind three tokens; then the accepted path stays, and one more token comes.",
            _heads("tree", 9, 9, 2),
            given,
            _drafted,
            _drafted_forms(),
            flags=(DRAFTS,),
            mistakes={**wrong, "another path stays": {"path": [0, 1, 3]}},
        ),
        told(
            "execution/trees/window",
            *words,
            "The same with a window of three positions, which depths count, not slots.",
            _heads("tree", 9, 9, 2),
            {**given, "window": 3},
            _drafted,
            _drafted_forms(),
            sibling="execution/trees/drafts",
            flags=(DRAFTS,),
            mistakes={**wrong, "no window": {"window": None}},
        ),
        told(
            "execution/trees/lookahead",
            "execution/lookahead",
            "attention over a tree of drafts",
            "A window of two columns and two levels, and one guess: the newest token and the first guessed one stay.",
            _heads("lookahead", 10, 10),
            guessed,
            _drafted,
            _drafted_forms(),
            flags=(DRAFTS,),
            mistakes=wrong,
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of forms of attention.

    >>> len({recipe.name for recipe in recipes()})
    13
    """
    return _parts() + _cascades() + _tables() + _trees()
