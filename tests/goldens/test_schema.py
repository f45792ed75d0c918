"""Every manifest follows the JSON Schema that stands beside it, by a validator of the keywords that it uses."""

from collections.abc import Iterator
import json
import re
from typing import Any

import pytest

from kvattn.goldens.reading import RECORDED, files
from kvattn.goldens.recording import schema

SCHEMA = json.loads(schema())
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
ANNOTATIONS = {"$schema", "$id", "title", "$defs"}


def complaints(value: Any, rules: dict[str, Any], place: str = "") -> Iterator[str]:
    """Where a value breaks the rules; an unknown keyword is an error of the schema."""
    for keyword, rule in rules.items():
        if keyword == "$ref":
            yield from complaints(value, SCHEMA["$defs"][rule.rpartition("/")[2]], place)
        elif keyword == "type":
            if not any(is_a(value, name) for name in ([rule] if isinstance(rule, str) else rule)):
                yield f"{place} is no {rule}"
        elif keyword in {"const", "enum"}:
            if value not in ([rule] if keyword == "const" else rule):
                yield f"{place} is {value!r}"
        elif keyword == "pattern":
            if isinstance(value, str) and not re.search(rule, value):
                yield f"{place} is {value!r}"
        elif keyword == "minimum":
            if is_a(value, "number") and value < rule:
                yield f"{place} is below {rule}"
        elif keyword == "minItems":
            if isinstance(value, list) and len(value) < rule:
                yield f"{place} is too short"
        elif keyword == "required":
            yield from (f"{place} lacks {name}" for name in rule if isinstance(value, dict) and name not in value)
        elif keyword == "properties":
            for name, inner in rule.items():
                if isinstance(value, dict) and name in value:
                    yield from complaints(value[name], inner, f"{place}/{name}")
        elif keyword == "additionalProperties":
            others = value.keys() - rules.get("properties", {}).keys() if isinstance(value, dict) else set()
            for name in sorted(others):
                if rule is False:
                    yield f"{place} has {name}"
                else:
                    yield from complaints(value[name], rule, f"{place}/{name}")
        elif keyword == "items":
            for number, item in enumerate(value if isinstance(value, list) else []):
                yield from complaints(item, rule, f"{place}/{number}")
        elif keyword in {"anyOf", "oneOf"}:
            fitting = sum(not list(complaints(value, inner)) for inner in rule)
            if fitting == 0 or (keyword == "oneOf" and fitting > 1):
                yield f"{place} fits {fitting} of {keyword}"
        elif keyword not in ANNOTATIONS:
            raise AssertionError(keyword)


def is_a(value: Any, name: str) -> bool:
    if name == "null":
        return value is None
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


@pytest.mark.parametrize("path", files(RECORDED))
def test_every_manifest_follows_the_schema(path: str) -> None:
    manifest = json.loads(files(RECORDED)[path])
    assert not list(complaints(manifest, SCHEMA))
    assert path == f"{manifest['family']}/{manifest['group']}.json"
    assert manifest["numberOfTests"] == len(manifest["cases"])
    assert manifest["notes"].keys() == {flag for case in manifest["cases"] for flag in case["flags"]}
    for case in manifest["cases"]:
        assert case["name"].startswith(f"{manifest['family']}/{manifest['group']}/")
        arrays = [case["inputs"], case["expected"], *case["alternatives"].values(), *case["mistakes"].values()]
        for array in (array for named in arrays for array in named.values()):
            size = 1
            for length in array["shape"]:
                size *= length
            assert len(array.get("values", array.get("bits"))) == size


def good() -> dict[str, Any]:
    return dict(json.loads(files(RECORDED)["dense/lse.json"]))


@pytest.mark.parametrize(
    ("break_", "complaint"),
    [
        (lambda m: m.pop("notes"), " lacks notes"),
        (lambda m: m.update(extra=1), " has extra"),
        (lambda m: m.update(numberOfTests=0), "/numberOfTests is below 1"),
        (lambda m: m.update(numberOfTests=True), "/numberOfTests is no integer"),
        (lambda m: m.update(cases=[]), "/cases is too short"),
        (lambda m: m.update(schema="v2"), "/schema is 'v2'"),
        (lambda m: m["notes"]["LseBase"].update(bugType="BUG"), "/notes/LseBase/bugType is 'BUG'"),
        (lambda m: m["cases"][0].update(result="good"), "/cases/0/result is 'good'"),
        (lambda m: m["cases"][0].update(name="Dense"), "/cases/0/name is 'Dense'"),
        (lambda m: m["cases"][0]["inputs"]["q"].pop("values"), "/cases/0/inputs/q fits 0 of oneOf"),
        (lambda m: m["cases"][0]["inputs"]["q"].update(bits=[1]), "/cases/0/inputs/q fits 2 of oneOf"),
        (lambda m: m["cases"][0]["inputs"]["q"]["shape"].append(-1), "/cases/0/inputs/q/shape/4 is below 0"),
        (
            lambda m: m["cases"][0]["inputs"]["q"]["values"].append("Infinity"),
            "/values/… fits 0 of anyOf",
        ),
    ],
    ids=range(13),
)
def test_a_broken_manifest_is_noticed(break_: Any, complaint: str) -> None:
    manifest = good()
    assert not list(complaints(manifest, SCHEMA))
    break_(manifest)
    found = list(complaints(manifest, SCHEMA))
    if "values" in complaint:
        assert len(found) == 1
        assert found[0].endswith("fits 0 of anyOf")
    else:
        assert found == [complaint]
