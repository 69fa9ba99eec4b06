"""Write the reference pages from the plugins' docstrings and the commands' help: `python docs/reference.py`.

A test compares the pages with what this makes of the code, so they can't go stale.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from typer.main import get_command

from compress_cli import errors
from compress_cli.cli import app
from compress_cli.cli.describe import plugin_document
from compress_cli.plugin import contract, folders

REFERENCE = Path(__file__).parent / "reference"


def pages() -> dict[str, str]:
    """File name -> text of every reference page."""
    made = {f"{folder}.md": _folder_page(folder) for folder in folders()}
    return {**made, "commands.md": _commands_page(), "index.md": _index_page(list(made))}


def exit_codes() -> str:
    """The table of exit codes as it stands in the errors' docstring."""
    return (inspect.getdoc(errors) or "").strip()


def _folder_page(folder: str) -> str:
    """Every plugin of a folder with its fields."""
    names = sorted(path.stem for path in folders()[folder].glob("[a-z]*.py"))
    about = inspect.getdoc(contract(folder)) or ""
    parts = [f"# {folder}", about, f"Entry points of the group `compress_cli.{folder}` add others."]
    for name in names:
        document = plugin_document(folder, name)
        parts += [f"## {name}", document["about"], *_fields(document["fields"])]
    return "\n\n".join(parts) + "\n"


def _fields(fields: dict[str, dict[str, object]]) -> list[str]:
    """A definition list: field, type, bounds, default, description."""
    lines = []
    for name, field in fields.items():
        kind = str(field["type"]).removesuffix(" | nothing")
        default = field["default"]
        needs = "required" if default == "required" else "optional" if default is None else f"default `{_short(default)}`"
        facts = ", ".join(filter(None, (kind, str(field["bounds"]), needs)))
        lines.append(f"- `{name}` ({facts}): {field['description']}".rstrip(": "))
    return ["\n".join(lines)] if lines else []


def _short(default: object) -> str:
    """A plugin by its name alone; everything else as JSON."""
    if isinstance(default, dict) and "type" in default:
        return str(default["type"])
    if isinstance(default, list):
        return f"[{', '.join(_short(entry) for entry in default)}]"
    return json.dumps(default)


def _commands_page() -> str:
    """Arguments and options of every command."""
    parts = ["# Commands", "`compress COMMAND --help` prints the same. `python -m compress_cli` works like `compress`."]
    for name, command in get_command(app()).commands.items():
        parts += [f"## compress {name}", inspect.cleandoc(command.help or "")]
        lines = []
        for parameter in command.params:
            if "--help" in parameter.opts:
                continue
            argument = parameter.param_type_name == "argument"
            title = str(parameter.name).upper() if argument else ", ".join(parameter.opts)
            text = getattr(parameter, "help", "") or ""
            lines.append(f"- `{title}`: {text}")
        parts.append("\n".join(lines))
    return "\n\n".join(part for part in parts if part) + "\n"


def _index_page(files: list[str]) -> str:
    listed = "\n".join(["commands", *(file.removesuffix(".md") for file in files)])
    return f"# Reference\n\nMade from the code by `make docs`.\n\n```{{toctree}}\n{listed}\n```\n"


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    current = pages()
    for path in REFERENCE.glob("*.md"):
        if path.name not in current:
            path.unlink()
    for name, text in current.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
