"""The pages: that they can be built, what makes the build fail, and that their examples run."""

import re
import subprocess
import sys
import textwrap
from inspect import ismodule
from pathlib import Path

import examples
import pages
import pytest

EXTENDING = Path(pages.__file__).with_name("extending.md")
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    assert pages.main(["--output", str(folder)]) == 0
    return folder


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Builds the pages of a package ``planted`` whose one room holds the given source."""

    def built(room, init='"""Planted."""\n\n__all__ = []\n'):
        package = tmp_path / "planted"
        package.mkdir()
        (package / "__init__.py").write_text(init)
        (package / "room.py").write_text(textwrap.dedent(room))
        monkeypatch.syspath_prepend(tmp_path)
        output = tmp_path / "output"
        status = pages.main(["--output", str(output), "--package", "planted"])
        return status, (output / "planted" / "room.html").read_text(encoding="utf-8")

    yield built
    for name in [name for name in pages.sys.modules if name.split(".")[0] == "planted"]:
        del pages.sys.modules[name]


def test_every_name_has_its_place(folder):
    import captum_quantum

    text = (folder / "captum_quantum.html").read_text(encoding="utf-8")
    for name in captum_quantum.__all__:
        if not ismodule(getattr(captum_quantum, name)):
            assert f'id="{name}"' in text, name
    # Captum's bases define a method of that name too.
    assert 'id="QuantumLayerGradCam.attribute"' in text
    assert "This can either be an instance of pytorch model" not in text


def test_formulas_are_rendered_and_pages_load_nothing(folder):
    text = (folder / "captum_quantum" / "attr.html").read_text(encoding="utf-8")
    assert '<math display="block"><msub><mi>w</mi><mi>k</mi></msub><mo>=</mo>' in text
    for page in folder.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not pages.MARKERS.search(text), page
        assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=.?https?:", text), page
    assert not pages.MARKERS.search((folder / "search.js").read_text(encoding="utf-8"))


def test_links_between_pages_lead_somewhere(folder):
    for page in folder.rglob("*.html"):
        text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.S)
        for link in re.findall(r'href="((?![a-z]+:|#)[^"#]+)', text):
            assert (page.parent / link).exists(), (page, link)


GOOD = '''
    r"""Room with :math:`a_1 \\le b`."""

    __all__ = ["LIMIT", "measure"]

    LIMIT = 3
    """Largest number."""


    def measure(x):
        r"""Measures <Z> as in :func:`~planted.room.measure`.

        .. math::

            \\langle Z \\rangle
            = \\cos x

        Args:
            x (float): An angle.

                .. math:: 0 <x \\in [0, \\pi]

        Returns:
            float: The value.

        Examples:
            >>> measure(0) <= 1
            True
        """
'''


def test_what_can_be_rendered(build, capsys):
    status, page = build(GOOD)
    assert status == 0
    assert "Open " in capsys.readouterr().out
    assert page.count("<math") == 3
    assert "&lt;Z>" in page
    assert "Largest number." in page
    assert "<strong>x (float):</strong>" in page
    assert '<a href="#measure">planted.room.measure()</a>' in page.replace("<code>", "")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"""Largest number."""', "", "planted.room.LIMIT has no docstring"),
        ('r"""Measures', '""" """\n        r"""Measures', "planted.room.measure has no docstring"),
        ('r"""Room with :math:`a_1 \\le b`."""', "", "planted.room has no docstring"),
        ("\\langle", "\\lanhle", 'cannot be rendered: Error: Unknown command "\\lanhle"'),
        (":math:`a_1 \\le b`", "a_1 \\le b", "planted.room: \\le is not rendered"),
        (":math:`a_1 \\le b`", "$$a_1$$", "planted.room: $$ is not rendered"),
        (":math:`a_1 \\le b`", ":maths:`a_1`", "planted.room: :maths: is not rendered"),
        (".. math::\n", ".. maths::\n", "planted.room: .. maths:: is not rendered"),
        ("            float: The value.", "        float: 3.", "planted.room: Returns: is not"),
        ("Measures", "Measures <video>&lt;", "planted.room: <video> is not rendered"),
    ],
)
def test_what_makes_the_build_fail(build, capsys, monkeypatch, before, after, says):
    if "<video>" in after:
        monkeypatch.setattr(pages, "plain", lambda docstring: docstring)
    assert before in GOOD
    status, _ = build(GOOD.replace(before, after, 1))
    assert status == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.rstrip().endswith("the pages are not complete")


def test_names_resolved_on_first_use_need_a_docstring_too(build, capsys):
    init = '''
"""Planted."""

__all__ = ["Lazy"]


def __getattr__(name):
    if name == "Lazy":
        return type("Lazy", (Exception,), {"__module__": "planted.room"})
    raise AttributeError(name)
'''
    assert build(GOOD, init)[0] == 1
    assert "planted.Lazy has no docstring" in capsys.readouterr().err


@pytest.mark.parametrize("page", [EXTENDING, README], ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page):
    """In a process of their own, as they add to the tables of the package."""
    command = [sys.executable, examples.__file__, str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_extending_shows_everything_in_less_than_30_lines():
    found = examples.read_examples(EXTENDING)
    text = " ".join(code for _, code in found)
    for name in ("simulator", "rule", "metric", "dataset", "method", "adapter"):
        assert f"register_{name}(" in text or f"@register_{name}" in text, name
    for heading, code in found:
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) < 30, heading
        assert max(map(len, lines)) <= 100, heading


def test_an_example_that_fails_names_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Good\n```python\nx = 1\n```\nand then\n```python\nassert x == 1\n```\n"
        "# Bad\n```python\nassert 'x' in globals()\n```\n"
    )
    with pytest.raises(AssertionError) as error:
        examples.run(page)
    last = error.traceback[-1]
    assert (last.path, last.lineno + 1) == (page, 11)
