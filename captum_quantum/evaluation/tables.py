"""Tables of a report, as text and in Markdown."""

from collections.abc import Sequence

from tabulate import tabulate

ARROWS = {True: "↑", False: "↓", None: " "}

Rows = Sequence[Sequence[str]]


class Tables:
    """A report that consists of a table of scores and, below it, one of differences.

    Subclasses say what stands in the tables: each has a header as its first row.
    """

    _differences_caption: str

    def _caption(self) -> str:
        raise NotImplementedError

    def _score_rows(self) -> Rows:
        raise NotImplementedError

    def _difference_rows(self) -> Rows:
        raise NotImplementedError

    def __str__(self) -> str:
        return self._format("simple", "left")

    def markdown(self) -> str:
        """Formats the tables in Markdown.

        Returns:
            str: Caption, scores and, if there are several methods, their differences.
        """
        return self._format("github", None) + "\n"

    def _format(self, style: str, align: str | None) -> str:
        def table(rows: Rows) -> str:
            return tabulate(
                rows, headers="firstrow", tablefmt=style, stralign=align, disable_numparse=True
            )

        blocks = [self._caption(), table(self._score_rows())]
        differences = self._difference_rows()
        if len(differences) > 1:
            blocks += [self._differences_caption, table(differences)]
        return "\n\n".join(blocks)


def number_text(value: float) -> str:
    """Formats a number with three digits or more; with an exponent only if it is tiny."""
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.{2 if abs(value) >= 10 else 3}f}"
