"""The tolerance package with lines left out: copies of its sources, edited, under a name of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
import importlib
import itertools
from pathlib import Path
import sys
import tempfile
from types import ModuleType

import kvattn.testing.tolerance as whole

SOURCE = Path(whole.__file__).parent
_NUMBER = itertools.count()

Edit = tuple[str, str, str]
"""File, what stands there, what shall stand there; None of it may be missing."""


@contextmanager
def edited(*edits: Edit) -> Iterator[ModuleType]:
    """The package, edited; gone again afterwards."""
    name = f"edited_tolerance_{next(_NUMBER)}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).mkdir()
        for path in SOURCE.glob("*.py"):
            text = path.read_text(encoding="utf-8")
            for file, old, new in edits:
                if path.stem == file:
                    assert text.count(old) >= 1, f"{file} has no line {old}"
                    text = text.replace(old, new)
            text = text.replace("kvattn.testing.tolerance", name)
            (Path(folder) / name / path.name).write_text(text, encoding="utf-8")
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            yield importlib.import_module(name)
        finally:
            sys.path.remove(folder)
            for loaded in [module for module in sys.modules if module.split(".")[0] == name]:
                del sys.modules[loaded]
