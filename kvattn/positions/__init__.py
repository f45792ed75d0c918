"""Where a token is: one scheme per file, all of them functions of absolute positions.

A scheme has ``rotate`` (queries and keys), ``embed`` (hidden states) or is a mod (scores).

>>> Rotary.of(2, base=100.0).frequencies
(1.0,)
"""

from kvattn.positions.alibi import Alibi, KeyAlibi, SymmetricAlibi
from kvattn.positions.disentangled import Disentangled, LogBuckets
from kvattn.positions.distance_table import DistanceTable
from kvattn.positions.dynamic_ntk import DynamicNTK
from kvattn.positions.fire import Fire
from kvattn.positions.kerple import KerpleLog, KerplePower
from kvattn.positions.learned import Learned
from kvattn.positions.linear_interpolation import linear_rotary
from kvattn.positions.llama3 import llama3_rotary
from kvattn.positions.log_cpb import GridBias
from kvattn.positions.longrope import LongRope
from kvattn.positions.multimodal import Multimodal
from kvattn.positions.ntk import ntk_rotary
from kvattn.positions.polar import Polar
from kvattn.positions.proportional import proportional_rotary
from kvattn.positions.relative_projection import RelativeProjection
from kvattn.positions.rotary import Rotary, geometric
from kvattn.positions.sandwich import Sandwich
from kvattn.positions.shaw import ShawKeys
from kvattn.positions.sinusoidal import Sinusoidal
from kvattn.positions.t5_buckets import BothWays, BucketBias, OneWay
from kvattn.positions.temperature import Temperature
from kvattn.positions.transformer_xl import TransformerXL
from kvattn.positions.xpos import XPos
from kvattn.positions.yarn import yarn_rotary

__all__ = [
    "Alibi",
    "KeyAlibi",
    "SymmetricAlibi",
    "Disentangled",
    "LogBuckets",
    "DistanceTable",
    "Fire",
    "KerpleLog",
    "KerplePower",
    "GridBias",
    "RelativeProjection",
    "Sandwich",
    "ShawKeys",
    "BothWays",
    "BucketBias",
    "OneWay",
    "TransformerXL",
    "DynamicNTK",
    "Learned",
    "LongRope",
    "Multimodal",
    "Polar",
    "Rotary",
    "Sinusoidal",
    "Temperature",
    "XPos",
    "geometric",
    "linear_rotary",
    "llama3_rotary",
    "ntk_rotary",
    "proportional_rotary",
    "yarn_rotary",
]
