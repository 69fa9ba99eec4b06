"""The classes of a dataset from a file: one name a line, or a JSON index as models of ImageNet come with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress_cli.errors import DataError
from compress_cli.settings import suggest

_WORDNET = re.compile(r"(n\d{8})[\s,]+(\S.*)")  # `n01440764 tench, Tinca tinca`


@dataclass(frozen=True)
class ClassIndex:
    """Classes in the order of their numbers."""

    source: str
    """Where they are listed, for messages."""
    aliases: tuple[tuple[str, ...], ...]
    """Names that the folder of each class may have; the last one is the class's name."""

    def __post_init__(self) -> None:
        if len(self.aliases) < 2:
            raise DataError(f"{self.source}: names {len(self.aliases)} class; a classifier needs at least two")
        first: dict[str, int] = {}
        for number, (folder, *_) in enumerate(self.aliases):
            if folder in first:
                raise DataError(f"{self.source}: names class '{folder}' twice (numbers {first[folder]} and {number})")
            first[folder] = number

    @property
    def names(self) -> tuple[str, ...]:
        """One name a class; the folder's where two classes share a name, as `crane` does in ImageNet."""
        last = [names[-1] for names in self.aliases]
        return tuple(names[-1] if last.count(names[-1]) == 1 else names[0] for names in self.aliases)

    def number(self, folder: Path) -> int:
        """The number of the class whose pictures lie in a folder; DataError where there is none, or more than one."""
        matches = [number for number, names in enumerate(self.aliases) if folder.name in names]
        if len(matches) != 1:
            near = suggest(folder.name, [names[0] for names in self.aliases])[:200]
            fault = "is the name of several classes" if matches else f"is the folder of no class; {near}"
            raise DataError(f"{folder}: {fault} (classes: {self.source})")
        return matches[0]


def read(path: Path) -> ClassIndex:
    """The classes that a file lists; DataError where it lists none, or one twice."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file of class names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as a list of class names ({error})") from None
    if path.suffix.lower() == ".json":
        return ClassIndex(str(path), _of_json(path, text))
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        raise DataError(f"{path}:{lines.index('') + 1}: is empty; there should be one class name a line")
    return ClassIndex(str(path), tuple(_of_line(line) for line in lines))


def _of_line(line: str) -> tuple[str, ...]:
    match = _WORDNET.fullmatch(line)
    return (match[1], line, match[2]) if match else (line,)


def _of_json(path: Path, text: str) -> tuple[tuple[str, ...], ...]:
    """`["cat", "dog"]`, `{"cat": 0, "dog": 1}`, `{"0": "cat", "1": "dog"}` or `{"0": ["n02123045", "tabby"], ...}`."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error})") from None
    if isinstance(document, dict) and all(isinstance(number, int) for number in document.values()):
        document = {str(number): name for name, number in document.items()}
    if isinstance(document, list):
        document = {str(number): names for number, names in enumerate(document)}
    if not isinstance(document, dict) or set(document) != {str(number) for number in range(len(document))}:
        raise DataError(f'{path}: should list class names, or map every number from 0 on to one: {{"0": "cat", "1": "dog"}}')
    entries = [document[str(number)] for number in range(len(document))]
    classes = [(entry,) if isinstance(entry, str) else entry for entry in entries]
    for number, names in enumerate(classes):
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) and name for name in names):
            raise DataError(f"{path}: class {number} has no name, or one that is no text: {entries[number]!r:.60}")
    return tuple(tuple(names) for names in classes)
