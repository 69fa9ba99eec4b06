"""A recipe as text that a person is glad to read: stages with comments, settings in one line where they fit."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from compress_cli.document import Document

WIDTH = 118
LABEL = re.compile(r"(?:[A-Z]\w+: {2,}| +)?")  # what stands before the text of a line whose wrapped rest is indented
PLAIN = re.compile(r"[A-Za-z_./][\w./+*-]*")


@dataclass(frozen=True)
class Stage:
    """One stage of a recipe, and why it is there."""

    settings: Mapping[str, Any]
    why: str


def flow(value: Any) -> str:
    """A value as YAML in one line, which this program reads as the same value."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(name)}: {flow(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and _reads_back(value) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return repr(value) if isinstance(value, float) else str(value)


def _reads_back(word: str) -> bool:
    return bool(Document.parse(word, "word").data() == word)


def comment(sentences: str, indent: int = 0) -> list[str]:
    """Lines of a comment, each paragraph wrapped."""
    prefix = " " * indent + "# "
    lines: list[str] = []
    for paragraph in sentences.split("\n"):
        under = prefix + " " * len(LABEL.match(paragraph)[0])  # type: ignore[index] # it matches nothing too
        lines += textwrap.wrap(paragraph, WIDTH, initial_indent=prefix, subsequent_indent=under) or [prefix.rstrip()]
    return lines


def stage(entry: Stage) -> list[str]:
    """A stage under `stages:`, one field a line where not all fit into one."""
    lines = comment(entry.why, 2)
    short = f"  - {flow(entry.settings)}"
    if len(short) <= 80 and not any(isinstance(value, dict | list | tuple) for value in entry.settings.values()):
        return [*lines, short]
    for number, (name, value) in enumerate(entry.settings.items()):
        lead = "  - " if number == 0 else "    "
        lines += _field(lead, name, value)
    return lines


def _field(lead: str, name: str, value: Any) -> list[str]:
    line = f"{lead}{name}: {flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, list | tuple):
        return [line]
    return [f"{lead}{name}:", *(f"      - {flow(item)}" for item in value)]


def joined(blocks: Iterable[Iterable[str]]) -> str:
    """Blocks of lines, a blank line between them."""
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"
