"""The command line: ``kvattn check``, ``kvattn golden`` and ``kvattn doctor``.

Data go to stdout, messages and progress to stderr; so does whatever a target writes, past Python too.  Exit codes:
0 pass or convention, 1 fault, 2 usage error, 3 internal error, 4 damaged goldens, 130 interrupted.  With ``--json``
stdout is one JSON document at each of them: at 2, 3, 4 and 130 an object whose ``error`` is the sentence that stderr
has.  NumPy is imported only by a command that computes.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
import difflib
import json
import os
import sys
import traceback
from typing import Any, NoReturn

from kvattn.errors import ArgumentError, DamagedError, KvattnError

_EXAMPLES = """\
examples:
  kvattn check                                    verify this installation
  kvattn check torch.nn.functional:scaled_dot_product_attention
  kvattn check mymodule:my_attention              name what is wrong with a function
  kvattn check mymodule:my_attention --json       the same, for a program
  kvattn check mymodule:my_attention --write-test a pytest file for it
  kvattn golden list --flag KNOWN_BUG             recorded cases, here those of known bugs
  kvattn golden export --format safetensors --into DIR
  kvattn doctor                                   versions, BLAS, CPU, and the probe
"""

_CONTRACT = """\
A function to check is importable from the working directory or the environment and has the form

  f(q, k, v, *, causal=False, window=None, scale=None, softcap=None, sinks=None, bias=None, mask=None)

on [B, H, T, D] arrays, Hq a multiple of Hkv, with any subset of these keywords; only those in its
signature are exercised.  It returns out or (out, lse).  With T < S the queries are the last T
positions; window comes only together with causal=True; mask is boolean, True = may see.

A rotation has the form rotate(x, positions) or rotate(q, k, positions), a layer layer(x, *, w_q, w_k, w_v, w_o,
heads, kv_heads, …); what they should be stands beside them: rotate.expects = Rotary.of(64), layer.expects = Plan(…).

A counter has the form flops(*, query_heads, kv_heads, queries, keys, width, causal=False, window=None, …) or
cache_bytes(*, kv_heads, tokens, width, itemsize, window=None, …), any subset of the sizes; seq_len, num_kv_heads,
head_dim and other usual names are known.

exit codes: 0 pass or convention, 1 fault, 2 usage error, 3 internal error; with --json stdout is one
JSON document at each of them, {"error": …} at 2 and 3

examples:
  kvattn check
  kvattn check torch.nn.functional:scaled_dot_product_attention
  kvattn check mymodule:my_attention --dtype float32 --seed 7
  kvattn check mymodule:MyCacheAdapter            five methods: kvattn.testing.conformance
"""

_GOLDENS = """\
exit codes: 0 all is well, 2 usage error, 3 internal error, 4 damaged: a file or a value is not what was recorded

examples:
  kvattn golden list --family dense/causal
  kvattn golden verify
  kvattn golden export --flag KNOWN_BUG --format json --into DIR
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise ArgumentError(message)


