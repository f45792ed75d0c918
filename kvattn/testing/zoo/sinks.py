"""Cases of `kvattn.variants.sparse.sinks`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, page_of, projections_of
from kvattn.variants.sparse.sinks import KeptSinks, ReindexedSinks


def kept_sinks(choices: Choices) -> Case:
    """Sinks and window at the positions where they were written.

    >>> from kvattn.testing.choices import Recorded
    >>> kept_sinks(Recorded()).variant.window
    1
    """
    return _sinks(choices, KeptSinks)


def reindexed_sinks(choices: Choices) -> Case:
    """Sinks and window with positions counted inside the cache.

    >>> from kvattn.testing.choices import Recorded
    >>> reindexed_sinks(Recorded()).variant.window
    1
    """
    return _sinks(choices, ReindexedSinks)


def _sinks(choices: Choices, kind: Callable[..., Any]) -> Case:
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    weights = projections_of(choices, dtype, rotary=turned)
    rollback = choices.integer(0, 5, "rollback")
    layer = kind(
        weights,
        sinks=choices.integer(0, 4, "sinks"),
        window=choices.integer(1, 9, "window"),
        rotation=Rotary.of(weights.width) if turned else None,
        rollback=rollback,
        page=page_of(choices),
    )
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    case = case_of(choices, layer, batch, length, weights.hidden, dtype)
    keeper = replace(layer, rollback=length)  # nothing is older than that
    return replace(case, rollback=rollback, keeper=keeper, relative=False)
