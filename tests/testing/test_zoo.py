"""The zoo draws every feature of every variant, at sizes that differ and around the borders that matter."""

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from kvattn.testing.choices import Recorded
from kvattn.testing.laws import LAWS, Case
from kvattn.testing.zoo import ZOO, smallest
from kvattn.testing.zoo.parts import PAGES, cuts_of, dtype_of, length_of
from kvattn.variants.dense.cross import Cross

SEEDS = {"grouped": 300}
"""Cases that are drawn of a row, 100 unless given: features and pairs of them are counted in grouped layers."""


@cache
def drawn(name: str) -> list[Case]:
    return [ZOO[name](Recorded(seed=seed)) for seed in range(SEEDS.get(name, 100))]


@pytest.mark.parametrize("name", ZOO)
def test_what_is_drawn_is_a_case(name: str) -> None:
    for case in drawn(name):
        assert case.x.ndim == 3
        assert list(case.cuts) == sorted(case.cuts)
        assert all(0 <= cut <= case.x.shape[1] for cut in case.cuts)
        assert case.depth > 0
        assert hasattr(case.alone(0), "step")
        if case.twin is not None:
            assert case.twin.page != case.variant.page


@pytest.mark.parametrize("name", ZOO)
def test_sizes_cuts_pages_and_dtypes_reach_their_borders(name: str) -> None:
    cases = drawn(name)
    lengths = {case.x.shape[1] for case in cases}
    assert 0 in lengths or name not in ("grouped", "cross", "kept_sinks", "reindexed_sinks")
    assert len(lengths) > 10
    assert {len(case.x) for case in cases} >= {1, 2, 3}
    assert {case.x.dtype.name for case in cases} == {"float64", "float32"}
    assert any(not case.cuts for case in cases)
    assert any(len(set(case.cuts)) < len(case.cuts) for case in cases)  # an empty step
    if hasattr(cases[0].variant, "page"):
        assert {case.variant.page for case in cases} == set(PAGES)


def digest(value: Any) -> Any:
    """Something that is equal for equal values, whatever arrays lie inside."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (tuple, list)):
        return tuple(digest(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, tuple(digest(getattr(value, field.name)) for field in fields(value))
    return repr(value)


@cache
def idle_fields() -> dict[str, set[str]]:
    """Fields of each class that are the same in all cases of all rows that draw the class."""
    first: dict[str, dict[str, Any]] = {}
    idle: dict[str, set[str]] = {}
    for name in ZOO:
        for case in drawn(name):
            if is_dataclass(case.variant):
                kind = type(case.variant).__name__
                if kind not in first:
                    first[kind] = {
                        field.name: digest(getattr(case.variant, field.name)) for field in fields(case.variant)
                    }
                    idle[kind] = set(first[kind])
                still = idle[kind]
                idle[kind] = {field for field in still if digest(getattr(case.variant, field)) == first[kind][field]}
    return idle


def test_every_field_of_a_variant_takes_more_than_one_value() -> None:
    """Else a fault in that field would never be met."""
    assert {kind: idle for kind, idle in idle_fields().items() if idle} == IDLE


IDLE = {
    "Indexed": {"scale"},
    "GatedDelta": {"length_epsilon", "norm_epsilon"},
    "BeforeRotation": {"finish"},
    "Placed": {"finish"},
    "Forgetting": {"finish"},
    "RelativeProjected": {"finish"},
}
"""Fields that the zoo leaves alone; the tests of the variants, or of what stands around their heads, change them."""


def features(case: Case) -> set[str]:
    """What a grouped layer is made of."""
    layer, w = case.variant, case.variant.projections
    found = {f"mask {layer.mask!r}".replace(str(getattr(layer.mask, "size", "")), "")}
    for name in ("softcap", "sinks"):
        if getattr(layer, name) is not None:
            found.add(name)
    if layer.mods:
        found.add("alibi")
    for rotary in layer.query_key:
        found |= {"rotation", rotary.layout}
    if w.heads == w.kv_heads > 1:
        found.add("MHA")
    if w.kv_heads == 1 < w.heads:
        found.add("MQA")
    if 1 < w.kv_heads < w.heads:
        found.add("GQA")
    if len({len(case.x), w.kv_heads, w.heads, w.width, w.value_width, w.hidden, case.x.shape[1]}) == 7:
        found.add("sizes all differ")
    if case.x.shape[1] > 256:
        found.add("two blocks")
    return found


WANTED = {
    "rotation", "half", "adjacent", "softcap", "sinks", "alibi", "MHA", "MQA", "GQA", "sizes all differ", "two blocks",
}  # fmt: skip


def test_every_feature_is_drawn() -> None:
    met = [features(case) for case in drawn("grouped")]
    assert set().union(*met) >= WANTED
    assert sum("sizes all differ" in some for some in met) > len(met) / 20
    masks = {repr(case.variant.mask) for case in drawn("grouped")}
    for kind in ("Window", "Sink", "Chunked", "Prefix", "~"):
        assert any(kind in mask for mask in masks)
    together = {"softcap", "sinks", "rotation", "alibi"}
    assert all(any({one, other} <= some for some in met) for one in together for other in together)


def test_a_zoo_that_lost_a_feature_is_told_apart() -> None:
    """Mutant: grouped layers that are never capped and all of one head."""

    def poor(seed: int) -> set[str]:
        return features(ZOO["grouped"](Recorded([0] * 40, seed)))

    assert not set().union(*(poor(seed) for seed in range(50))) >= WANTED


def test_lengths_cuts_and_dtypes_are_what_was_chosen() -> None:
    assert [length_of(Recorded([0, n])) for n in (0, 5, 99)] == [0, 5, 24]
    assert [length_of(Recorded([15, n])) for n in (0, 3, 99)] == [253, 256, 260]
    assert length_of(Recorded([0, 0]), least=2) == 2
    assert cuts_of(Recorded([3, 4, 1, 1]), 5) == (1, 1, 4)
    assert [dtype_of(Recorded([n])) for n in (0, 1)] == [np.float64, np.float32]


@pytest.mark.parametrize("name", ZOO)
def test_the_smallest_case_is_small_and_keeps_every_law(name: str) -> None:
    case = smallest(name)
    assert case.x.shape[:2] == (2, 3)
    for law in LAWS.values():
        law(case)


@pytest.mark.parametrize("name", ZOO)
def test_the_same_choices_make_the_same_case(name: str) -> None:
    first = Recorded(seed=5)
    case, again = ZOO[name](first), ZOO[name](Recorded(first.made))
    assert case.x.tobytes() == again.x.tobytes()
    assert case.cuts == again.cuts


def test_a_variant_that_holds_a_batch_gives_each_sequence_its_own() -> None:
    for case in drawn("cross")[:50]:
        for b in range(len(case.x)):
            alone = case.alone(b)
            assert isinstance(alone, Cross)
            assert np.array_equal(alone.memory, case.variant.memory[b : b + 1])