def _parser() -> argparse.ArgumentParser:
    from kvattn import __version__

    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="kvattn",
        description="The reference that attention code is tested against.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"kvattn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="check an attention function, or this installation",
        description="Check an attention function; without TARGET, this installation.",
        epilog=_CONTRACT,
        formatter_class=raw,
    )
    check.add_argument("target", nargs="?", metavar="TARGET", help="module:callable")
    check.add_argument("--cases", type=int, help="drawn cases (80, 24 where calls are slow; 6 by variant and law)")
    kinds = ("float64", "float32", "float16", "bfloat16")
    check.add_argument("--dtype", choices=kinds, default="float64", help="of the inputs")
    check.add_argument("--seed", type=int, default=0, help="of the cases; the same seed gives the same report")
    check.add_argument(
        "--write-test",
        nargs="?",
        const="",
        metavar="FILE",
        help="write a pytest file for the target, test_<name>.py unless named (needs the testing extra)",
    )
    check.set_defaults(run=_check)

    golden = commands.add_parser(
        "golden",
        help="list, verify or export the recorded cases",
        description="Recorded cases: inputs, and outputs rounded correctly from exact arithmetic.",
        epilog=_GOLDENS,
        formatter_class=raw,
    )
    actions = golden.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="name the recorded cases and what each shows")
    verifying = actions.add_parser("verify", help="compare checksums, and compute every value again in decimal")
    exporting = actions.add_parser("export", help="write cases for other languages")
    recording = actions.add_parser("record", help="compute all cases from their recipes")
    for action in (listing, exporting):
        action.add_argument("--family", help="the first part of the names, such as dense or dense/causal")
        action.add_argument("--row", help="a line of the catalogue, such as masks/window or masks")
        action.add_argument("--flag", action="append", default=[], help="a flag or bug type; may be given again")
        action.add_argument("--result", choices=("valid", "acceptable", "invalid"), help="what the cases say")
    exporting.add_argument("--format", choices=("json", "safetensors", "npz"), required=True, help="what to write")
    for action in (exporting, recording):
        action.add_argument("--into", required=True, metavar="DIR", help="folder to write into")

    doctor = commands.add_parser("doctor", help="print versions, BLAS, CPU features, threads and the probe")
    doctor.set_defaults(run=_doctor)
    for action in (listing, verifying, exporting, recording):
        action.set_defaults(run=_golden)
    for command in (check, listing, verifying, exporting, recording, doctor):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--no-color", action="store_true", help="print without colour")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Words after ``kvattn``; those of the process if None.

    Returns
    -------
    int
        The exit code.

    Examples
    --------
    >>> main(["check", "math:sin"])
    2
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = _parser()
        if not words:
            parser.print_help(sys.stderr)
            return 2
        if not words[0].startswith("-") and words[0] not in _COMMANDS:
            return _complain(f"no command {words[0]!r}{_suggestion(words[0])}; kvattn --help lists them", 2, words)
        options = parser.parse_args(words)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as exit_:  # argparse leaves this way, after --help too
        code = exit_.code if isinstance(exit_.code, int) else 2
        return _complain("the program was left before it had a result", code, words) if code else 0
    except KeyboardInterrupt:
        return _complain("interrupted", 130, words)
    except Exception as error:  # noqa: BLE001 - whatever it is, the exit code must say whose it is
        code, message = _told(error)
        if code == 3:
            traceback.print_exc()
        return _complain(message, code, words)


_COMMANDS = ("check", "golden", "doctor")


def _told(error: Exception) -> tuple[int, str]:
    """The exit code of an exception, and the sentence that goes with it."""
    if isinstance(error, DamagedError):
        return 4, str(error)
    if isinstance(error, KvattnError):
        return 2, str(error)
    if isinstance(error, OSError):  # a folder that cannot be written, a disk that is full
        return 2, str(error) if error.filename is None else f"{error.filename} must be usable, got {error.strerror}"
    return 3, "internal error; please report it with the output of kvattn doctor"


def _complain(message: str, code: int, words: Sequence[str]) -> int:
    print(f"kvattn: error: {message}", file=sys.stderr)
    if "--json" in words:
        _print_json({"schemaVersion": 1, "error": message, "exitCode": code})
    return code


