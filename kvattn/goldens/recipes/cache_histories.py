"""What a cache holds and answers after a history of operations: append, take back, select, forget, shift.

    ["append", ids]       new tokens of each sequence; their queries attend to all that is held, themselves included
    ["truncate", n]       keep the first n tokens, of all sequences or of each
    ["select", rows]      sequences by number, as beams are; a number may repeat
    ["evict", slots]      of each sequence only these slots stay, at their positions
    ["shift", by, from]   tokens from a slot on move by so many positions, and so do those to come

"history of a cache": inputs ``q [N, Hq, D]``, ``k [N, Hkv, D]`` and ``v [N, Hkv, Dv]``, whose rows are tokens;
``operations`` on ``batch`` sequences.  A token's position is one more than that of the last one before it; queries and
keys turn to their positions in halves, with ``base``.  The mask is causal, within a ``window`` beside the first
``sinks`` positions or within a ``chunk`` where these are given.  Expected: ``out_i [B, Hq, T, Dv]`` and ``lse_i`` of
every append whose sequences bring equally many tokens, and ``tokens`` and ``positions [B, n]`` at the end, -1 behind a
shorter sequence.  Source: none; it follows from attention over what is held.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kvattn.caches.chunked_local import ChunkedLocal
from kvattn.caches.contiguous import Contiguous
from kvattn.caches.paged import Paged
from kvattn.caches.ring import Ring
from kvattn.caches.rows import KeyValue, key_value, placed
from kvattn.caches.sink_window import SinkWindow
from kvattn.core import streaming
from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._loops import Nested, Row, geometric, turn
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.masks.chunked import Chunked
from kvattn.masks.sink import Sink
from kvattn.masks.window import Window
from kvattn.positions.rotary import Rotary
from kvattn.typing import Mask

CHUNKS = Flag(
    "LaterChunk",
    "KNOWN_BUG",
    "Computes a later chunk with a mask or with positions that begin at 0 again.",
    (
        "sgl-project/sgl-kernel-xpu#196",
        "lablup/mlxcel#885",
        "pytorch/executorch#2010",
        "Blaizzy/mlx-vlm#1619",
        "vllm-project/vllm#4057",
    ),
)
ROLLBACK = Flag(
    "Rollback",
    "KNOWN_BUG",
    "Keeps rejected tokens, takes one too many or too few, or does nothing where nothing shall be left.",
    (
        "huggingface/transformers#47433",
        "huggingface/transformers#47720",
        "ml-explore/mlx-lm#1109",
        "ml-explore/mlx-lm#1528",
        "lablup/mlxcel#994",
    ),
)
RING = Flag(
    "RingWrap",
    "KNOWN_BUG",
    "Loses rows that new queries still see when several tokens come at once, or keeps rejected ones behind a wrap.",
    (
        "ollama/ollama#15591",
        "ollama/ollama#14912",
        "ml-explore/mlx-swift-lm#424",
        "ml-explore/mlx-swift-lm#584",
        "ml-explore/mlx-lm#1427",
        "awslabs/keys_values#140",
        "quic/efficient-transformers#1235",
        "mistralai/mistral-inference#88",
    ),
)
WINDOW = Flag(
    "WindowCache",
    "KNOWN_BUG",
    "Forgets one token early or late where the length reaches the window, or forgets what a long chunk still needs.",
    (
        "huggingface/transformers#37574",
        "huggingface/transformers#27548",
        "pytorch/executorch#20346",
        "pytorch/executorch#21857",
        "ggml-org/llama.cpp#18720",
        "EricLBuehler/mistral.rs#246",
        "ml-explore/mlx-lm#1673",
    ),
)
BRANCHES = Flag(
    "BranchIsolation",
    "KNOWN_BUG",
    "Writes a branch's token into rows that another branch shares.",
    ("xLLM-AI/xllm#1984", "vllm-project/vllm#417", "ggml-org/llama.cpp#3802", "ggml-org/llama.cpp#27994"),
)
BEAMS = Flag(
    "BeamOrder",
    "KNOWN_BUG",
    "Does not reorder beams, or keys without values.",
    (
        "huggingface/transformers#46612",
        "huggingface/transformers#29730",
        "PaddlePaddle/PaddleNLP#6672",
    ),
)
PLACES = Flag(
    "PositionFromStorage",
    "KNOWN_BUG",
    "Takes the number of rows held, or a place in a ring, for a position.",
    ("huggingface/transformers#38156", "NVIDIA/TensorRT-LLM#6379"),
)
PREFIX = Flag(
    "PrefixReuse",
    "KNOWN_BUG",
    "Goes on from a kept beginning as if what came behind it were still there, or at other positions.",
    (
        "ggml-org/llama.cpp#12160",
        "tenstorrent/vllm#415",
        "Blaizzy/mlx-vlm#1715",
        "NVIDIA/TensorRT-LLM#2912",
    ),
)
SHIFTED = Flag(
    "KeyShift",
    "KNOWN_BUG",
    "Turns shifted keys by their new positions in place of the difference, or not at all.",
    (
        "ggml-org/llama.cpp#4097",
        "ggml-org/llama.cpp#14081",
        "ggml-org/llama.cpp#17945",
        "huggingface/transformers#31537",
    ),
)
RAGGED = Flag(
    "RowsOfABatch",
    "KNOWN_BUG",
    "Takes one sequence's length for all of a batch.",
    ("google-deepmind/gemma#765", "Blaizzy/mlx-vlm#1946", "Blaizzy/mlx-vlm#1889", "meta-pytorch/torchtune#1250"),
)
BORDER = Flag(
    "PageBorder",
    "KNOWN_BUG",
    "Reads a page that is not there yet, or rows behind a sequence's end, when its length is a multiple of the page.",
    ("pegainfer-project/pegainfer#291", "EricLBuehler/mistral.rs#552", "vllm-project/vllm#2231"),
)
FORGOTTEN = Flag("Eviction", "CACHE_STATE", "Attends to what was forgotten, or numbers what is left anew.")

Held = list[list[int]]
"""Of one sequence: for each slot the token, whose value is there, its position, and where its key is turned."""


def _history(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Lists of tokens in place of a cache."""
    held: list[Held] = [[] for _ in range(p["batch"])]
    ends = [0] * p["batch"]
    found: dict[str, Nested] = {}
    for verb, *how in p["operations"]:
        if verb == "append":
            _appended(held, ends, how[0], p)
            if p.get("ring_of"):
                held = [rows[-p["ring_of"] :] for rows in held]
            if len({len(ids) for ids in how[0]}) == 1:
                answer = _answered(n, a, p, held, how[0])
                number = sum(name.startswith("out") for name in found)
                found |= {f"out_{number}": answer["out"], f"lse_{number}": answer["lse"]}
        elif verb == "truncate":
            lengths = how[0] if isinstance(how[0], list) else [how[0]] * len(held)
            held = [rows[:length] for rows, length in zip(held, lengths, strict=True)]
            ends = [rows[-1][2] + 1 if rows else 0 for rows in held]
        elif verb == "select":
            values = [[slot[1] for slot in rows] for rows in held]
            held = [[list(slot) for slot in held[row]] for row in how[0]]
            ends = [ends[row] for row in how[0]]
            if p.get("values_stay"):
                for rows, old in zip(held, values, strict=False):
                    for slot, value in zip(rows, old, strict=True):
                        slot[1] = value
        elif verb == "evict":
            held = [[rows[slot] for slot in slots] for rows, slots in zip(held, how[0], strict=True)]
        else:
            by, first = how
            for rows in held:
                for slot in rows[first:]:
                    slot[2] += by
                    if not p.get("keys_stay"):
                        slot[3] += slot[2] if p.get("turned_by_position") else by
            ends = [end + by for end in ends]
    longest = max(map(len, held))
    for place, name in ((0, "tokens"), (2, "positions")):
        found[name] = [[slot[place] for slot in rows] + [-1] * (longest - len(rows)) for rows in held]
    return found


