"""A YAML file as plain data that remembers its lines.

Strict where PyYAML is not: `3e-4` is a number, `010` is ten, `off` is a word, a repeated key is refused, and what would
eat the memory (deep nesting, aliases of aliases) is refused before it is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from compress_cli.errors import RecipeError
from compress_cli.settings import Settings, complaints, suggest

LARGEST_BYTES = 1_000_000
MOST_NODES = 20_000
DEEPEST = 40
LONGEST_NUMBER = 400  # characters

Key = str | int
Checked = TypeVar("Checked", bound=Settings)


class _Loader(yaml.SafeLoader):
    """Finds the types of plain words by YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Stop early: scanning takes time with the square of the depth."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecipeError(f"{self.name}: is nested too deeply (at most {DEEPEST} levels)")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _base(digits: str) -> int:
    return {"0o": 8, "0x": 16}.get(digits[:2], 10)


_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_TYPES: dict[str, tuple[str, str, Callable[[str], Any]]] = {  # tag -> pattern, first characters, conversion
    "null": (r"~|null|Null|NULL|", "~nN\0", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    "int": (
        r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
        "-+0123456789",
        lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10),
    ),
    "float": (_FLOAT, "-+.0123456789", lambda text: float(re.sub(r"\.(?=[a-zA-Z])", "", text))),
}
for _tag, (_pattern, _first, _) in _TYPES.items():
    _initial = ["" if character == "\0" else character for character in _first]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _initial)


class Document:
    """The nodes of one YAML file, changed by `--set`, and the line of each."""

    def __init__(self, path: Path, root: yaml.Node):
        self.path = path
        self.root = root

    @classmethod
    def read(cls, path: Path) -> Document:
        """Parse a file; RecipeError, with the line, where it can't be read or is not YAML."""
        try:
            size = path.stat().st_size
            if size > LARGEST_BYTES:
                raise RecipeError(f"{path}: has {size} bytes; a recipe has at most {LARGEST_BYTES}")
            text = path.read_text(encoding="utf-8")
        except IsADirectoryError:
            raise RecipeError(f"{path}: is a folder, not a recipe") from None
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}: is not a text file (byte {error.start} is not UTF-8)") from None
        except OSError as error:
            raise RecipeError(f"{path}: can't be read ({error.strerror})") from None
        root = _compose(text, str(path))
        if root is None:
            raise RecipeError(f"{path}: the file is empty; `compress init` writes a starter")
        return cls(path, root)

    @classmethod
    def parse_as(cls, text: str, path: Path) -> Document:
        """The text of a file that was read before."""
        root = _compose(text, str(path))
        if root is None:
            raise RecipeError(f"{path}: the file is empty")
        return cls(path, root)

    @classmethod
    def parse(cls, text: str, option: str) -> Document:
        """YAML given on the command line; complaints name the option."""
        root = _compose(text, option)
        if root is None:
            raise RecipeError(f"{option}: is empty")
        return cls(Path(option), root)

    def data(self) -> Any:
        """Lists, mappings and scalars; RecipeError with all repeated keys at once."""
        complaints: list[str] = []
        value = _plain(self.root, complaints, [MOST_NODES])
        if complaints:
            raise RecipeError("\n".join(complaints))
        return value

    def settings(self, contract: type[Checked], base: Path) -> Checked:
        """The data as settings of that kind, with paths relative to `base`; RecipeError with all complaints at once."""
        try:
            return contract.model_validate(self.data(), context={"base": base})
        except ValidationError as error:
            lines = [f"{self.location(loc)}: {reason}" for loc, reason in complaints(error)]
            raise RecipeError("\n".join(lines)) from None

    def location(self, loc: Sequence[Key]) -> str:
        """`recipe.yaml:12: stages[2].ratio`, for the deepest node along `loc` that exists."""
        node, mark, field = self.root, self.root.start_mark, ""
        for part in loc:
            field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else part
            if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                mark = node.start_mark
            elif isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == part:
                        node, mark = value, key.start_mark
        where = mark.name if mark.name.startswith("--") else f"{mark.name}:{mark.line + 1}"
        return f"{where}: {field}" if field else where

    def set(self, assignment: str) -> None:
        """Apply `stages.prune.ratio=0.5`: mapping keys, list positions, or the name or type of a list's entry."""
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted:
            raise RecipeError(f"--set {assignment}: is not of the form path.to.field=value")
        where = f"--set {assignment}"
        value = _compose(text, where)
        parts = dotted.split(".")
        node = self.root
        for part in parts[:-1]:
            node = _entry(node, part, where)
        _replace(node, parts[-1], value or yaml.ScalarNode("tag:yaml.org,2002:null", "", _mark(where), _mark(where)), where)


def setting(contract: type[Checked], text: str, option: str) -> Checked:
    """Settings given on the command line: a plugin's name, or a mapping as JSON or YAML; RecipeError names the option."""
    return Document.parse(text, option).settings(contract, Path())


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        loader.name = name
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark and not name.startswith("--") else ""
        raise RecipeError(f"{name}{line}: is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: is not YAML: {str(error).splitlines()[0]}") from None
    except ValueError:  # an escape that names no character
        raise RecipeError(f"{name}: is not YAML: an escape names no character") from None
    return node


