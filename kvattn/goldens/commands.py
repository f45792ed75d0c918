"""What ``kvattn golden`` answers: as text for people, as data for programs, and with an exit code."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kvattn.goldens.reading import RECORDED, Case, cases


class Answer(NamedTuple):
    """What to print and how to leave.

    >>> Answer("all is well", {}, 0).code
    0
    """

    text: str
    data: dict[str, Any]
    code: int


def answer(options: Namespace, tick: Callable[[str], None] = lambda _: None) -> Answer:
    """Do what a command line asks for.

    Parameters
    ----------
    options
        ``action`` (list, verify, export or record) and what it takes: ``family``, ``row``, ``flag``, ``result``;
        ``format``, ``into``.
    tick
        Told what is being worked on.

    Returns
    -------
    Answer
        Code 4 where a recorded value is not what its formula gives.

    Raises
    ------
    ArgumentError
        A filter that fits nothing, or a recorded case that would change.
    DamagedError
        A file is not what its checksum promises.

    Examples
    --------
    >>> listed = answer(Namespace(action="list", family="dense/lse", row=None, flag=[], result=None))
    >>> listed.text.splitlines()[0]
    'dense/lse/base-2         LseBase  The log-sum-exp to base 2.'
    """
    return {"list": _list, "verify": _verify, "export": _export, "record": _record}[options.action](options, tick)


def _chosen(options: Namespace) -> tuple[Case, ...]:
    return cases(family=options.family, row=options.row, flags=options.flag, result=options.result)


def _list(options: Namespace, _: Callable[[str], None]) -> Answer:
    found = _chosen(options)
    rows = [
        {
            "name": case.name,
            "row": case.row,
            "operation": case.operation,
            "result": case.result,
            "flags": [flag.name for flag in case.flags],
            "comment": case.comment,
        }
        for case in found
    ]
    flags = [", ".join(flag.name for flag in case.flags) for case in found]
    names, wide = max((len(case.name) for case in found), default=0), max(map(len, flags), default=0)
    lines = [f"{case.name:<{names}}  {flag:<{wide}}  {case.comment}" for case, flag in zip(found, flags, strict=True)]
    known = sum(any(flag.bug_type == "KNOWN_BUG" for flag in case.flags) for case in found)
    lines.append(f"{len(found)} cases, {known} of them of known bugs")
    return Answer("\n".join(lines), {"schemaVersion": 1, "cases": rows}, 0)


def _verify(_: Namespace, tick: Callable[[str], None]) -> Answer:
    from kvattn.goldens.verifying import verify

    found = verify(tick=tick)
    again = (
        f"{found.values} values, computed again from the stored inputs in decimal intervals of {found.digits} digits "
        "and more, round to the same float64"
    )
    lines = [
        f"{found.files} files have the checksums of SHA256SUMS",
        f"{found.cases} cases have the digests that stand beside their arrays",
        again,
        *(f"damaged: {line}" for line in found.wrong),
    ]
    data = {"schemaVersion": 1, "verdict": "damaged" if found.wrong else "pass", **found._asdict()}
    return Answer("\n".join(lines), data, 4 if found.wrong else 0)


def _export(options: Namespace, _: Callable[[str], None]) -> Answer:
    from kvattn.goldens.exporting import export

    found = _chosen(options)
    written = export(Path(options.into), options.format, [case.name for case in found])
    text = f"{len(found)} cases in {', '.join(path.name for path in written)}"
    return Answer(text, {"schemaVersion": 1, "cases": len(found), "files": [str(path) for path in written]}, 0)


def _record(options: Namespace, tick: Callable[[str], None]) -> Answer:
    from kvattn.goldens.recipes import every
    from kvattn.goldens.recording import manifests, record

    files = manifests(every(), tick)
    added = record(Path(options.into), files)
    where = " into the package's own folder" if Path(options.into).resolve() == RECORDED.resolve() else ""
    data = {"schemaVersion": 1, "files": len(files), "added": added}
    return Answer(f"{len(files)} files, {len(added)} cases added{where}", data, 0)
