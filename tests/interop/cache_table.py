"""What was found in the caches of others: the rows and remarks of docs/explain/caches-of-others.md.

A cell is ``"holds"`` or the name of a remark; the peers' tests run the machine over what holds and execute each
remark's code, which prints what the page shows.  `page` writes the page.
"""

from contextlib import redirect_stdout
from io import StringIO
from typing import NamedTuple

COLUMNS = ("append many", "rollback", "after window", "select", "repeat", "branch", "overflow", "length")
FAULT, CONVENTION = "fault", "convention"

PRELUDE = {
    "transformers": '''
import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedConfig, QuantizedCache, StaticCache


def rows(*tokens, batch=1, width=1):
    """Token t of sequence b is 100 b + t."""
    owners = 100 * torch.arange(batch).reshape(-1, 1, 1, 1)
    return (torch.tensor(tokens, dtype=torch.float32).reshape(1, 1, -1, 1) + owners).repeat(1, 1, 1, width)


def feed(cache, *tokens, layer=0, **sizes):
    new = rows(*tokens, **sizes)
    return cache.update(new, new, layer)[0][..., 0].flatten().tolist()


def config(*layer_types, window=4):
    return PreTrainedConfig(num_hidden_layers=len(layer_types), layer_types=list(layer_types), sliding_window=window)
''',
    "mlx-lm": """
import copy
import mlx.core as mx
from mlx_lm.models.cache import *


def feed(cache, *tokens):
    new = mx.array(tokens, dtype=mx.float32).reshape(1, 1, -1, 1)
    return cache.update_and_fetch(new, new)[0].flatten().tolist()
""",
}


class Remark(NamedTuple):
    """A convention or a fault: what it is, the name of the fault as the machine gives it, code, and what it prints."""

    verdict: str
    kind: str
    words: str
    code: str
    prints: str


class Row(NamedTuple):
    """A class of a library, and a cell for each of `COLUMNS`."""

    project: str
    name: str
    cells: tuple[str, ...]


