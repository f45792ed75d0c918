"""Every recipe: one file for each family or topic, each with ``recipes() -> tuple[Recipe, ...]``."""

from collections.abc import Iterator
import importlib
import pkgutil

from kvattn.goldens.recipe import Recipe

__all__ = ["every"]


def every() -> Iterator[Recipe]:
    """Every recipe of every file of this folder, in the order of the files' names.

    >>> len({recipe.name for recipe in every()}) == len(list(every()))
    True
    """
    for found in pkgutil.iter_modules(__path__):
        if not found.name.startswith("_"):
            yield from importlib.import_module(f"{__name__}.{found.name}").recipes()
