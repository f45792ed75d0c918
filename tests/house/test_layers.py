"""Imports run strictly down the list of `LAYERS`, and at run time NumPy is all that they reach.

Every import counts, at module level or inside a function; only for packages of others does the place
matter: optional ones are imported where they are used, so that nobody needs what he does not use.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    "errors",
    "counting",
    "typing",
    "arguments",
    "axes",
    "arrays",
    "blas",
    "ops",
    "codecs",
    "positions",
    "masks",
    "mods",
    "caches",
    "core",
    "one_liners",
    "variants",
    "variants.dense",
    "variants.compressed",
    "variants.sparse",
    "variants.recurrent",
    "execution",
    "eviction",
    "cost",
    "decoding",
    "goldens",
    "testing",
    "interop",
    "pytest_plugin",
    "",  # kvattn itself: what most readers need
    "cli",
    "__main__",
)
"""Lowest first; a module may import from its own layer and from those before it."""

DRAWS = re.compile(r"kvattn\.(testing\.(strategies|machines\w*)(\.\w+)*|pytest_plugin)")
"""Modules that are about Hypothesis or pytest, and import them at module level."""


class Import(NamedTuple):
    """One import statement: who, whom, and whether it runs when the module is imported."""

    importer: str
    target: str
    at_module_level: bool


def modules(root: Path) -> dict[str, str]:
    """Dotted name to source, for every module of the package."""
    found = {}
    for path in sorted((root / "kvattn").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def layer_of(module: str) -> int | None:
    """Number of a kvattn module's layer, by its longest known prefix; None where it belongs to none."""
    parts = module.split(".")[1:]
    for length in range(len(parts), -1, -1):
        name = ".".join(parts[:length])
        if name in LAYERS and (length or not parts):
            return LAYERS.index(name)
    return None


def imports(module: str, tree: Mapping[str, str]) -> Iterator[Import]:
    """Every import of a module, relative ones resolved; ``from kvattn import ops`` is an import of kvattn.ops."""
    is_package = any(name.startswith(f"{module}.") for name in tree)

    def walk(node: ast.AST, outside: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            deeper = outside and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                deeper = False
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, outside)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    up = module.split(".")
                    up = up[: len(up) - child.level + is_package]
                    base = ".".join([*up, base] if base else up)
                for alias in child.names:
                    whole = f"{base}.{alias.name}"
                    yield Import(module, whole if whole in tree else base, outside)
            else:
                yield from walk(child, deeper)

    yield from walk(ast.parse(tree[module]), True)


def complaints(tree: Mapping[str, str]) -> list[str]:
    """Say everything that is wrong with the imports of a package."""
    found = []
    for module in tree:
        here = layer_of(module)
        if here is None:
            found.append(f"{module} belongs to no layer")
            continue
        for _, target, at_module_level in imports(module, tree):
            top = target.partition(".")[0]
            if top == "kvattn":
                there = layer_of(target)
                if there is None or there > here:
                    found.append(f"{module} imports {target}, which stands above it")
                if at_module_level and DRAWS.fullmatch(target) and not DRAWS.fullmatch(module):
                    found.append(f"{module} imports {target} at module level, which needs Hypothesis")
            elif top not in sys.stdlib_module_names and top != "numpy" and at_module_level:
                allowed = {"hypothesis", "pytest"} if DRAWS.fullmatch(module) else set()
                if top not in allowed:
                    found.append(f"{module} imports {target} at module level")
    return found


def test_imports_run_down() -> None:
    found = complaints(modules(ROOT))
    assert not found, "\n".join(found)


def test_every_module_is_read() -> None:
    tree = modules(ROOT)
    assert {"kvattn", "kvattn.errors", "kvattn.core.streaming"} <= tree.keys()
    assert Import("kvattn.axes", "kvattn.errors", True) in imports("kvattn.axes", tree)


def test_importing_kvattn_imports_numpy_and_the_standard_library_only() -> None:
    code = "import sys, numpy; before = {*sys.modules}; import kvattn; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    tops = {name.partition(".")[0] for name in done.stdout.split()}
    assert tops <= {"kvattn", "numpy", *sys.stdlib_module_names}


GOOD = {
    "kvattn": "from kvattn.one_liners import attend",
    "kvattn.errors": "",
    "kvattn.ops": "import numpy as np\nfrom kvattn.errors import ShapeError",
    "kvattn.masks": "from kvattn.masks.causal import Causal",
    "kvattn.masks.causal": "from kvattn import errors\nfrom . import combine",
    "kvattn.masks.combine": "",
    "kvattn.one_liners": "from kvattn.masks import causal\ndef f():\n    import torch",
    "kvattn.testing": "def f():\n    from kvattn.testing import strategies",
    "kvattn.testing.strategies": "import hypothesis",
    "kvattn.cli": "import kvattn\nimport kvattn.testing",
}


ABOVE = "which stands above it"
DRAWN = "at module level, which needs Hypothesis"


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("kvattn.errors", "import kvattn.ops", f"imports kvattn.ops, {ABOVE}"),
        ("kvattn.errors", "from kvattn import ops", f"imports kvattn.ops, {ABOVE}"),
        ("kvattn.errors", "from . import ops", f"imports kvattn.ops, {ABOVE}"),
        ("kvattn.masks.causal", "from ..one_liners import f", f"imports kvattn.one_liners, {ABOVE}"),
        ("kvattn.masks.causal", "def f():\n    import kvattn.cli", f"imports kvattn.cli, {ABOVE}"),
        ("kvattn.masks.causal", "if True:\n    import kvattn", f"imports kvattn, {ABOVE}"),
        ("kvattn.variants.dense.a", "import kvattn.variants.sparse.b", f"imports kvattn.variants.sparse.b, {ABOVE}"),
        ("kvattn.helpers", "", "belongs to no layer"),
        ("kvattn.ops", "import scipy.special", "imports scipy.special at module level"),
        ("kvattn.ops", "try:\n    import torch\nexcept ImportError:\n    pass", "imports torch at module level"),
        ("kvattn.testing.laws", "import hypothesis", "imports hypothesis at module level"),
        ("kvattn.testing.strategies", "import torch", "imports torch at module level"),
        ("kvattn.testing.laws", "from . import strategies", f"imports kvattn.testing.strategies {DRAWN}"),
    ],
)
def test_a_bad_tree_is_refused(module: str, source: str, complaint: str) -> None:
    assert complaints(GOOD) == []
    assert complaints({**GOOD, module: source}) == [f"{module} {complaint}"]
