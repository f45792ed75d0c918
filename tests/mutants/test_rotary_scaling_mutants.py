"""The laws against layers that handle changing rotations wrongly, as servers have done.

A mutant replaces one method of `BeforeRotation`; the named law must reject it on one of a few seeded cases, and accepts
the unchanged layer on all of them.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from kvattn.caches.rows import KeyValue
from kvattn.core import streaming
from kvattn.core.pipeline import arguments_of
from kvattn.counting import Tally
from kvattn.positions import Rotary
from kvattn.testing.choices import Recorded
from kvattn.testing.laws import LAWS, Case, LawError, same_bits, stepped
from kvattn.testing.zoo.before_rotation import before_rotation
from kvattn.typing import Array, Attended, Span
from kvattn.variants.dense.before_rotation import BeforeRotation

SEEDS = range(18)


def broken(case: Case, methods: dict[str, Callable[..., Any]]) -> Case:
    kind = type("Broken", (BeforeRotation,), methods)
    layer, twin = (
        kind(**{field.name: getattr(one, field.name) for field in fields(BeforeRotation)})
        for one in (case.variant, case.twin)
    )
    return replace(case, variant=layer, twin=twin, alone=lambda _: layer)


def rejects(law: str, methods: dict[str, Callable[..., Any]]) -> bool:
    for seed in SEEDS:
        try:
            LAWS[law](broken(before_rotation(Recorded(seed=seed)), methods))
        except LawError:
            return True
    return False


def attended(self: BeforeRotation, cache: Any, x: Array, length: Callable[[int], int], stale: bool) -> Any:
    """A step whose tokens all turn alike, by ``length`` of the step's end; ``stale`` caches them so."""
    w = self.projections
    at = np.array(cache.lengths)[:, None] + np.arange(x.shape[1])
    turn = self.scheme.rotary_at(length(int(at.max(initial=0)) + 1))
    q, k, v = w.queries(x), w.keys(x), w.values(x)
    for part in self.query_key:
        q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
    cache = cache.append(KeyValue(turn.rotate(k, at[:, None, :]) if stale else k, v))
    blocks = []
    for b in range(cache.batch):
        held = cache.blocks(b)
        blocks.append(held if stale else [self._turned(b, block, turn, np.array([10**6])) for block in held])
    mixed, lse = streaming.attend(
        turn.rotate(q, at[:, None, :]), at, blocks, value_width=w.value_width, **arguments_of(self)
    )
    return Attended(w.outputs(mixed), lse), cache


def stale_keys(self: BeforeRotation, cache: Any, x: Array) -> Any:
    """A step turns by its last length, and caches turned keys."""
    return attended(self, cache, x, lambda end: end, stale=True)


def by_the_steps_end(self: BeforeRotation, cache: Any, x: Array) -> Any:
    """Raw keys are cached, and all that a step reads turns by its last length."""
    return attended(self, cache, x, lambda end: end, stale=False)


