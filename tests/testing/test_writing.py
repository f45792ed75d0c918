"""The written test file runs: it passes for what is right, and fails for what is wrong."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
import subprocess
import sys
from typing import Any

from hypothesis import Phase
import pytest

from kvattn import cli
from kvattn.cli import main
from kvattn.errors import ArgumentError
from kvattn.testing.arithmetic import BFLOAT16_TENSOR_CORE, Arithmetic
from kvattn.testing.calls import DisagreementError
from kvattn.testing.checking import Report, check
from kvattn.testing.keywords import KEYWORDS
from kvattn.testing.passing import must_pass
from kvattn.testing.planted import Planted
from kvattn.testing.planted.wrapped import OwnSink
from kvattn.testing.targets import Target, load, target_of
from kvattn.testing.writing import new_file, text_of

ROOT = Path(__file__).parents[2]
LOADED = any(point.value == "kvattn.pytest_plugin" for point in entry_points(group="pytest11"))
MINE = """
from kvattn.testing.planted import Planted

right = Planted()
def mine(q, k, v, *, causal=False, window=None, scale=None):
    return Planted({change})(q, k, v, causal=causal, window=window, scale=scale)
"""

QUICK = """
from hypothesis import Phase, settings

settings.register_profile("quick", phases=[Phase.generate])
settings.load_profile("quick")
"""
"""A smaller case of what fails is worth its seconds to a user, and nothing here."""


def test_for_what_is_right_it_passes(tmp_path: Path) -> None:
    """As a user has it: written by the command, run by pytest."""
    (tmp_path / "mine.py").write_text(MINE.format(change=""))
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    checked = run("kvattn", "check", "mine:mine", "--cases", "8", "--write-test")
    assert "test_mine.py" in checked.stderr, checked.stderr
    assert 'FEATURES = ("causal", "window", "scale")' in (tmp_path / "test_mine.py").read_text()
    ran = run("pytest", "-q", *(() if LOADED else ("-p", "kvattn.pytest_plugin")), "test_mine.py")
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout


def test_for_what_is_wrong_it_fails_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_tiled.py").write_text(MINE.format(change="head_map='h % Hkv'"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["check", "mine_tiled:mine", "--cases", "1", "--write-test"]) == 1
    text = (tmp_path / "test_mine.py").read_text()
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - that it runs is what is tested
    with pytest.raises(DisagreementError, match="fault: gqa-map"):
        names["test_it_is_what_the_contract_says"](partial(must_pass, cases=1))
    assert "must be" in agrees(text)


def test_it_is_written_even_where_nobody_reads_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(report: Report, options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_print_report", closed)
    place = tmp_path / "test_it.py"
    words = ["check", "kvattn.testing.contract:attend", "--cases", "0", "--write-test", str(place)]
    assert main(words) == 130
    assert "FEATURES" in place.read_text()


def test_a_file_that_exists_stays(tmp_path: Path) -> None:
    place = tmp_path / "test_it.py"
    place.write_text("mine")
    with pytest.raises(ArgumentError, match=r"--write-test must name a new file, got .*test_it.py, which exists"):
        new_file(load("kvattn.testing.contract:attend"), str(place))
    assert main(["check", "kvattn.testing.contract:attend", "--write-test", str(place)]) == 2
    assert place.read_text() == "mine"


def test_what_cannot_be_imported_cannot_be_written() -> None:
    target = target_of(lambda q, k, v: v)
    with pytest.raises(ArgumentError, match="target must be importable to be written into a test"):
        text_of(target, check(target, cases=0))


def test_the_installation_is_no_target_to_write_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--write-test"]) == 2
    assert "--write-test needs a target" in capsys.readouterr().err


KERNEL = """
from kvattn.testing.planted import Planted

