"""Fields that a recipe may set: how they are checked, how paths are read, how a slip is answered."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

T = TypeVar("T")


class Location:
    """Marks a path that says where something lies: it never enters a key."""


class NotInKey:
    """Marks a field that changes no byte of a result, such as a name: it never enters a key."""


class NotInKeyAtDefault:
    """Marks a field added after results had been stored: at its default it stays out of keys, so old keys remain valid."""


class ByContent:
    """Marks a path whose file's content, not its place, enters a key."""


def _relative_to_recipe(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value
    base = (info.context or {}).get("base", Path())
    return Path(base, Path(value).expanduser())


Many = Annotated[tuple[T, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
InputFile = Annotated[Path, BeforeValidator(_relative_to_recipe), ByContent()]
Folder = Annotated[Path, BeforeValidator(_relative_to_recipe), Location()]


class Settings(BaseModel):
    """Fields that a recipe may set: frozen, strictly checked, with a slip of the pen answered by the nearest name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _worded(cls, value: Any, handler: Any, info: ValidationInfo) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise _with_suggestions(cls, error) from None


def suggest(word: str, choices: list[str]) -> str:
    """`did you mean 'distill'?`, or the whole list where nothing is near."""
    close = difflib.get_close_matches(word[:100], choices, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(choices)}"


def complaints(error: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """Where each finding is, and what it is in the words of a recipe: `must be less than 1 (got 1.5)`.

    Without "too short" of a list whose entries were refused one by one.
    """
    findings = error.errors(include_url=False)
    locs = [finding["loc"] for finding in findings]
    known = [
        (_fields(finding["loc"]), finding)
        for finding in findings
        if finding["type"] != "too_short"
        or not any(len(loc) > len(finding["loc"]) and loc[: len(finding["loc"])] == finding["loc"] for loc in locs)
    ]
    words = {loc: _reason(finding).partition(" (got ")[0] for loc, finding in known if finding["type"] == "literal_error"}
    other = {loc for loc, finding in known if finding["type"] != "literal_error"}
    return [
        (
            loc,
            f"{words[loc]}, or {_reason(finding)}" if loc in words and finding["type"] != "literal_error" else _reason(finding),
        )
        for loc, finding in known
        if finding["type"] != "literal_error" or loc not in other  # a word or a number: one complaint about both
    ]


def _fields(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without the types that Pydantic tried one after the other, `tuple[str, ...]` or `constrained-int`."""
    return tuple(part for part in loc if isinstance(part, int) or not ("[" in part or part.startswith("constrained-")))


_WORDS = {
    "missing": "is required",
    "tuple_type": "must be a list",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text (put it in quotes)",
    "finite_number": "must be a finite number",
    "dict_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
}
_BOUNDS = ("greater_than", "less_than", "too_short", "too_long", "multiple_of", "string_pattern_mismatch", "literal_error")


def _reason(finding: Any) -> str:
    kind, value = finding["type"], finding["input"]
    message = _WORDS.get(kind)
    if message is None:
        message = finding["msg"].removeprefix("Value error, ").replace("Input should be ", "must be ")
        if message.startswith(("Tuple should", "List should", "String should")):
            message = "must " + message.partition(" should ")[2]
    plain = isinstance(value, str | int | float | bool) or value is None
    shows = kind in _WORDS or kind.startswith(_BOUNDS)
    return f"{message} (got {_yaml(value)})" if plain and shows and kind != "missing" else message


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else repr(value)[:80]


def _with_suggestions(cls: type[BaseModel], error: ValidationError) -> ValidationError:
    """Word an unknown field as the user's slip: `there is no field 'temprature'; did you mean 'temperature'?`"""
    lines = []
    for line in error.errors(include_url=False):
        kind, message = line["type"], line["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden" and len(line["loc"]) == 1:
            wrong = str(line["loc"][0])
            message = f"there is no field '{wrong}'; {suggest(wrong, list(cls.model_fields))}"
        custom = PydanticCustomError(kind, message)  # type: ignore[arg-type]
        lines.append(InitErrorDetails(type=custom, loc=line["loc"], input=line["input"]))
    return ValidationError.from_exception_data(cls.__name__, lines)
