"""What must hold of every variant, as functions that raise when it does not.

Each law takes a `Case` (a variant, hidden states, and how to cut them) and uses the public verbs
alone, so it can be run against any variant, or against a broken one to see that it is rejected
(``tests/mutants``).  "To the bit" means the same dtype, shape and bytes, NaN included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.counting import Tally, counting
from kvattn.testing.closeness import conditioned_bounds
from kvattn.typing import Array, Attended

MOVE = 7
"""By how much `positions_are_relative` moves all positions."""


class LawError(AssertionError):
    """A law that does not hold, with the place where it fails.

    >>> issubclass(LawError, AssertionError)
    True
    """


@dataclass(frozen=True, eq=False)
class Case:
    """One example for the laws.

    Attributes
    ----------
    variant
        Anything with the verbs definition, start, step and cost.
    x
        ``[B, T, M]``.
    cuts
        Where to cut T: increasing numbers in ``0 .. T``; repeated ones make empty steps.
    alone
        The variant for one sequence of the batch; the variant itself unless it holds a batch.
    twin
        The same variant with another page size, or None where pages do not occur.
    rollback
        Tokens that can always be taken back; None for any number.
    depth
        Roundings on the longest path from input to output, for the bound.
    forms
        Other forms of the same function of ``x``, by name.
    keeper
        The same variant with a cache that forgets nothing, or None where nothing is forgotten.
    relative
        Whether only differences of positions matter.

    Examples
    --------
    >>> from kvattn.testing.zoo import smallest
    >>> smallest("grouped").relative
    True
    """

    variant: Any
    x: Array
    cuts: tuple[int, ...]
    alone: Callable[[int], Any]
    twin: Any
    rollback: int | None
    depth: int
    forms: Mapping[str, Callable[[Array], Attended]] = field(default_factory=dict)
    keeper: Any = None
    relative: bool = False


def same_bits(what: str, left: Attended, right: Attended) -> None:
    """Raise unless two results have the same dtype, shape and bytes.

    >>> part = Attended(np.zeros(2), np.zeros(1))
    >>> same_bits("twice", part, part)
    """
    for name, a, b in zip(("out", "lse"), left, right, strict=True):
        if a.dtype != b.dtype or a.shape != b.shape:
            raise LawError(f"{what}: {name} is {a.dtype} {a.shape} on one side, {b.dtype} {b.shape} on the other")
        if a.tobytes() != b.tobytes():
            differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
            if not differs.any():
                differs = np.signbit(a) != np.signbit(b)
            at = tuple(int(n) for n in np.argwhere(differs)[0]) if differs.any() else ()
            raise LawError(f"{what}: {name}{list(at)} is {a[at]!r} on one side, {b[at]!r} on the other")


def within(what: str, found: Attended, wanted: Attended, bounds: Sequence[Array]) -> None:
    """Raise unless two results differ by no more than their elementwise bounds; NaN equals NaN.

    >>> part = Attended(np.zeros(2), np.zeros(1))
    >>> within("twice", part, part, (np.zeros(2), np.zeros(1)))
    """
    for name, got, right, bound in zip(("out", "lse"), found, wanted, bounds, strict=True):
        if got.shape != right.shape:
            raise LawError(f"{what}: {name} has shape {got.shape}, expected {right.shape}")
        with np.errstate(invalid="ignore"):
            error = np.abs(np.where(got == right, 0.0, got - right))
        beyond = ~(error <= bound) & ~(np.isnan(got) & np.isnan(right))
        if beyond.any():
            at = tuple(int(n) for n in np.argwhere(beyond)[0])
            raise LawError(
                f"{what}: {name}{list(at)} is {got[at]!r}, expected {right[at]!r}, allowed to differ by {bound[at]:.3g}"
            )


def stepped(variant: Any, x: Array, cuts: Sequence[int], cache: Any = None) -> tuple[Attended, Any]:
    """Feed ``x`` in steps that end at ``cuts`` and at T, and join what comes out.

    >>> from kvattn.testing.zoo import smallest
    >>> case = smallest("grouped")
    >>> stepped(case.variant, case.x, (0, 1))[0].out.shape == case.x.shape
    True
    """
    cache = variant.start(len(x)) if cache is None else cache
    parts = []
    for start, stop in zip((0, *cuts), (*cuts, x.shape[1]), strict=True):
        attended, cache = variant.step(cache, x[:, start:stop])
        parts.append(attended)
    out = np.concatenate([part.out for part in parts], axis=1)
    return Attended(out, np.concatenate([part.lse for part in parts], axis=2)), cache


def decode_is_recompute(case: Case) -> None:
    """Joined steps equal one step, to the bit, for every way of cutting the sequence.

    >>> from kvattn.testing.zoo import smallest
    >>> decode_is_recompute(smallest("grouped"))
    """
    whole, _ = stepped(case.variant, case.x, ())
    cut, _ = stepped(case.variant, case.x, case.cuts)
    same_bits(f"decode is recompute, cut at {case.cuts}", whole, cut)


def step_is_definition(case: Case) -> None:
    """One step equals the definition within the bound of `kvattn.testing.closeness`.

    >>> from kvattn.testing.zoo import smallest
    >>> step_is_definition(smallest("grouped"))
    """
    positions = np.arange(case.x.shape[1])
    found, _ = stepped(case.variant, case.x, ())
    wanted = case.variant.definition(case.x, positions)
    bounds = _bounds(lambda x: case.variant.definition(x, positions), case.x, wanted, case.depth)
    within("step is definition", found, wanted, bounds)


def _bounds(function: Callable[[Array], Attended], x: Array, there: Attended, depth: int) -> tuple[Array, ...]:
    """`conditioned_bounds` of a function whose result at ``x`` is known."""
    return conditioned_bounds(lambda moved: tuple(there if moved is x else function(moved)), x, depth)


def forms_agree(case: Case) -> None:
    """Other forms of a variant equal one step within the bound.

    >>> from kvattn.testing.zoo import smallest
    >>> forms_agree(smallest("gated_delta"))
    """
    if case.forms:
        wanted, _ = stepped(case.variant, case.x, ())
        bounds = _bounds(lambda x: stepped(case.variant, x, ())[0], case.x, wanted, 2 * case.depth)
        for name, form in case.forms.items():
            within(f"forms agree, {name}", form(case.x), wanted, bounds)


def positions_are_relative(case: Case) -> None:
    """Moving all positions alike changes nothing but roundings, where the scheme and the mask say so.

    >>> from kvattn.testing.zoo import smallest
    >>> positions_are_relative(smallest("grouped"))
    """
    if case.relative:
        positions = np.arange(case.x.shape[1])
        wanted = case.variant.definition(case.x, positions)
        moved = case.variant.definition(case.x, positions + MOVE)
        # an angle errs by half an ulp of itself: as many roundings as it has radians
        depth = case.depth + 2 * (MOVE + len(positions))
        bounds = _bounds(lambda x: case.variant.definition(x, positions), case.x, wanted, depth)
        within(f"positions are relative, moved by {MOVE}", moved, wanted, bounds)


def pages_are_invisible(case: Case) -> None:
    """Another page size changes nothing, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> pages_are_invisible(smallest("grouped"))
    """
    if case.twin is not None:
        this, _ = stepped(case.variant, case.x, case.cuts)
        other, _ = stepped(case.twin, case.x, case.cuts)
        same_bits(f"pages are invisible, {case.variant.page} against {case.twin.page}", this, other)


def eviction_is_invisible(case: Case) -> None:
    """Forgetting what no later query may see changes nothing, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> eviction_is_invisible(smallest("kept_sinks"))
    """
    if case.keeper is not None:
        forgetting, _ = stepped(case.variant, case.x, case.cuts)
        keeping, _ = stepped(case.keeper, case.x, case.cuts)
        same_bits("eviction is invisible", forgetting, keeping)


def batch_mates_are_invisible(case: Case) -> None:
    """A sequence computed alone equals the same sequence in its batch, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> batch_mates_are_invisible(smallest("grouped"))
    """
    together, _ = stepped(case.variant, case.x, case.cuts)
    for b in range(len(case.x)):
        alone, _ = stepped(case.alone(b), case.x[b : b + 1], case.cuts)
        same_bits(f"batch mates are invisible, sequence {b}", Attended(*(a[b : b + 1] for a in together)), alone)


def rollback_forgets(case: Case) -> None:
    """Append, truncate, append equals never having appended, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> rollback_forgets(smallest("grouped"))
    """
    keep = case.cuts[0] if case.cuts else 0
    junk = case.x[:, ::-1] * -1.5
    if case.rollback is not None:
        junk = junk[:, : case.rollback]
    plain, _ = stepped(case.variant, case.x, (keep,))
    first, cache = stepped(case.variant, case.x[:, :keep], ())
    _, spoiled = stepped(case.variant, junk, (), cache)
    rest, _ = stepped(case.variant, case.x[:, keep:], (), spoiled.truncate(keep))
    joined = Attended(np.concatenate([first.out, rest.out], 1), np.concatenate([first.lse, rest.lse], 2))
    same_bits(f"rollback forgets, from {keep + junk.shape[1]} to {keep}", plain, joined)


def branches_are_isolated(case: Case) -> None:
    """What one branch appends leaves the other and the old value as they were, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> branches_are_isolated(smallest("grouped"))
    """
    keep = case.cuts[0] if case.cuts else 0
    _, trunk = stepped(case.variant, case.x[:, :keep], ())
    rest = case.x[:, keep:]
    before, _ = stepped(case.variant, rest, (), trunk)
    left, _ = stepped(case.variant, rest * -0.5, (), trunk)
    right, _ = stepped(case.variant, rest, (), trunk.truncate(keep))
    again, _ = stepped(case.variant, rest * -0.5, (), trunk)
    same_bits("branches are isolated, the second branch", before, right)
    same_bits("branches are isolated, the old value", left, again)


def branches_are_free(case: Case) -> None:
    """Branch, truncate and select move no byte; the append after a branch copies less than a page per sequence.

    >>> from kvattn.testing.zoo import smallest
    >>> branches_are_free(smallest("grouped"))
    """
    keep = case.cuts[0] if case.cuts else 0
    _, trunk = stepped(case.variant, case.x[:, :keep], ())
    rest = case.x[:, keep:]
    with counting() as tally:
        trunk.branch()
        trunk.truncate(keep)
        trunk.select(list(range(len(case.x)))[::-1])
        moved = tally.tally
    if moved != Tally():
        raise LawError(f"branches are free: branch, truncate and select were counted as {moved}")
    stepped(case.variant, rest, (), trunk)
    with counting() as tally:
        _, _sibling = case.variant.step(trunk, rest)
        written, copied = tally.kv_written, tally.kv_copied
    room = getattr(case.variant, "page", 1) - 1
    if copied > room * (written // max(rest.shape[1], 1)):
        raise LawError(f"branches are free: {copied} bytes were copied, expected those of at most {room} tokens")


def beams_are_separate_caches(case: Case) -> None:
    """Select then step equals stepping copies, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> beams_are_separate_caches(smallest("grouped"))
    """
    keep = case.cuts[0] if case.cuts else 0
    last = len(case.x) - 1
    order = [last, 0, 0][: max(1, len(case.x))]
    if case.alone(0) is not case.variant:  # a variant that holds a batch keeps its size
        order = [last] * len(case.x)
    _, cache = stepped(case.variant, case.x[:, :keep], ())
    rest = case.x[order, keep:]
    together, _ = stepped(case.variant, rest, (), cache.select(order))
    for beam, b in enumerate(order):
        alone = case.alone(b)
        _, own = stepped(alone, case.x[b : b + 1, :keep], ())
        single, _ = stepped(alone, case.x[b : b + 1, keep:], (), own)
        same_bits(f"beams, {beam} of {order}", Attended(*(a[beam : beam + 1] for a in together)), single)


def the_future_is_invisible(case: Case) -> None:
    """NaN in every later token changes nothing before it, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> the_future_is_invisible(smallest("grouped"))
    """
    keep = case.cuts[0] if case.cuts else 0
    plain, _ = stepped(case.variant, case.x, ())
    poisoned = case.x.copy()
    poisoned[:, keep:] = np.nan
    with np.errstate(invalid="ignore"):
        found, _ = stepped(case.variant, poisoned, ())
    same_bits(
        f"the future is invisible, from {keep} on",
        Attended(plain.out[:, :keep], plain.lse[:, :, :keep]),
        Attended(found.out[:, :keep], found.lse[:, :, :keep]),
    )


def cost_is_count(case: Case) -> None:
    """The closed form equals what was counted, in exact integers, at every step.

    >>> from kvattn.testing.zoo import smallest
    >>> cost_is_count(smallest("grouped"))
    """
    cache = case.variant.start(len(case.x))
    for start, stop in zip((0, *case.cuts), (*case.cuts, case.x.shape[1]), strict=True):
        with counting() as tally:
            # the old cache is held until the step is counted: its pages live on
            _, later = case.variant.step(cache, case.x[:, start:stop])
            counted = tally.tally
        closed = case.variant.cost(past=start, new=stop - start, batch=len(case.x))
        if counted != closed:
            raise LawError(f"cost is count, past={start}, new={stop - start}: counted {counted}, closed form {closed}")
        cache = later


def empty_steps_change_nothing(case: Case) -> None:
    """A step of no tokens returns no rows and leaves the next step as it was, to the bit.

    >>> from kvattn.testing.zoo import smallest
    >>> empty_steps_change_nothing(smallest("grouped"))
    """
    plain, _ = stepped(case.variant, case.x, ())
    nothing, cache = case.variant.step(case.variant.start(len(case.x)), case.x[:, :0])
    if nothing.out.shape != (len(case.x), 0, case.x.shape[2]):
        raise LawError(f"empty steps change nothing: out has shape {nothing.out.shape}, expected no rows")
    found, _ = stepped(case.variant, case.x, (), cache)
    same_bits("empty steps change nothing", plain, found)


LAWS: Mapping[str, Callable[[Case], None]] = {
    law.__name__: law
    for law in (
        decode_is_recompute,
        step_is_definition,
        forms_agree,
        positions_are_relative,
        pages_are_invisible,
        eviction_is_invisible,
        batch_mates_are_invisible,
        rollback_forgets,
        branches_are_isolated,
        branches_are_free,
        beams_are_separate_caches,
        the_future_is_invisible,
        empty_steps_change_nothing,
        cost_is_count,
    )
}
"""Every law of a variant, by name."""
