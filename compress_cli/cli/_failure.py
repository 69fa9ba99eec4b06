"""What a failed command writes in addition to its message: a JSON document, and an error in the JUnit file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import typer

from compress_cli.errors import ArtifactError
from compress_cli.store.disk import unwritable

UNFINISHED = "the command has not finished, or was killed"


@dataclass(frozen=True)
class FailureReport:
    """Where a command's failure is reported, as its arguments ask. They may be wrong, so they are read as they are."""

    command: str
    json: bool
    junit: Path | None

    @classmethod
    def of(cls, arguments: Sequence[str]) -> FailureReport:
        junit = _value(arguments, "--junit")
        return cls(" ".join(arguments[:2]), "--json" in arguments, Path(junit) if junit else None)

    def begin(self) -> None:
        """Replace a JUnit file of an earlier run, so that it can't be taken for this one's, even after a kill."""
        if self.junit:
            self._write(self.junit, self._document(UNFINISHED))

    def failed(self, code: int, message: str, output_used: bool) -> None:
        """Say so in both forms; not where the command already printed its result."""
        if self.json and not output_used:
            typer.echo(json.dumps({"error": {"code": code, "message": message}}, indent=1))
        if self.junit and self._unfinished(self.junit):
            self._write(self.junit, self._document(message))

    def succeeded(self) -> None:
        """Remove a JUnit file that the command had no gates for."""
        if self.junit and self._unfinished(self.junit):
            self.junit.unlink()

    def _unfinished(self, path: Path) -> bool:
        """Whether the file is still what `begin` wrote."""
        try:
            return path.read_text(encoding="utf-8") == self._document(UNFINISHED)
        except (OSError, UnicodeDecodeError):
            return False

    def _document(self, message: str) -> str:
        name = _printable(f"compress {self.command}")
        suites = ElementTree.Element("testsuites")
        suite = ElementTree.SubElement(suites, "testsuite", name=name, tests="1", failures="0", errors="1", time="0")
        case = ElementTree.SubElement(suite, "testcase", name=name, classname="compress", time="0")
        ElementTree.SubElement(case, "error", message=_printable(message), type="error").text = _printable(message)
        return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"

    def _write(self, path: Path, text: str) -> None:
        try:
            if path.exists() and not path.is_file():
                raise ArtifactError(f"{path}: is no regular file; name another with --junit")
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise unwritable(error, path) from None


def _value(arguments: Sequence[str], option: str) -> str:
    """The last value given to an option; empty where there is none."""
    values = [value for name, value in pairwise(arguments) if name == option]
    values += [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{option}=")]
    return values[-1] if values else ""


def _printable(text: str) -> str:
    """Without characters that XML can't hold."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)