@contextmanager
def _quiet() -> Iterator[None]:
    """Point descriptor 1 to where 2 points: what is written past Python's ``sys.stdout`` leaves stdout alone."""
    import ctypes

    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except OSError:  # there is no stdout
        yield
        return
    try:
        with suppress(OSError):
            os.dup2(2, 1)
        yield
    except SystemExit as left:
        raise ArgumentError(f"target must stay in the program, got an exit with code {left.code}") from left
    finally:
        with suppress(OSError, AttributeError):  # what C holds back until the program ends
            ctypes.CDLL("ucrtbase" if os.name == "nt" else None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _suggestion(word: str) -> str:
    if ":" in word:
        return f"; did you mean kvattn check {word}"
    close = difflib.get_close_matches(word, _COMMANDS, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}" if close else ""


def _progress() -> Callable[[str], None]:
    """Return what shows a step on one line of stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        return lambda _: None

    def show(text: str) -> None:
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    return show


def _painted(text: str, verdict: str, options: argparse.Namespace) -> str:
    """Colour the first occurrence of the verdict, where colour is wanted."""
    wanted = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    wanted = (wanted or "FORCE_COLOR" in os.environ) and not os.environ.get("NO_COLOR") and not options.no_color
    code = {"pass": 32, "convention": 33, "fault": 31}[verdict]
    return text.replace(verdict, f"\x1b[{code}m{verdict}\x1b[0m", 1) if wanted else text


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _print_report(report: Any, options: argparse.Namespace) -> None:
    if options.json:
        _print_json(report.as_dict())
        return
    first, _, rest = str(report).partition("\n")
    name, colon, _ = first.rpartition(":")
    print(f"{name}{colon} {_painted(report.verdict, report.verdict, options)}\n{rest}")


def _check(options: argparse.Namespace) -> int:
    show = _progress()
    if options.target is None:
        if options.write_test is not None:
            raise ArgumentError("--write-test needs a target, got none")
        return _check_installation(options, show)
    from kvattn.testing.cache_checking import load_cache

    with _quiet():
        cache = load_cache(options.target)
    if cache is not None:
        return _check_cache(options, cache, show)
    from kvattn.testing.checking import check
    from kvattn.testing.kinds import load
    from kvattn.testing.targets import Target

    written = loaded = None
    if options.write_test is not None:
        with _quiet():
            loaded = load(options.target)
        if not isinstance(loaded, Target):
            raise ArgumentError("--write-test needs attention, f(q, k, v, …), got a rotation, a layer or a counter")
        from kvattn.testing.writing import new_file

        written = new_file(loaded, options.write_test)
    with _quiet():
        report = check(options.target, seed=options.seed, dtype=options.dtype, cases=options.cases, progress=show)
    show("")
    if written is not None and isinstance(loaded, Target):  # first: who reads stdout may stop early
        from kvattn.testing.writing import text_of

        with written.open("x", encoding="utf-8") as file:
            file.write(text_of(loaded, report))
        print(f"written: {written}", file=sys.stderr)
    _print_report(report, options)
    return int(report.verdict == "fault")


def _check_cache(options: argparse.Namespace, adapter: Any, show: Callable[[str], None]) -> int:
    from kvattn.testing.cache_checking import check_cache

    if options.write_test is not None:
        raise ArgumentError("--write-test needs a function, got a cache; derive a class from CacheMachine for one")
    drawn = 40 if options.cases is None else options.cases
    with _quiet():
        report = check_cache(adapter, name=options.target, seed=options.seed, drawn=drawn, progress=show)
    show("")
    _print_report(report, options)
    return int(report.verdict == "fault")


def _check_installation(options: argparse.Namespace, show: Callable[[str], None]) -> int:
    from kvattn.testing.installation import Engine, seeded, verify

    engine: Engine = seeded
    source = f"seed {options.seed}"
    with suppress(ImportError):  # the testing extra
        from kvattn.testing.strategies import drawn

        engine, source = drawn, f"{source}, drawn and shrunk by Hypothesis"
    examples = 6 if options.cases is None else options.cases
    outcomes = list(verify(examples=examples, seed=options.seed, tick=show, engine=engine))
    show("")
    verdict = "fault" if any(outcome.broken for outcome in outcomes) else "pass"
    tried = sum(outcome.tried for outcome in outcomes)
    broken = [outcome for outcome in outcomes if outcome.broken]
    if options.json:
        rows = [{"variant": o.variant, "law": o.law, "tried": o.tried, "held": not o.broken} for o in outcomes]
        findings = [
            {
                "class": outcome.law,
                "kind": "fault",
                "parameters": {"variant": outcome.variant},
                "detail": outcome.broken,
                "reproduce": outcome.reproduce,
            }
            for outcome in broken
        ]
        head = {"schemaVersion": 1, "target": "installation", "verdict": verdict, "findings": findings}
        _print_json({**head, "seed": options.seed, "source": source, "outcomes": rows})
        return int(verdict == "fault")
    variants, laws = (list(dict.fromkeys(names)) for names in zip(*((o.variant, o.law) for o in outcomes), strict=True))
    wide = max(map(len, variants))
    for variant in variants:
        own = [outcome for outcome in outcomes if outcome.variant == variant]
        held, cases = sum(not outcome.broken for outcome in own), sum(outcome.tried for outcome in own)
        state = "hold" if held == len(own) else "BROKEN"
        print(f"{variant:<{wide}}  {held:>2} of {len(own)} laws {state:<6}  {cases:>5} cases")
    for outcome in broken:
        print(f"\n{outcome.variant} breaks {outcome.law}: {outcome.broken}\n  reproduce: {outcome.reproduce}")
    text = f"\n{verdict}: {len(laws)} laws, {len(variants)} variants, {tried} cases, {source}"
    print(_painted(text, verdict, options))
    return int(verdict == "fault")


def _golden(options: argparse.Namespace) -> int:
    from kvattn.goldens import commands

    show = _progress()
    try:
        answer = commands.answer(options, show)
    finally:
        show("")
    if options.json:
        _print_json(answer.data)
    else:
        print(answer.text)
    return answer.code


def _doctor(options: argparse.Namespace) -> int:
    from kvattn import __version__
    from kvattn.testing.doctor import examine

    found = examine()
    found["versions"]["kvattn"] = __version__
    if options.json:
        _print_json({"schemaVersion": 1, **found})
        return 0
    for heading, lines in found.items():
        print(heading)
        for name, value in lines.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            print(f"  {name}: {shown}")
    return 0
