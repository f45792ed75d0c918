"""Eight-bit floats under a scale of their own: in fractions, box by box."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kvattn.codecs import E4M3FN, E4M3FNUZ, E5M2, Float8, Sharing, SmallFloat
from tests.codecs.cases import boxes, fractions, single
from tests.codecs.integers import BOXES, rows, sharing_of
from tests.codecs.test_small_float import by_hand, positive


def scaled_by_hand(x: Any, kind: SmallFloat, box: Any) -> tuple[Any, Any]:
    """Codes and scales: the largest of a box over the largest of the format, rounded to float32."""
    exact, numbers = fractions(x), positive(kind)
    codes, scales = np.zeros(x.shape, int), np.zeros([n // b for n, b in zip(x.shape, box, strict=True)])
    for place, members in boxes(x.shape, box):
        scale = single(max(abs(exact[at]) for at in members) / Fraction(kind.largest))
        scales[place] = float(scale)
        for at in members:
            code = by_hand(abs(exact[at]) / scale, numbers) if scale else 0
            codes[at] = code + 128 * (exact[at] < 0) * bool(code or kind.negative_zero)
    return codes, scales


@pytest.mark.by_hand("codecs/float8")
@pytest.mark.parametrize("kind", [E4M3FN, E5M2, E4M3FNUZ], ids=str)
@pytest.mark.parametrize("which", range(4))
def test_codes_and_scales_by_hand(kind: SmallFloat, which: int) -> None:
    x = rows(which)
    for box in BOXES[::2]:
        found = Float8(kind, Sharing(*sharing_of(box))).encode(x)
        codes, scales = scaled_by_hand(x, kind, box)
        assert np.array_equal(found.codes, codes)
        assert np.array_equal(found.scales.astype(float), scales)


def test_the_stated_relative_error() -> None:
    x = np.random.default_rng(0).standard_normal((1, 50, 64))
    codec = Float8()
    scales = codec.encode(x).scales
    normal = np.abs(x) / scales >= 2.0**-6
    assert (codec.error(x) <= np.where(normal, np.abs(x) * 2.0**-4, scales * 2.0**-10) * (1 + 1e-6)).all()
