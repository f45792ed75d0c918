"""Every planted cache is detected, and named with its class and parameters; the right ones pass.

CI asks the first of each class and cache and every sixth of the other kinds, and draws ten scripts for the right ones;
``KVATTN_PROFILE=deep`` asks all, and draws 40.
"""

from collections.abc import Sequence
from dataclasses import fields
import os
from typing import Any

import pytest

from kvattn.testing.cache_checking import check_cache
from kvattn.testing.conformance import CacheAdapter
from kvattn.testing.planted_caches import (
    PLANTED_CACHES,
    Planted,
    PlantedCache,
    PlantedCodes,
    PlantedFormats,
    PlantedLayers,
    PlantedPages,
    PlantedRing,
    PlantedScales,
)
from kvattn.testing.planted_caches.grown import _MADE

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"


def told(one: Planted) -> str:
    """What differs from the right one."""
    values = ((f, getattr(one.adapter, f.name)) for f in fields(one.adapter) if f.name not in {"pool", "store"})  # type: ignore[arg-type]
    return ", ".join(f"{f.name}={value}" for f, value in values if value != f.default)


def chosen() -> Sequence[Planted]:
    """All of them in the deep profile; elsewhere one kind of each class and cache, and every sixth of the others."""
    kinds: dict[tuple[Any, ...], list[Planted]] = {}
    for one in PLANTED_CACHES:
        changed = tuple(part.partition("=")[0] for part in told(one).split(", "))
        kinds.setdefault((type(one.adapter), one.fault_class, changed), []).append(one)
    if DEEP:
        return PLANTED_CACHES
    each = {kind: some[len(some) // 2] for kind, some in kinds.items()}  # the middle of its parameters
    first = {kind[:2]: one for kind, one in reversed(each.items())}
    return [one for n, (kind, one) in enumerate(each.items()) if first[kind[:2]] is one or n % 6 == 0]


@pytest.mark.parametrize("one", chosen(), ids=told)
def test_it_is_detected_and_named(one: Planted) -> None:
    _MADE.clear()
    report = check_cache(one.adapter, drawn=8 if DEEP else 0)
    assert report.verdict == "fault"
    assert report.failing or report.findings
    if not one.fault_class:
        assert all("failure" in f.parameters or f.fault_class == "chunked-prefill" for f in report.findings)
        return
    found = report.findings[0]
    assert (found.fault_class, {**found.parameters, **one.parameters}) == (one.fault_class, dict(found.parameters))
    assert "or" not in found.parameters, "no other name explains as much"
    assert len(str(report).splitlines()) < 40


@pytest.mark.parametrize(
    "right",
    [
        PlantedCache(),
        PlantedCache(capacity=9),
        PlantedCache(silent=True),
        PlantedCache(rollback_odd="raises"),
        PlantedCache(source=True),
        PlantedPages(1),
        PlantedPages(4),
        PlantedRing(1),
        PlantedRing(4),
        PlantedLayers(3),
        PlantedCodes(),
        *(PlantedScales(shared=n) for n in ("sequence and head", "sequence", "tensor", "channel")),
        PlantedScales(levels=7),
        PlantedFormats(through=("float16", "bfloat16")),
        PlantedFormats("float16"),
        PlantedFormats("bfloat16", ("bfloat16",)),
        PlantedScales(shared="channel", levels=1),
    ],
    ids=str,
)
def test_the_right_ones_pass(right: CacheAdapter) -> None:
    report = check_cache(right, drawn=40 if DEEP else 10)
    assert report.verdict == "pass", str(report)
    assert report.failing == 0


def test_there_are_enough() -> None:
    assert len(PLANTED_CACHES) >= 75
    assert len({one.fault_class for one in PLANTED_CACHES} - {""}) >= 11
    assert sum(not one.fault_class for one in PLANTED_CACHES) == 5


def test_a_length_for_a_negative_rollback_is_a_convention() -> None:
    """As ``crop`` of transformers until 5.17, which was given what is left."""
    report = check_cache(PlantedCache(rollback_odd="keeps"), drawn=0)
    assert report.verdict == "pass"
    assert report.notes == ("a rollback of -n keeps n tokens: a convention, which this adapter passes on",)
