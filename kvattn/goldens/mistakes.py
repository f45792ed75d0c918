"""Which class of fault each recorded mistake is, where a check can judge its case.

A case (`kvattn.goldens.reading.Case`) of the operation ``attention`` calls each of its mistakes by a sentence; a check
that meets one reports it under the class that its read-outs give to the same fault (`kvattn.testing.fault_classes`).

    >>> CLASSES["capped after the mask"]
    'softcap'
"""

from collections.abc import Mapping
from types import MappingProxyType

CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "key/value heads tiled": "gqa-map",
        "a log to base 2": "lse-merge",
        "1/sqrt(D) all the same": "scale",
        "1/sqrt(Dv)": "scale",
        "1/sqrt(Hq D)": "scale",
        "no bias": "mask-dropped",
        "the bias is scaled too": "scale",
        "no cap": "softcap",
        "capped before the scale": "softcap",
        "capped after the mask": "softcap",
        "the bias is capped too": "softcap",
        "slopes are capped too": "softcap",
        "no sink": "sink",
        "the sink counted twice": "sink",
        "the sink left out of the log-sum-exp": "sink",
        "no mask at all": "mask-dropped",
        "aligned to the top left": "causal-align",
        "aligned to the end of the buffer": "causal-align",
        "a query does not see its own key": "causal-align",
        "True means hidden": "mask-polarity",
        "the array alone": "mask-dropped",
        "causal alone": "mask-dropped",
        "the mask is not the last": "mask-dropped",
        "NaN from 0 times -inf": "empty-row",
        "the row is left out": "empty-row",
        "no window": "mask-dropped",
        "W keys beside self": "window-off-by-one",
        "a causal window": "mask-dropped",
        "the prefix is causal": "mask-dropped",
        "a prefix of one more": "mask-compose",
        "documents are ignored": "varlen",
        "padding is seen": "mask-dropped",
        "rows behind a sequence's end are seen": "mask-dropped",
        "rows taken for positions": "chunked-prefill",
        "no slopes": "mask-dropped",
        "distances counted from the top left": "alibi-slopes",
    }
)
"""Mistake and class."""
