"""The space of a search: the searched fields of a recipe with their values, and the recipe that values make."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from compress_cli.document import Document
from compress_cli.errors import RecipeError
from compress_cli.pipeline import plan, recipe, searched
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.recipe import Recipe
from compress_cli.pipeline.searched import Range, SearchedField

Drawn = int | float | str
"""A value as a study stores it: a number of a range, the position of a choice among numbers, or a choice's text."""
SWITCHES = 32  # so many combinations of switched stages are planned before a search; more are planned as trials draw them


@dataclass(frozen=True)
class Dimension:
    """A searched field with its values: choices in the recipe's order (numbers by size), or a range."""

    field: SearchedField
    choices: tuple[yaml.Node, ...] = ()
    ordered: bool = False  # the choices are numbers
    range: Range | None = None

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def values(self) -> list[Drawn]:
        """All choices, or both ends of a range."""
        if self.range:
            return [self.range.low, self.range.high]
        return list(range(len(self.choices))) if self.ordered else [searched.plain(choice) for choice in self.choices]

    @property
    def count(self) -> int | None:
        """How many values it has; None where they are without number."""
        if self.range is None:
            return len(self.choices)
        if self.range.step is None:
            return int(self.range.high) - int(self.range.low) + 1 if self.range.whole else None
        return int((self.range.high - self.range.low) / self.range.step + 1e-9) + 1

    def node(self, drawn: Drawn) -> yaml.Node:
        """The value as the recipe's document holds it."""
        if self.range:
            assert not isinstance(drawn, str)
            return searched.number(int(drawn) if self.range.whole else float(drawn), self.field.node)
        return self.choices[int(drawn) if self.ordered else self.values.index(drawn)]

    def text(self, drawn: Drawn) -> str:
        """The value as one line of YAML."""
        return searched.plain(self.node(drawn))


@dataclass(frozen=True)
class Space:
    """The searched fields of one recipe."""

    document: Document
    source: str  # the recipe's text
    dimensions: tuple[Dimension, ...]
    overrides: tuple[str, ...] = ()

    @property
    def combinations(self) -> int | None:
        """How many recipes there are; None where they are without number."""
        total = 1
        for dimension in self.dimensions:
            if dimension.count is None:
                return None
            total *= dimension.count
        return total

    def recipe(self, drawn: Mapping[str, Drawn]) -> Recipe:
        """The recipe with these values; RecipeError where one does not fit its field."""
        nodes = {dimension.name: dimension.node(drawn[dimension.name]) for dimension in self.dimensions}
        return recipe.checked(searched.with_values(self.document, nodes))

    def words(self, drawn: Mapping[str, Drawn]) -> dict[str, str]:
        """Field -> value, as people read them."""
        return {dimension.name: dimension.text(drawn[dimension.name]) for dimension in self.dimensions}

    @cached_property
    def first(self) -> dict[str, Drawn]:
        """The first value of every field."""
        return {dimension.name: dimension.values[0] for dimension in self.dimensions}

    def plans(self) -> list[Plan]:
        """Plans with every value of each field, and with every combination of switched stages, so that a value that can't
        work is refused before anything runs; RecipeError, with all complaints at once. Models are measured on val."""
        plans, wrong = list[Plan](), dict[str, None]()
        for drawn in self._varied():
            try:
                plans.append(plan.plan(self.recipe(drawn), "val"))
            except RecipeError as error:
                different = {name: text for name, text in self.words(drawn).items() if drawn[name] != self.first[name]}
                said = f" (with {', '.join(f'{name}: {text}' for name, text in different.items())})" if different else ""
                wrong.update(dict.fromkeys(line if line.startswith(" ") else line + said for line in str(error).split("\n")))
        if wrong:
            lines = list(wrong)
            everywhere = [line for line in lines if " (with " not in line]
            raise RecipeError("\n".join(everywhere or lines))
        return plans

    def _varied(self) -> Iterator[dict[str, Drawn]]:
        yield self.first
        for dimension in self.dimensions:
            yield from ({**self.first, dimension.name: value} for value in dimension.values[1:])
        switches = [dimension for dimension in self.dimensions if dimension.field.loc[-1] == "when"]
        combinations = itertools.product(*(dimension.values for dimension in switches))
        for values in itertools.islice(combinations, SWITCHES if len(switches) > 1 else 0):
            yield {**self.first, **{switch.name: value for switch, value in zip(switches, values, strict=True)}}

    def written(self, drawn: Mapping[str, Drawn], header: Sequence[str] = (), threads: int | None = None) -> str:
        """The recipe's text with these values in place of its searches; comments and layout stay.

        threads: added where the recipe does not say them, since another number rounds differently.
        """
        text, spans = self.source, list[tuple[int, int, str]]()
        names = {dimension.name: dimension for dimension in self.dimensions}
        read = Document.parse_as(self.source, self.document.path)
        for field in searched.find(read):
            if field.name in names:
                begin, end = _span(field.node, self.source)
                spans.append((begin, end, names[field.name].text(drawn[field.name])))
        root = read.root
        said = {key.value for key, _ in root.value}
        if threads and isinstance(root, yaml.MappingNode) and not root.flow_style and "threads" not in said:
            at = root.start_mark.index
            spans.append((at, at, f"threads: {threads}  # as in the trial: another number rounds differently\n"))
        for begin, end, value in sorted(spans, reverse=True):
            text = text[:begin] + value + text[end:]
        return "".join(f"# {line}".rstrip() + "\n" for line in header) + text


def load(path: Path, overrides: Sequence[str] = ()) -> Space:
    """The space of a recipe; RecipeError, with all complaints at once, where there is nothing to search or a value is wrong."""
    document = recipe.read(path, overrides)
    fields = searched.find(document)
    if not fields:
        raise RecipeError(
            f"{path}: searches nothing; give a stage's field {{search: [a, b]}} or {{search: {{low: ..., high: ...}}}}, or run "
            f"it: `compress run {path}`"
        )
    names = [field.name for field in fields]
    if twice := [field for field in fields if names.count(field.name) > 1]:
        raise RecipeError(f"{document.location(twice[0].loc)}: two stages are called alike; give them names")
    dimensions, wrong = list[Dimension](), list[str]()
    for field in fields:
        try:
            dimensions.append(_dimension(field, document))
        except RecipeError as error:
            wrong.append(str(error))
    if wrong:
        raise RecipeError("\n".join(wrong))
    return Space(document, path.read_text(encoding="utf-8"), tuple(dimensions), tuple(overrides))


def _dimension(field: SearchedField, document: Document) -> Dimension:
    if field.choices is None:
        return Dimension(field, range=searched.range_of(field, document))
    values = [Document(document.path, choice).data() for choice in field.choices]
    if all(type(value) in (int, float) for value in values):
        return Dimension(
            field, tuple(node for _, node in sorted(zip(values, field.choices, strict=True), key=_first)), ordered=True
        )
    return Dimension(field, tuple(field.choices))


def _first(pair: tuple[Any, yaml.Node]) -> Any:
    return pair[0]


def _span(node: yaml.Node, text: str) -> tuple[int, int]:
    """Where a value stands in the text, without its anchor; a block's own end lies behind the blank lines that follow it."""
    begin = node.start_mark.index
    if text[begin] == "&":
        while not text[begin].isspace():
            begin += 1
        while text[begin].isspace():
            begin += 1
    return begin, _end(node)


def _end(node: yaml.Node) -> int:
    children = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return int(node.end_mark.index)
    return max((_end(child) for child in children), default=int(node.end_mark.index))
