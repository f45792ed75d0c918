"""Which class of fault is planted where: read from the zoos, so that a class without an inhabitant is seen.

The zoos of `kvattn.testing` are imported; the tables of ``tests/mutants`` are read as text, as the catalogue is.  There
a mutant belongs to a class where a table of planted faults names the class beside it, where all of a table are of one,
or where the file says so in a constant ``FAULT_CLASSES`` that lists classes, functions and names of cases by class.
``tests/testing/test_fault_classes.py`` asks for a table without gaps.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from kvattn.testing.fault_classes import FAULT_CLASSES, FURTHER_CLASSES, UNSEEN
from kvattn.testing.planted import MUTANTS
from kvattn.testing.planted_caches import PLANTED_CACHES

NAMES = frozenset({*FAULT_CLASSES, *FURTHER_CLASSES})

ZOOS = {
    "functions": ("{py:mod}`kvattn.testing.planted`", "`kvattn check` of a function of q, k, v"),
    "rotations": ("`tests/mutants/test_planted_rotations.py`", "`kvattn check` of a rotation"),
    "layers": ("`tests/mutants/test_planted_layers.py`", "`kvattn check` of a layer of hidden states"),
    "latents": ("`tests/mutants/test_planted_latents.py`", "`kvattn check` of a latent layer"),
    "states": ("`tests/testing/layer_diagnosis/test_opaque.py`", "`kvattn check` of a layer with a state"),
    "caches": ("{py:mod}`kvattn.testing.planted_caches`", "`kvattn check` of a cache"),
    "counters": ("`tests/mutants/test_planted_counters.py`", "`kvattn check` of a counter"),
    "stores": ("the other files of `tests/mutants`", "the laws and machines that kvattn's own code is held to"),
}
"""Zoo, where it lives, and what sees its inhabitants."""

WHOLE = {"SHARING": "shared-kv-layers", "FLOPS": "flop-count", "BYTES": "byte-count"}
"""Tables whose entries are all of one class; of a counter those that are called a fault."""

RIGHT = {"LEGAL", "RIGHT"}
"""Tables of what is no fault."""

Inhabitants = Mapping[str, Mapping[str, int]]


def inhabitants(root: Path) -> Inhabitants:
    """How many mutants each zoo has of each class."""
    found = {zoo: Counter[str]() for zoo in ZOOS}
    found["functions"].update(mutant.fault_class for mutant in MUTANTS)
    found["caches"].update(one.fault_class for one in PLANTED_CACHES if one.fault_class)
    for zoo, (where, _) in ZOOS.items():
        path = root / where.strip("`")
        if path.is_file():
            found[zoo].update(of_tables(path.read_text(encoding="utf-8")))
    for path in sorted((root / "tests" / "mutants").glob("test_*.py")):
        for name, members in declared(path.read_text(encoding="utf-8")).items():
            found["stores"][name] += len(members)
    return found


def of_tables(text: str) -> Iterator[str]:
    """The class of each entry of the tables of planted faults in a file."""
    for table, value in _constants(text):
        if not isinstance(value, ast.Dict) or table in RIGHT:
            continue
        for entry in value.values:
            if table in WHOLE:
                counted = (
                    not isinstance(entry, ast.Call) or entry.args or any(k.arg == "faults" for k in entry.keywords)
                )
                yield from [WHOLE[table]] * bool(counted)
            elif isinstance(entry, ast.Tuple):
                words = [each.value for each in entry.elts if isinstance(each, ast.Constant)]
                yield from [str(word) for word in words if word in NAMES][:1]


def declared(text: str) -> Mapping[str, list[str]]:
    """What a file lists in its ``FAULT_CLASSES``, by class."""
    for table, value in _constants(text):
        if table == "FAULT_CLASSES" and isinstance(value, ast.Dict):
            pairs = zip(value.keys, value.values, strict=True)
            return {ast.literal_eval(key): [_word(each) for each in _elements(value)] for key, value in pairs if key}
    return {}


def unused(text: str) -> set[str]:
    """What a file lists in its ``FAULT_CLASSES`` and does not use elsewhere: a class, a function, or a case's name."""
    listed = [word for members in declared(text).values() for word in members]
    met = Counter(_word(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name | ast.Constant))
    return {word for word in listed if met[word] <= listed.count(word)}


def gaps(found: Inhabitants) -> list[str]:
    """Classes of real faults that have no inhabitant and should, the other way round, and names that stand nowhere."""
    counts = sum((Counter(zoo) for zoo in found.values()), Counter[str]())
    lost = [f"{name} has no inhabitant" for name in set(FAULT_CLASSES) - set(UNSEEN) if not counts[name]]
    seen = [f"{name} is called unseen and has {counts[name]} inhabitants" for name in UNSEEN if counts[name]]
    return sorted([*lost, *seen, *(f"{name} is no class" for name in set(counts) - NAMES)])


def table(found: Inhabitants) -> str:
    """Class, what is wrong, and in which zoos, for a page; below it the zoos."""
    lines = ["| class | what is wrong | planted among |", "|---|---|---|"]
    for name, words in sorted({**FAULT_CLASSES, **FURTHER_CLASSES}.items()):
        lived = [f"{zoo} ({counts[name]})" for zoo, counts in found.items() if counts.get(name)]
        lines.append(f"| `{name}` | {words} | {', '.join(lived) or UNSEEN.get(name, 'none')} |")
    lines += ["", "| zoo | where it lives | what sees it |", "|---|---|---|"]
    lines += [f"| {zoo} | {where} | {seen} |" for zoo, (where, seen) in ZOOS.items()]
    total = sum(sum(zoo.values()) for zoo in found.values())
    return "\n".join([*lines, "", f"Together {total} mutants."])


def _constants(text: str) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.parse(text).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.expr):
            yield target.id, value


def _elements(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]


def _word(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else str(getattr(node, "value", ""))
