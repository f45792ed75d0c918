"""Which kind of thing is checked, told by its signature: attention, a rotation, a layer, or a counter.

    f(q, k, v, …)                       attention      `kvattn.testing.targets`
    rotate(x, positions)                a rotation     `kvattn.testing.rotary_targets`
    rotate(q, k, positions)
    layer(x, *, w_q, w_k, w_v, w_o, …)  a layer        `kvattn.testing.layer_targets`
    flops(*, queries, keys, width, …)   a counter      `kvattn.testing.counter_targets`
    cache_bytes(*, tokens, width, …)

A name may also lead to a `Target`, a `RotaryTarget`, a `LayerTarget` or a `CounterTarget` that stands in a module.
"""

from collections.abc import Callable
import contextlib
import importlib
import inspect
from pathlib import Path
import sys
from typing import Any, TypeAlias

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.testing import targets
from kvattn.testing.counter_diagnosis import looking as counters
from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_targets import CounterTarget, counter_target_of, is_counter
from kvattn.testing.diagnosis.differential import Margin
from kvattn.testing.layer_diagnosis import looking as layers
from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_targets import LayerTarget, is_layer, layer_target_of
from kvattn.testing.rotary_diagnosis import looking as rotations
from kvattn.testing.rotary_diagnosis.bench import RotaryBench
from kvattn.testing.rotary_targets import RotaryTarget, is_rotation, rotary_target_of
from kvattn.testing.targets import ADAPTERS, Target, target_of

Other: TypeAlias = RotaryTarget | LayerTarget | CounterTarget
"""What is no function of q, k, v."""

Bench: TypeAlias = RotaryBench | LayerBench | CounterBench
"""Where it is read."""

Checked: TypeAlias = Target | Other
"""Whatever `kvattn.testing.check` takes, its signature read."""

KINDS = (
    "expected attention f(q, k, v, …), a rotation rotate(x, positions) or rotate(q, k, positions), a layer(x, *,"
    " w_q, w_k, w_v, w_o, heads, …), or a counter of FLOPs(*, queries, keys, width, …) or bytes(*, tokens, width, …)"
)


def target_for(thing: Any, name: str | None = None, setup: str | None = None) -> Checked:
    """Read what kind of thing it is.

    Parameters
    ----------
    thing
        A callable, or a target already.
    name, setup
        How the report calls it, and the Python that binds it to ``f``.

    Raises
    ------
    ArgumentError
        Where its signature is of no kind.

    Examples
    --------
    >>> type(target_for(lambda x, positions: x)).__name__, type(target_for(lambda q, k, v: v)).__name__
    ('RotaryTarget', 'Target')
    >>> target_for(lambda a, b: a)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: target must be of a known kind, got (a, b); expected attention f(q, k, v, …), a \
rotation rotate(x, positions) or rotate(q, k, positions), a layer(x, *, w_q, w_k, w_v, w_o, heads, …), or a counter \
of FLOPs(*, queries, keys, width, …) or bytes(*, tokens, width, …)
    """
    if isinstance(thing, Target | Other):
        return thing
    if callable(thing):
        if is_counter(thing):
            return counter_target_of(thing, name, setup or "")
        if is_layer(thing):
            return layer_target_of(thing, name, setup or "")
        if is_rotation(thing):
            return rotary_target_of(thing, name, setup or "")
        if _is_of_no_kind(thing):
            raise ArgumentError(
                f"target must be of a known kind, got ({', '.join(inspect.signature(thing).parameters)}); {KINDS}"
            )
    return target_of(thing, name, setup)


def load(name: str) -> Checked:
    """Import ``module:callable`` and read what kind of thing it is.

    Raises
    ------
    ArgumentError
        As `kvattn.testing.targets.load`, or where its signature is of no kind.

    Examples
    --------
    >>> load("math:sine")
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: target must exist, got math:sine, and math has no sine
    """
    module_name, _, path = name.partition(":")
    thing = None if name in ADAPTERS else _found(module_name, path)
    if not (isinstance(thing, Other) or callable(thing)) or isinstance(thing, Target):
        return targets.load(name)  # which says what is wrong with the name
    if isinstance(thing, Other):
        return thing
    if not (is_counter(thing) or is_layer(thing) or is_rotation(thing) or _is_of_no_kind(thing)):
        return targets.load(name)
    simple = f"from {module_name} import {path} as f"
    return target_for(thing, name, simple if "." not in path else f"import {module_name}; f = {module_name}.{path}")


def look(
    target: Other,
    *,
    seed: int = 0,
    dtype: str = "float64",
    cases: int = 80,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Bench, Margin | None]:
    """Read a rotation, a layer or a counter.

    Raises
    ------
    ArgumentError
        When dtype is not one in which such a target is checked.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> bench, margin = look(RotaryTarget("mine", Rotary.of(8).rotate, width=8), cases=2)
    >>> bench.findings, margin.cases
    ([], 2)
    """
    with np.errstate(all="ignore"):  # what a wrong target returns may be anything
        if isinstance(target, RotaryTarget):
            return rotations.look(target, seed=seed, dtype=dtype, cases=cases, progress=progress)
        if isinstance(target, CounterTarget):
            return counters.look(target, seed=seed, dtype=dtype, cases=cases, progress=progress)
        return layers.look(target, seed=seed, dtype=dtype, cases=cases, progress=progress)


def _is_of_no_kind(thing: Any) -> bool:
    """Say whether it has a signature, and one that begins neither with q nor with three arguments."""
    try:
        parameters = list(inspect.signature(thing).parameters.values())
    except (TypeError, ValueError):
        return False
    plain = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    return len(plain) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _found(module_name: str, path: str) -> Any:
    """What a name leads to; None where it leads nowhere, or to a module that cannot be imported."""
    if not module_name or not path:
        return None
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
        value: Any = importlib.import_module(module_name)
        for step in path.split("."):
            value = getattr(value, step)
        return value
    return None
