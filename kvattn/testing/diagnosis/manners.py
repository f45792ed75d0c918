"""Manners: a call changes nothing but its result, and depends on nothing but its arguments.

Method: the same case is run after another one, on arrays laid out otherwise in memory, and one sequence
at a time; the inputs are compared with what they were.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.kept import read_kept
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused, told
from kvattn.testing.diagnosis.recipe import DRAWN, RANDOM, Built, Recipe, Sizes

_SIZES = Sizes(3, 6, 2, 4, 6, 10, 10)

_LAYOUTS: dict[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]] = {
    "np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(
        1, 2
    ),
    "np.asfortranarray(x)": np.asfortranarray,
    "np.repeat(x, 2, axis=-1)[..., ::2]": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "np.repeat(x, 2, axis=2)[:, :, ::2]": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
}


def _options(lab: Lab) -> dict[str, str]:
    return {"causal": "True"} if lab.can("causal") else {}


def read_manners(lab: Lab) -> None:
    """Check for state, changed inputs, memory layout and batch mates.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def greedy(q, k, v):
    ...     q *= 0
    ...     return np.repeat(v.mean(2, keepdims=True), q.shape[1] // k.shape[1], 1) + q
    >>> lab = Lab(target_of(greedy))
    >>> read_manners(lab)
    >>> lab.findings[0].parameters
    {'property': 'inputs', 'changed': ['q']}
    """
    case = lab.case(_SIZES, DRAWN, RANDOM, **_options(lab))
    case = replace(case, sizes=replace(case.sizes, Hkv=case.sizes.Hq))
    for look in (_changed, _stateful):
        if not lab.stopped:
            look(lab, case)
    if not lab.stopped:
        read_kept(lab)
    for look in (_laid_out, _mates):
        if not lab.stopped:
            look(lab, case)


def _changed(lab: Lab, case: Recipe) -> None:
    built = case.build()
    fresh = case.build()
    lab.last = case
    try:
        lab.calls += 1
        lab.target(built.q, built.k, built.v, built.options)
    except Exception as error:
        raise Refused(told(error)) from error
    changed = [n for n, a, b in zip("qkv", built[:3], fresh[:3], strict=True) if not np.array_equal(a, b)]
    if changed:
        name = changed[0]
        line = f"{case.code()}; p = {name}.copy(); {case.call()}; print((p == {name}).all(), 'expected', True)"
        detail = f"The call changes its inputs {', '.join(changed)} in place."
        lab.add("stale-state", {"property": "inputs", "changed": changed}, detail, reproduce=lab.script(line))


def _stateful(lab: Lab, case: Recipe) -> None:
    built, other = case.build(), replace(case, seed=case.seed + 1).build()
    pick = "" if lab.see(case).lse is None else "[0]"
    first = lab.run(built).out
    kept = first.copy()
    if not _close(lab, lab.run(built).out.astype(np.float64), kept.astype(np.float64)):
        line = f"{case.code()}; a = np.array({case.call()}{pick}); "
        line += f"print(np.allclose(a, {case.call()}{pick}), 'expected', True)"
        detail = "The same call made twice gives two results: it is random, or keeps something between calls."
        lab.add("stale-state", {"property": "calls", "repeated": True}, detail, reproduce=lab.script(line))
        lab.stopped = True
        return
    if np.isnan(kept).all():  # nothing can be read of it, here; that it is NaN is told with the weights
        return
    then = lab.run(other).out.copy()
    overwritten = not np.array_equal(first, kept, equal_nan=True)
    again = lab.run(built).out
    turned = {n: lab.run(other._replace(**{n: -getattr(other, n)})).out for n in "qkv"}
    unused = [n for n, out in turned.items() if np.array_equal(out, then, equal_nan=True)]
    if unused and unused != ["q", "k"]:  # scores that are all 0 have no use for q and k: that is a scale
        name = unused[0]
        line = f"{case.code()}; {case.call()}; {name} = {name} + 1; a = np.array({case.call()}{pick}); "
        line += f"{name} = -{name}; print((a == {case.call()}{pick}).all(), 'expected', False)"
        detail = f"After a call of the same shape another {name} changes nothing: an earlier one is used, or none."
        lab.add("stale-state", {"property": "arguments", "kept": name}, detail, reproduce=lab.script(line))
        lab.stopped = True
        return
    if overwritten:
        line = f"{case.code()}; a = {case.call()}{pick}; b = np.array(a); q = q + 1; {case.call()}; "
        line += "print((a == b).all(), 'expected', True)"
        detail = "A later call overwrites the output that an earlier call returned."
        lab.add("stale-state", {"property": "output", "overwritten": True}, detail, reproduce=lab.script(line))
    elif not _close(lab, again.astype(np.float64), kept.astype(np.float64)):
        line = f"{case.code()}; a = np.array({case.call()}{pick}); p = q; q = q + 1; {case.call()}; q = p; "
        line += f"print(np.allclose(a, {case.call()}{pick}), 'expected', True)"
        detail = "The same call gives another result after a different call: something is kept between calls."
        lab.add("stale-state", {"property": "calls"}, detail, reproduce=lab.script(line))
        lab.stopped = True


def _laid_out(lab: Lab, case: Recipe) -> None:
    built = case.build()
    plain = lab.see(case)
    pick = "" if plain.lse is None else "[0]"
    for text, lay in _LAYOUTS.items():
        for name in "qkv":
            arrays = {n: x.copy() for n, x in zip("qkv", built[:3], strict=True)}
            arrays[name] = np.asarray(lay(arrays[name]), built.q.dtype)
            lab.calls += 1
            try:
                got = lab.target(arrays["q"], arrays["k"], arrays["v"], built.options).out.astype(np.float64)
            except Exception as error:  # noqa: BLE001 - the target may refuse a layout
                lab.notes.append(f"{text} is refused for {name}: {type(error).__name__}")
                return
            if not _close(lab, got, plain.out):
                line = f"{case.code()}; a = np.array({case.call()}{pick}); {name} = {text.replace('x', name, 1)}; "
                line += f"print(np.allclose(a, {case.call()}{pick}), 'expected', True)"
                detail = f"The result depends on how {name} lies in memory: {text} gives another one."
                parameters = {"property": "memory layout", "of": name, "layout": text}
                lab.add("unclassified", parameters, detail, reproduce=lab.script(line))
                return


def _mates(lab: Lab, case: Recipe) -> None:
    """A sequence alone, and beside a mate whose scores are far larger, or NaN."""
    built = case.build()
    if case.sizes.B == 1 or not lab.takes(replace(case, sizes=replace(case.sizes, B=1))):
        return
    alone = lab.run(_first(built)).out.astype(np.float64)
    pick = "" if lab.see(case).lse is None else "[0]"
    for edit, mated in _with_mates(built, 100 if lab.dtype == "float16" else 3000):
        got = lab.run(mated).out.astype(np.float64)[:1]
        if not _close(lab, got, alone):
            line = (
                f"{case.code()}; {edit + '; ' if edit else ''}a = {case.call()}{pick}; q, k, v = q[:1], k[:1], v[:1]; "
            )
            line += f"print(np.allclose(a[:1], {case.call()}{pick}), 'expected', True)"
            words = f" ({edit})" if edit else ""
            detail = f"A sequence's result depends on the others in its batch{words}."
            lab.add("batch-row-state", {"property": "batch mates", "edit": edit}, detail, reproduce=lab.script(line))
            return


def _first(built: Built) -> Built:
    return Built(built.q[:1], built.k[:1], built.v[:1], built.options)


def _with_mates(built: Built, factor: int) -> Iterator[tuple[str, Built]]:
    yield "", built
    for edit, value in ((f"q[1] *= {factor}", factor), ("q[1] *= np.nan", np.nan)):
        q = built.q.copy()
        q[1] *= value
        yield edit, built._replace(q=q)


def _close(lab: Lab, got: NDArray[np.float64], want: NDArray[np.float64]) -> bool:
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    return got.shape == want.shape and bool((same | (np.abs(got - want) <= 5 * lab.sharp)).all())