TRANSFORMERS: dict[str, Remark] = {
    "torn-crop": Remark(
        FAULT,
        "changed by a refusal",
        "`Cache.crop` goes layer by layer: a sliding layer refuses when the full layers before it are already shorter. "
        "`is_croppable` was True.",
        """
cache = DynamicCache(config=config("full_attention", "sliding_attention"))
for layer in (0, 1):
    feed(cache, *range(6), layer=layer)
try:
    cache.crop(-1)
except RuntimeError:
    print(cache.is_croppable, [cache.get_seq_length(layer) for layer in (0, 1)])
""",
        "True [5, 6]",
    ),
    "second-crop": Remark(
        FAULT,
        "rows do not fit the mask",
        "The first crop after the window keeps W - 1 rows; a second one before the next update takes rows that the "
        "next query must see, and the mask counts them all the same.",
        """
cache = DynamicCache(config=config("sliding_attention"))
cache.activate_past_recording()
feed(cache, *range(8))
cache.crop(-1)
cache.crop(-1)
print(cache.get_mask_sizes(1, 0), feed(cache, 6))  # 4 rows from position 3
""",
        "(4, 3) [4.0, 5.0, 6.0]",
    ),
    "crop-below-zero": Remark(
        FAULT,
        "wrong length",
        "Behind the window, a crop of more tokens than there are makes the length negative; a full layer empties.",
        """
cache = DynamicCache(config=config("sliding_attention"))
cache.activate_past_recording()
feed(cache, *range(8))
cache.crop(-10)
print(cache.get_seq_length())
""",
        "-2",
    ),
    "is-croppable": Remark(
        FAULT,
        "refused",
        "`is_croppable` is True where `crop` raises: a sliding layer that does not record, quantised layers.",
        """
sliding = DynamicCache(config=config("sliding_attention"))
feed(sliding, *range(8))
for cache in (sliding, QuantizedCache("fp8", config("full_attention"))):
    feed(cache, 8, 9)
    try:
        cache.crop(-1)
    except (RuntimeError, IndexError) as refusal:
        print(cache.is_croppable, type(refusal).__name__)
""",
        "True RuntimeError\nTrue IndexError",
    ),
    "window-of-one": Remark(
        FAULT,
        "rows do not fit the mask",
        "A window of 1 keeps everything (`[-1 + 1:]` is `[0:]`): the mask describes one row, all come.",
        """
cache = DynamicCache(config=config("sliding_attention", window=1))
feed(cache, 0, 1, 2)
print(cache.get_mask_sizes(1, 0), feed(cache, 3))
""",
        "(1, 3) [0.0, 1.0, 2.0, 3.0]",
    ),
    "rebuilt": Remark(
        FAULT,
        "wrong length",
        "A sliding cache rebuilt from its own items believes that it holds W - 1 tokens, whatever it had seen.",
        """
cache = DynamicCache(config=config("sliding_attention"))
feed(cache, *range(8))
print(cache.get_seq_length(), DynamicCache(list(cache)).get_seq_length())
""",
        "8 3",
    ),
    "counted": Remark(
        FAULT,
        "changed by a refusal",
        "An update that does not fit raises, but is counted: the length is wrong, and what still fits is refused too.",
        """
cache = StaticCache(config=config("full_attention"), max_cache_len=4)
feed(cache, 0, 1, 2)
for tokens in ((3, 4), (3,)):
    try:
        feed(cache, *tokens)
    except IndexError:
        print(tokens, "refused, length", int(cache.get_seq_length()))
""",
        "(3, 4) refused, length 5\n(3,) refused, length 6",
    ),
    "length-alias": Remark(
        FAULT,
        "wrong length",
        "`get_seq_length` hands out the tensor that the next update changes, not an `int` as it says.",
        """
cache = StaticCache(config=config("full_attention"), max_cache_len=4)
feed(cache, 0, 1)
before = cache.get_seq_length()
feed(cache, 2)
print(int(before))
""",
        "3",
    ),
    "short-ring": Remark(
        FAULT,
        "silent overflow",
        "With `max_cache_len` below the window the ring is as long as `max_cache_len`, and rows that the window "
        "reaches are overwritten without a word, where a full layer raises.",
        """
cache = StaticCache(config=config("sliding_attention", window=8), max_cache_len=4)
for token in range(6):
    seen = feed(cache, token)
print(seen, cache.get_seq_length())
""",
        "[2.0, 3.0, 4.0, 5.0] 6",
    ),
    "empty-update": Remark(
        FAULT,
        "lost row",
        "An update of no token to a full ring of two overwrites a row (of more than two, it raises).",
        """
cache = StaticCache(config=config("sliding_attention", window=2), max_cache_len=8)
feed(cache, 0, 1, 2)
print(cache.layers[0].keys.flatten().tolist())
feed(cache)
print(cache.layers[0].keys.flatten().tolist())
""",
        "[1.0, 2.0]\n[2.0, 2.0]",
    ),
    "batch-size": Remark(
        FAULT,
        "wrong length",
        "`batch_size` is -1 for a dynamic cache that has been filled, and stays the old one when beams are reordered "
        "into another number.",
        """
dynamic, static = DynamicCache(), StaticCache(config=config("full_attention"), max_cache_len=4)
for cache in (dynamic, static):
    feed(cache, 0, 1, batch=2)
    cache.reorder_cache(torch.tensor([0, 0, 1]))
    print(len(cache.layers[0].keys), cache.batch_size)
""",
        "3 -1\n3 2",
    ),
    "max-length": Remark(
        FAULT,
        "wrong length",
        "`get_max_length`, -1 for no maximum, takes the largest number: an unbounded layer beside a window of 4 is 4; "
        "and a static hybrid layer of 8 says -1.",
        """
print(DynamicCache(config=config("full_attention", "sliding_attention")).get_max_length())
print(StaticCache(config=config("hybrid"), max_cache_len=8).get_max_length())
""",
        "4\n-1",
    ),
    "half-moved": Remark(
        FAULT,
        "wrong owner",
        "`batch_select_indices` and `batch_repeat_interleave` move keys and values of a hybrid layer, and leave its "
        "convolution and recurrent states: silent where the batch stays as large.",
        """
cache = DynamicCache(config=config("hybrid"))
feed(cache, 0, batch=2)
cache.update_conv_state(rows(0, batch=2)[:, 0], 0)
cache.update_recurrent_state(rows(0, batch=2)[:, 0], 0)
cache.batch_select_indices(torch.tensor([1, 0]))
layer = cache.layers[0]
print([x.flatten().tolist() for x in (layer.keys, layer.conv_states[0], layer.recurrent_states[0])])
""",
        "[[100.0, 0.0], [0.0, 100.0], [0.0, 100.0]]",
    ),
    "torn-select": Remark(
        FAULT,
        "changed by a refusal",
        "Linear layers have no `batch_select_indices`: it raises when the layers before are already reordered.",
        """
cache = DynamicCache(config=config("full_attention", "linear_attention"))
feed(cache, 0, batch=2)
cache.update_conv_state(rows(0, batch=2)[:, 0], 1)
try:
    cache.batch_select_indices(torch.tensor([1, 0]))
except AttributeError:
    print(cache.layers[0].keys.flatten().tolist(), cache.get_conv_state(1).flatten().tolist())
""",
        "[100.0, 0.0] [0.0, 100.0]",
    ),
    "conv-second-crop": Remark(
        FAULT,
        "lost row",
        "As the second crop of a window: a convolution loses columns that it needs, and `is_croppable` stays True.",
        """
cache = DynamicCache(config=config("conv"))
cache.activate_past_recording()
cache.update_conv_state(rows(*range(8)).reshape(1, 1, 8), 0, conv_kernel_size=4)
for tokens in (1, 2):
    cache.crop(-tokens)
    print(cache.get_conv_state(0).flatten().tolist(), cache.is_croppable)
""",
        "[3.0, 4.0, 5.0, 6.0] True\n[3.0, 4.0] True",
    ),
    "lone-state": Remark(
        FAULT,
        "lost row",
        "`get_recurrent_state` is None for ever on a layer whose convolution state is not used: only "
        "`update_conv_state` notes that there is a state.",
        """
cache = DynamicCache(config=config("linear_attention"))
cache.update_recurrent_state(torch.ones(1, 1), 0)
print(cache.get_recurrent_state(0))
""",
        "None",
    ),
    "clipped": Remark(
        FAULT,
        "mangled row",
        "`fp8` keeps the scale of the first update, as its docstring says, and clips what is larger later on.",
        """
cache = QuantizedCache("fp8", config("full_attention"))
feed(cache, 1, 2)
print(feed(cache, 3, 4))
""",
        "[1.0, 2.0, 2.0, 2.0]",
    ),
    "quanto-crop": Remark(
        FAULT,
        "wrong length",
        "`crop` reaches only the residual: the count stays, and the mask describes a row too many; what lies in the "
        "quantised part is not taken back at all.",
        """
cache = QuantizedCache("quanto", config("full_attention"), residual_length=4, q_group_size=8)
feed(cache, *range(8), width=8)
feed(cache, 8, 9, width=8)
cache.crop(-1)
print(cache.get_mask_sizes(1, 0), len(feed(cache, 9, width=8)), cache.get_seq_length())
""",
        "(11, 0) 10 11",
    ),
    "quanto-select": Remark(
        FAULT,
        "wrong owner",
        "`batch_select_indices` reorders the residual and leaves the quantised part: a sequence of two halves.",
        """
cache = QuantizedCache("quanto", config("full_attention"), residual_length=4, q_group_size=8)
feed(cache, *range(4), batch=2, width=8)
feed(cache, 4, 5, batch=2, width=8)
cache.batch_select_indices(torch.tensor([1, 0]))
print([round(x) for x in feed(cache, 6, batch=2, width=8)][:7])
""",
        "[0, 1, 2, 3, 104, 105, 6]",
    ),
    "empty-residual": Remark(
        FAULT,
        "refused",
        "Once the residual has gone into the quantised part, an empty tensor of one axis stands in its place: `crop`, "
        "with `is_croppable` True, and `batch_select_indices` raise `IndexError`.",
        """
cache = QuantizedCache("quanto", config("full_attention"), residual_length=4, q_group_size=8)
feed(cache, *range(8), width=8)
for act in (lambda: cache.crop(-1), lambda: cache.batch_select_indices(torch.tensor([0]))):
    try:
        act()
    except IndexError as refusal:
        print(cache.is_croppable, type(refusal).__name__)
""",
        "True IndexError\nTrue IndexError",
    ),
    "no-layers": Remark(
        FAULT,
        "refused",
        "`EncoderDecoderCache` has no `layers`: `batch_size`, `is_initialized` and `update`, which `Cache` promises of "
        "all, raise `AttributeError`.",
        """
cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
print(*(hasattr(cache, name) for name in ("batch_size", "is_initialized", "get_seq_length")))
""",
        "False False True",
    ),
    "no-crop": Remark(
        CONVENTION,
        "",
        "Static layers cannot be cropped, repeated or selected by index (only `reorder_cache`): `AttributeError`, and "
        "`is_croppable` is False.",
        """
cache = StaticCache(config=config("full_attention"), max_cache_len=4)
names = ("crop", "batch_repeat_interleave", "batch_select_indices", "reorder_cache")
print(cache.is_croppable, *(hasattr(cache.layers[0], name) for name in names))
""",
        "False False False False True",
    ),
    "recording": Remark(
        CONVENTION,
        "",
        "Behind its window a sliding layer goes back only by what came since `activate_past_recording` and the last "
        "crop, and refuses where it does not record.",
        """
cache = DynamicCache(config=config("sliding_attention"))
feed(cache, *range(8))
cache.activate_past_recording()
feed(cache, 8, 9)
cache.crop(-2)
print(feed(cache, 8))
""",
        "[5.0, 6.0, 7.0, 8.0]",
    ),
    "own-memory": Remark(
        CONVENTION,
        "",
        "`update` returns the cache's own memory, as compiled graphs need: what an earlier update returned changes.",
        """
cache = StaticCache(config=config("full_attention"), max_cache_len=4)
keys, _ = cache.update(rows(5), rows(5), 0)
feed(cache, 6)
print(keys.flatten().tolist())
""",
        "[5.0, 6.0, 0.0, 0.0]",
    ),
    "ring-has-no-end": Remark(
        CONVENTION,
        "",
        "A ring that is as long as its window takes any number of tokens, also more than `max_cache_len`.",
        """
cache = StaticCache(config=config("sliding_attention"), max_cache_len=6)
feed(cache, *range(8))
print(feed(cache, 8))
""",
        "[5.0, 6.0, 7.0, 8.0]",
    ),
    "no-rollback-of-states": Remark(
        CONVENTION,
        "",
        "Recurrent states do not go back: `is_croppable` is False, but a recording cache that is cropped all the same "
        "does not refuse.",
        """
cache = DynamicCache(config=config("hybrid"))
cache.activate_past_recording()
for token in (0, 1):
    feed(cache, token)
    cache.update_conv_state(rows(token)[:, 0], 0, conv_kernel_size=1)
    cache.update_recurrent_state(rows(token)[:, 0], 0)
cache.crop(-1)
print(cache.is_croppable, cache.get_seq_length(), cache.get_recurrent_state(0).item())
""",
        "False 1 1.0",
    ),
    "no-deepcopy": Remark(
        CONVENTION,
        "",
        "`copy.deepcopy` refuses quanto's tensors.",
        """
import copy

cache = QuantizedCache("quanto", config("full_attention"), q_group_size=8)
feed(cache, *range(8), width=8)
try:
    copy.deepcopy(cache)
except RuntimeError as refusal:
    print(type(refusal).__name__)
""",
        "RuntimeError",
    ),
    "next-update": Remark(
        CONVENTION,
        "",
        "Quantised layers are reordered by `reorder_cache`; `batch_repeat_interleave` leaves the quantised part, and "
        "the next update of the larger batch is refused.",
        """
cache = QuantizedCache("fp8", config("full_attention"))
feed(cache, 0, 1, batch=2)
cache.batch_repeat_interleave(2)
try:
    feed(cache, 2, batch=4)
except RuntimeError as refusal:
    print(type(refusal).__name__)
""",
        "RuntimeError",
    ),
    "stream-not-copied": Remark(
        CONVENTION,
        "",
        "An offloaded cache holds a `torch.Stream`, so that `copy.deepcopy`, by which a prompt's cache is used again, "
        "raises `TypeError`; on a machine without a GPU it can be made, and its first update is refused.",
        """
import copy

try:
    copy.deepcopy(DynamicCache(offloading=True))
except TypeError as refusal:
    print(type(refusal).__name__)
""",
        "TypeError",
    ),
    "no-batch-methods": Remark(
        CONVENTION,
        "",
        "Linear layers have `reorder_cache` alone, and no length: a cache of nothing else refuses to tell one.",
        """
cache = DynamicCache(config=config("linear_attention"))
print(*(hasattr(cache.layers[0], name) for name in ("reorder_cache", "batch_repeat_interleave", "get_seq_length")))
""",
        "True False False",
    ),
}

