"""How rows of numbers become codes and scales, with a bound on what that costs: one format per file.

Nothing here says where codes are kept; `kvattn.codecs.codec` has the verbs that all formats share.

>>> import numpy as np
>>> from kvattn.codecs import Symmetric, nbytes
>>> codec, x = Symmetric(8), np.array([[[1.0, -0.5, 0.25, 0.1]]])
>>> x_hat = codec.decode(codec.encode(x), np.float64)
>>> bool((abs(x - x_hat) <= codec.error(x)).all()), nbytes(codec, x.shape), x.nbytes
(True, 8, 32)
"""

from kvattn.codecs.codec import Bare, Blocks, Codec, Part, Scaled, Shifted, nbytes
from kvattn.codecs.float8 import Float8
from kvattn.codecs.float8_fixed import Float8Fixed
from kvattn.codecs.hadamard import Rotated
from kvattn.codecs.kivi import Kivi
from kvattn.codecs.minimum import Minimum
from kvattn.codecs.mxfp4 import MXFP4
from kvattn.codecs.nvfp4 import NVFP4
from kvattn.codecs.q4_0 import Q4_0
from kvattn.codecs.q8_0 import Q8_0
from kvattn.codecs.sharing import (
    PER_CHANNEL,
    PER_HEAD,
    PER_TENSOR,
    PER_TOKEN,
    PER_TOKEN_HEAD,
    Sharing,
    groups_of,
    token_groups_of,
)
from kvattn.codecs.small_float import E2M1, E4M3FN, E4M3FNUZ, E5M2, SmallFloat
from kvattn.codecs.symmetric import Symmetric
from kvattn.codecs.zero_point import ZeroPoint

__all__ = [
    "Codec",
    "Part",
    "Scaled",
    "Shifted",
    "Bare",
    "Blocks",
    "nbytes",
    "Sharing",
    "PER_TOKEN_HEAD",
    "PER_TOKEN",
    "PER_CHANNEL",
    "PER_HEAD",
    "PER_TENSOR",
    "groups_of",
    "token_groups_of",
    "Symmetric",
    "ZeroPoint",
    "Minimum",
    "Kivi",
    "SmallFloat",
    "E4M3FN",
    "E5M2",
    "E4M3FNUZ",
    "E2M1",
    "Float8",
    "Float8Fixed",
    "MXFP4",
    "NVFP4",
    "Q8_0",
    "Q4_0",
    "Rotated",
]
