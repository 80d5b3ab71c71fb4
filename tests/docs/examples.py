"""Runs the Python examples of a Markdown page: ``python tests/docs/examples.py PAGE``.

The blocks below one heading share their names, as if they were one script.
"""

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^# (?P<heading>[^\n]+)$|^```python\n(?P<code>.*?)^```$", re.M | re.S)


def read_examples(page: Path) -> list[tuple[str, str]]:
    """The page's examples as pairs of heading and source, with the line numbers of the page."""
    text = page.read_text(encoding="utf-8")
    heading, found = "", []
    for match in BLOCK.finditer(text):
        if match["heading"]:
            heading = match["heading"]
        else:
            found.append((heading, "\n" * text.count("\n", 0, match.start("code")) + match["code"]))
    return found


def run(page: Path) -> None:
    """Runs all examples; an error's traceback shows the line of the page."""
    spaces: dict[str, dict[str, object]] = {}
    for heading, code in read_examples(page):
        exec(compile(code, page, "exec"), spaces.setdefault(heading, {"__name__": heading}))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
