"""How a score is bent, between scale and mask: one mod per file."""

from kvattn.mods.bias import Bias
from kvattn.mods.softcap import Softcap, softcap

__all__ = ["Bias", "Softcap", "softcap"]