MLX: dict[str, Remark] = {
    "trim-is-forgotten": Remark(
        FAULT,
        "stale after rollback",
        "`ConcatenateKVCache` says that it is trimmable; `trim` moves the offset, and the next update brings the rows "
        "back.",
        """
cache = ConcatenateKVCache()
feed(cache, 0, 1, 2, 3)
print(cache.is_trimmable(), cache.trim(2), feed(cache, 8), cache.offset)
""",
        "True 2 [0.0, 1.0, 2.0, 3.0, 8.0] 5",
    ),
    "negative-trim": Remark(
        FAULT,
        "resurrected row",
        "A negative `trim` is not refused: it brings back what was trimmed, and rows that were never written.",
        """
cache = KVCache()
feed(cache, 0, 1, 2)
print(cache.trim(2), cache.trim(-3), feed(cache, 8))
""",
        "2 -3 [0.0, 1.0, 2.0, 0.0, 8.0]",
    ),
    "sinks-hidden-in-prompt": Remark(
        FAULT,
        "row out of sight",
        "A first prompt of more than `max_size` tokens is masked by a plain window of `max_size`: its later queries do "
        "not see the kept rows, and see rows that the same tokens do not see one by one.  `generate_step` says of "
        "`max_kv_size`, which keeps 4, that the first 4 tokens are not overwritten, and takes prompts in steps of "
        "2048: no step is unusual.",
        """
alone, cache = RotatingKVCache(max_size=4, keep=2), RotatingKVCache(max_size=4, keep=2)
print([sorted(feed(alone, token)) for token in range(6)][4:])
mask, seen = cache.make_mask(6, return_array=True), feed(cache, *range(6))
print([[token for token, show in zip(seen, row) if show] for row in mask.tolist()][4:])
""",
        "[[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 4.0, 5.0]]\n[[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]]",
    ),
    "sinks-hidden": Remark(
        FAULT,
        "row out of sight",
        "With `keep`, a query that comes alone sees the kept rows; of several that come at once on a full ring, the "
        "later ones do not.",
        """
cache = RotatingKVCache(max_size=4, keep=2)
feed(cache, 0, 1, 2, 3)
print(feed(cache, 4))
mask, seen = cache.make_mask(2, return_array=True), feed(cache, 5, 6)
print([[token for token, show in zip(seen, row) if show] for row in mask.tolist()])
""",
        "[0.0, 1.0, 4.0, 3.0]\n[[0.0, 1.0, 4.0, 5.0], [1.0, 4.0, 5.0, 6.0]]",
    ),
    "empty-append": Remark(
        FAULT,
        "lost row",
        "After an update of no token to a full ring the next one overwrites a row that it must see.",
        """
cache = RotatingKVCache(max_size=4)
feed(cache, 0, 1, 2, 3)
feed(cache)
print(feed(cache, 4))
""",
        "[4.0, 2.0, 3.0]",
    ),
    "uneven-trim": Remark(
        FAULT,
        "wrong length",
        "`CacheList.trim` trims each part by what that part can, and returns the last number: parts of one layer are "
        "left at different lengths, though all say that they are trimmable.",
        """
cache = CacheList(KVCache(), ChunkedKVCache(2))
for part in cache.caches:
    feed(part, *range(6))
cache[1].maybe_trim_front()
print(cache.is_trimmable(), cache.trim(4), [part.offset for part in cache.caches])
""",
        "True 2 [2, 4]",
    ),
    "trims-what-it-can": Remark(
        CONVENTION,
        "",
        "`trim` takes back at most what is there, and returns how many; `ChunkedKVCache` what is left of its chunk.",
        """
cache = KVCache()
feed(cache, 0, 1, 2)
print(cache.trim(5), cache.offset)
""",
        "3 0",
    ),
    "not-trimmable": Remark(
        CONVENTION,
        "",
        "`is_trimmable` is False once a ring is full, and always for `ArraysCache`; `trim_prompt_cache` then returns 0 "
        "and changes nothing.",
        """
cache = RotatingKVCache(max_size=4)
feed(cache, *range(6))
print(cache.is_trimmable(), trim_prompt_cache([cache], 1), trim_prompt_cache([ArraysCache(1)], 1))
""",
        "False 0 0",
    ),
    "one-sequence": Remark(
        CONVENTION,
        "",
        "Sequences are reordered, repeated and dropped by `filter`, which only the caches of batches and `ArraysCache` "
        "have.",
        """
print(*(hasattr(c, "filter") for c in (KVCache, RotatingKVCache, BatchKVCache, BatchRotatingKVCache, ArraysCache)))
""",
        "False False True True True",
    ),
    "shallow": Remark(
        CONVENTION,
        "",
        "`state` is the cache's own memory, and so is a `copy.copy`: going on from both overwrites; `copy.deepcopy` is "
        "a branch.",
        """
cache = KVCache()
feed(cache, 0, 1)
twin, branch = KVCache.from_state(cache.state), copy.deepcopy(cache)
feed(cache, 2), feed(branch, 3), feed(twin, 4)
print(cache.keys_and_values()[0].flatten().tolist())
""",
        "[0.0, 1.0, 4.0]",
    ),
    "size-is-zero": Remark(
        CONVENTION,
        "",
        "`size` is 0 where a class does not implement it, as `_BaseCache.size` says; `offset` counts.",
        """
cache = ConcatenateKVCache()
feed(cache, 0, 1)
print(cache.size(), cache.offset)
""",
        "0 2",
    ),
}

