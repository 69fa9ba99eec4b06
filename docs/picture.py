"""The report of a run as an SVG: `python docs/picture.py runs/digits docs/report.svg`."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from compress_cli.report import gates, terminal

# rich's own frame, without the fonts that it would fetch
FRAME = """\
<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="report">
<style>text {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
<rect fill="#ffffff" width="100%" height="100%"/>
<g clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main(run: Path, picture: Path) -> None:
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True)
    terminal.show(gates.collect(run), console)
    svg = console.export_svg(code_format=FRAME, theme=DEFAULT_TERMINAL_THEME, unique_id="report")
    picture.write_text(re.sub(r"[ \t]+\n", "\n", svg), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
