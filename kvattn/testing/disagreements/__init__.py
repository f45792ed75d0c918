"""Questions that libraries answer differently, each with inputs on which the answers can be told apart.

>>> DISAGREEMENTS["head_map"]().told([0.0, 1.0, 0.0, 1.0])
'h % Hkv'
"""

from collections.abc import Callable, Mapping

from kvattn.testing.disagreements.layouts import (
    axes_of_patches,
    norm_place,
    norm_weights,
    norm_width,
    pair_of_heads,
    part_that_turns,
    rotary_pairs,
    sections,
    sine_exponent,
    sine_order,
)
from kvattn.testing.disagreements.lengths import longrope_list, temperature_step, yarn_borders
from kvattn.testing.disagreements.pipeline import (
    causal_corner,
    empty_row,
    head_map,
    log_base,
    mask_polarity,
    scale,
    softcap_and_mask,
)
from kvattn.testing.disagreements.reading import Disagreement, Reading
from kvattn.testing.disagreements.slopes import slope_from, slope_scale, slopes_of_six
from kvattn.testing.disagreements.windows import sink_positions, window_end, window_sides

DISAGREEMENTS: Mapping[str, Callable[[], Disagreement]] = {
    question.__name__: question
    for question in (
        softcap_and_mask,
        causal_corner,
        empty_row,
        mask_polarity,
        head_map,
        scale,
        log_base,
        window_end,
        window_sides,
        sink_positions,
        rotary_pairs,
        part_that_turns,
        sections,
        sine_order,
        sine_exponent,
        axes_of_patches,
        norm_place,
        norm_width,
        norm_weights,
        pair_of_heads,
        slopes_of_six,
        slope_scale,
        slope_from,
        yarn_borders,
        longrope_list,
        temperature_step,
    )
}
"""Every question, by name; a call computes its readings."""

__all__ = ["DISAGREEMENTS", "Disagreement", "Reading"]
