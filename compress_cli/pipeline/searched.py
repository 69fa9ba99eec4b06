"""Fields of a recipe that are searched over, `{search: ...}`: where they stand, and the recipe with values in their place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from compress_cli.document import Document, Key
from compress_cli.errors import RecipeError
from compress_cli.settings import Many, Settings, complaints

SEARCH = "search"
FIXED = ("type", "name", "seeds")  # fields of a stage that no search may change
Aim = Literal["size", "latency", "accuracy"]


class Range(Settings):
    """The numbers from low to high: `{search: {low: 1e-4, high: 1e-1, log: true}}`. Whole where both ends are whole."""

    low: int | float = Field(description="the smallest value")
    high: int | float = Field(description="the largest value")
    log: bool = Field(False, description="search the logarithm: each power of ten counts alike")
    step: int | float | None = Field(None, description="only every so manyth value, counted from low")

    @property
    def whole(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @model_validator(mode="after")
    def _spans(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high (got {self.low:g} and {self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"log: low must be above 0 (got {self.low:g})")
        if self.step is not None and self.log:
            raise ValueError("step: there are no even steps on a logarithm; leave out step or log")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step: must be above 0 and at most {self.high - self.low:g} (got {self.step:g})")
        return self


class SearchSettings(Settings):
    """What `compress tune` looks for, and when it stops a trial. `compress run` reads none of it."""

    objectives: Many[Aim] = Field(
        (),
        max_length=2,
        description="one or two of size (of the last model's file), latency and accuracy (the task's metric); default: size "
        "where a gate is about the task's metric, accuracy where gates are about other figures, both where there are none",
    )
    rungs: Many[float] = Field(
        (0.25, 0.5),
        description="shares of the longest training's epochs at which a trial is compared with the others, and pauses unless "
        "it is among the better ones; []: none pauses",
    )
    promote: float = Field(0.5, gt=0, lt=1, description="the share of the trials at a rung that go on")
    complete: int = Field(8, ge=1, le=10_000, description="so many trials run to their end before the first one pauses")

    @model_validator(mode="after")
    def _in_order(self) -> SearchSettings:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: one is named twice")
        if list(self.rungs) != sorted(set(self.rungs)) or not all(0 < share < 1 for share in self.rungs):
            raise ValueError(f"rungs: must be shares between 0 and 1, each above the one before (got {list(self.rungs)})")
        return self


@dataclass(frozen=True)
class SearchedField:
    """One `{search: ...}`."""

    name: str  # `prune.ratio`: the field as `--set stages.prune.ratio` says it, without `stages`
    loc: tuple[Key, ...]
    node: yaml.MappingNode
    over: yaml.Node  # a list of choices, or a range

    @property
    def choices(self) -> list[yaml.Node] | None:
        return self.over.value if isinstance(self.over, yaml.SequenceNode) else None


def find(document: Document) -> list[SearchedField]:
    """The searched fields in the document's order, each anchor's once; RecipeError where one can't be searched over."""
    document.data()  # refuses what is too deep or too large
    fields, wrong = list[SearchedField](), list[str]()
    for loc, name, node in _mappings(document.root):
        keys = {key.value for key, _ in node.value}
        if SEARCH not in keys or not loc:
            continue
        if len(keys) > 1:
            if keys <= {SEARCH, *Range.model_fields}:
                wrong.append(
                    f"{document.location(loc)}: low, high, log and step stand within search: {{search: {{low: 1, high: 9}}}}"
                )
            continue
        field = SearchedField(name, loc, node, node.value[0][1])
        reason = _unsearchable(field)
        if reason:
            wrong.append(f"{document.location(loc)}: {reason}")
        fields.append(field)
    if wrong:
        raise RecipeError("\n".join(wrong))
    return fields


def refuse(document: Document) -> None:
    """RecipeError for a recipe that leaves fields to a search: it says what none of its runs would do."""
    fields = find(document)
    if fields:
        lines = [
            f"{document.location(field.loc)}: is searched over; set a value: --set stages.{field.name}=..." for field in fields
        ]
        path = document.path
        raise RecipeError(
            "\n".join([*lines, f"{path}: `compress tune {path}` finds values, and writes the recipe with the best"])
        )


def range_of(field: SearchedField, document: Document) -> Range:
    """The range of a field that has no list of choices; RecipeError, with its line, where it is none."""
    try:
        return Range.model_validate(Document(document.path, field.over).data())
    except ValidationError as error:
        loc = (*field.loc, SEARCH)
        lines = [f"{document.location((*loc, *inner))}: {reason}" for inner, reason in complaints(error)]
        raise RecipeError("\n".join(lines)) from None


def with_values(document: Document, values: Mapping[str, yaml.Node]) -> Document:
    """A copy of the document in which each searched field has the value of its name; aliases share it."""
    nodes = {id(field.node): values[field.name] for field in find(document)}
    return Document(document.path, _copied(document.root, nodes, {}))