REMARKS = {"transformers": TRANSFORMERS, "mlx-lm": MLX}

H = "holds"
T, M = "transformers", "mlx-lm"

NO_FILTER = ("one-sequence", "one-sequence")

ROWS = (
    Row(T, "DynamicCache", (H, H, "—", H, H, H, "—", "batch-size")),
    Row(
        T,
        "DynamicCache, sliding",
        (H, "second-crop is-croppable recording", "window-of-one", H, H, H, "—", "crop-below-zero rebuilt batch-size"),
    ),
    Row(T, "DynamicCache, full and sliding", (H, "torn-crop recording", H, H, H, H, "—", "max-length")),
    Row(T, "DynamicCache, indexed", (H, H, "—", H, H, H, "—", H)),
    Row(T, "StaticCache", (H, "no-crop", "—", H, "no-crop", "own-memory", "counted", "length-alias batch-size")),
    Row(T, "StaticCache, sliding", ("empty-update", "no-crop", H, H, "no-crop", H, "short-ring ring-has-no-end", H)),
    Row(T, "QuantizedCache, fp8", ("clipped", "is-croppable", "—", H, "next-update", H, "—", H)),
    Row(
        T,
        "DynamicCache, offloaded",
        (H, H, "—", H, H, "stream-not-copied", "—", "batch-size"),
    ),
    Row(
        T,
        "StaticCache, offloaded",
        (H, "no-crop", "—", H, "no-crop", "stream-not-copied", "counted", "length-alias batch-size"),
    ),
    Row(
        T,
        "QuantizedCache, quanto",
        (H, "quanto-crop empty-residual", "—", "quanto-select", "next-update", "no-deepcopy", "—", H),
    ),
    Row(
        T,
        "QuantizedCache, HQQ",
        (H, "quanto-crop empty-residual", "—", "quanto-select", "next-update", H, "—", H),
    ),
    Row(T, "EncoderDecoderCache", (H, H, "—", H, H, H, "—", "no-layers")),
    Row(
        T,
        "linear attention, convolution",
        (H, "conv-second-crop", H, H, "no-batch-methods", H, "—", "no-batch-methods"),
    ),
    Row(
        T,
        "linear attention, both states",
        ("lone-state", "no-rollback-of-states", "—", H, "torn-select", H, "—", "no-batch-methods"),
    ),
    Row(T, "hybrid layers", (H, "no-rollback-of-states", "—", "half-moved", "half-moved", H, "—", "max-length")),
    Row(M, "KVCache", (H, "negative-trim trims-what-it-can", "—", *NO_FILTER, "shallow", "—", H)),
    Row(M, "ConcatenateKVCache", (H, "trim-is-forgotten", "—", *NO_FILTER, H, "—", "size-is-zero")),
    Row(M, "QuantizedKVCache", (H, "negative-trim", "—", *NO_FILTER, H, "—", "size-is-zero")),
    Row(M, "RotatingKVCache", ("empty-append", "not-trimmable", H, *NO_FILTER, H, "—", H)),
    Row(M, "RotatingKVCache, keep", ("sinks-hidden-in-prompt sinks-hidden", "not-trimmable", H, *NO_FILTER, H, "—", H)),
    Row(M, "ChunkedKVCache", (H, "trims-what-it-can uneven-trim", H, *NO_FILTER, H, "—", H)),
    Row(M, "BatchKVCache", (H, "negative-trim", "—", H, H, H, "—", H)),
    Row(M, "BatchRotatingKVCache", (H, "not-trimmable", H, H, H, H, "—", H)),
    Row(M, "ArraysCache", (H, "not-trimmable", "—", H, H, H, "—", "size-is-zero")),
)

