"""The sidebar: one tree for the whole site, in which each page marks its place.

Sphinx and the theme make the tree anew for each page, which was two thirds of a build.  Here it is made for the first
page, its links are followed from the root, and every later page gets that one, with what leads to it opened.
"""

from functools import partial
import posixpath
import re
from typing import Any

from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx

State = dict[str, Any]

OPTIONS = {"collapse": False, "titles_only": True, "maxdepth": -1, "includehidden": True}
"""What the theme asks of a tree."""


def connect(app: Sphinx) -> None:
    """Make a site's trees this way."""
    made: State = {}
    app.connect("html-page-context", partial(_give, made), priority=400)  # before the theme asks for it
    app.connect("html-page-context", partial(_mark, made), priority=600)  # after it has what it asked for


def _give(made: State, _app: Sphinx, page: str, _template: str, context: State, _doctree: object) -> None:
    if "toctree" not in context:
        return
    ask = context["toctree"]

    def toctree(**options: Any) -> str:
        if options != OPTIONS:
            return str(ask(**options))
        if "plain" not in made:
            made["plain"] = _from_the_root(str(ask(**options)), page)
        return str(made["plain"])

    context["toctree"] = toctree


def _from_the_root(html: str, page: str) -> str:
    soup = BeautifulSoup(html, "html.parser")
    for element in soup.find_all(True):
        if "class" in element.attrs:
            element["class"] = [name for name in element["class"] if name != "current"]
        if element.name == "a":
            link = str(element["href"])
            own = f"{page}.html" if link == "#" else posixpath.join(posixpath.dirname(page), link)
            element["href"] = posixpath.normpath(own)
    return str(soup)


def _mark(made: State, _app: Sphinx, page: str, _template: str, context: State, _doctree: object) -> None:
    tree = context.get("furo_navigation_tree")
    if not tree or "plain" not in made:  # a theme that asks otherwise gets its own tree for each page
        return
    if "soup" not in made:
        made["soup"] = BeautifulSoup(tree, "html.parser")
        made["links"] = {link["href"]: link for link in made["soup"].find_all("a")}
    link = made["links"].get(f"{page}.html")
    marked = [] if link is None else [link, *link.find_parents(["li", "ul"]), *_boxes(link)]
    before = [(element, dict(element.attrs)) for element in marked]
    for element in marked:
        opened = {"checked": ""} if element.name == "input" else {"class": [*element.get("class", []), "current"]}
        element.attrs |= opened
    if link is not None:
        link["href"] = "#"
        link.parent["class"] = [*link.parent["class"], "current-page"]
    up = "../" * page.count("/")
    context["furo_navigation_tree"] = re.sub('(<a [^>]*href=")(?!#)', rf"\g<1>{up}", str(made["soup"]))
    for element, attributes in before:
        element.attrs = attributes


def _boxes(link: Tag) -> list[Tag]:
    """The boxes that open what leads to a page."""
    return [box for item in link.find_parents("li") for box in item.find_all("input", recursive=False)]
