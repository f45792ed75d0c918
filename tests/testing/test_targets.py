"""A target is read from its signature; what does not fit is refused in a sentence that says what would."""

from pathlib import Path
import sys
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.testing.targets import load, target_of


def good(q: Any, k: Any, v: Any, *, causal: bool = False, mask: Any = None) -> Any:
    return v


class Holder:
    """Something with a function inside."""

    @staticmethod
    def attend(q: Any, k: Any, v: Any) -> Any:
        return q @ k @ v


def test_only_the_keywords_of_the_signature_are_features() -> None:
    assert target_of(good).features == {"causal", "mask"}
    assert target_of(Holder.attend).features == set()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda q, k, v, **more: v, r"target must name its keywords, got \*\*more; expected f\(q, k, v"),
        (lambda *arrays: arrays, r"target must name its keywords, got \*arrays"),
        (lambda q, k, v, heads: v, "target must need only what the contract has, got required heads"),
        (lambda q, k: q, r"target must take q, k, v first, got \(q, k\)"),
        (lambda q, k, mask: q, r"target must take q, k, v first, got \(q, k, mask\)"),
        (lambda q, k, v, *, window=None: v, "target must take causal where it takes window"),
        (3, "target must be callable, got int"),
    ],
)
def test_another_form_is_refused_with_what_is_expected(function: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        target_of(function)


def test_a_known_keyword_without_a_default_is_given_its_neutral_value() -> None:
    def needs(q: Any, k: Any, v: Any, causal: bool, scale: float | None) -> Any:
        assert causal is False
        assert scale is None
        return v

    array = np.ones((1, 1, 1, 1))
    assert target_of(needs)(array, array, array, {}).out.shape == (1, 1, 1, 1)


def test_a_pair_is_an_output_and_its_lse() -> None:
    def pair(q: Any, k: Any, v: Any) -> Any:
        return v, v[..., 0]

    array = np.ones((1, 1, 2, 3))
    result = target_of(pair)(array, array, array, {})
    assert result.lse is not None
    assert result.lse.shape == (1, 1, 2)


def test_what_a_target_prints_does_not_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    def loud(q: Any, k: Any, v: Any) -> Any:
        sys.stdout.write("hello\n")
        return v

    array = np.ones((1, 1, 1, 1))
    target_of(loud)(array, array, array, {})
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    "returned", ["words", {"out": 1}, None, np.ones(2, np.complex64), np.ones(2, object), iter(())]
)
def test_what_is_no_array_of_real_numbers_is_refused(returned: Any) -> None:
    one = np.zeros((1, 1, 1, 1))
    with pytest.raises(TypeError, match="out must be an array of real numbers, got"):
        target_of(lambda q, k, v: returned)(one, one, one, {})
    with pytest.raises(TypeError, match="lse must be an array of real numbers, got str of <U5"):
        target_of(lambda q, k, v: (v, "words"))(one, one, one, {})


@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble", "int64", "bool"])
def test_numbers_come_as_they_are(dtype: str) -> None:
    one = np.zeros((1, 1, 1, 1))
    assert target_of(lambda q, k, v: one.astype(dtype))(one, one, one, {}).out.dtype == dtype


def test_a_target_that_leaves_the_program_has_raised() -> None:
    one = np.zeros((1, 1, 1, 1))
    with pytest.raises(RuntimeError, match="the function left the program with code 7"):
        target_of(lambda q, k, v: sys.exit(7))(one, one, one, {})


def test_a_name_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_a_user.py").write_text("class A:\n    def f(q, k, v, *, scale=None): return v\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    target = load("module_of_a_user:A.f")
    assert target.features == {"scale"}
    assert target.name == "module_of_a_user:A.f"
    assert target.setup == "import module_of_a_user; f = module_of_a_user.A.f"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("math", "target must have the form module:callable, got math"),
        ("math:", "target must have the form module:callable, got math:"),
        ("no_such_module_here:f", "target must be importable, got no_such_module_here:f: No module named"),
        ("math:sine", "target must exist, got math:sine, and math has no sine"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        load(name)


def test_a_module_that_fails_to_import_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_breaks.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ArgumentError, match="ZeroDivisionError: division by zero"):
        load("module_that_breaks:f")


def test_speed_is_said_with_true_or_false() -> None:
    def attend(q: Any, k: Any, v: Any) -> Any:
        return v

    assert target_of(attend).slow is None
    attend.slow = True  # type: ignore[attr-defined]
    assert target_of(attend).slow is True
    attend.slow = 1  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match="slow of target must be True or False, got 1"):
        target_of(attend)
