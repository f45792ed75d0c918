"""No false alarm: attention that is right passes, in whatever style; a documented choice is a convention.

CI draws fewer cases and asks for the keywords that most functions take; ``KVATTN_PROFILE=deep`` draws more and asks
for all.
"""

from collections.abc import Callable
from dataclasses import replace
import os
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.keywords import PLAIN
from kvattn.testing.planted import Planted
from kvattn.testing.targets import Target, load, target_of

Arrays = Any
DEEP = os.environ.get("KVATTN_PROFILE") == "deep"
CASES = 16 if DEEP else 5
"""How many cases are drawn where it is a read-out that names a thing."""


def asked(function: Callable[..., Any]) -> Target:
    """A function with the keywords that this profile asks for: of few, all."""
    target = target_of(function)
    return target if DEEP or len(target.features) < 8 else replace(target, features=target.features & {*PLAIN})


def _causal(q: Arrays, k: Arrays) -> Arrays:
    return np.tri(q.shape[2], k.shape[2], k.shape[2] - q.shape[2], bool)


def one_liner(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
    g = q.shape[1] // k.shape[1]
    e = np.exp((s := q @ np.repeat(k, g, 1).mT / np.sqrt(q.shape[3], dtype=q.dtype)) - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ np.repeat(v, g, 1)


def grouped_einsum(q: Arrays, k: Arrays, v: Arrays, *, scale: float | None = None) -> Arrays:
    B, Hq, T, D = q.shape
    a = q.dtype.type(D**-0.5 if scale is None else scale)
    s = np.einsum("bgxtd,bgsd->bgxts", q.reshape(B, k.shape[1], -1, T, D) * a, k)
    e = np.exp(s - s.max(-1, keepdims=True))
    out = np.einsum("bgxts,bgsd->bgxtd", e, v) / e.sum(-1)[..., None]
    return out.reshape(B, Hq, T, -1)


def heads_last(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False) -> Arrays:
    q, k, v = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[3]), q.dtype)
    for h in range(q.shape[2]):
        g = h // (q.shape[2] // k.shape[2])
        s = np.einsum("btd,bsd->bts", q[:, :, h], k[:, :, g]) / np.sqrt(q.shape[3], dtype=q.dtype)
        for t in range(q.shape[1]):
            n = max(0, k.shape[1] - q.shape[1] + t + 1) if causal else k.shape[1]
            if n:
                e = np.exp(s[:, t, :n] - s[:, t, :n].max(-1, keepdims=True))
                out[:, t, h] = np.einsum("bs,bsd->bd", e / e.sum(-1, keepdims=True), v[:, :n, g])
    return out.swapaxes(1, 2)


def log_softmax(q: Arrays, k: Arrays, v: Arrays, *, sinks: Arrays = None) -> Arrays:
    """A sink as sigmoid(lse - sink): the same function as one logit more."""
    g = q.shape[1] // k.shape[1]
    s = q @ np.repeat(k, g, 1).mT * q.dtype.type(q.shape[3] ** -0.5)
    lse = np.logaddexp.reduce(s, -1)
    out = np.exp(s - lse[..., None]) @ np.repeat(v, g, 1)
    if sinks is None:
        return out
    return out / (1 + np.exp(sinks[:, None] - lse))[..., None]


def split_in_two(q: Arrays, k: Arrays, v: Arrays, *, splits: int = 2) -> Arrays:
    parts = [
        Planted()(q, k[:, :, cut], v[:, :, cut]) for cut in np.array_split(np.arange(k.shape[2]), splits) if cut.size
    ]
    lse = np.stack([lse for _, lse in parts])
    whole = np.logaddexp.reduce(lse, 0)
    return sum(np.exp(n - whole)[..., None] * out for (out, _), n in zip(parts, lse, strict=True)).astype(
        v.dtype
    ), whole


def additive(q: Arrays, k: Arrays, v: Arrays, *, mask: Arrays = None) -> Arrays:
    """Takes 0 and -inf, as transformers' eager attention does, and guards what nobody sees."""
    bias = None if mask is None else np.broadcast_to(mask, (*q.shape[:3], k.shape[2]))
    return Planted(returns_lse=False)(q, k, v, mask=None if bias is None else bias == 0)


additive.mask_form = "additive"  # type: ignore[attr-defined]


def zero_one(q: Arrays, k: Arrays, v: Arrays, *, mask: Arrays = None) -> Arrays:
    return Planted(returns_lse=False)(q, k, v, mask=None if mask is None else np.asarray(mask) == 1)


zero_one.mask_form = "zero-one"  # type: ignore[attr-defined]


def refuses_much(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, mask: Arrays = None) -> Arrays:
    if q.shape[2] > k.shape[2] or (mask is not None and (causal or mask.ndim != 4)):
        raise ValueError("not supported")
    return Planted(returns_lse=False)(q, k, v, causal=causal, mask=mask)


