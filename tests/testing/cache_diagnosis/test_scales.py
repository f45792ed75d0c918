"""A scale that is kept too long is told by whose it is and by what it does to a token that is far larger."""

from typing import Any

import numpy as np
import pytest

from kvattn.codecs import NVFP4
from kvattn.errors import ShapeError
from kvattn.testing.cache_diagnosis.magnitudes import Sizes, read_sizes
from kvattn.testing.cache_diagnosis.scales import SHARED, Kept, growing, read_scales
from kvattn.testing.cache_diagnosis.storing import read_formats
from kvattn.testing.conformance import CacheAdapter, Capabilities, PagedAdapter, Seen
from kvattn.testing.planted_caches import PlantedCache, PlantedCodes, PlantedRing, PlantedScales
from kvattn.typing import Array
from tests.codecs.cases import CASES

OWN = tuple(name for name in SHARED if name != "channel of all sequences")


def test_the_newest_token_is_larger_by_another_factor_for_each_sequence_and_head() -> None:
    for rows in growing():
        sizes = np.abs(rows).max(axis=3)
        assert len(set((sizes[:, :, -1] / sizes[:, :, 0]).ravel().tolist())) == 4
        assert (sizes[:, :, -1] >= 4 * sizes[:, :, :-1].max(axis=2)).all()
        assert np.abs(rows).max() < 448  # the largest number of 8 bits, where no scale is


@pytest.mark.parametrize("shared", OWN)
def test_the_scale_of_the_first_append_is_seen_here_and_nowhere_else(shared: str) -> None:
    """The session's rows are all of one size, and those of `read_sizes` hardly grow: without this it goes unnoticed."""
    wrong = PlantedScales("cut", shared)
    assert list(read_scales(wrong)) == [Kept(field, "of the first append", shared, "cut") for field in "kv"]
    assert not any(one.wrong for one in read_sizes(wrong))


@pytest.mark.parametrize("shared", OWN)
def test_other_scales_that_do_not_belong_are_told(shared: str) -> None:
    found = list(read_scales(PlantedScales("cut", shared, token=True)))
    assert found == [Kept(field, "of the first token", shared, "cut") for field in "kv"]
    found = list(read_scales(PlantedScales("grown", shared)))
    assert found == [Kept(field, "of the newest append", shared, "grown") for field in "kv"]
    if shared != "channel":  # of one token in a channel cut and shrunk are the same
        found = list(read_scales(PlantedScales("shrunk", shared)))
        assert found == [Kept(field, "of the first append", shared, "shrunk") for field in "kv"]


@pytest.mark.parametrize(
    "right",
    [
        PagedAdapter(),
        PlantedCache(),
        PlantedRing(4),
        PlantedRing(1),
        PlantedCodes(),
        *(PlantedScales(shared=shared, levels=levels) for shared in OWN for levels in (127, 7, 1)),
    ],
    ids=str,
)
def test_right_caches_and_coarse_codes_are_not_accused(right: CacheAdapter) -> None:
    assert list(read_scales(right)) == []


class Through:
    """Rows go through a codec, those of an append or all that are there; tokens that fill no group stay as they are."""

    capabilities = Capabilities()

    def __init__(self, codec: Any, together: bool) -> None:
        self.codec, self.together = codec, together

    def start(self, batch: int) -> Any:
        return [np.zeros((batch, 2, 0, 64), np.float32)] * 2

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, list[Seen]]:
        pairs = list(zip(cache, (k, v), strict=True))
        if self.together:
            cache = [np.concatenate(pair, axis=2) for pair in pairs]
            return cache, [Seen(*map(self.coded, cache))]
        cache = [np.concatenate([old, self.coded(new)], axis=2) for old, new in pairs]
        return cache, [Seen(*cache)]

    def coded(self, rows: Any) -> Any:
        for group in (1, 2, 4):
            full = rows.shape[2] // group * group
            try:
                codes = [self.codec.encode(each[:, :full]) for each in rows]
            except ShapeError:
                continue
            return np.concatenate([[self.codec.decode(each, np.float32) for each in codes], rows[:, :, full:]], axis=2)
        raise AssertionError(f"{self.codec} takes no group of tokens")

    def rollback(self, cache: Any, tokens: int) -> Any: ...

    def select(self, cache: Any, indices: Any) -> Any: ...

    def branch(self, cache: Any) -> Any: ...


CODECS = {name: case.codec for name, case in CASES.items() if "nvfp4" not in name} | {"nvfp4": NVFP4(0.5)}
"""NVFP4 has one scale for all tensors, which must be of their size."""


@pytest.mark.parametrize("together", [False, True], ids=["each append", "all"])
@pytest.mark.parametrize("name", CODECS)
def test_no_codec_is_accused(name: str, together: bool) -> None:
    right = Through(CODECS[name], together)
    assert [one.wrong for one in read_sizes(right)] in ([False, False], [])
    assert list(read_scales(right)) == []
    assert not any(one.read_as for one in read_formats(right))


def test_what_is_known_is_not_asked() -> None:
    class Known(PlantedScales):
        capabilities = Capabilities(untried=frozenset({"scale"}))

    assert list(read_scales(Known("cut"))) == []


def test_what_no_scale_explains_is_another_size() -> None:
    found = list(read_scales(PlantedCodes(of_token=0)))
    assert [type(one) for one in found] == [Sizes, Sizes]
    assert all(isinstance(one, Sizes) and one.varies == ("token",) and one.ratio < 0.2 for one in found)
