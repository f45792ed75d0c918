"""Where a token is: one scheme per file, all of them functions of absolute positions.

A scheme has ``rotate`` (queries and keys), ``embed`` (hidden states) or is a mod (scores).

>>> Rotary.of(2, base=100.0).frequencies
(1.0,)
"""

from kvattn.positions.alibi import Alibi
from kvattn.positions.dynamic_ntk import DynamicNTK
from kvattn.positions.learned import Learned
from kvattn.positions.linear_interpolation import linear_rotary
from kvattn.positions.llama3 import llama3_rotary
from kvattn.positions.longrope import LongRope
from kvattn.positions.multimodal import Multimodal
from kvattn.positions.ntk import ntk_rotary
from kvattn.positions.polar import Polar
from kvattn.positions.proportional import proportional_rotary
from kvattn.positions.rotary import Rotary, geometric
from kvattn.positions.sinusoidal import Sinusoidal
from kvattn.positions.temperature import Temperature
from kvattn.positions.xpos import XPos
from kvattn.positions.yarn import yarn_rotary

__all__ = [
    "Alibi",
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