refuses_much.exclusive = [("causal", "mask")]  # type: ignore[attr-defined]


def set_of_a_ring(
    q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, q_positions: Arrays = None, k_positions: Arrays = None
) -> Arrays:
    """Sorts the slots of a ring first: the same set, in another order."""
    if k_positions is not None:
        order = np.argsort(k_positions, -1)
        k, v = (np.take_along_axis(x, order[:, None, :, None], 2) for x in (k, v))
        k_positions = np.sort(k_positions, -1)
    return Planted(returns_lse=False)(q, k, v, causal=causal, q_positions=q_positions, k_positions=k_positions)


RIGHT: list[Callable[..., Any]] = [
    *(one_liner, grouped_einsum, heads_last, log_softmax, split_in_two),
    *(additive, zero_one, refuses_much, set_of_a_ring, Planted(), Planted(returns_lse=False)),
]


@pytest.mark.parametrize("function", RIGHT, ids=lambda f: getattr(f, "__name__", repr(f)))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_is_right_passes(function: Callable[..., Any], dtype: str) -> None:
    report = check(asked(function), dtype=dtype, cases=24 if DEEP else 8)
    assert report.findings == ()
    assert report.verdict == "pass"


def test_kvattn_itself_passes() -> None:
    assert check(load("kvattn.testing.contract:attend"), cases=24 if DEEP else 8).findings == ()


def declared(conventions: set[str], **faults: Any) -> Any:
    """A function that has made another choice, and says so."""
    made = Planted(**faults)

    def function(
        q: Arrays,
        k: Arrays,
        v: Arrays,
        *,
        causal: bool = False,
        window: int | None = None,
        alibi: bool = False,
        mask: Arrays = None,
    ) -> Arrays:
        return made(q, k, v, causal=causal, window=window, alibi=alibi, mask=mask)

    function.conventions = conventions  # type: ignore[attr-defined]
    return function


CHOICES: list[tuple[str, dict[str, Any], str]] = [
    ("B001 B002 B003 B007 B009", {"anchor": "top_left"}, "causal-align"),
    ("B047", {"extra_keys": 1}, "window-off-by-one"),
    ("B055", {"empty": "nan"}, "empty-row"),
    ("B006, as elsewhere", {"empty": "mean"}, "empty-row"),
    ("B266, declared", {"log_base": 2}, "lse-merge"),
    ("torch", {"guard_values": False}, "masked-nan"),
    ("key_padding_mask", {"mask_reads": "blocked"}, "mask-polarity"),
    ("B152 B154", {"formulas": {"slopes": "2 ** (-8 * (h + 1) / H)"}}, "alibi-slopes"),
    ("section 5: a row constant", {"formulas": {"penalty": "-m * abs(at - j) + m * at"}}, "alibi-slopes"),
]


@pytest.mark.parametrize(("row", "faults", "fault_class"), CHOICES, ids=[choice[0] for choice in CHOICES])
def test_a_documented_choice_is_a_convention_and_an_undocumented_one_a_fault(
    row: str, faults: dict[str, Any], fault_class: str
) -> None:
    report = check(declared({fault_class}, **faults), cases=CASES)
    assert report.verdict == "convention", row
    assert {(f.fault_class, f.kind) for f in report.findings} == {(fault_class, "convention")}
    silent = check(declared(set(), **faults), cases=CASES)
    if row.startswith("section 5"):  # without sinks it is nobody's fault
        assert silent.verdict == "convention"
        return
    assert silent.verdict == "fault"
    assert "Elsewhere a convention" in silent.findings[0].detail


def test_a_declaration_excuses_only_what_is_legal_somewhere() -> None:
    assert check(declared({"causal-align"}, shift=1), cases=CASES).verdict == "fault"
    assert check(declared({"window-off-by-one"}, extra_keys=2), cases=CASES).verdict == "fault"


def test_a_penalty_with_another_row_constant_is_no_fault_where_nothing_can_see_it() -> None:
    def by_keys(q: Arrays, k: Arrays, v: Arrays, *, alibi: bool = False, causal: bool = False) -> Arrays:
        return Planted(formulas={"penalty": "-m * abs(at - j) + 3 * m * at"}, returns_lse=False)(
            q, k, v, alibi=alibi, causal=causal
        )

    assert check(by_keys, cases=CASES).findings == ()


def test_bottom_right_with_empty_rows_of_zero_passes() -> None:
    """B008: more queries than keys, the first rows come back as zeros."""

    def tall(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False) -> Arrays:
        out = Planted(returns_lse=False)(q, k, v, causal=causal)
        if causal:
            assert not out[:, :, : max(0, q.shape[2] - k.shape[2])].any()
        return out

    assert check(tall, cases=CASES).verdict == "pass"
