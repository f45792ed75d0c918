"""Cases of `kvattn.variants.dense.layers` and `kvattn.variants.dense.value_residual`: short stacks of unlike layers."""

from dataclasses import replace
from typing import Any

from numpy.typing import DTypeLike

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import PAGES, case_of, dtype_of, is_relative, length_of, mask_of, page_of, sinks_of
from kvattn.typing import Array
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.layers import Layers
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.value_residual import ValueResidual
from kvattn.variants.sparse.sinks import KeptSinks

_EVERYTHING = 1_000
"""More tokens than a case has: a window that can go back so far forgets nothing."""

Sizes = tuple[int, int, int]
"""M, Hkv and Dv."""


def layers(choices: Choices) -> Case:
    """One to three layers, local and whole, turned by other bases or not; a forgetful one now and then.

    >>> from kvattn.testing.choices import Recorded
    >>> len(layers(Recorded()).variant.layers)
    1
    """
    dtype, page = dtype_of(choices), page_of(choices)
    hidden, count = choices.integer(1, 9, "M"), choices.integer(1, 3, "L")
    sizes = [(hidden, choices.integer(1, 2, "Hkv"), choices.integer(1, 4, "Dv")) for _ in range(count)]
    held: list[Any] = [_layer(choices, each, dtype, page) for each in sizes]
    if choices.integer(0, 3, "forgetful") == 3:
        window = choices.integer(1, 9, "window")
        held[0] = KeptSinks(held[0].projections, 0, window, rollback=4, page=page)
    kept = [replace(x, rollback=_EVERYTHING) if isinstance(x, KeptSinks) else x for x in held]
    norm, eps = _norm(choices, count, hidden, dtype), pick(choices, (1e-6, 0.1), "eps")
    case = _case(choices, Layers(tuple(held), hidden, norm, eps), hidden, dtype)
    if not any(isinstance(x, KeptSinks) for x in held):
        return case
    return replace(case, keeper=Layers(tuple(kept), hidden, norm, eps), rollback=4)


def value_residual(choices: Choices) -> Case:
    """Two or three grouped layers whose values lean on the first layer's.

    >>> from kvattn.testing.choices import Recorded
    >>> value_residual(Recorded()).variant.weights
    ((0.5, 0.5),)
    """
    dtype, page = dtype_of(choices), page_of(choices)
    hidden, count = choices.integer(1, 9, "M"), choices.integer(2, 3, "L")
    sizes = hidden, choices.integer(1, 2, "Hkv"), choices.integer(1, 4, "Dv")
    held = tuple(_layer(choices, sizes, dtype, page) for _ in range(count))
    weights = tuple(pick(choices, ((0.5, 0.5), (1.0, -0.5), (0.0, 1.0)), "weights") for _ in held[1:])
    norm, eps = _norm(choices, count, hidden, dtype), pick(choices, (1e-6, 0.1), "eps")
    return _case(choices, ValueResidual(held, weights, norm, eps), hidden, dtype)


def _layer(choices: Choices, sizes: Sizes, dtype: DTypeLike, page: int) -> Grouped:
    hidden, kv_heads, value_width = sizes
    heads, width = kv_heads * choices.integer(1, 2, "G"), 2 * choices.integer(1, 3, "D/2")
    shapes = (hidden, heads * width), (hidden, kv_heads * width), (hidden, kv_heads * value_width)
    query, key, value = (numbers(choices, shape, dtype, "weights", shape[0] ** -0.5) for shape in shapes)
    output = numbers(choices, (heads * value_width, hidden), dtype, "weights", (heads * value_width) ** -0.5)
    base = pick(choices, (None, 100.0, 10000.0), "base")
    return Grouped(
        Projections(query, key, value, output, heads, kv_heads),
        mask_of(choices),
        () if base is None else (Rotary.of(width, base),),
        sinks=sinks_of(choices, heads, dtype),
        page=page,
    )


def _norm(choices: Choices, count: int, hidden: int, dtype: DTypeLike) -> Array | None:
    weights = 1 + numbers(choices, (count, hidden), dtype, "norm", 0.3)
    return weights if choices.integer(0, 1, "normed") else None


def _case(choices: Choices, stack: Any, hidden: int, dtype: DTypeLike) -> Case:
    """A case whose bound has the roundings of every layer, and whose twin has other pages in every layer."""
    case = case_of(choices, None, choices.integer(1, 3, "B"), length_of(choices), hidden, dtype)
    other = PAGES[(PAGES.index(stack.page) + 1) % len(PAGES)]
    twin = replace(stack, layers=tuple(replace(layer, page=other) for layer in stack.layers))
    relative = all(is_relative(layer.mask) for layer in stack.layers)
    depth = case.depth * len(stack.layers)
    return replace(case, variant=stack, alone=lambda _: stack, twin=twin, depth=depth, relative=relative)
