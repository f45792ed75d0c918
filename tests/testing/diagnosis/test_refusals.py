"""A function that takes only some shapes is read at those; what it refused is told, and is no fault."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Untaken
from kvattn.testing.diagnosis.recipe import FLAT, ONE_HOT, RANDOM, Recipe, Sizes
from kvattn.testing.diagnosis.refusals import read_shapes
from kvattn.testing.planted import Planted
from kvattn.testing.shapes import Shapes
from kvattn.testing.targets import target_of

RIGHT = Planted(returns_lse=False)


def only(takes: Callable[..., bool]) -> Callable[..., Any]:
    """Attention that raises at other shapes."""

    def attend(q: Any, k: Any, v: Any, *, causal: bool = False, window: int | None = None, mask: Any = None) -> Any:
        if not takes(
            B=q.shape[0],
            G=q.shape[1] // k.shape[1],
            T=q.shape[2],
            S=k.shape[2],
            D=q.shape[3],
            Dv=v.shape[3],
            causal=causal,
        ):
            raise ValueError("no such shape")
        return RIGHT(q, k, v, causal=causal, window=window, mask=mask)

    return attend


CASES: dict[str, tuple[Callable[..., bool], Shapes]] = {
    "all shapes": (lambda **n: True, Shapes()),
    "multiples of 8": (lambda D, Dv, **n: D % 8 == Dv % 8 == 0, Shapes(head_dims=(8, 16, 24, 32, 64, 128, 256))),
    "64 or 128": (lambda D, Dv, **n: {D, Dv} <= {64, 128}, Shapes(head_dims=(64, 128))),
    "powers of two, one width": (
        lambda D, Dv, **n: Dv == D and D & (D - 1) == 0 and D >= 16,
        Shapes(head_dims=(16, 32, 64, 128, 256), equal_head_dims=True),
    ),
    "at most 128": (lambda D, Dv, **n: max(D, Dv) <= 128, Shapes(head_dims=range(1, 129))),
    "one width": (lambda D, Dv, **n: Dv == D, Shapes(equal_head_dims=True)),
    "at least 32": (lambda D, Dv, **n: min(D, Dv) >= 32, Shapes(head_dims=(32, 64, 128, 256))),
    "one sequence": (lambda B, **n: B == 1, Shapes(batch_sizes=(1,))),
    "groups of 1, 2, 4": (lambda G, **n: G in {1, 2, 4}, Shapes(group_sizes=(1, 2, 4))),
    "one query": (lambda T, **n: T == 1, Shapes(query_lengths=(1,))),
    "as many queries as keys": (lambda T, S, **n: T == S, Shapes(equal_lengths=True)),
    "with causal": (lambda T, S, causal, **n: T == S or not causal, Shapes(equal_lengths=frozenset({"causal"}))),
    "blocks of 16 keys": (lambda S, **n: S % 16 == 0, Shapes(key_lengths=range(16, 257, 16))),
    "blocks of both": (
        lambda T, S, **n: S % 16 == T % 16 == 0,
        Shapes(key_lengths=range(16, 257, 16), query_lengths=range(16, 257, 16)),
    ),
    "one sequence, 64, one query": (
        lambda B, T, D, Dv, **n: B == T == 1 and D == Dv == 64,
        Shapes(batch_sizes=(1,), query_lengths=(1,), head_dims=(64,)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_taken_is_found_out_and_told(name: str) -> None:
    takes, shapes = CASES[name]
    lab = Lab(target_of(only(takes)))
    read_shapes(lab)
    assert lab.shapes == shapes
    assert lab.findings == []
    assert all("ValueError: no such shape" in note for note in lab.notes)
    assert bool(lab.notes) == (name != "all shapes")


@pytest.mark.parametrize(
    "name", ["64 or 128", "groups of 1, 2, 4", "one sequence, 64, one query", "with causal", "blocks of both"]
)
def test_what_is_right_at_the_shapes_that_it_takes_passes(name: str) -> None:
    report = check(only(CASES[name][0]), cases=8)
    assert report.findings == ()
    assert report.margin is not None
    assert report.margin.cases == 8


def test_one_shape_alone_is_read() -> None:
    lab = Lab(target_of(only(lambda **n: (n["B"], n["T"], n["S"], n["D"], n["Dv"]) == (1, 128, 128, 64, 64))))
    read_shapes(lab)
    assert lab.case(Sizes(3, 6, 2, 4, 9, 12, 12), FLAT, RANDOM).sizes == Sizes(1, 6, 2, 128, 128, 64, 64)
    assert "no such shape" in lab.notes[0]


def test_what_is_declared_is_not_asked_for() -> None:
    asked: set[int] = set()

    def attend(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
        asked.update(x.shape[3] for x in (q, k, v))
        return RIGHT(q, k, v, causal=causal)

    attend.head_dims = (64, 80)  # type: ignore[attr-defined]
    attend.batch_sizes = (1,)  # type: ignore[attr-defined]
    report = check(attend, cases=8)
    assert report.verdict == "pass"
    assert asked == {64, 80}
    assert "Read at what it declares: head_dims 64, 80; batch_sizes 1" in report.notes


def test_what_raises_for_everything_is_reported() -> None:
    def broken(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
        raise RuntimeError("CUDA error")

    report = check(broken, cases=8)
    assert report.verdict == "fault"
    assert report.findings[0].detail.startswith("It raises RuntimeError: CUDA error")


def test_an_answer_of_another_shape_is_no_refusal() -> None:
    report = check(lambda q, k, v: np.ones((2, 2)), cases=8)
    assert "Out has shape" in report.findings[0].detail


def test_values_that_are_too_wide_are_read_in_blocks_and_shown_in_one_call() -> None:
    wrong = Planted(shift=1, returns_lse=False)

    def attend(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
        assert q.shape[3] == v.shape[3] == 8
        return wrong(q, k, v, causal=causal)

    lab = Lab(target_of(attend), shapes=Shapes(head_dims=(8,)))
    case = lab.case(Sizes(T=20, S=20), FLAT, ONE_HOT, causal="True")
    assert case.sizes == Sizes(T=20, S=20, D=8, Dv=20)
    assert np.array_equal(lab.support(case)[0, 0], np.tri(20, 20, 1, bool))
    line = lab.line(case)
    assert "np.zeros((1, 1, 20, 8))" in line
    exec(line, {"f": attend})  # noqa: S102 - that it runs is what is tested


def test_sizes_that_are_not_taken_are_not_tried() -> None:
    lab = Lab(target_of(only(lambda **n: True)), shapes=Shapes(batch_sizes=(1,)))
    with pytest.raises(Untaken):
        lab.see(Recipe(Sizes(B=2)))
    assert lab.calls == 0
