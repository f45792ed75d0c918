"""Every planted cache, with the class and the parameters that it must be named by."""

from dataclasses import replace
from typing import Any, NamedTuple

from kvattn.testing.conformance.adapter import CacheAdapter
from kvattn.testing.planted_caches.codes import PlantedCodes
from kvattn.testing.planted_caches.formats import PlantedFormats
from kvattn.testing.planted_caches.grown import PlantedCache
from kvattn.testing.planted_caches.layers import PlantedLayers
from kvattn.testing.planted_caches.pages import PlantedPages
from kvattn.testing.planted_caches.ring import PlantedRing
from kvattn.testing.planted_caches.scales import PlantedScales


class Planted(NamedTuple):
    """An adapter with a fault, and how it must be named; no class where no catalogue has it."""

    adapter: CacheAdapter
    fault_class: str
    parameters: dict[str, Any]


_EARLY = "before all queries have read"


def _planted() -> tuple[Planted, ...]:
    right = PlantedCache()
    rows: list[Planted] = [
        *(Planted(replace(right, rollback_extra=n), "crop-rollback", {"extra": n}) for n in (1, -1, 2)),
        Planted(replace(right, rollback_as_slice=True), "crop-rollback", {"zero": "empties"}),
        *(
            Planted(replace(right, rollback_odd=n), "crop-rollback", {"rollback": "oversize", "amount": 4, "keeps": k})
            for n, k in (("slice", 2), ("nothing", 3))
        ),
        *(
            Planted(replace(right, rollback_odd=n), "crop-rollback", {"rollback": "negative", "amount": -1, "keeps": k})
            for n, k in (("takes", 2), ("grows", 4))
        ),
        *(
            Planted(PlantedRing(n, ignores=True), "crop-rollback", {"rollback": "undeclared", "amount": 1, "keeps": 3})
            for n in (2, 4)
        ),
        Planted(replace(right, rollback_skips="v"), "crop-rollback", {"shortens": "keys only"}),
        Planted(replace(right, rollback_skips="k"), "crop-rollback", {"shortens": "values only"}),
        Planted(replace(right, rollback_skips="kv"), "crop-rollback", {"shortens": "nothing"}),
        *(
            Planted(replace(right, rollback_skips=one, rest=n), "crop-rollback", {"shortens": what, "rest": n})
            for n in ("cut", "hidden")
            for one, what in (("v", "keys only"), ("k", "values only"))
        ),
        *(
            Planted(PlantedPages(n, spares=True), "crop-rollback", {"page": n, "keeps": "one page too many"})
            for n in (2, 4, 5, 8)
        ),
        *(
            Planted(replace(right, flips=n), "gqa-map", {"heads": "reversed", "of": [*n], "appends": "one token"})
            for n in ("kv", "k", "v")  # whose sizes are those of the other head
        ),
        Planted(replace(right, flips="v", flips_all=True), "gqa-map", {"of": ["v"], "appends": "any number"}),
        Planted(replace(right, select_keys_only=True), "beam-reorder", {"reorders": "keys only"}),
        Planted(replace(right, select_values_only=True), "beam-reorder", {"reorders": "values only"}),
        Planted(replace(right, select_nothing=True), "beam-reorder", {"reorders": "nothing"}),
        *(
            Planted(replace(wrong, select_others=n), "beam-reorder", {"reorders": what, "others": told})
            for wrong, what in (
                (replace(right, select_keys_only=True), "keys only"),
                (replace(right, select_values_only=True), "values only"),
                (replace(right, select_nothing=True), "nothing"),
            )
            for n, told in (("tile", "tiled"), ("first", "of sequence 0"), ("batch", "of the old batch"))
        ),
        Planted(replace(right, select_in_place=True), "beam-reorder", {"indices": "in place"}),
        Planted(replace(right, select_inverse=True), "beam-reorder", {"indices": "inverse"}),
        *(Planted(replace(right, loses=n), "chunked-prefill", {"loses": n}) for n in ("first", "last", "all but last")),
        *(Planted(replace(right, head=n), "gqa-map", {"head": n}) for n in (0, 1)),
        *(Planted(replace(right, row=n), "batch-row-state", {"row": n}) for n in (0, 1)),
        Planted(replace(right, swaps=True), "quantised-kv", {"fields": "swapped"}),
        *(Planted(replace(right, says=n), "byte-count", {"length": n}) for n in (1, -1)),
        Planted(replace(right, in_place=True), "block-ownership", {"shares": "all"}),
        *(
            Planted(replace(right, keeps_old=True, silent=n), "stale-state", {"start": "keeps rows"})
            for n in (False, True)
        ),
        *(
            Planted(replace(right, capacity=n, overwrites=True), "ring-wrap", {"overflow": "overwrites the last"})
            for n in (5, 9)
        ),
        Planted(replace(right, source=True, source_grows=True), "cross-cache", {"grows": True}),
        *(Planted(PlantedLayers(2, rollback_skips=n), "crop-rollback", {"skips_part": n}) for n in (0, 1)),
        Planted(PlantedLayers(3, rollback_skips=1), "crop-rollback", {"skips_part": 1}),
        *(Planted(PlantedLayers(2, select_skips=n), "beam-reorder", {"skips_part": n}) for n in (0, 1)),
        Planted(PlantedLayers(3, select_skips=2), "beam-reorder", {"skips_part": 2}),
        *(Planted(PlantedLayers(n, late=True), "shared-kv-layers", {"offset": "after the source"}) for n in (2, 3)),
        *(Planted(PlantedPages(n, shares=True), "block-ownership", {"page": n}) for n in (2, 3, 4, 5, 7, 8)),
        *(Planted(PlantedPages(n, shares=True), "block-ownership", {"shares": "buffer"}) for n in (64, 100)),
        *(
            Planted(PlantedPages(n, reverses=True), "paged-table", {"page": n, "order": "reversed"})
            for n in (2, 3, 4, 5, 7, 8, 16)
        ),
        *(
            Planted(PlantedPages(n, skips=True), "paged-table", {"page": n, "loses": "last of a page"})
            for n in (2, 3, 4, 5, 8, 16)
        ),
        *(Planted(PlantedRing(n, keeps=n - 2), "window-cache", {"extra": -1}) for n in (3, 4, 6)),
        *(Planted(PlantedRing(n, keeps=n - 3), "window-cache", {"extra": -2}) for n in (4, 6)),
        *(Planted(PlantedRing(n, early=True), "window-cache", {"evicts": _EARLY}) for n in (2, 3, 6)),
        *(Planted(PlantedRing(n, slots=True), "ring-wrap", {"order": "slots"}) for n in (3, 4)),
        *(
            Planted(PlantedRing(n, keeps=n, slots=True, only=True), "ring-wrap", {"order": "slots", "evicts": _EARLY})
            for n in (3, 5)
        ),
        *(
            Planted(
                replace(right, capacity=n, overwrites=True, clamps=True),
                "ring-wrap",
                {"overflow": "overwrites the last", "says": "capacity"},
            )
            for n in (5, 9)
        ),
        *(Planted(PlantedCodes(unscaled=n), "quantised-kv", {"field": n}) for n in ("k", "v")),
        *(Planted(PlantedCodes(of_head=n), "quantised-kv", {"varies": ["head"]}) for n in (0, 1)),
        Planted(PlantedCodes(of_token=0), "quantised-kv", {"varies": ["token"]}),
        *(Planted(PlantedCodes(factor=n), "quantised-kv", {"ratio": n}) for n in (2.0, 0.5)),
        *(
            Planted(PlantedScales("cut", n), "quantised-kv", {"scale": "of the first append", "shared": n})
            for n in ("sequence and head", "head", "sequence", "tensor", "channel")
        ),
        Planted(
            PlantedScales("cut", "head", levels=7), "quantised-kv", {"scale": "of the first append", "shared": "head"}
        ),
        *(
            Planted(PlantedScales("cut", n, token=True), "quantised-kv", {"scale": "of the first token", "shared": n})
            for n in ("sequence and head", "tensor")
        ),
        *(
            Planted(PlantedScales("shrunk", n), "quantised-kv", {"newest": "shrunk", "shared": n})
            for n in ("sequence and head", "head")
        ),
        *(
            Planted(PlantedScales("grown", n), "quantised-kv", {"scale": "of the newest append", "older": "grown"})
            for n in ("sequence and head", "tensor")
        ),
        *(
            Planted(PlantedFormats("float32", (n,)), "cache-dtype", {"promised": "float32", "formats": [n]})
            for n in ("float16", "bfloat16")
        ),
        Planted(PlantedFormats("float16", ("bfloat16",)), "cache-dtype", {"formats": ["bfloat16"]}),
        *(
            Planted(
                PlantedFormats(n, ("float16", "bfloat16")),
                "cache-dtype",
                {"promised": n, "formats": ["float16", "bfloat16"]},
            )
            for n in ("bfloat16", "float32")
        ),
        Planted(
            PlantedFormats("bfloat16", cut=True), "cache-dtype", {"formats": ["bfloat16"], "rounding": "towards 0"}
        ),
        *(
            Planted(PlantedFormats(promised, bits=f"{one} as {two}"), "cache-dtype", {"formats": [one], "read_as": two})
            for one, two in (("bfloat16", "float16"), ("float16", "bfloat16"))
            for promised in ("", "float32")
        ),
        *(
            Planted(PlantedFormats(given, empty=empty), "cache-dtype", {"promised": given, "dtype": empty})
            for given, empty in (("float16", "float32"), ("float16", "float64"), ("float32", "float64"))
        ),
        Planted(replace(right, zeroes=4), "", {}),
        Planted(replace(right, mixes=True), "", {}),
        *(Planted(replace(right, silent=True, leads=n), "", {}) for n in (1, 3)),
        Planted(replace(right, loses="first", select_nothing=True), "", {}),
    ]
    return tuple(rows)


PLANTED_CACHES: tuple[Planted, ...] = _planted()
"""One inhabitant for each fault, parameters varied."""