HEAD = """# Caches of others

What serving code does to a cache was done to the caches of transformers 5.23 and of mlx-lm 0.32 on a CPU, by one state
machine ({py:class}`~kvattn.testing.machines.conformance.CacheMachine`) beside a plain list of tokens, through the
adapters {doc}`/reference/interop/transformers_caches` and {doc}`/reference/interop/mlx_caches`.  To have your own
cache driven, and what is wrong with it named, write five methods and run `kvattn check module:Adapter`, or
{py:func}`~kvattn.testing.cache_checking.check_cache`: {doc}`/howto/check-your-cache`.

**holds** was driven and nothing was wrong.  A *convention* is refused aloud, or documented, or merely another choice.
A **fault** breaks what a docstring promises, or loses or mixes rows without a word; its name is one of the machine's.
Each remark has code that the tests run, and what it prints.  Some need unusual steps, two crops in a
row or an update of no token; whether a model takes them was not looked into.

Offloaded caches were driven with streams that do nothing, since there was no GPU: which layer is where, not what is
copied when.  HQQ shares the code of what is remarked about quanto, and does the same; it is in no extra, since
importing transformers beside it warns of what torch has deprecated, and its tests wait for it to be there.
Not driven: caches that live in a model's own file, padded batches, and mlx-lm's ``extend`` and ``merge``.
"""


