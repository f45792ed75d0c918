"""Small examples of every variant, drawn from choices: sizes that differ, at least two features at once.

One file per variant file, one function per class in it, listed in `ZOO` by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from kvattn.testing.choices import Choices, Recorded
from kvattn.testing.laws import Case
from kvattn.testing.zoo.alibi import alibi
from kvattn.testing.zoo.before_rotation import before_rotation
from kvattn.testing.zoo.block_diffusion import block_diffusion
from kvattn.testing.zoo.contextual_positions import contextual_positions
from kvattn.testing.zoo.cosine import cosine
from kvattn.testing.zoo.cross import cross
from kvattn.testing.zoo.differential import differential
from kvattn.testing.zoo.disentangled import disentangled
from kvattn.testing.zoo.entmax import entmax15, sparsemax
from kvattn.testing.zoo.fire import fire
from kvattn.testing.zoo.forgetting import forgetting
from kvattn.testing.zoo.gated_delta import gated_delta
from kvattn.testing.zoo.grouped import grouped
from kvattn.testing.zoo.indexed import indexed
from kvattn.testing.zoo.kerple import kerple
from kvattn.testing.zoo.latent import absorbed, expanded
from kvattn.testing.zoo.layers import layers, value_residual
from kvattn.testing.zoo.log_cpb import grid_bias
from kvattn.testing.zoo.longformer import longformer
from kvattn.testing.zoo.memory_rows import memory_rows
from kvattn.testing.zoo.merged import merged
from kvattn.testing.zoo.off_by_one import off_by_one
from kvattn.testing.zoo.output_gate import output_gate
from kvattn.testing.zoo.path import path
from kvattn.testing.zoo.patterns import patterns
from kvattn.testing.zoo.placed import placed
from kvattn.testing.zoo.positions_on_rows import multimodal, polar, temperature, xpos
from kvattn.testing.zoo.query_key_norm import query_key_norm
from kvattn.testing.zoo.relative_projection import relative_projection
from kvattn.testing.zoo.relative_values import relative_values
from kvattn.testing.zoo.relu import relu, squared_relu
from kvattn.testing.zoo.rotary_scalings import rotary_scalings
from kvattn.testing.zoo.sandwich import sandwich
from kvattn.testing.zoo.shaw import shaw
from kvattn.testing.zoo.sigmoid import sigmoid
from kvattn.testing.zoo.sinks import kept_sinks, reindexed_sinks
from kvattn.testing.zoo.softpick import softpick
from kvattn.testing.zoo.stick_breaking import stick_breaking
from kvattn.testing.zoo.sub_norm import sub_norm
from kvattn.testing.zoo.t5_buckets import t5_buckets
from kvattn.testing.zoo.talking_heads import talking_heads
from kvattn.testing.zoo.tied import shared_projection, shared_row
from kvattn.testing.zoo.transformer_xl import transformer_xl
from kvattn.testing.zoo.weighed import weighed
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.merged import Merged

ZOO: Mapping[str, Callable[[Choices], Case]] = {
    "grouped": grouped,
    "cross": cross,
    "expanded": expanded,
    "absorbed": absorbed,
    "kept_sinks": kept_sinks,
    "reindexed_sinks": reindexed_sinks,
    "indexed": indexed,
    "gated_delta": gated_delta,
    "query_key_norm": query_key_norm,
    "cosine": cosine,
    "output_gate": output_gate,
    "sub_norm": sub_norm,
    "block_diffusion": block_diffusion,
    "longformer": longformer,
    "patterns": patterns,
    "temperature": temperature,
    "xpos": xpos,
    "polar": polar,
    "multimodal": multimodal,
    "differential": differential,
    "before_rotation": before_rotation,
    "placed": placed,
    "rotary_scalings": rotary_scalings,
    "alibi": alibi,
    "disentangled": disentangled,
    "fire": fire,
    "forgetting": forgetting,
    "kerple": kerple,
    "grid_bias": grid_bias,
    "relative_projection": relative_projection,
    "sandwich": sandwich,
    "shaw": shaw,
    "t5_buckets": t5_buckets,
    "transformer_xl": transformer_xl,
    "shared_projection": shared_projection,
    "shared_row": shared_row,
    "weighed": weighed,
    "sigmoid": sigmoid,
    "relu": relu,
    "squared_relu": squared_relu,
    "softpick": softpick,
    "sparsemax": sparsemax,
    "entmax15": entmax15,
    "off_by_one": off_by_one,
    "stick_breaking": stick_breaking,
    "talking_heads": talking_heads,
    "contextual_positions": contextual_positions,
    "relative_values": relative_values,
    "path": path,
    "merged": merged,
    "memory_rows": memory_rows,
    "layers": layers,
    "value_residual": value_residual,
}
"""A case generator for every variant, by name."""

__all__ = ["ZOO", "smallest"]


def smallest(name: str) -> Case:
    """The simplest case of a variant that has three tokens in two sequences.

    >>> smallest("grouped").x.shape[:2]
    (2, 3)
    """
    case = ZOO[name](Recorded())
    count = 6 * case.x.shape[2]
    case = replace(case, x=np.arange(1.0, count + 1).reshape(2, 3, -1) / (count + 1), cuts=(1,))
    if not isinstance(case.variant, Cross | Merged):
        return case
    memory = np.ones((2, 4, case.variant.memory.shape[2]))
    layer, twin = replace(case.variant, memory=memory), replace(case.twin, memory=memory)
    return replace(case, variant=layer, twin=twin, alone=lambda b: replace(layer, memory=memory[b : b + 1]))
