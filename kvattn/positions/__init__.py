"""Where a token is: one scheme per file, all of them functions of absolute positions.

A scheme has ``rotate`` (queries and keys), ``embed`` (hidden states) or is a mod (scores).

>>> Rotary.of(2, base=100.0).frequencies
(1.0,)
"""

from kvattn.positions.alibi import Alibi
from kvattn.positions.learned import Learned
from kvattn.positions.rotary import Rotary, geometric
from kvattn.positions.sinusoidal import Sinusoidal

__all__ = ["Alibi", "Learned", "Rotary", "Sinusoidal", "geometric"]
