"""Builds the API pages from the docstrings, with pdoc: ``python tests/docs/pages.py``.

A page for every public module that has an ``__all__``, and one for every Markdown file beside this
script. What pdoc alone does not do: names that a package resolves on first use are resolved before
it looks, constants get the text that stands where they are defined, and formulas become MathML,
which browsers show without a script. The pages load nothing from elsewhere.

The build fails, and names the places, if a name of an ``__all__`` has no text of its own, or if
markup is left over: a formula, a role, a section or a tag that was not rendered.
"""

import argparse
import html
import json
import re
import sys
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from inspect import ismodule
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pdoc.doc
import pdoc.doc_ast
import pdoc.render
from math_core import LatexError, LatexToMathML

HERE = Path(__file__).parent

BLOCK_FORMULA = re.compile(
    r"^(?P<indent> *)\.\. math::(?P<latex>.*(?:\n(?:\n(?=(?P=indent) ))?(?P=indent) +\S.*)*)", re.M
)
INLINE_FORMULA = re.compile(r":math:`([^`]+)`")
# Code is left alone: spans in backticks, and lines of an interpreter's session.
CODE_OR_TAG = re.compile(r"(``[^`]+``|`[^`]+`|^ *(?:>>>|\.\.\.) .*$)|<(?=[A-Za-z/])", re.M)
MARKER = "FORMULA{:05d}Q"
MARKERS = re.compile(r"FORMULA(\d{5})Q")
LEFT_OVER = re.compile(
    r"\\[A-Za-z]+|\\[()\[\]]|\$\$|(?<!\w):[a-z]+:(?:`|$)|\.\. [a-z-]+::|"
    r"\b(?:Args|Attributes|Raises|Returns|Yields|Examples?|Shape):$",
    re.M,
)


pdoc_getattr = pdoc.doc._safe_getattr


def own_bases(value: object, name: str, default: object) -> object:
    """pdoc's ``_safe_getattr``; generic bases that a class only inherits are not its bases.

    pdoc takes them for that, and leaves out every method that one of them defines as well.
    """
    if name == "__orig_bases__":
        return vars(value).get(name, default)
    return pdoc_getattr(value, name, default)


pdoc.doc._safe_getattr = own_bases

TAGS = frozenset(
    re.findall(
        r"\w+",
        "a abbr b blockquote body br code dd div dl dt em footer h1 h2 h3 h4 h5 h6 head header hr "
        "html i img input label li link main math meta nav ol p pre script section span strong "
        "style sup svg table tbody td th thead title tr ul wbr",
    )
)
SKIPPED = frozenset(["code", "h6", "math", "pre", "script", "style", "svg"])


class Formulas:
    """The formulas of all docstrings: markers stand for them until the pages are written."""

    def __init__(self) -> None:
        self._converter = LatexToMathML()
        self._mathml: list[str] = []
        self.problems: list[str] = []

    def mark(self, docstring: str, place: str) -> str:
        """Replaces reStructuredText's formulas by markers."""

        def block(match: re.Match[str]) -> str:
            return f"\n{match['indent']}{self._marker(match['latex'], place, display=True)}\n"

        docstring = BLOCK_FORMULA.sub(block, docstring)
        return INLINE_FORMULA.sub(lambda match: self._marker(match[1], place), docstring)

    def _marker(self, latex: str, place: str, display: bool = False) -> str:
        latex = " ".join(latex.split())
        try:
            mathml = self._converter.convert_with_local_state(latex, displaystyle=display)
        except LatexError as error:
            text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # without colors
            reason = next(line for line in text.splitlines() if line.strip())
            self.problems.append(f"{place}: the formula {latex!r} cannot be rendered: {reason}")
            mathml = f"<code>{html.escape(latex)}</code>"
        self._mathml.append(mathml)
        return MARKER.format(len(self._mathml) - 1)

    def insert(self, page: str) -> str:
        """Replaces the markers by MathML."""
        return MARKERS.sub(lambda match: self._mathml[int(match[1])], page)

    def insert_json(self, index: str) -> str:
        """The same inside strings of JSON."""
        return MARKERS.sub(lambda match: json.dumps(self._mathml[int(match[1])])[1:-1], index)


