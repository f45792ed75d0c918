"""Reading: by name, by what a case is about; nothing can be written to; damage is one sentence."""

import hashlib
from pathlib import Path
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from kvattn import goldens
from kvattn.errors import ArgumentError, DamagedError
from kvattn.goldens.reading import RECORDED, every_case, files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "v1"))


def test_a_case_is_found_by_name() -> None:
    case = goldens.load("dense/causal/fewer-queries")
    assert case.row == "masks/causal"
    assert case.parameters["causal"] is True
    assert case.inputs["q"].shape == (1, 4, 3, 6)
    assert {flag.bug_type for flag in case.flags} == {"KNOWN_BUG", "CONVENTION"}
    assert "aligned to the top left" in case.mistakes
    assert case.sibling == "dense/grouped/plain"
    assert repr(case).startswith("Case('dense/causal/fewer-queries', masks/causal, valid: q [1, 4, 3, 6], ")


def test_outputs_of_no_query_have_their_shapes() -> None:
    case = goldens.load("dense/grouped/no-query")
    assert {name: (x.shape, x.dtype.name) for name, x in case.expected.items()} == {
        "out": ((1, 4, 0, 7), "float64"),
        "lse": ((1, 4, 0), "float64"),
    }
    assert case.bounds == {"out": 0.0, "lse": 0.0}


def test_arrays_and_fields_are_read_only() -> None:
    case = goldens.load("dense/empty-row/one")
    arrays = [*case.inputs.values(), *case.expected.values()]
    arrays += [array for outputs in case.alternatives.values() for array in outputs.values()]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    for mapping in (case.inputs, case.expected, case.alternatives, case.parameters, case.bounds):
        with pytest.raises(TypeError):
            mapping["x"] = 0  # type: ignore[index]
    with pytest.raises(AttributeError):
        case.name = "another"  # type: ignore[misc]


def test_what_a_caller_does_to_parameters_is_not_seen_by_the_next() -> None:
    """A file is decoded once for the same bytes; an implementation that sorts a list of lengths spoils its own only."""
    case = next(case for case in goldens.cases() if any(isinstance(x, list) and x for x in case.parameters.values()))
    name = next(name for name, x in case.parameters.items() if isinstance(x, list) and x)
    before = list(case.parameters[name])
    case.arguments()[name].clear()
    assert goldens.load(case.name).parameters[name] == before


