"""Planted faults of manners: state, memory, layout, batch mates, tails."""

from kvattn.testing.planted.mutant import Mutant
from kvattn.testing.planted.wrapped import (
    Drifts,
    Keeps,
    Mates,
    OneBuffer,
    RawMemory,
    Remembers,
    Scribbles,
    Tails,
    Trembles,
    Unwritten,
)

STATE = (
    *(
        Mutant(f"{which} of an earlier call", Remembers(which), "stale-state", {"property": "arguments", "kept": which})
        for which in "qkv"
    ),
    *(
        Mutant(f"{which} of an earlier call", Keeps(which), "stale-state", {"property": "arguments", "kept": which})
        for which in ("causal", "window", "bias", "mask")
    ),
    Mutant("drift from call to call", Drifts(0.01), "stale-state", {"property": "calls"}),
    Mutant("one output buffer", OneBuffer(), "stale-state", {"property": "output", "overwritten": True}),
    *(
        Mutant(f"{which} scaled in place", Scribbles(which), "stale-state", {"property": "inputs", "changed": [which]})
        for which in "qkv"
    ),
    Mutant("another result each time", Trembles(1e-3), "stale-state", {"property": "calls"}),
)

MEMORY = (
    Mutant("the last row never written", Unwritten("last"), "stale-state", {"property": "uninitialised memory"}),
    Mutant("empty rows never written", Unwritten("empty"), "stale-state", {"property": "uninitialised memory"}),
    Mutant("rows after 32 never written", Unwritten("tail"), "stale-state", {"property": "uninitialised memory"}),
    *(
        Mutant(
            f"strides of {which} ignored", RawMemory(which), "unclassified", {"property": "memory layout", "of": which}
        )
        for which in "qkv"
    ),
)

BATCH = (
    Mutant(
        "a quarter of another sequence's values",
        Mates("values"),
        "batch-row-state",
        {"share_from_other_sequences": 0.25},
    ),
    Mutant("one maximum for the batch", Mates("maximum"), "batch-row-state", {"property": "batch mates"}),
    Mutant("NaN of one sequence in all", Mates("nan"), "batch-row-state", {"property": "batch mates"}),
)

TAILS = (
    *(
        Mutant(
            f"last key of {tile} + 1 lost",
            Tails("keys", tile, 1),
            "tile-tail",
            {"axis": "keys", "tile": tile, "rest": 1},
        )
        for tile in (16, 64, 128, 256)
    ),
    *(
        Mutant(
            f"last key of {tile} - 1 twice",
            Tails("keys", tile, tile - 1, True),
            "tile-tail",
            {"axis": "keys", "tile": tile, "rest": tile - 1},
        )
        for tile in (32, 128)
    ),
    Mutant(
        "last query of 64 + 1 lost", Tails("queries", 64, 1), "tile-tail", {"axis": "queries", "tile": 64, "rest": 1}
    ),
    Mutant(
        "last channel of 8 + 1 lost", Tails("channels", 8, 1), "tile-tail", {"axis": "channels", "tile": 8, "rest": 1}
    ),
)
