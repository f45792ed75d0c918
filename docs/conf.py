"""How the site is built: ``sphinx-build -b html -W -n docs site``, offline; ``-b doctest`` runs what it shows."""

import doctest
from pathlib import Path
import sys
import warnings
import zlib

from docutils.nodes import Element
from hypothesis import HealthCheck, settings
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).parent
INVENTORY = """\
# Sphinx inventory version 2
# Project: {0}
# Version:
# The remainder of this file is compressed using zlib.
"""
ELSEWHERE = {"torch", "jax", "onnx", "transformers", "hypothesis", "pytest"}
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

import catalogue  # noqa: E402 a file beside this one
import classes  # noqa: E402 another
import navigation  # noqa: E402 another
import recorded  # noqa: E402 another

from kvattn import goldens  # noqa: E402
from kvattn.testing.disagreements import DISAGREEMENTS  # noqa: E402
from kvattn.testing.laws import LAWS  # noqa: E402

project = "kvattn"
author = "kvattn contributors"
copyright = "2026, kvattn contributors"

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "_extensions"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# A name in single backticks in a docstring is a link, and a broken one is an error.
default_role = "py:obj"

html_theme = "furo"
html_title = "kvattn"
html_show_sphinx = False

# Docstrings have numpydoc sections; shapes and types stand there in words, so that signatures stay short.
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
# Docstrings of imported names are read before they are left out; how Hypothesis divides its own is not our matter.
warnings.filterwarnings("ignore", message="Unknown section", module="numpydoc")
numpydoc_validation_checks: set[str] = set()  # tests/house/test_exports.py asks for more than these can

# Every example runs as it stands, and another error than the one shown is a failure.
doctest_default_flags = doctest.ELLIPSIS | doctest.DONT_ACCEPT_TRUE_FOR_1
doctest_global_setup = "import math\nimport numpy as np\n"
# Hypothesis reads every module of the site for constants before its first draw: no fault of the example that draws.
settings.register_profile("site", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("site")


intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
}


def find_elsewhere(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Find what a name in single backticks means beyond Sphinx's own rules.

    ``kvattn.attend`` is followed to where it is defined; ``Paged.append`` and ``append`` are found where
    one place, in this module or else anywhere, has that name; what is no name, such as a command
    line, or a name of another library, stays as it is.
    """
    target, python = node["reftarget"], env.domains["py"]
    if node["reftype"] != "obj":
        return None
    if not target.replace(".", "").isidentifier() or target.partition(".")[0] in ELSEWHERE:
        return content
    module, _, name = target.rpartition(".")
    thing = getattr(sys.modules.get(module), name, None)
    found = [f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', None)}"]
    if found[0] not in python.objects:
        everywhere = [known for known in python.objects if known.endswith(f".{target}")]
        here = [known for known in everywhere if known.startswith(f"{node.get('py:module')}.")]
        found = here or everywhere
    if len(found) != 1:  # nowhere is an error, a verb that many classes have is none
        return content if found else None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)


def finish_module(_app: Sphinx, what: str, name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Set the equations of a module as they are written, and let its examples use its names.

    An indented block in the docstring of a module is an equation: it keeps its lines and its signs, without
    the ``::`` that reST wants before it.  Names are there as for ``python -m doctest``.
    """
    if what != "module":
        return
    written, lines[:] = lines[:], []
    text = ""  # the last line that was not empty
    for line in written:
        opens = line.startswith("    ") and not line.lstrip().startswith(">>>") and lines[-1:] == [""]
        if opens and text[:1].strip() and not text.endswith("::"):
            lines += ["::", ""]
        lines.append(line)
        text = line if line.strip() else text
    names = f"{{k: v for k, v in vars(importlib.import_module({name!r})).items() if k[:2] != '__'}}"
    lines += ["", ".. testsetup::", "", "   import importlib", f"   globals().update({names})"]


def fill_tables(_app: Sphinx, name: str, source: list[str]) -> None:
    """Put the tables that the tests and the questions make where a page asks for them."""
    if name == "reference/catalogue":
        source[0] = source[0].replace("<!-- the table -->", catalogue.table(catalogue.rows(HERE.parent), len(LAWS)))
        source[0] = source[0].replace("<!-- the models -->", catalogue.models(HERE.parent))
    if name == "reference/testing/fault_classes":
        source[0] = source[0].replace("<!-- the classes -->", classes.table(classes.inhabitants(HERE.parent)))
    if name == "explain/where-libraries-differ":
        source[0] = source[0].replace("<!-- the table -->", catalogue.questions(DISAGREEMENTS))
    if name == "explain/goldens":
        cases = goldens.cases(superseded=True)
        source[0] = source[0].replace("<!-- the families -->", recorded.families(cases))
        source[0] = source[0].replace("<!-- the incidents -->", recorded.incidents(cases))
        source[0] = source[0].replace("<!-- the gaps -->", recorded.gaps(HERE.parent))


def setup(app: Sphinx) -> None:
    """Compile ``inventories/NAME.txt``, the few names of other projects' pages that ours point to."""
    folder = Path(app.doctreedir) / "inventories"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (address, _) in intersphinx_mapping.items():
        lines = (HERE / "inventories" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        body = "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))
        compiled = folder / f"{name}.inv"
        compiled.write_bytes(INVENTORY.format(name).encode() + zlib.compress(body.encode()))
        app.config.intersphinx_mapping[name] = (address, str(compiled))
    for listener in list(app.events.listeners["autodoc-process-signature"]):
        if listener.handler.__module__.startswith("numpydoc"):
            app.disconnect(listener.id)  # reads signatures out of docstrings, and stumbles over type aliases
    app.connect("missing-reference", find_elsewhere)
    app.connect("source-read", fill_tables)
    navigation.connect(app)
    app.connect("autodoc-process-docstring", finish_module, priority=900)