def test_cases_are_chosen_by_what_they_are_about() -> None:
    every = goldens.cases()
    assert len({case.name for case in every}) == len(every)
    assert [case.name for case in every] == sorted(case.name for case in every)
    dense = goldens.cases(family="dense")
    assert {case.name.partition("/")[0] for case in dense} == {"dense"}
    assert {case.name.rpartition("/")[0] for case in goldens.cases(family="dense/causal")} == {"dense/causal"}
    assert {case.row for case in goldens.cases(row="masks/window")} == {"masks/window"}
    assert {case.row.partition("/")[0] for case in goldens.cases(row="masks")} == {"masks"}
    known = goldens.cases(flags="KNOWN_BUG")
    assert all(any(flag.bug_type == "KNOWN_BUG" and flag.links for flag in case.flags) for case in known)
    either = goldens.cases(flags=["LseBase", "OnnxTile"])
    assert {flag.name for case in either for flag in case.flags} >= {"LseBase", "OnnxTile"}
    assert {case.result for case in goldens.cases(result="invalid")} == {"invalid"}
    merges = goldens.cases(operation="merge")
    assert {case.operation for case in merges} == {"merge"}
    simple = goldens.cases(operation="attention", takes={"q", "k", "v", "causal"})
    assert {case.name for case in simple} >= {"dense/grouped/plain", "dense/causal/square"}
    assert all(case.arguments().keys() <= {"q", "k", "v", "causal"} for case in simple)
    both = goldens.cases(family="dense", result="acceptable")
    assert both
    assert all(case.alternatives for case in both)


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"family": "dens"}, "family must be one of the recorded, got 'dens'; did you mean dense"),
        ({"row": "masks/widow"}, "row must be one of the recorded, got 'masks/widow'; did you mean masks/window"),
        ({"flags": "KNOWN_BUGS"}, "flags must be one of the recorded, got 'KNOWN_BUGS'; did you mean KNOWN_BUG"),
        ({"operation": "attend"}, "operation must be one of the recorded, got 'attend'"),
        ({"result": "fine"}, "result must be one of the recorded, got 'fine'"),
    ],
)
def test_a_filter_that_fits_nothing_is_refused(filters: dict[str, str], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        goldens.cases(**filters)  # type: ignore[arg-type]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match="got 'dense/grouped/plan'; did you mean dense/grouped/plain"):
        goldens.load("dense/grouped/plan")


def test_small_formats_are_decoded() -> None:
    case = goldens.load("dense/few-bits/bfloat16")
    assert case.dtypes["k"] == "bfloat16"
    assert case.inputs["k"].dtype == np.uint16
    wide = (case.inputs["k"].astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(case.decoded("k"), wide)
    assert np.array_equal(case.decoded("out"), case.expected["out"])
    assert np.array_equal(case.arguments()["k"], wide)
    assert case.arguments()["k"].dtype == np.float64
    whole = goldens.load("dense/array/shared").arguments()
    assert whole["mask"].dtype == np.bool_
    with pytest.raises(ArgumentError, match="has the arrays q, k, v, out, lse, got 'x'"):
        case.decoded("x")


def swapped_digit(text: str) -> str:
    """A digit of the first expected value is another."""
    found = re.search(r'"expected": \{\s*"\w+": \{[^[]*\[[^]]*\], "values": \[-?\d\.(\d)', text)
    assert found
    digit = found[1]
    return text[: found.start(1)] + ("1" if digit != "1" else "2") + text[found.end(1) :]


def test_a_changed_file_is_noticed(copied: Path) -> None:
    path = copied / "dense" / "lse.json"
    path.write_text(swapped_digit(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(DamagedError, match=r"dense/lse.json of the goldens must have SHA-256 [0-9a-f]{12}…, got"):
        files(copied)


def test_a_changed_value_under_a_new_checksum_is_noticed(copied: Path) -> None:
    path = copied / "dense" / "lse.json"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text(swapped_digit(path.read_text(encoding="utf-8")), encoding="utf-8")
    total = copied / "SHA256SUMS"
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    total.write_text(total.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    with pytest.raises(DamagedError, match="expected of dense/lse/base-2 must have the digest that stands beside"):
        list(every_case(copied))


def test_a_missing_or_added_file_is_noticed(copied: Path) -> None:
    (copied / "dense" / "more.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DamagedError, match=r"must have the files of SHA256SUMS and no others, .* dense/more.json"):
        files(copied)
    (copied / "dense" / "more.json").unlink()
    (copied / "dense" / "lse.json").unlink()
    with pytest.raises(DamagedError, match=r"got a difference in dense/lse\.json"):
        files(copied)
    (copied / "SHA256SUMS").write_text("", encoding="utf-8")
    with pytest.raises(DamagedError, match=r"got a difference in [^,]+\.json, [^,]+\.json, [^,]+\.json and \d+ more$"):
        files(copied)
    (copied / "SHA256SUMS").unlink()
    with pytest.raises(DamagedError, match="the goldens need a readable file SHA256SUMS, got none in v1"):
        files(copied)


def test_reading_needs_no_exact_arithmetic() -> None:
    code = "import sys; from kvattn import goldens; goldens.cases(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {f"kvattn.goldens.{name}" for name in ("numbers", "bounds", "formulas", "recipe", "recipes")}
    assert {name.partition(".")[0] for name in loaded} & {"mpmath", "hypothesis", "torch", "safetensors"} == set()
