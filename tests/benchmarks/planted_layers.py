"""Which planted faults of rotations and layers a check detects and names, as a page.

    python tests/benchmarks/planted_layers.py > docs/explain/what-a-check-of-a-layer-can-see.md

The faults are those of tests/mutants: test_planted_rotations.py, test_planted_layers.py, test_planted_latents.py.
Nothing is drawn anew: the same code gives the same page.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
import importlib
import math
from pathlib import Path
import sys
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - so that NumPy knows bfloat16
import numpy as np

from kvattn.testing import kinds
from kvattn.testing.layer_targets import LayerTarget, layer_target_of
from kvattn.testing.planted_latent import PlantedLatent
from kvattn.testing.rotary_targets import RotaryTarget

sys.path.insert(0, str(Path(__file__).parents[1] / "mutants"))
COLUMNS = ("float64", "float32", "bfloat16", "float16", "bfloat16 alone")
PAGE = """# What a check of a layer can see

`kvattn check` was run on every planted fault of rotations and of layers in ``tests/mutants``: {rotations} of
{{py:mod}}`kvattn.testing.planted_rotation`, {layers} of {{py:mod}}`kvattn.testing.planted_layer`, {latents} of
{{py:mod}}`kvattn.testing.planted_latent`.  *Detected*: the report has a finding.  *Named*: a finding has the class of
the fault and every parameter as it was planted, within 0.1 % in float64, 1 % in the others.  *More*: how many have a
second finding.  In 16 bits they are read in wide numbers, which they take; in the last column each takes bfloat16
alone, so that it is compared and not read.  Latent layers are not checked in 16 bits, so "of" says how many were.
The page is written by

```console
$ python tests/benchmarks/planted_layers.py > docs/explain/what-a-check-of-a-layer-can-see.md
```

{table}

What was not detected, or called something else:

{rest}
"""


class Fault(NamedTuple):
    """A planted fault: of what, its name, how to build it, class and parameters."""

    kind: str
    name: str
    target: Callable[[], Any]
    fault_class: str
    parameters: dict[str, Any]


class Outcome(NamedTuple):
    """What a check said."""

    detected: bool
    named: bool
    more: bool
    said: str


def faults() -> Iterator[Fault]:
    """Yield every planted fault."""
    rotations, layers, latents = (
        importlib.import_module(name)
        for name in ("test_planted_rotations", "test_planted_layers", "test_planted_latents")
    )
    for name, row in rotations.WRONG.items():
        yield Fault("rotations", name, lambda n=name: rotations.mutant(n), *row[2:])  # type: ignore[misc]
    for name, row in layers.WRONG.items():
        yield Fault("layers", name, lambda n=name: layers.mutant(n), *row[2:])  # type: ignore[misc]
    for name, row in layers.THROUGH.items():
        planted = {**row[0], **layers.BY_ROWS}
        yield Fault("layers", name, lambda f=planted, p=row[1]: layers.cached(f, p), *row[2:])  # type: ignore[misc]
    for name, (given, plan, parameters) in layers.SHARING.items():
        made: Any = lambda f=given, p=plan: layers.sharing(f, p)
        yield Fault("layers", name, made, "shared-kv-layers", parameters)
    for name, row in latents.WRONG.items():
        made = lambda r=row: layer_target_of(PlantedLatent(r[0], **r[1]))
        yield Fault("latents", name, made, *row[2:])


def alone(target: Any) -> Any:
    """The rotation or layer as one that takes bfloat16 alone, and computes in float32 on it."""
    if isinstance(target, LayerTarget):
        return replace(target, function=partial(_in_float32, target.function))

    def narrow(q: Any, k: Any, positions: Any) -> Any:
        if q.dtype.name != "bfloat16":
            raise TypeError(f"expected bfloat16, got {q.dtype}")
        return tuple(x.astype(q.dtype) for x in target.function(*(y.astype(np.float32) for y in (q, k)), positions))

    return RotaryTarget(target.name, narrow, target.expects, target.width, target.context, pair=True)


def _in_float32(function: Callable[..., Any], x: Any, **given: Any) -> Any:
    if x.dtype.name != "bfloat16":
        raise TypeError(f"expected bfloat16, got {x.dtype}")

    def wide(value: Any) -> Any:
        return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == x.dtype else value

    out = function(wide(x), **{name: wide(value) for name, value in given.items()})
    return (out[0].astype(x.dtype), *out[1:]) if isinstance(out, tuple) else out.astype(x.dtype)


def checked(fault: Fault, column: str) -> Outcome | None:
    """Check a fault in a format; None where that is not offered."""
    target, dtype = fault.target(), column.split(maxsplit=1)[0]
    if fault.kind == "latents" and dtype not in ("float64", "float32"):
        return None
    target = alone(target) if column.endswith("alone") else target
    bench, _ = kinds.look(target, dtype=dtype, cases=20)
    close = 1e-3 if dtype == "float64" else 1e-2

    def agrees(read: Any, wanted: Any) -> bool:
        if isinstance(wanted, float) and isinstance(read, int | float):
            return math.isclose(read, wanted, rel_tol=close)
        if isinstance(wanted, list) and isinstance(read, list) and len(read) == len(wanted):
            return all(agrees(a, b) for a, b in zip(read, wanted, strict=True))
        return bool(read == wanted)

    named = any(
        f.fault_class == fault.fault_class and all(agrees(f.parameters.get(k), v) for k, v in fault.parameters.items())
        for f in bench.findings
    )
    said = ", ".join(dict.fromkeys(f"`{f.fault_class}`" for f in bench.findings if f.fault_class != fault.fault_class))
    return Outcome(bool(bench.findings), named, len(bench.findings) > 1, said)


def main() -> None:
    """Print the page."""
    rows: dict[str, list[dict[str, Outcome | None]]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    rest = []
    for fault in faults():
        counts[fault.kind] += 1
        outcomes = {column: checked(fault, column) for column in COLUMNS}
        rows[fault.fault_class].append(outcomes)
        for column, outcome in outcomes.items():
            if outcome is None or (outcome.named and not outcome.more) or column.endswith("alone"):
                continue
            what = "not detected" if not outcome.detected else "a second finding" if outcome.named else "not named"
            called = f", called {outcome.said}" if outcome.said and not outcome.named else ""
            rest.append(f"- {fault.name} (`{fault.fault_class}`): {what}{called} in {column}.")
    table = [f"| class | faults | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    total = [outcome for found in rows.values() for outcome in found]
    for name, found in [*((f"`{name}`", rows[name]) for name in sorted(rows)), ("**all**", total)]:
        table.append(f"| {name} | {len(found)} | {' | '.join(_cell(found, column) for column in COLUMNS)} |")
    print(PAGE.format(table="\n".join(table), rest="\n".join(rest) or "- nothing.", **counts), end="")


def _cell(found: list[dict[str, Outcome | None]], column: str) -> str:
    some = [outcomes[column] for outcomes in found]
    read = [outcome for outcome in some if outcome is not None]
    if not read:
        return "–"
    more = sum(outcome.more for outcome in read)
    of = f" of {len(read)}" if len(read) < len(some) else ""
    text = f"{sum(outcome.detected for outcome in read)}{of}, {sum(outcome.named for outcome in read)} named"
    return text + (f", {more} more" if more else "")


if __name__ == "__main__":
    main()
