"""What tests of caches of codes share: layers over them, rows to try, and one codec of each kind by hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import struct
from typing import Any

import numpy as np

from kvattn.masks import Causal, Window
from kvattn.positions import Rotary
from kvattn.testing import laws
from kvattn.typing import Attended
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

WIDTH = 32


def layer_of(seed: int, window: int | None, dtype: Any) -> Grouped:
    """Four query heads over two key/value heads of 32 channels, turned, behind 6 hidden numbers."""
    rng = np.random.default_rng(seed)
    shapes = (6, 4 * WIDTH), (6, 2 * WIDTH), (6, 2 * WIDTH), (4 * WIDTH, 6)
    query, key, value, output = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    weights = Projections(query, key, value, output, heads=4, kv_heads=2)
    mask = Causal() if window is None else Causal() & Window(window)
    return Grouped(weights, mask, query_key=(Rotary.of(WIDTH),))


@dataclass(frozen=True, eq=False)
class Over:
    """A layer that starts with another cache: what the laws step."""

    layer: Grouped
    empty: Callable[..., Any]
    step_with: Callable[[Any, Any, Any], Any] = Grouped.step
    page: int = 256

    def start(self, batch: int = 1) -> Any:
        return self.empty(self.layer.start().schema, batch=batch, page=self.page)

    def step(self, cache: Any, x: Any) -> tuple[Attended, Any]:
        found: tuple[Attended, Any] = self.step_with(self.layer, cache, x)
        return found


LAWS = (
    laws.decode_is_recompute,
    laws.pages_are_invisible,
    laws.batch_mates_are_invisible,
    laws.rollback_forgets,
    laws.branches_are_isolated,
    laws.branches_are_free,
    laws.beams_are_separate_caches,
    laws.empty_steps_change_nothing,
)
"""Those that hold of caches that round; the definition is another function, NaN is refused."""


def holds(variant: Over, seed: int, batch: int, length: int, cuts: list[int], page: int, dtype: Any) -> None:
    """Run the laws over hidden states."""
    x = np.random.default_rng(seed).standard_normal((batch, length, 6)).astype(dtype)
    variant, twin = replace(variant, page=page), replace(variant, page=256 if page != 256 else 3)
    at = tuple(sorted(min(cut, length) for cut in cuts))
    case = laws.Case(variant, x, at, lambda _: variant, twin, None, depth=0)
    for law in LAWS:
        law(case)


def single(number: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("f", struct.pack("f", number))[0])


def int8_by_hand(row: list[float]) -> tuple[list[int], float]:
    """Codes and scale of one token and head."""
    scale = single(max(abs(number) for number in row) / 127)
    if not scale:
        return [0] * len(row), 0.0
    return [max(-127, min(127, round(number / scale))) for number in row], scale


def uint4_by_hand(row: list[float]) -> tuple[list[int], float, float]:
    """Codes, scale and minimum of one group."""
    low, scale = single(min(row)), single((max(row) - min(row)) / 15)
    if not scale:
        return [0] * len(row), 0.0, low
    return [max(0, min(15, round((number - low) / scale))) for number in row], scale, low