def attend(q, k, v, *, {keywords}):
    if {need}:
        raise ValueError("not these sizes")
    return Planted({{change}})(q, k, v, {given})
{declared}
"""


def kernel(*keywords: str, need: str = "False", declared: str = "", mask: str = "mask") -> str:
    """The text of a module with a function of these keywords, but for what is wrong with it."""
    neutral = {"causal": False, "return_weights": False}
    names = ", ".join(f"{name}={neutral.get(name)}" for name in keywords)
    given = ", ".join(f"{name}={mask if name == 'mask' else name}" for name in keywords)
    return KERNEL.format(keywords=names, need=need, given=given, declared=declared)


def agrees(text: str, function: Callable[..., Any] | None = None) -> str:
    """Run the drawn calls of a written file, few and not shrunk, on another function if given; return what is told."""
    names: dict[str, Any] = {"Phase": Phase}
    quick = "max_examples=60, derandomize=True, database=None, phases=(Phase.generate,), deadline=None"
    text = text.replace("max_examples=24, ", "").replace("deadline=None", quick)
    exec(text, names)  # noqa: S102 - that it runs is what is tested
    if function is not None:
        names["f"] = function
    try:
        names["test_it_agrees_with_the_definition"]()
    except DisagreementError as error:
        return str(error)
    return ""


BESIDE: dict[str, tuple[str, dict[str, Any], str]] = {
    "sinks": (kernel("causal", "window", "sinks"), {"lost": {"sinks": "window is not None"}}, "sink"),
    "pages": (kernel("lengths", "block_table"), {"formulas": {"page": "table[0]"}}, "paged-table"),
    "documents": (kernel("causal", "segments"), {"ignore": ("segments",)}, "varlen"),
    "starts": (kernel("causal", "starts"), {"formulas": {"starts": "s > b"}}, "padding-positions"),
    "mask of numbers": (
        kernel("causal", "mask", mask="None if mask is None else mask == 0", declared="attend.mask_form = 'additive'"),
        {"lost": {"mask": "causal"}},
        "mask-dropped",
    ),
    "sizes": (
        kernel("causal", "window", need="q.shape[3] not in (16, 32) or len(q) > 1"),
        {"extra_keys": 1},
        "window-off-by-one",
    ),
    "softcap in float32": (kernel("softcap", "scale"), {"cap": "c * tanh(s / c) * 1.001"}, "softcap"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_fault_beside_any_keyword_fails_the_drawn_calls_until_it_is_mended(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, ways, fault_class = BESIDE[name]
    monkeypatch.syspath_prepend(tmp_path)
    module = f"{''.join(filter(str.isalnum, name))}_wrong"
    for end, change in (("wrong", ways), ("right", {})):
        words = ", ".join(f"{word}={value!r}" for word, value in change.items())
        (tmp_path / f"{module.replace('wrong', end)}.py").write_text(source.format(change=words))
    target = load(f"{module}:attend")
    report = check(target, cases=4, dtype="float32" if "float32" in name else "float64")
    assert fault_class in {finding.fault_class for finding in report.findings}
    text = text_of(target, report)
    assert agrees(text)
    assert not agrees(text, load(f"{module.replace('wrong', 'right')}:attend").function), text


def test_all_that_was_found_is_written_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in ``written`` is one that ruff and mypy read with the others."""
    monkeypatch.chdir(ROOT)
    target = load("tests.testing.written.kernel:attend")
    text = text_of(target, check(target, cases=8))
    assert text == (ROOT / "tests/testing/written/for_kernel.py").read_text()
    assert not agrees(text)


@cache
def contract() -> tuple[Target, Report]:
    """A target that takes the plain keywords, and what a check finds."""
    target = load("kvattn.testing.contract:attend")
    return target, check(target, cases=0)


def softmax_one(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
    """A logit of 0 stands in every denominator."""
    return OwnSink(0.0)(q, k, v, causal=causal)


softmax_one.conventions = {"sink"}  # type: ignore[attr-defined]


def test_where_nothing_can_be_compared_the_check_stands_alone() -> None:
    target = target_of(softmax_one, setup="from mine import softmax_one as f")
    report = check(target, cases=1)
    assert (report.verdict, report.margin) == ("convention", None)
    rows = text_of(target, report).splitlines()
    assert rows[5:] == [
        "from collections.abc import Callable",
        "",
        "from mine import softmax_one as f",
        "",
        "",
        "def test_it_is_what_the_contract_says(kvattn_check: Callable[..., object]) -> None:",
        "    kvattn_check(f)",
    ]
    nested = text_of(replace(target, setup="import mine; f = mine.softmax_one"), report)
    assert "import Callable\n\nimport mine\n\nf = mine.softmax_one\n\n\ndef test" in nested
    named = text_of(replace(target, name="mine:TARGET", conventions=frozenset()), report)
    assert "import Callable\n\n\ndef test" in named
    assert '    kvattn_check("mine:TARGET")\n' in named


def test_conventions_are_written_and_faults_are_not() -> None:
    def attend(q: Any, k: Any, v: Any, *, causal: bool = False, window: int | None = None) -> Any:
        return Planted(anchor="top_left", head_map="h % Hkv", extra_keys=1)(q, k, v, causal=causal, window=window)

    attend.conventions = {"causal-align"}  # type: ignore[attr-defined]
    target = target_of(attend, setup="from mine import attend as f")
    assert 'WAYS = Behaviour(anchor="top_left")' in text_of(target, check(target, cases=1)).splitlines()


def test_what_only_the_target_declares_is_looked_up_by_its_name() -> None:
    target, report = contract()
    assert "    kvattn_check(f)\n" in text_of(target, report)
    declared = replace(target, conventions=frozenset({"causal-align"}))
    assert '    kvattn_check("kvattn.testing.contract:attend")\n' in text_of(declared, report)


@pytest.mark.parametrize(
    ("within", "line"),
    [
        (Arithmetic("float64"), ""),
        (Arithmetic("float64", tiles=0, merges=1), ""),
        (Arithmetic("float32"), 'INSIDE = Arithmetic(compute="float32")'),
        (Arithmetic("float64", exp_ulp=9.0), 'INSIDE = Arithmetic(compute="float64", exp_ulp=9.0)'),
        (BFLOAT16_TENSOR_CORE, "INSIDE = BFLOAT16_TENSOR_CORE"),
    ],
)
def test_another_arithmetic_than_that_of_the_inputs_is_written(within: Arithmetic, line: str) -> None:
    target, report = contract()
    text = text_of(target, replace(report, within=within))
    assert (line in text.splitlines()) if line else ("INSIDE" not in text)
    names: dict[str, Any] = {}
    exec(text, names)  # noqa: S102 - that it runs is what is tested
    assert names.get("INSIDE", within) == within


def test_a_long_line_is_laid_out_as_a_formatter_leaves_it() -> None:
    target, report = contract()
    rows = text_of(replace(target, features=frozenset(KEYWORDS)), report).splitlines()
    first = rows.index("FEATURES = (")
    assert rows[first + 1 : first + 3] == ['    "causal",', '    "window",']
    assert rows[first + len(KEYWORDS) + 1] == ")"
    assert max(map(len, rows)) <= 88
