"""What the classes of a finding are called, and what is wrong where one is named.

`FAULT_CLASSES` are those that real faults of other projects were sorted into, `FURTHER_CLASSES` the other names that a
check may give, `UNSEEN` those that no check of values, counts or caches can see, with the reason.

    >>> FAULT_CLASSES["masked-nan"]
    'A NaN or an infinity behind the mask reaches the output, since a weight of zero times it is NaN.'
"""

from collections.abc import Mapping

FAULT_CLASSES: Mapping[str, str] = {
    "alibi-slopes": "Heads lean on distance with other slopes than ALiBi gives them.",
    "batch-row-state": "What belongs to one sequence of a batch is taken from another, or from all.",
    "beam-reorder": "After a select some of what is kept is still in the order of the old sequences.",
    "block-ownership": "A page that more than one sequence holds is written in place, or given back while it is held.",
    "byte-count": "A counter of bytes or of tokens says another number than is stored.",
    "cache-dtype": "Rows come back in another number format than they must, or their bits are read as another's.",
    "causal-align": "The causal triangle is tied to another corner where queries and keys differ in number.",
    "chunked-prefill": "A second chunk of a prompt is masked, placed or stored as if it were the first.",
    "crop-rollback": "Taking tokens back leaves too many, too few, or some of what is kept as it was.",
    "cross-cache": "Keys of an encoder grow, are computed again, or outlive the input that they are of.",
    "dropout-eval": "Weights are dropped though nothing is trained.",
    "empty-row": "A query that sees no key gets something else than the convention says.",
    "flop-count": "A counter of operations says another number than are done.",
    "gqa-map": "Query heads read other key and value heads than their group's.",
    "kv-shift": "Keys that move to other positions are turned wrongly, or what is noted of them does not move along.",
    "leak": "Pages or rows that nobody reads any more are not given back.",
    "linear-state": "The state of a recurrent layer is lost, mixed or taken from the wrong token between two calls.",
    "lse-merge": "Parts of a softmax are put together with wrong weights, or in another base of the logarithm.",
    "mask-compose": "Several masks together let another set of keys through than each alone would say.",
    "mask-dropped": "A mask, a window or a length is accepted and has no effect.",
    "mask-fill-overflow": "The number that stands for hidden is no smaller than scores are, or two of them overflow.",
    "mask-polarity": "True and False, or 0 and 1, of a mask are taken the other way, or for something else.",
    "masked-nan": "A NaN or an infinity behind the mask reaches the output, since a weight of zero times it is NaN.",
    "mla-absorb": "Latent attention in its absorbed form is no longer the same as with keys and values made.",
    "mrope": "Positions of several axes are lost or counted on wrongly when tokens follow a prompt.",
    "padding-positions": "Padding is counted as tokens, or seen.",
    "paged-table": "Rows are read from other pages, or from other places of a page, than the table says.",
    "prefix-key": "Two requests share a stored prefix though something that it depends on differs.",
    "prefix-reuse": "A stored prefix is handed out though its rows are no longer, or not all, what they were.",
    "qk-norm-order": "Queries and keys are normed on the other side of the rotation, with wrong weights or not at all.",
    "quantised-kv": "Codes of keys or values are read with another scale than they were made with.",
    "ring-wrap": "A ring that has gone round gives rows in the wrong order, or writes over one that is needed.",
    "rope-dynamic": "Frequencies change with the length while keys in the cache keep those of before.",
    "rope-layout": "Features are turned in other pairs, or the other way round, than the weights were trained with.",
    "rope-offset": "New tokens are turned by other positions than theirs.",
    "rope-partial": "More, fewer or other features are turned than the configuration says.",
    "rope-precision": "Angles are computed in so few bits that large positions are no longer told apart.",
    "rope-scaling": "Frequencies, or the factor on the scores, are not those of the scaling that was asked for.",
    "rope-table": "A position behind the end of a table gets the angle of another.",
    "scale": "Scores are multiplied by another factor than they should be.",
    "shared-kv-layers": "A layer that reads another layer's keys and values reads them wrongly, or has its own.",
    "sink": "A learned sink is counted more or less than once, or in another unit than scores are.",
    "softcap": "Scores are not capped, by another curve, or at another step.",
    "spec-tree": "Drafted tokens see others than their ancestors, or stand at another position than their depth.",
    "stale-state": "Something of an earlier call or request is still there.",
    "varlen": "Documents that are packed into one row see each other, or begin or end at the wrong token.",
    "window-cache": "A cache for a window keeps too few rows, or drops them before all queries have read.",
    "window-off-by-one": "A window shows one key more or fewer than it says.",
    "oracle-fault": "The test is wrong: its tolerance, its reference or its choice of sizes hides the fault.",
}
"""Class and what is wrong, of the faults that were met in other projects."""

FURTHER_CLASSES: Mapping[str, str] = {
    "output-projection": "The last projection of a layer is left out, or used transposed.",
    "precision": "A step is computed in fewer bits than the rest, or beyond the range of its numbers.",
    "projection": "Queries, keys or values are made with weights that are another's.",
    "rope-missing": "Queries, keys or both are not turned at all.",
    "tile-tail": "What stands behind the last full tile of keys, queries or features is lost, doubled or filled up.",
    "unclassified": "Something is wrong, and no model explains it; the finding says what was seen.",
}
"""Other names that a finding may have."""

UNSEEN: Mapping[str, str] = {
    "oracle-fault": "It is a fault of the test that asks, not of what is asked.  Against it stand two references that "
    "share no code, bounds that are derived, mutants of every check, and what a check says of its own power.",
}
"""Classes that no check can see in what it checks, and why."""