def _appended(held: list[Held], ends: list[int], ids: list[list[int]], p: Mapping[str, Any]) -> None:
    for b, tokens in enumerate(ids):
        first = ends[0] if p.get("one_length") else 0 if p.get("positions_restart") else ends[b]
        first = first % p["ring_places"] if p.get("ring_places") else first
        held[b] += [[token, token, ends[b] + i, first + i] for i, token in enumerate(tokens)]
        ends[b] += len(tokens)
    if p.get("one_length"):
        ends[:] = [ends[0]] * len(ends)


def _answered(
    n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any], held: list[Held], ids: list[list[int]]
) -> dict[str, Nested]:
    """The queries of the last tokens over all that is held."""
    thetas = geometric(n, len(a["k"][0][0]), p["base"])
    out: Nested = []
    lse: Nested = []
    for rows, tokens in zip(held, ids, strict=True):
        mine = rows[len(rows) - len(tokens) :]

        def turned(row: Row, place: int) -> Row:
            return turn(n, row, [place * theta for theta in thetas])

        q = [[turned(a["q"][slot[0]][h], slot[3]) for slot in mine] for h in range(len(a["q"][0]))]
        k = [[turned(a["k"][slot[0]][h], slot[3]) for slot in rows] for h in range(len(a["k"][0]))]
        v = [[a["v"][slot[1]][h] for slot in rows] for h in range(len(a["v"][0]))]
        if p.get("empty_slot_seen"):
            k, v = ([[*head, [n(0)] * len(head[0])] for head in part] for part in (k, v))

        def see(_b: int, _h: int, t: int, s: int, mine: Held = mine, rows: Held = rows) -> bool:
            if s == len(rows):
                return True
            if p.get("mask_from_0"):
                return s <= t
            alike = p.get("cached_part_alike") and s < len(rows) - len(mine)
            i, j = mine[0 if alike else t][2], rows[s][2]
            if p.get("chunk"):
                return bool(j <= i and i // p["chunk"] == j // p["chunk"])
            return bool(j <= i and (j < p.get("sinks", 0) or p.get("window") is None or i - j < p["window"]))

        answer = attention(n, [q], [k], [v], see=see)
        out.append(answer["out"][0])
        lse.append(answer["lse"][0])
    return {"out": out, "lse": lse}


def _mask(p: Mapping[str, Any]) -> Mask:
    if p.get("chunk"):
        return Causal() & Chunked(p["chunk"])
    if p.get("window") is None:
        return Causal()
    return Causal() & (Sink(p["sinks"]) | Window(p["window"])) if p.get("sinks") else Causal() & Window(p["window"])


def _lived(start: Callable[[Any, Mapping[str, Any]], Any]) -> Ours:
    """A cache of kvattn through the same history."""

    def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        q, k, v = (inputs[name] for name in "qkv")
        rotary, width = Rotary.of(k.shape[2], p["base"]), v.shape[2]
        cache = start(key_value(k.shape[1], k.shape[2], width), p)
        names = [[] for _ in range(p["batch"])]  # type: list[list[int]]
        found: dict[str, Any] = {}
        for verb, *how in p["operations"]:
            if verb == "append":
                counts = [len(ids) for ids in how[0]]
                padded = np.array([ids + [0] * (max(counts) - len(ids)) for ids in how[0]])
                at = cache.coming(max(counts))
                keys = rotary.rotate(k[padded].swapaxes(1, 2), at[:, None])
                ragged = {"counts": counts} if len(set(counts)) > 1 else {}
                cache = cache.append(KeyValue(keys, v[padded].swapaxes(1, 2)), **ragged)
                names = [held + ids for held, ids in zip(names, how[0], strict=True)]
                if not ragged:
                    turned = rotary.rotate(q[padded].swapaxes(1, 2), at[:, None])
                    blocks = [cache.blocks(b) for b in range(cache.batch)]
                    answer = streaming.attend(turned, at, blocks, value_width=width, mask=_mask(p))
                    number = sum(name.startswith("out") for name in found)
                    found |= {f"out_{number}": answer.out, f"lse_{number}": answer.lse}
            elif verb == "truncate":
                cache = cache.truncate(how[0])
                lengths = how[0] if isinstance(how[0], list) else [how[0]] * len(names)
                names = [held[:length] for held, length in zip(names, lengths, strict=True)]
            elif verb == "select":
                cache = cache.select(how[0])
                names = [names[row] for row in how[0]]
            elif verb == "evict":
                cache = cache.evict(how[0])
                names = [[held[slot] for slot in slots] for held, slots in zip(names, how[0], strict=True)]
            else:
                cache = cache.shift(how[0], rotary, start=how[1])
        longest = max(map(len, names))
        found["tokens"] = np.array([held + [-1] * (longest - len(held)) for held in names])
        if hasattr(cache, "positions"):
            places = [cache.positions(b).tolist() for b in range(cache.batch)]
            found["positions"] = np.array([at + [-1] * (longest - len(at)) for at in places])
        return found

    return ours


def _storages(p: Mapping[str, Any]) -> dict[str, Ours]:
    """The caches that can live through a history."""
    moved = any(verb in {"evict", "shift"} for verb, *_ in p["operations"])
    ragged = any(verb == "append" and len({len(ids) for ids in how[0]}) > 1 for verb, *how in p["operations"])
    forms = {
        "pages of 2": _lived(lambda schema, p: Paged.start(placed(schema), p["batch"], page=2)),
        "pages of 256": _lived(lambda schema, p: Paged.start(placed(schema), p["batch"])),
    }
    if not moved:
        forms["contiguous"] = _lived(lambda schema, p: Contiguous.start(schema, p["batch"], room=2))
    sizes = {"rollback": 4, "page": 2}
    if not moved and not ragged and p.get("window") is not None:
        if not p.get("sinks"):
            forms["ring"] = _lived(lambda schema, p: Ring.start(schema, window=p["window"], batch=p["batch"], **sizes))
        forms["sinks and window"] = _lived(
            lambda schema, p: SinkWindow.start(
                schema, sinks=p.get("sinks", 0), window=p["window"], batch=p["batch"], **sizes
            )
        )
    if p.get("chunk"):
        forms["chunked"] = _lived(
            lambda schema, p: ChunkedLocal.start(schema, size=p["chunk"], batch=p["batch"], **sizes)
        )
    return forms


def _case(
    name: str, row: str, comment: str, operations: list[Any], mistakes: dict[str, Any], flag: Flag, **others: Any
) -> Recipe:
    """A history of one sequence unless told."""
    sibling = others.pop("sibling", None)
    given = {"batch": 1, "base": 100.0, **others, "operations": operations}
    inputs = {
        "q": drawn("histories q", 14, 4, 6),
        "k": drawn("histories k", 14, 2, 6),
        "v": drawn("histories v", 14, 2, 3),
    }
    words = (f"caches/histories/{name}", f"caches/{row}", "history of a cache", comment)
    return told(
        *words,
        inputs,
        given,
        _history,
        _storages(given),
        sibling=sibling and f"caches/histories/{sibling}",
        flags=(flag,),
        mistakes=mistakes,
    )


def _append(*ids: Any) -> list[Any]:
    """An append of ranges or lists of tokens, one for each sequence."""
    return ["append", [list(each) for each in ids]]


def _plainly() -> tuple[Recipe, ...]:
    one_by_one = [_append([token]) for token in range(3, 6)]
    again = {
        "positions begin at 0 again": {"positions_restart": True},
        "the mask begins at 0 again": {"mask_from_0": True},
    }
    draft = [_append(range(5)), _append([5, 6]), ["truncate", 5], _append([7, 8])]
    return (
        _case(
            "decoding",
            "contiguous",
            "Three tokens, then one after the other.",
            [_append(range(3)), *one_by_one],
            again,
            CHUNKS,
        ),
        _case(
            "later-chunks",
            "contiguous",
            "Chunks of four, three and two tokens: several queries behind a filled cache.",
            [_append(range(4)), _append([4, 5, 6]), _append([7, 8])],
            again,
            CHUNKS,
            sibling="decoding",
        ),
        _case(
            "rejected-draft",
            "paged",
            "Two drafted tokens are taken back, and two others come in their place.",
            draft,
            {
                "the draft stays": {"operations": [draft[0], draft[1], draft[3]]},
                "one stays": {"operations": [*draft[:2], ["truncate", 6], draft[3]]},
                "one too many goes": {"operations": [*draft[:2], ["truncate", 4], draft[3]]},
            },
            ROLLBACK,
        ),
        _case(
            "nothing-left",
            "paged",
            "Taken back to nothing, and begun anew.",
            [_append(range(3)), ["truncate", 0], _append([5, 6])],
            {
                "nothing was taken back": {"operations": [_append(range(3)), _append([5, 6])]},
                "one token stays": {"operations": [_append(range(3)), ["truncate", 1], _append([5, 6])]},
            },
            ROLLBACK,
        ),
        _case(
            "rollback-of-each",
            "paged",
            "Two sequences are taken back to different lengths.",
            [_append(range(4), range(5, 9)), ["truncate", [3, 1]], _append([10], [11])],
            {
                "to the first one's length": {
                    "operations": [_append(range(4), range(5, 9)), ["truncate", 3], _append([10], [11])]
                }
            },
            RAGGED,
            batch=2,
        ),
        _case(
            "ragged-batch",
            "paged",
            "Prompts of five and of two tokens; then each gets one, at its own position.",
            [_append(range(5), [6, 7]), _append([10], [11]), _append([12], [13])],
            {"the first one's length for both": {"one_length": True}},
            RAGGED,
            batch=2,
        ),
        _case(
            "page-border",
            "paged",
            "Four tokens fill two pages of two, or one of four: the next begins another.",
            [_append(range(4)), _append([4])],
            {"a slot that nobody wrote is read as zeros": {"empty_slot_seen": True}},
            BORDER,
        ),
    )


def _branched() -> tuple[Recipe, ...]:
    prompt, beams = _append(range(3)), _append([0, 1], [2, 3], [4, 5])
    two = [prompt, ["select", [0, 0]], _append([5], [6]), _append([7], [8])]
    three = [beams, ["select", [2, 0, 0]], _append([6], [7], [8])]
    return (
        _case(
            "two-branches",
            "paged",
            "One prompt goes on in two ways: neither sees the other's tokens.",
            two,
            {
                "the second writes over the first": {
                    "operations": [prompt, ["select", [0, 0]], _append([6], [6]), _append([8], [8])]
                },
                "the first writes over the second": {
                    "operations": [prompt, ["select", [0, 0]], _append([5], [5]), _append([7], [7])]
                },
            },
            BRANCHES,
        ),
        _case(
            "beams",
            "paged",
            "Three beams become the third and twice the first.",
            three,
            {
                "not reordered": {"operations": [three[0], three[2]]},
                "keys without values": {"values_stay": True},
            },
            BEAMS,
            batch=3,
        ),
        _case(
            "beams-and-back",
            "paged",
            "Beams are selected, and a token of each is taken back.",
            [beams, ["select", [1, 1, 2]], _append([6], [7], [8]), ["truncate", 2], _append([9], [10], [11])],
            {
                "not reordered": {
                    "operations": [beams, _append([6], [7], [8]), ["truncate", 2], _append([9], [10], [11])]
                },
                "rejected tokens stay": {
                    "operations": [beams, ["select", [1, 1, 2]], _append([6], [7], [8]), _append([9], [10], [11])]
                },
            },
            BEAMS,
            batch=3,
            sibling="beams",
        ),
        _case(
            "one-of-three",
            "paged",
            "Two sequences of a batch are done, the one between goes on.",
            [_append(range(3), range(4, 7), range(8, 11)), ["select", [1]], _append([12])],
            {
                "the first goes on": {
                    "operations": [_append(range(3), range(4, 7), range(8, 11)), ["select", [0]], _append([12])]
                }
            },
            RAGGED,
            batch=3,
        ),
    )


def _windowed() -> tuple[Recipe, ...]:
    steps = [_append([token]) for token in range(6)]
    bounds = {"one token more": {"window": 5}, "one token less": {"window": 3}}
    rejected = [_append(range(4)), _append([4, 5]), ["truncate", 4], _append([6]), _append([7])]
    return (
        _case(
            "ring-and-two-at-once",
            "ring",
            "A window of four, six tokens one by one, then two at once: the first of them still sees four.",
            [*steps, _append([6, 7])],
            {"four rows and no more, the new ones included": {"ring_of": 4}, **bounds},
            RING,
            window=4,
        ),
        _case(
            "ring-at-its-border",
            "ring",
            "A window of four, reached and passed by one token at a time.",
            [_append(range(3)), *[_append([token]) for token in range(3, 6)]],
            bounds,
            WINDOW,
            window=4,
        ),
        _case(
            "ring-rejected-draft",
            "ring",
            "A window of three is full; two drafted tokens are taken back, and the window is as it was.",
            rejected,
            {
                "the draft stays": {"operations": [rejected[0], rejected[1], rejected[3], rejected[4]]},
                "what the draft pushed out is gone": {
                    "operations": [*rejected[:3], ["evict", [[3]]], rejected[3], rejected[4]]
                },
            },
            RING,
            window=3,
        ),
        _case(
            "ring-of-positions",
            "ring",
            "Behind the wrap of a window of three a token's position is still the number of tokens before it.",
            [*steps[:5], _append([5])],
            {"positions in the ring": {"ring_places": 3}, "one token more": {"window": 4}},
            PLACES,
            window=3,
        ),
        _case(
            "chunk-longer-than-the-window",
            "ring",
            "A window of two and chunks of four: each query sees itself and one more.",
            [_append(range(4)), _append(range(4, 8))],
            {
                "one token more": {"window": 3},
                "all rows see what the first sees of the cache": {"cached_part_alike": True},
            },
            WINDOW,
            window=2,
        ),
        _case(
            "sinks-and-window",
            "sink_window",
            "One sink and a window of three, token by token.",
            [_append(range(4)), *[_append([token]) for token in range(4, 8)]],
            {"the sink forgotten": {"sinks": 0}, "one token more": {"window": 4}},
            WINDOW,
            window=3,
            sinks=1,
        ),
        _case(
            "chunked-local",
            "chunked_local",
            "Chunks of three positions: what lies before a border is gone behind it.",
            [_append(range(2)), _append([2, 3]), _append([4, 5, 6])],
            {"chunks of four": {"chunk": 4}, "a window of three": {"chunk": None, "window": 3}},
            WINDOW,
            chunk=3,
        ),
    )


def _moved() -> tuple[Recipe, ...]:
    kept = [_append(range(6)), ["evict", [[0, 3, 5]]], _append([6]), _append([7])]
    shifted = [_append(range(6)), ["evict", [[0, 3, 4, 5]]], ["shift", -2, 1], _append([6]), _append([7])]
    pieces = [_append(range(9)), ["evict", [[0, 1, 4, 5, 7, 8]]], ["shift", -2, 2], ["shift", -1, 4], _append([9])]
    thrice = [_append(range(4)), ["shift", 5, 0], ["shift", 3, 0], ["shift", -6, 1], _append([6])]
    turned = {
        "turned by new positions": {"turned_by_position": True},
        "keys not turned": {"keys_stay": True},
    }
    return (
        _case(
            "evicted",
            "paged",
            "Three of six tokens stay, at their positions; time goes on.",
            kept,
            {
                "nothing was forgotten": {"operations": [kept[0], kept[2], kept[3]]},
                "numbered anew": {"operations": [*kept[:2], ["shift", -2, 1], kept[2], kept[3]]},
            },
            FORGOTTEN,
        ),
        _case(
            "evicted-and-shifted",
            "paged",
            "A gap of two tokens is closed: what lies behind it moves by two positions, turned by the difference.",
            shifted,
            {**turned, "the gap stays": {"operations": [*shifted[:2], shifted[3], shifted[4]]}},
            SHIFTED,
            sibling="evicted",
        ),
        _case(
            "pieces-kept",
            "paged",
            "Of nine tokens the first two stay, and of the others two pieces that move up to close the gaps.",
            pieces,
            {
                **turned,
                "the gaps stay": {"operations": [*pieces[:2], pieces[4]]},
                "one gap stays": {"operations": [*pieces[:3], pieces[4]]},
            },
            PREFIX,
            sibling="evicted-and-shifted",
        ),
        _case(
            "warm-prefix",
            "paged",
            "The first three of six tokens are used again, and three others come behind them.",
            [_append(range(6)), ["truncate", 3], _append([7, 8]), _append([9])],
            {
                "all six are still there": {"operations": [_append(range(6)), _append([7, 8]), _append([9])]},
                "a page of the old ones too": {
                    "operations": [_append(range(6)), ["truncate", 4], _append([7, 8]), _append([9])]
                },
                "positions begin at 0 again": {"positions_restart": True},
            },
            PREFIX,
            sibling="pieces-kept",
        ),
        _case(
            "shifted-three-times",
            "paged",
            "Moved on by five and by three, and all but the first back by six.",
            thrice,
            turned,
            SHIFTED,
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of histories.

    >>> len({recipe.name for recipe in recipes()})
    23
    """
    return _plainly() + _branched() + _windowed() + _moved()