class LeftOver(HTMLParser):
    """Collects markup that was not rendered, from the text of a page without its code."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SKIPPED:
            self._skipped.append(tag)
        elif not self._skipped and tag not in TAGS:
            self.found.append(f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped and self._skipped[-1] == tag:
            self._skipped.pop()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.found += [match[0] for match in LEFT_OVER.finditer(data.rstrip())]


def public_modules(package: str) -> list[ModuleType]:
    """The package and its modules that have an ``__all__``, all names in it resolved."""
    root = import_module(package)
    names = [info.name for info in walk_packages(root.__path__, f"{package}.")]
    found = [root, *(import_module(name) for name in names if "._" not in name)]
    listed = [module for module in found if hasattr(module, "__all__")]
    for module in listed:
        for name in module.__all__:
            setattr(module, name, getattr(module, name))
    return listed


def written_docs(space: pdoc.doc.Namespace, package: str) -> Iterator[pdoc.doc.Doc]:
    """The module or class, and what its page shows of it that was written in the package."""
    yield space
    for doc in space.members.values():
        if doc.taken_from[0].split(".")[0] != package:
            continue
        if isinstance(doc, pdoc.doc.Class):
            yield from written_docs(doc, package)
            continue
        if doc.name == "__init__":  # the class describes the arguments; a protocol has none
            doc.docstring = "@private" if getattr(space.obj, "_is_protocol", False) else ""
        elif doc.docstring.startswith("Alias for field number"):  # Python's own text
            doc.docstring = ""
        described = "Attributes:" in space.docstring and f"{doc.name} (" in space.docstring
        if isinstance(doc, pdoc.doc.Variable) and not doc.docstring and described:
            doc.docstring = "@private"  # shown once is enough
        yield doc


def constant_docstring(name: str, value: object, package: str) -> str:
    """The text below a constant's definition, wherever in the package that is."""
    for other in [*sys.modules.values()]:
        if other.__name__.split(".")[0] == package and vars(other).get(name) is value:
            text = pdoc.doc_ast.walk_tree(other).var_docstrings.get(name)
            if text:
                return text
    return ""


def missing(page: pdoc.doc.Module, package: str) -> Iterator[str]:
    """Names of the module's ``__all__`` without a text; constants are given theirs."""
    if not page.docstring:
        yield f"{page.modulename} has no docstring"
    for name in getattr(page.obj, "__all__", []):
        value = getattr(page.obj, name)
        if ismodule(value):
            text = value.__doc__ if value.__name__.split(".")[0] == package else "foreign"
        else:
            doc = page.members[name]
            if isinstance(doc, pdoc.doc.Variable) and not doc.docstring:
                doc.docstring = constant_docstring(name, value, package)
            # A class without a text has its base's for pdoc.
            text = value.__doc__ if isinstance(value, type) else doc.docstring
        if not (text or "").strip():
            yield f"{page.modulename}.{name} has no docstring"


def plain(docstring: str) -> str:
    """Keeps what Markdown would take for HTML, such as ``<Z>``, and shortens roles' names."""
    docstring = re.sub(r"(:[a-z]+:`)~", r"\1", docstring)
    return CODE_OR_TAG.sub(lambda match: match[1] or "&lt;", docstring)


def build(package: str, folder: Path, articles: list[Path]) -> list[str]:
    """Writes the pages into a folder and returns what is wrong with them.

    Args:
        package (str): Name of the package.
        folder (Path): Where to; made if needed.
        articles (list[Path]): Markdown files, each a page.
    """
    pages = {module.__name__: pdoc.doc.Module(module) for module in public_modules(package)}
    formulas, problems = Formulas(), []
    for page in pages.values():
        problems += missing(page, package)
        for doc in written_docs(page, package):
            doc.docstring = plain(formulas.mark(doc.docstring, doc.fullname))
    for article in articles:
        title = article.stem.capitalize()
        module = ModuleType(title, article.read_text(encoding="utf-8"))
        module.__dict__.update(__docformat__="markdown", __all__=[])
        pages[title] = pdoc.doc.Module(module)
    problems += formulas.problems

    pdoc.render.configure(docformat="google", template_directory=HERE / "templates")
    # Types that are imported for type checking alone are shown as they are written.
    warnings.filterwarnings("ignore", "Error parsing type annotation")
    for name, page in pages.items():
        text = formulas.insert(pdoc.render.html_module(page, pages))
        left_over = LeftOver()
        left_over.feed(text)
        problems += [f"{name}: {markup} is not rendered" for markup in left_over.found]
        file = folder / f"{name.replace('.', '/')}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    index = formulas.insert_json(pdoc.render.search_index(pages))
    (folder / "search.js").write_text(index, encoding="utf-8")
    (folder / "index.html").write_text(
        f'<!doctype html>\n<meta http-equiv="refresh" content="0; url={package}.html">\n',
        encoding="utf-8",
    )
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Builds captum_quantum's pages; the exit status is 1 if something is wrong with them."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs-output"), help="folder")
    parser.add_argument("--package", default="captum_quantum", help="name of the package")
    chosen = parser.parse_args(arguments)
    problems = build(chosen.package, chosen.output, sorted(HERE.glob("*.md")))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problems; the pages are not complete", file=sys.stderr)
        return 1
    print(f"Open {chosen.output / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