def _plain(node: yaml.Node, complaints: list[str], left: list[int], depth: int = 0) -> Any:
    """`left` counts down the nodes that may still be built, so that aliases of aliases can't grow without end."""
    left[0] -= 1
    line = f"{node.start_mark.name}:{node.start_mark.line + 1}"
    if left[0] < 0 or depth > DEEPEST:
        what = f"nested deeper than {DEEPEST} levels" if depth > DEEPEST else f"larger than {MOST_NODES} values"
        raise RecipeError(f"{line}: is {what}, its aliases counted")
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    if tag not in ("seq", "map") and not isinstance(node, yaml.ScalarNode):
        raise RecipeError(f"{line}: the tag {node.tag} is not allowed here; write the plain value")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(entry, complaints, left, depth + 1) for entry in node.value]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key, value in node.value:
            key_line = f"{key.start_mark.name}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{key_line}: a key is a word, not a list or a mapping")
            _check_text(key.value, key_line)
            if key.value == "<<" and not key.style:
                complaints.append(f"{key_line}: <<: YAML 1.2 merges no mappings; write the fields out, or share a whole value")
            if key.value in mapping:
                complaints.append(f"{key_line}: {key.value}: is given twice")
            mapping[key.value] = _plain(value, complaints, left, depth + 1)
        return mapping
    _check_text(node.value, line)
    if tag in ("int", "float") and len(node.value) > LONGEST_NUMBER:
        raise RecipeError(f"{line}: is a number with too many digits")
    if tag in _TYPES and re.fullmatch(_TYPES[tag][0], node.value):
        return _TYPES[tag][2](node.value)
    if tag != "str":
        raise RecipeError(f"{line}: the tag {node.tag} is not allowed here; write the plain value")
    return node.value


def _check_text(text: str, line: str) -> None:
    """Half of a character, which only an escape (backslash, u, d800) can make, can't be written to any file."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RecipeError(f"{line}: holds half of a character (a surrogate); write the character itself")


def _entry(node: yaml.Node, part: str, where: str) -> yaml.Node:
    """The node below `node` that `part` names, made where a mapping has none."""
    if isinstance(node, yaml.SequenceNode):
        position = _position(node, part, where)
        if isinstance(node.value[position], yaml.ScalarNode):
            node.value[position] = _as_mapping(node.value[position], where)
        return node.value[position]  # type: ignore[no-any-return]
    mapping = _as_mapping(node, where)
    for position, (key, value) in enumerate(mapping.value):
        if key.value == part:
            if isinstance(value, yaml.ScalarNode):
                value = _as_mapping(value, where)
                mapping.value[position] = (key, value)
            return value  # type: ignore[no-any-return]
    child = yaml.MappingNode("tag:yaml.org,2002:map", [], _mark(where), _mark(where))
    mapping.value.append((_word(part, where), child))
    return child


def _replace(node: yaml.Node, part: str, value: yaml.Node, where: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        node.value[_position(node, part, where)] = value
        return
    mapping = _as_mapping(node, where)
    mapping.value = [(key, old) for key, old in mapping.value if key.value != part]
    mapping.value.append((_word(part, where), value))


def _as_mapping(node: yaml.Node, where: str) -> yaml.MappingNode:
    """A plugin given by its bare name becomes a mapping with that type, so that its fields can be set."""
    if isinstance(node, yaml.MappingNode):
        return node
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        entries = [(_word("type", where), node)]
        return yaml.MappingNode("tag:yaml.org,2002:map", entries, node.start_mark, node.end_mark)
    raise RecipeError(f"{where}: '{getattr(node, 'value', node)}' is a plain value and has no fields to set")


def _position(sequence: yaml.SequenceNode, part: str, where: str) -> int:
    called = [_called(entry) for entry in sequence.value]
    if part.isdecimal() and int(part) < len(called):
        return int(part)
    positions = [position for position, names in enumerate(called) if names and part == names[0]] or [
        position for position, names in enumerate(called) if part in names
    ]
    if len(positions) == 1:
        return positions[0]
    known = [names[0] for names in called if names]
    if positions:
        raise RecipeError(
            f"{where}: several entries are called '{part}'; give them a name, or say which by its position from 0"
        )
    raise RecipeError(f"{where}: there is no entry '{part}'; {suggest(part, known)}")


def _called(node: yaml.Node) -> list[str]:
    """The names of a list's entry: its name before its type."""
    if isinstance(node, yaml.ScalarNode):
        return [node.value]
    if not isinstance(node, yaml.MappingNode):
        return []
    fields = {key.value: value.value for key, value in node.value if isinstance(value, yaml.ScalarNode)}
    return [fields[field] for field in ("name", "type") if field in fields]


def _word(text: str, where: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, _mark(where), _mark(where))


def _mark(where: str) -> yaml.Mark:
    return yaml.Mark(where, 0, 0, 0, None, 0)
