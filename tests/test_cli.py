"""The command line: words, exit codes, and what goes where."""

import json
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from kvattn import cli
from kvattn.cli import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "module_on_the_command_line.py").write_text(
        "from kvattn.testing.planted import Planted\n"
        "def good(q, k, v, *, causal=False, window=None):\n"
        "    return Planted()(q, k, v, causal=causal, window=window)\n"
        "def bad(q, k, v, *, causal=False, window=None):\n"
        "    return Planted(extra_keys=1)(q, k, v, causal=causal, window=window)\n"
        "def loud(q, k, v, *, causal=False):\n    print('hello')\n    return good(q, k, v, causal=causal)\n"
        "import ctypes, os, sys\n"
        "os.write(1, b'imported')\n"
        "def noisy(q, k, v):\n"
        "    os.write(1, b'noise')\n"
        "    ctypes.CDLL('ucrtbase' if os.name == 'nt' else None).puts(b'of C')\n"
        "    return good(q, k, v)\n"
        "def leaving(q, k, v):\n    sys.exit('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return "module_on_the_command_line"


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_do_not_import_numpy(word: str) -> None:
    code = f"import sys; from kvattn.cli import main; code = main([{word!r}]); sys.exit(code or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kvattn" in done.stdout


def test_help_has_examples(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    assert "kvattn check mymodule:my_attention" in capsys.readouterr().out
    assert main(["check", "-h"]) == 0
    assert "exit codes: 0 pass or convention, 1 fault, 2 usage error" in capsys.readouterr().out


def test_called_bare_it_says_how_it_is_called(capsys: Captured) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: kvattn")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chekc"], "kvattn: error: no command 'chekc'; did you mean check"),
        (["docter"], "kvattn: error: no command 'docter'; did you mean doctor"),
        (["my:function"], "kvattn: error: no command 'my:function'; did you mean kvattn check my:function"),
        (["check", "nothing"], "kvattn: error: target must have the form module:callable, got nothing"),
        (["check", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["check", "a:b", "--seed", "-1"], "kvattn: error: seed must be an integer >= 0, got -1"),
        (["check", "--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_a_usage_error_is_2_and_says_what_was_meant(words: list[str], message: str, capsys: Captured) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_good_function_is_0_and_a_bad_one_1(mine: str, capsys: Captured) -> None:
    assert main(["check", f"{mine}:good", "--cases", "5"]) == 0
    assert capsys.readouterr().out.startswith(f"{mine}:good: pass\n")
    assert main(["check", f"{mine}:bad", "--cases", "5"]) == 1
    out, err = capsys.readouterr()
    assert "fault: window-off-by-one" in out
    assert "W + 1 keys" in out
    assert err == ""


def test_json_is_a_document_on_stdout_whatever_the_target_prints(mine: str, capsys: Captured) -> None:
    assert main(["check", f"{mine}:loud", "--json", "--cases", "5", "--seed", "4"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["schemaVersion"] == 1
    assert found["target"] == f"{mine}:loud"
    assert (found["verdict"], found["findings"], found["seed"]) == ("pass", [], 4)
    assert "hello" in err
    assert main(["check", f"{mine}:bad", "--json", "--cases", "5"]) == 1
    finding = json.loads(capsys.readouterr().out)["findings"][0]
    assert set(finding) == {"class", "kind", "parameters", "detail", "reproduce"}


def test_what_is_written_past_python_goes_to_stderr(mine: str, capfd: Captured) -> None:
    assert main(["check", f"{mine}:noisy", "--json", "--cases", "1"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["verdict"] == "pass"
    assert "noise" in err
    assert "of C" in err


def test_a_program_reads_json_from_a_pipe_whatever_the_target_writes(mine: str) -> None:
    words = [sys.executable, "-m", "kvattn", "check", f"{mine}:noisy", "--json", "--cases", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "pass"
    assert "imported" in done.stderr


def test_a_module_that_leaves_the_program_is_no_pass(tmp_path: Path, mine: str, capsys: Captured) -> None:
    (tmp_path / "module_that_leaves.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    assert main(["check", "module_that_leaves:f", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "target must stay in the program, got an exit with code 0"
    assert main(["check", f"{mine}:leaving", "--cases", "1"]) == 1


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["check", "nothing", "--json"], 2, "target must have the form module:callable, got nothing"),
        (["check", "--seed", "x", "--json"], 2, "argument --seed: invalid int value: 'x'"),
        (["chekc", "--json"], 2, "no command 'chekc'; did you mean check; kvattn --help lists them"),
        (["check", "--write-test", "--json"], 2, "--write-test needs a target, got none"),
        (["golden", "list", "--flag", "None", "--json"], 2, "flags must be one of the recorded, got 'None'"),
    ],
)
def test_an_error_is_json_on_stdout_and_a_sentence_on_stderr(
    words: list[str], code: int, error: str, capsys: Captured
) -> None:
    assert main(words) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schemaVersion": 1, "error": error, "exitCode": code}
    assert f"kvattn: error: {error}" in err


def test_colour_only_where_it_is_wanted(mine: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["check", f"{mine}:good", "--cases", "0"]
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    main(words)
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(words)
    assert "\x1b[32mpass\x1b[0m" in capsys.readouterr().out
    main([*words, "--no-color"])
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    main(words)
    assert "\x1b" not in capsys.readouterr().out


def test_progress_goes_to_a_terminal_only(mine: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["check", f"{mine}:good", "--cases", "1"]) == 0
    assert "head map" in capsys.readouterr().err


def outcomes(broken: str) -> Any:
    made = [
        SimpleNamespace(variant=v, law=law, tried=3, broken=broken if law == "two" else "", reproduce="replay()")
        for v in ("a", "b")
        for law in ("one", "two")
    ]
    return lambda **words: iter(made)


def test_without_a_target_the_installation_is_verified(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvattn.testing.installation.verify", outcomes(""))
    assert main(["check"]) == 0
    out = capsys.readouterr().out
    assert "pass: 2 laws, 2 variants, 12 cases, seed 0" in out
    assert [" ".join(line.split()) for line in out.splitlines()[:2]] == [
        "a 2 of 2 laws hold 6 cases",
        "b 2 of 2 laws hold 6 cases",
    ]
    monkeypatch.setattr("kvattn.testing.installation.verify", outcomes("ValueError: off"))
    assert main(["check"]) == 1
    out = capsys.readouterr().out
    assert "a   1 of 2 laws BROKEN      6 cases" in out
    assert "a breaks two: ValueError: off\n  reproduce: replay()" in out
    assert main(["check", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["target"], found["verdict"]) == ("installation", "fault")
    assert [finding["class"] for finding in found["findings"]] == ["two", "two"]
    assert len(found["outcomes"]) == 4


def test_doctor_prints_the_probe(capsys: Captured) -> None:
    assert main(["doctor"]) == 0
    assert "\nprobe\n" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schemaVersion"] == 1
    assert found["versions"]["kvattn"] == __import__("kvattn").__version__


@pytest.mark.parametrize(
    ("raised", "code"), [(RuntimeError("odd"), 3), (KeyboardInterrupt(), 130), (SystemExit("no"), 2)]
)
def test_whatever_happens_the_exit_code_says_whose_fault_it_is(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def broken(options: object) -> int:
        raise raised

    monkeypatch.setattr(cli, "_doctor", broken)
    assert main(["doctor"]) == code
    out, err = capsys.readouterr()
    assert ("internal error" in err) == (code == 3)
    assert out == ""
    assert main(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["exitCode"] == code
    assert found["error"] in err


def test_a_folder_that_cannot_be_is_a_usage_error(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    folder = str(tmp_path / "file" / "x")
    assert main(["golden", "export", "--format", "json", "--family", "dense/lse", "--into", folder]) == 2
    err = capsys.readouterr().err
    assert "must be usable, got Not a directory" in err
    assert "Traceback" not in err


def test_a_closed_pipe_is_quiet() -> None:
    words = f"{sys.executable} -m kvattn doctor | head -n 0"
    done = subprocess.run(["/bin/sh", "-c", words], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_python_m_kvattn_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kvattn", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("kvattn ")


@pytest.fixture
def two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows are verified elsewhere."""
    from kvattn.testing.zoo import ZOO

    monkeypatch.setattr("kvattn.testing.installation.ZOO", {name: ZOO[name] for name in ("grouped", "cross")})


@pytest.mark.usefixtures("two_rows")
def test_without_hypothesis_the_installation_is_verified_from_a_seed(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kvattn.testing.strategies", None)
    assert main(["check", "--cases", "1"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("seed 0")


@pytest.mark.usefixtures("two_rows")
def test_with_hypothesis_it_draws(capsys: Captured) -> None:
    assert main(["check", "--cases", "1"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("seed 0, drawn and shrunk by Hypothesis")


def test_a_cache_is_checked_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "kvattn.testing.conformance:PagedAdapter", "--cases", "2"]) == 0
    assert capsys.readouterr().out.startswith("kvattn.testing.conformance:PagedAdapter: pass\n  ")
    assert main(["check", "kvattn.testing.conformance:PagedAdapter", "--cases", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    assert main(["check", "kvattn.testing.conformance:PagedAdapter", "--write-test"]) == 2
    assert "derive a class from CacheMachine" in capsys.readouterr().err
