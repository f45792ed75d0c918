"""Each law of `kvattn.testing.laws` against variants that break it: a law that never failed is not known to work.

A mutant is a small change to `Grouped` (or to what lies under it); the named law must reject it on
one of a few seeded cases, and must accept the unchanged variant on all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue
from kvattn.core import meeting, streaming
from kvattn.counting import Tally, charge
from kvattn.testing.choices import Recorded
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.testing.zoo.gated_delta import gated_delta
from kvattn.testing.zoo.grouped import grouped
from kvattn.testing.zoo.latent import absorbed
from kvattn.testing.zoo.sinks import kept_sinks
from kvattn.typing import Array, Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.sparse.sinks import KeptSinks

SEEDS = range(12)


@dataclass(frozen=True)
class Broken:
    """A layer with some of its verbs replaced."""

    layer: Grouped
    verbs: dict[str, Callable[..., Any]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def definition(self, x: Array, positions: Any) -> Attended:
        attended: Attended = self.verbs.get("definition", Grouped.definition)(self.layer, x, positions)
        return attended

    def start(self, batch: int = 1) -> Any:
        return self.verbs.get("start", Grouped.start)(self.layer, batch)

    def step(self, cache: Any, x: Array) -> Any:
        return self.verbs.get("step", Grouped.step)(self.layer, cache, x)

    def cost(self, **sizes: int) -> Tally:
        tally: Tally = self.verbs.get("cost", Grouped.cost)(self.layer, **sizes)
        return tally


def broken(case: Case, verbs: dict[str, Callable[..., Any]]) -> Case:
    layer = Broken(case.variant, verbs)
    return replace(case, variant=layer, twin=Broken(case.twin, verbs), alone=lambda _: layer)


def fails(law: str, case: Case) -> bool:
    try:
        LAWS[law](case)
    except LawError:
        return True
    return False


def rejects(law: str, verbs: dict[str, Callable[..., Any]]) -> bool:
    return any(fails(law, broken(grouped(Recorded(seed=seed)), verbs)) for seed in SEEDS)


def restarted(layer: Grouped, cache: Any, x: Array) -> Any:
    """Positions begin at 0 in every call."""
    attended, _ = layer.step(layer.start(len(x)), x)
    return attended, layer.step(cache, x)[1]


def with_neighbours(layer: Grouped, cache: Any, x: Array) -> Any:
    """A row in the last place of a chunk is rounded otherwise."""
    attended, cache = layer.step(cache, x)
    out = attended.out.copy()
    out[:, -1:] = np.nextafter(out[:, -1:], np.inf, dtype=out.dtype) if x.shape[1] > 1 else out[:, -1:]
    return attended._replace(out=out), cache


def with_batch_mates(layer: Grouped, cache: Any, x: Array) -> Any:
    """The mean over the batch leaks into every sequence, far below any tolerance."""
    return layer.step(cache, x * (1 + x.dtype.type(2) * np.finfo(x.dtype).eps * (len(x) - 1)))


def page_dependent(layer: Grouped, cache: Any, x: Array) -> Any:
    """The last token of a full page is read as its neighbour."""
    attended, later = layer.step(cache, x)
    wrong = later.length >= layer.page and layer.page > 1
    return (attended._replace(out=attended.out * 2) if wrong else attended), later


class Resurrecting:
    """A cache whose truncate moves the length and keeps the rows: the next append brings them back."""

    def __init__(self, held: Paged[KeyValue], length: int) -> None:
        self.held, self.length = held, length
        self.batch, self.lengths = held.batch, (length,) * held.batch
        self.ends = self.lengths

    def coming(self, new: int) -> Any:
        return np.array(self.ends)[:, None] + np.arange(new)

    def append(self, rows: KeyValue, positions: Any = None) -> "Resurrecting":
        return Resurrecting(self.held.append(rows), self.length + rows.k.shape[2])

    def blocks(self, b: int) -> Any:
        return self.held.blocks(b)

    def truncate(self, length: int) -> "Resurrecting":
        return Resurrecting(self.held, length)


class Shared:
    """A cache whose branches are one: append changes the value itself."""

    def __init__(self, held: Paged[KeyValue]) -> None:
        self.held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self.held, name)

    def append(self, rows: KeyValue, positions: Any = None) -> "Shared":
        self.held = self.held.append(rows)
        return self

    def truncate(self, length: int) -> "Shared":
        return Shared(self.held.truncate(length))


class HalfSelected:
    """A cache whose select reorders nothing."""

    def __init__(self, held: Paged[KeyValue]) -> None:
        self.held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self.held, name)

    def append(self, rows: KeyValue, positions: Any = None) -> "HalfSelected":
        return HalfSelected(self.held.append(rows))

    def select(self, order: list[int]) -> "HalfSelected":
        return HalfSelected(self.held.select([min(n, self.held.batch - 1) for n in range(len(order))]))


def without_truncate(layer: Grouped, batch: int) -> Any:
    return Resurrecting(layer.start(batch), 0)


def in_place(layer: Grouped, batch: int) -> Any:
    return Shared(layer.start(batch))


def half_selected(layer: Grouped, batch: int) -> Any:
    return HalfSelected(layer.start(batch))


def seeing_all(layer: Grouped, cache: Any, x: Array) -> Any:
    return replace(layer, mask=None).step(cache, x)


def refusing_nothing(layer: Grouped, cache: Any, x: Array) -> Any:
    """A step of no tokens still writes one."""
    return layer.step(cache, x if x.shape[1] else np.ones((len(x), 1, x.shape[2]), x.dtype))


def with_pipeline(**changes: Any) -> Callable[..., Any]:
    def step(layer: Grouped, cache: Any, x: Array) -> Any:
        return replace(layer, **changes).step(cache, x)

    step.__name__ = f"without_{'_'.join(changes)}"
    return step


def scaled(layer: Grouped, cache: Any, x: Array) -> Any:
    """The scale of a neighbouring width."""
    return replace(layer, scale=(layer.projections.width + 1) ** -0.5).step(cache, x)


def tiled(layer: Grouped, x: Array, positions: Any) -> Attended:
    """Query head h reads key/value head h % Hkv."""
    w = layer.projections
    group = w.heads // w.kv_heads
    order = np.arange(w.heads).reshape(group, w.kv_heads).T.ravel()
    columns = w.query.reshape(w.hidden, w.heads, w.width)[:, order].reshape(w.query.shape)
    rows = w.output.reshape(w.heads, w.value_width, w.hidden)[order].reshape(w.output.shape)
    sinks = None if layer.sinks is None else np.asarray(layer.sinks)[order]
    other = replace(layer, projections=replace(w, query=columns, output=rows), sinks=sinks)
    lse = np.empty_like(other.definition(x, positions).lse)
    attended = other.definition(x, positions)
    lse[:, order] = attended.lse
    return Attended(attended.out, lse)


def free_cache(layer: Grouped, **sizes: int) -> Tally:
    return replace(layer.cost(**sizes), kv_written=0)


def query_heads_written(layer: Grouped, **sizes: int) -> Tally:
    honest = layer.cost(**sizes)
    w = layer.projections
    return replace(honest, kv_read=honest.kv_read * w.heads // w.kv_heads)


def halved_for_causal(layer: Grouped, **sizes: int) -> Tally:
    honest = layer.cost(**sizes)
    return replace(honest, matmul=honest.matmul // 2)


MUTANTS = [
    ("decode_is_recompute", {"step": restarted}),
    ("decode_is_recompute", {"step": with_neighbours}),
    ("decode_is_recompute", {"start": without_truncate, "step": seeing_all}),
    ("step_is_definition", {"step": scaled}),
    ("step_is_definition", {"step": with_pipeline(softcap=None)}),
    ("step_is_definition", {"step": with_pipeline(sinks=None)}),
    ("step_is_definition", {"step": with_pipeline(mods=())}),
    ("step_is_definition", {"step": with_pipeline(query_key=())}),
    ("step_is_definition", {"definition": tiled}),
    ("step_is_definition", {"step": seeing_all}),
    ("pages_are_invisible", {"step": page_dependent}),
    ("batch_mates_are_invisible", {"step": with_batch_mates}),
    ("rollback_forgets", {"start": without_truncate}),
    ("branches_are_isolated", {"start": in_place}),
    ("beams_are_separate_caches", {"start": half_selected}),
    ("the_future_is_invisible", {"step": seeing_all}),
    ("empty_steps_change_nothing", {"step": refusing_nothing}),
    ("cost_is_count", {"cost": free_cache}),
    ("cost_is_count", {"cost": query_heads_written}),
    ("cost_is_count", {"cost": halved_for_causal}),
]


@pytest.mark.parametrize("law", LAWS)
def test_the_unchanged_variant_keeps_every_law_on_the_same_cases(law: str) -> None:
    assert not rejects(law, {})


@pytest.mark.parametrize(
    ("law", "verbs"),
    MUTANTS,
    ids=lambda part: (
        part if isinstance(part, str) else "+".join(getattr(verb, "__name__", "step") for verb in part.values())
    ),
)
def test_a_broken_variant_is_rejected(law: str, verbs: dict[str, Callable[..., Any]]) -> None:
    assert rejects(law, verbs)


@dataclass(frozen=True, eq=False)
class Forgetful(KeptSinks):
    """Its cache keeps one key less than its window asks for."""

    def start(self, batch: int = 1) -> Any:
        return replace(super().start(batch), window=max(1, self.window - 1))


def forgets_too_much(choices: Recorded) -> Case:
    case = kept_sinks(choices)
    kept = {name: getattr(case.variant, name) for name in KeptSinks.__dataclass_fields__}
    return replace(case, variant=Forgetful(**{**kept, "page": 1, "rollback": 0}))


def in_another_form(choices: Recorded) -> Case:
    case = absorbed(choices)
    (form,) = case.forms.values()

    def scaled_form(x: Array) -> Attended:
        found = form(x)
        return found._replace(out=found.out * x.dtype.type(1.001))

    return replace(case, forms={"scaled": scaled_form})


def in_overlapping_chunks(choices: Recorded) -> Case:
    case = gated_delta(choices)
    return replace(case, forms={"no state": lambda x: Attended(*case.variant.chunked(x[:, :1], chunk=1))})


def with_absolute_positions(choices: Recorded) -> Case:
    case = grouped(choices)

    def drifting(layer: Grouped, x: Array, positions: Any) -> Attended:
        return layer.definition(
            x * (1 + x.dtype.type(0.01) * x.dtype.type(positions[0] if len(positions) else 0)), positions
        )

    return broken(case, {"definition": drifting})


class Copying:
    """A cache whose branches are copies, and honest about it."""

    def __init__(self, held: Paged[KeyValue]) -> None:
        self.held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self.held, name)

    def branch(self) -> "Copying":
        charge(Tally(kv_copied=8))
        return self

    def append(self, rows: KeyValue, positions: Any = None) -> "Copying":
        return Copying(self.held.append(rows))


class CopyingAll(Copying):
    """A cache that copies everything it holds when it grows."""

    def branch(self) -> "Copying":
        return self

    def append(self, rows: KeyValue, positions: Any = None) -> "Copying":
        charge(Tally(kv_copied=self.held.nbytes))
        return CopyingAll(self.held.append(rows))


def copying(kind: type[Copying]) -> Callable[[Recorded], Case]:
    return lambda choices: broken(grouped(choices), {"start": lambda layer, batch: kind(layer.start(batch))})


OTHER_MUTANTS = [
    ("eviction_is_invisible", forgets_too_much),
    ("forms_agree", in_another_form),
    ("forms_agree", in_overlapping_chunks),
    ("positions_are_relative", with_absolute_positions),
    ("branches_are_free", copying(Copying)),
    ("branches_are_free", copying(CopyingAll)),
]


@pytest.mark.parametrize("number", range(len(OTHER_MUTANTS)))
def test_a_broken_case_is_rejected(number: int) -> None:
    law, drawn = OTHER_MUTANTS[number]
    assert any(fails(law, drawn(Recorded(seed=seed))) for seed in range(200))


@pytest.mark.parametrize("variant", [kept_sinks, absorbed, gated_delta])
@pytest.mark.parametrize("law", ["eviction_is_invisible", "forms_agree", "branches_are_free"])
def test_the_unchanged_case_is_accepted(law: str, variant: Callable[[Recorded], Case]) -> None:
    for seed in SEEDS:
        LAWS[law](variant(Recorded(seed=seed)))


def test_every_law_has_a_mutant() -> None:
    assert {law for law, _ in MUTANTS} | {law for law, _ in OTHER_MUTANTS} == set(LAWS)


def test_a_masked_nan_that_reaches_the_output_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 · NaN: the kernel without its careful way."""
    product = meeting.mix
    monkeypatch.setattr(streaming, "mix", lambda w, v, keep, careful, out: product(w, v, keep, False, out))

    assert rejects("the_future_is_invisible", {})
