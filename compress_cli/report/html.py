"""Parts that every HTML page is made of. A page opens offline and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.statistics.intervals import Estimate

STYLE = (Path(__file__).parent / "page.css").read_text()
HARMLESS = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A page that loads and runs nothing, whatever a name in it may say; pictures are part of the page itself."""


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page of parts that are HTML already."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{HARMLESS}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{chr(10).join(part for part in parts if part)}\n</main></body></html>\n"
    )


def table(headings: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    """The first `words` columns hold text, the others figures. Cells are HTML already."""

    def row(tag: str, cells: Sequence[str]) -> str:
        marks = ["" if column < words else ' class="n"' for column in range(len(cells))]
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

    head = row("th", [text(heading) for heading in headings])
    body = "".join(f"<tr>{row('td', line)}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def measured(name: str, estimate: Estimate | float | None, signed: bool = False) -> str:
    """A figure with its interval, smaller."""
    if isinstance(estimate, Estimate):
        return f"{write.metric(name, estimate.value, signed)} <small>{write.interval(name, estimate, signed)}</small>"
    return NOTHING if estimate is None else write.metric(name, estimate, signed)


def text(words: str, lines: bool = False) -> str:
    """Text that means itself; its lines are kept where they count."""
    if lines:
        return "\n".join(escape(write.printable(line)) for line in words.split("\n"))
    return escape(write.printable(words))