def by_the_room(self: BeforeRotation, cache: Any, x: Array) -> Any:
    """Everything turns by the room in whole pages."""
    return attended(self, cache, x, lambda end: -(-end // self.page) * self.page, stale=False)


def never_back(self: BeforeRotation, cache: Any, x: Array) -> Any:
    """Everything turns by the longest length that this layer ever met."""
    longest = max(getattr(self, "longest", 0), max(cache.lengths) + x.shape[1])
    object.__setattr__(self, "longest", longest)
    return attended(self, cache, x, lambda end: longest, stale=False)


def late(self: BeforeRotation, at: Any) -> Any:
    """The length is the position: one token late."""
    for run, _ in BeforeRotation._runs(self, at):
        for t in range(run.start, run.stop):
            yield slice(t, t + 1), tuple(self.scheme.rotary_at(int(p)) for p in at[:, t])


def first_of_all(self: BeforeRotation, at: Any) -> Any:
    """All runs of a step turn as the first."""
    runs = list(BeforeRotation._runs(self, at))
    return [(run, runs[0][1]) for run, _ in runs]


def of_the_first_sequence(self: BeforeRotation, cache: Any, x: Array) -> Any:
    """A whole batch is moved a little for each sequence in it, far below any tolerance."""
    return BeforeRotation.step(self, cache, x * (1 + x.dtype.type(2) * np.finfo(x.dtype).eps * (len(x) - 1)))


def padded(self: BeforeRotation, b: int, block: Any, turn: Rotary, at: Any) -> Any:
    """Columns that hold no key are turned, too, and counted."""
    turned = BeforeRotation._turned(self, b, block, turn, at)
    turn.rotate(np.zeros((block.k.shape[0], 1, block.k.shape[1]), block.k.dtype), np.zeros(1, np.int64))
    return turned


def one_run(self: BeforeRotation, **sizes: int) -> Tally:
    """As if every step had one run."""
    unchanging = replace(self, scheme=_Fixed(self.scheme.rotary_at(sizes["past"] + sizes["new"])))
    return BeforeRotation.cost(unchanging, **sizes)


def keys_of_the_step(self: BeforeRotation, **sizes: int) -> Tally:
    """As if cached keys were turned already."""
    honest = BeforeRotation.cost(self, **sizes)
    w, batch, turn = self.projections, sizes["batch"], self.scheme.rotary_at(sizes["past"] + 1)
    spared = turn.cost(rows=batch * w.kv_heads * sizes["past"], positions=batch * sizes["past"])
    return replace(
        honest,
        arithmetic=honest.arithmetic - spared.arithmetic,
        transcendental=honest.transcendental - spared.transcendental,
    )


class _Fixed:
    def __init__(self, rotary: Rotary) -> None:
        self.rotary = rotary

    def rotary_at(self, length: int) -> Rotary:
        return self.rotary


def without_a_mask(self: BeforeRotation, b: int, q: Span, k: Span) -> bool:
    """Every block is turned, and counted, also those that no query sees: dearer, and not wrong."""
    return True


MUTANTS: list[tuple[str, dict[str, Callable[..., Any]]]] = [
    ("decode_is_recompute", {"step": stale_keys}),
    ("decode_is_recompute", {"step": by_the_steps_end}),
    ("step_is_definition", {"step": stale_keys}),
    ("step_is_definition", {"step": by_the_steps_end}),
    ("rollback_forgets", {"step": never_back}),
    ("pages_are_invisible", {"step": by_the_room}),
    ("step_is_definition", {"_runs": late}),
    ("decode_is_recompute", {"_runs": first_of_all}),
    ("batch_mates_are_invisible", {"step": of_the_first_sequence}),
    ("cost_is_count", {"_turned": padded}),
    ("cost_is_count", {"cost": one_run}),
    ("cost_is_count", {"cost": keys_of_the_step}),
]


@pytest.mark.parametrize(
    ("law", "methods"), MUTANTS, ids=lambda part: part if isinstance(part, str) else next(iter(part.values())).__name__
)
def test_a_broken_layer_is_rejected(law: str, methods: dict[str, Callable[..., Any]]) -> None:
    assert rejects(law, methods)


@pytest.mark.parametrize("law", sorted({law for law, _ in MUTANTS}))
def test_the_unchanged_layer_is_accepted(law: str) -> None:
    assert not rejects(law, {})


def test_turning_more_blocks_than_needed_changes_no_bit() -> None:
    assert not rejects("cost_is_count", {"_may_see": without_a_mask})
    for seed in SEEDS:
        case = before_rotation(Recorded(seed=seed))
        dearer = broken(case, {"_may_see": without_a_mask})
        for cuts in ((), case.cuts):
            found, _ = stepped(dearer.variant, case.x, cuts)
            same_bits("more blocks turned", found, stepped(case.variant, case.x, cuts)[0])