def number(value: float, like: yaml.Node) -> yaml.Node:
    """A number as the recipe's text would give it, on the line of `like`."""
    kind = "int" if isinstance(value, int) else "float"
    return yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", repr(value), like.start_mark, like.end_mark)


def accepting(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of recipes, in which every field of a stage, and of what a stage holds, may be `{search: ...}`."""
    kept = {"SearchSettings", "Saving", "Gate", "RunConditions", "TimingConditions"}
    definitions = {
        name: definition if name in kept else _accepting(definition) for name, definition in schema.get("$defs", {}).items()
    }
    search = {
        "description": "values that `compress tune` chooses from",
        "type": "object",
        "properties": {SEARCH: {"anyOf": [{"type": "array", "minItems": 2}, Range.model_json_schema()]}},
        "required": [SEARCH],
        "additionalProperties": False,
    }
    return {**schema, "$defs": {**definitions, "SearchedField": search}}


def _accepting(definition: dict[str, Any]) -> dict[str, Any]:
    reference = {"$ref": "#/$defs/SearchedField"}
    fields = {}
    for name, field in definition.get("properties", {}).items():
        if name in FIXED:
            fields[name] = field
            continue
        about = {key: field[key] for key in ("description", "default", "title") if key in field}
        rest = {key: value for key, value in field.items() if key not in about}
        rest = {**rest, "items": {"anyOf": [rest["items"], reference]}} if "items" in rest else rest
        fields[name] = {**about, "anyOf": [rest, reference]}
    return {**definition, "properties": fields} if fields else definition


def _unsearchable(field: SearchedField) -> str:
    """Why a field can't be searched over; empty where it can."""
    if field.loc[0] != "stages" or len(field.loc) < 3:
        return "can't be searched over: trials have to be judged alike, so only the fields of stages can"
    if len(field.loc) == 3 and field.loc[2] in FIXED:
        return (
            f"can't be searched over; list whole stages instead, each with `when: {{search: [true, false]}}` ({field.loc[2]})"
        )
    if any(
        inner is not field.node and SEARCH in {key.value for key, _ in inner.value} for _, _, inner in _mappings(field.over)
    ):
        return "a search within a search; give each field its own"
    if field.choices is None:
        if isinstance(field.over, yaml.MappingNode):
            return ""
        return "a search is over a list of values, or over {low: ..., high: ...}"
    texts = [plain(choice) for choice in field.choices]
    if len(texts) < 2:
        return (
            "has nothing to choose from: a search is over two values at least"
            if not texts
            else "has one choice: write the value"
        )
    twice = [text for text in texts if texts.count(text) > 1]
    return f"{twice[0]} stands twice in the list" if twice else ""


def plain(node: yaml.Node) -> str:
    """A value as one line of YAML: words bare, everything else as JSON."""
    return _line(Document(Path(), node).data())


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_line(key)}: {_line(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_line, value)) + "]"
    bare = (
        isinstance(value, str) and value.isascii() and value.isidentifier() and value.lower() not in ("true", "false", "null")
    )
    return str(value) if bare else json.dumps(value, ensure_ascii=False)


def _mappings(root: yaml.Node) -> Iterator[tuple[tuple[Key, ...], str, yaml.MappingNode]]:
    """Every mapping once, with its place and its dotted name, in the order of the text."""
    seen = set[int]()

    def walk(node: yaml.Node, loc: tuple[Key, ...], names: tuple[str, ...]) -> Iterator[Any]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield loc, ".".join(names[1:]), node
            for key, value in node.value:
                yield from walk(value, (*loc, key.value), (*names, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for position, entry in enumerate(node.value):
                yield from walk(entry, (*loc, position), (*names, _called(entry, position)))

    return walk(root, (), ())


def _called(entry: yaml.Node, position: int) -> str:
    """A stage's name, or its type; another entry's position."""
    fields = {key.value: value.value for key, value in entry.value} if isinstance(entry, yaml.MappingNode) else {}
    name = fields.get("name") or fields.get("type")
    return name if isinstance(name, str) else str(position)


def _copied(node: yaml.Node, instead: dict[int, yaml.Node], copies: dict[int, yaml.Node]) -> yaml.Node:
    if id(node) in instead:
        return instead[id(node)]
    if id(node) not in copies and isinstance(node, yaml.SequenceNode | yaml.MappingNode):
        copy = type(node)(node.tag, [], node.start_mark, node.end_mark)
        copies[id(node)] = copy
        if isinstance(node, yaml.MappingNode):
            copy.value += [(key, _copied(value, instead, copies)) for key, value in node.value]
        else:
            copy.value += [_copied(entry, instead, copies) for entry in node.value]
    return copies.get(id(node), node)
