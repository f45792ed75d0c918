"""Anchors, windows and their combinations, planted as tables of who sees whom."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.sight import read_causal, read_together, read_window
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of

CORE = Planted(returns_lse=False)
Table = Callable[[Any, Any, int, int, int], Any]


def causal(table: Table) -> Lab:
    """A target whose causal mask is a table over row i, key j, T and S."""

    def function(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
        T, S = q.shape[2], k.shape[2]
        keep = table(np.arange(T)[:, None], np.arange(S), T, S, 0) if causal else np.ones((T, S), bool)
        return CORE(q, k, v, mask=np.broadcast_to(keep, (*q.shape[:3], S)))

    return Lab(target_of(function))


def windowed(table: Table) -> Lab:
    """The same with a window."""

    def function(q: Any, k: Any, v: Any, *, causal: bool = False, window: int | None = None) -> Any:
        T, S = q.shape[2], k.shape[2]
        i, j = np.arange(T)[:, None], np.arange(S)
        keep = (j <= i + S - T) | (not causal)
        keep = keep if window is None else table(i, j, T, S, window)
        return CORE(q, k, v, mask=np.broadcast_to(keep, (*q.shape[:3], S)))

    return Lab(target_of(function))


@pytest.mark.parametrize(
    ("table", "fault_class", "parameters"),
    [
        (lambda i, j, T, S, w: j <= i, "causal-align", {"anchor": "top_left", "shift": 0}),
        (lambda i, j, T, S, w: j < i + S - T, "causal-align", {"anchor": "bottom_right", "shift": -1}),
        (lambda i, j, T, S, w: j >= i + S - T, "mask-polarity", {"argument": "causal"}),
        (lambda i, j, T, S, w: (j <= i) | True, "mask-dropped", {"argument": "causal"}),
        (lambda i, j, T, S, w: j <= i // 4 * 4 + 3 + S - T, "mask-compose", {"row_group": 4, "of": "rows of the call"}),
        (lambda i, j, T, S, w: (j <= i + S - T) | (T > S), "causal-align", {"when": "T > S", "offset": "unsigned"}),
        (
            lambda i, j, T, S, w: j <= (i // 4 * 4 + 3 if T > 4 else i) + S - T,
            "mask-compose",
            {"row_group": 4, "of": "rows of the call", "when": "T = 5"},
        ),
        (
            lambda i, j, T, S, w: j <= (i // 32 * 32 + 31 if T > 32 else i) + S - T,
            "mask-compose",
            {"row_group": 32, "of": "rows of the call", "when": "T = 70"},
        ),
    ],
)
def test_a_causal_table_is_named(table: Table, fault_class: str, parameters: dict[str, Any]) -> None:
    lab = causal(table)
    read_causal(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.kind) == (fault_class, "fault")
    assert {name: finding.parameters[name] for name in parameters} == parameters


def test_another_anchor_for_more_queries_than_keys_is_a_convention() -> None:
    lab = causal(lambda i, j, T, S, w: j <= i + max(S - T, 0))
    read_causal(lab)
    assert [(f.kind, f.parameters["when"]) for f in lab.findings] == [("convention", "T > S")]


@pytest.mark.parametrize(
    ("table", "fault_class", "parameters"),
    [
        (lambda i, j, T, S, w: (j <= i + S - T) & (i + S - T - j <= w), "window-off-by-one", {"extra": 1}),
        (lambda i, j, T, S, w: (j <= i + S - T) & (i + S - T - j < w - 1), "window-off-by-one", {"extra": -1}),
        (lambda i, j, T, S, w: j <= i + S - T, "mask-dropped", {"argument": "window"}),
        (lambda i, j, T, S, w: (j <= i + S - T) & (i - j < w), "causal-align", {"of": "window"}),
        (lambda i, j, T, S, w: np.abs(i + S - T - j) < w, "mask-dropped", {"argument": "causal", "with": ["window"]}),
        (lambda i, j, T, S, w: i + S - T - j < w, "mask-dropped", {"argument": "causal", "with": ["window"]}),
        (lambda i, j, T, S, w: (j <= i + S - T) | (i + S - T - j < w), "mask-compose", {"operator": "or"}),
        (lambda i, j, T, S, w: (j <= i + S - T) & ((i + S - T - j < w) | (T == 1)), "mask-dropped", {"when": "T = 1"}),
        (lambda i, j, T, S, w: (j <= i + S - T) & (i + S - T - j < max(w, 2)), "mask-compose", {"window": 1}),
    ],
)
def test_a_window_is_named(table: Table, fault_class: str, parameters: dict[str, Any]) -> None:
    lab = windowed(table)
    read_window(lab)
    (finding,) = lab.findings
    assert finding.fault_class == fault_class
    assert {name: finding.parameters[name] for name in parameters} == parameters


@pytest.mark.parametrize(
    ("join", "fault_class", "parameters"),
    [
        (lambda a, b: a | b, "mask-compose", {"operator": "or"}),
        (lambda a, b: a, "mask-dropped", {"argument": "mask", "with": ["causal"]}),
        (lambda a, b: b, "mask-dropped", {"argument": "causal", "with": ["mask"]}),
        (lambda a, b: a & np.roll(b, 1, -1), "mask-compose", {"of": ["causal", "mask"]}),
    ],
)
def test_two_masks_must_intersect(join: Callable[[Any, Any], Any], fault_class: str, parameters: Any) -> None:
    def function(q: Any, k: Any, v: Any, *, causal: bool = False, mask: Any = None) -> Any:
        T, S = q.shape[2], k.shape[2]
        triangle = np.broadcast_to(np.arange(S) <= np.arange(T)[:, None] + S - T, (*q.shape[:3], S))
        given = [x for x in (triangle if causal else None, mask) if x is not None]
        return CORE(q, k, v, mask=join(*given) if len(given) == 2 else given[0] if given else None)

    lab = Lab(target_of(function))
    read_together(lab)
    (finding,) = lab.findings
    assert finding.fault_class == fault_class
    assert {name: finding.parameters[name] for name in parameters} == parameters
    assert not lab.can("causal", "mask")


def test_a_mask_that_another_option_switches_off_is_named() -> None:
    def function(q: Any, k: Any, v: Any, *, causal: bool = False, softcap: float | None = None) -> Any:
        return CORE(q, k, v, causal=causal and softcap is None, softcap=softcap)

    lab = Lab(target_of(function))
    read_together(lab)
    assert lab.findings[0].parameters == {"argument": "causal", "with": ["softcap"]}


def test_a_cap_after_the_mask_is_told_by_the_weight_that_leaks() -> None:
    lab = Lab(planted(cap_last=True))
    read_together(lab)
    assert lab.findings[0].parameters["weight"] == pytest.approx(np.exp(-0.9), abs=1e-5)


@pytest.mark.parametrize("read", [read_causal, read_window, read_together])
def test_the_contract_is_not_reported(read: Callable[[Lab], None]) -> None:
    lab = Lab(planted())
    read(lab)
    assert lab.findings == []


@pytest.mark.parametrize(
    ("table", "anchor", "otherwise"),
    [
        (lambda i, j, T, S, w: j <= i + max(S - T, 0), "top_left", "bottom_right"),
        (lambda i, j, T, S, w: j <= i + min(S - T, 0), "bottom_right", "top_left"),
    ],
)
def test_an_anchor_that_switches_with_the_sign_of_s_minus_t_is_named(table: Table, anchor: str, otherwise: str) -> None:
    lab = causal(table)
    read_causal(lab)
    finding = next(finding for finding in lab.findings if "when" in finding.parameters)
    assert finding.parameters == {"anchor": anchor, "when": "T > S", "otherwise": otherwise}
    assert "switches with the sign of S - T" in finding.detail


def test_a_triangle_that_is_elsewhere_in_decoding_alone_is_named_and_is_nobodys_convention() -> None:
    lab = causal(lambda i, j, T, S, w: j <= i + (S - T if T > 1 else 0))
    read_causal(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters["anchor"]) == ("causal-align", "top_left")
    assert finding.parameters["when"] == "T = 1"
    assert "convention" not in finding.detail


def test_a_later_part_of_a_prompt_that_sees_one_ahead_is_named() -> None:
    lab = causal(lambda i, j, T, S, w: j <= i + S - T + (1 < T < S))
    read_causal(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters["shift"]) == ("causal-align", 1)
    assert finding.parameters["when"] == "T = 4, S = 9"


@pytest.mark.parametrize("tile", [16, 32])
def test_tiles_that_a_window_skips_by_their_last_row_are_seen(tile: int) -> None:
    """The first tile of keys is that of the last row of a tile of queries, so that earlier rows lose keys."""

    def skips(i: Any, j: Any, T: int, S: int, w: int) -> Any:
        last = np.minimum(i // tile * tile + tile, T) - 1 + S - T
        return (j <= i + S - T) & (i + S - T - j < w) & (j >= (last - w + 1) // tile * tile)

    lab = windowed(skips)
    read_window(lab)
    (finding,) = lab.findings
    assert finding.fault_class == "mask-compose"
    assert "T=70, S=150" in finding.detail