def page() -> str:
    """The page, as it must stand in docs/explain."""
    parts = [HEAD]
    for library, remarks in REMARKS.items():
        parts += [f"## {library}\n", _table(library), f"All examples begin with:\n\n```python{PRELUDE[library]}```\n"]
        for verdict in (FAULT, CONVENTION):
            parts.append(f"### {verdict.capitalize()}s of {library}\n")
            parts += [_remark(name, remark) for name, remark in remarks.items() if remark.verdict == verdict]
    return "\n".join(parts)


def _table(library: str) -> str:
    head = ["| class | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    body = [
        f"| {row.name} | " + " | ".join(_cell(library, cell) for cell in row.cells) + " |"
        for row in ROWS
        if row.project == library
    ]
    return "\n".join(head + body) + "\n"


def _cell(library: str, cell: str) -> str:
    if cell in (H, "—"):
        return cell
    found = []
    for name in cell.split():
        bold = "**" if REMARKS[library][name].verdict == FAULT else "*"
        found.append(f"[{bold}{name}{bold}](#{name})")
    return ", ".join(found)


def _remark(name: str, remark: Remark) -> str:
    kind = f"**{remark.kind}**: " if remark.kind else ""
    return (
        f"({name})=\n#### {name}\n\n{kind}{remark.words}\n\n"
        f"```python{remark.code}```\n\n```text\n{remark.prints}\n```\n"
    )


def printed(library: str, remark: Remark) -> str:
    """What a remark's code prints."""
    out = StringIO()
    with redirect_stdout(out):
        exec(PRELUDE[library] + remark.code, {})  # noqa: S102 -- the code of this file
    return out.getvalue().strip()
