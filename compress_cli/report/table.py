"""Figures as a table that other programs take: CSV for spreadsheets, LaTeX for papers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Cell = str | float | int | None
Format = Literal["csv", "latex"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that a spreadsheet would take for the start of a formula."""
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows under headings; None is a figure that there is not."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def csv(self) -> str:
        """RFC 4180 with plain newlines; numbers in full, text that looks like a formula with a quote before it."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_plain(heading) for heading in self.headings])
        writer.writerows([[_plain(cell) for cell in row] for row in self.rows])
        return out.getvalue()

    def latex(self) -> str:
        """A `tabular` with booktabs' rules; columns of numbers to the right, these to four digits."""
        numeric = [all(not isinstance(row[at], str) for row in self.rows) for at in range(len(self.headings))]
        lines = [r"\begin{tabular}{" + "".join("r" if right else "l" for right in numeric) + "}", r"\toprule"]
        lines += [" & ".join(map(_escaped, self.headings)) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_escaped, row)) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def text(self, form: Format) -> str:
        return self.csv() if form == "csv" else self.latex()


def _plain(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(FORMULA) else cell
    return "" if cell is None else str(cell)


def _escaped(cell: Cell) -> str:
    if cell is None:
        return "--"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "".join(LATEX.get(sign, sign if sign.isprintable() else "?") for sign in str(cell))
