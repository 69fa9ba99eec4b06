"""How long a run may take: a recipe's field `within`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from compress_cli.errors import RecipeError
from compress_cli.settings import Many, Settings

DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


class TimeLimit(Settings):
    """`60m`, or `{time: 60m, fixed: [teacher]}`."""

    time: str = Field(description="such as 60m, 1h30m or 90s")
    fixed: Many[str] = Field((), description="stages whose epochs and views stay as they are written")

    @field_validator("time")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        if seconds(value) <= 0:
            raise ValueError(f"must be a time such as 60m, 1h30m or 90s (got {value[:40]!r})")
        return value

    @property
    def seconds(self) -> float:
        return seconds(self.time)


def seconds(text: str) -> float:
    """Of `1h30m`; 0 for what is no time."""
    match = DURATION.fullmatch(text.strip())
    if match is None:
        return 0.0
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))


def amount(seconds: float) -> str:
    """`1h05m`, `12 min`, `40 s`"""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60}h{minutes % 60:02d}m"


def overrun(limit: TimeLimit | None, took_s: float) -> str:
    """What to say of a run that took longer than it was given; empty where it did not."""
    if limit is None or took_s <= limit.seconds:
        return ""
    return f"took {amount(took_s)}, longer than within {limit.time}: this machine was slower than when the time was estimated"


def of_option(text: str, before: TimeLimit | None) -> TimeLimit:
    """The limit that `--within` asks for, with the recipe's fixed stages; RecipeError for what is no time."""
    if seconds(text) <= 0:
        raise RecipeError(f"--within {text}: must be a time such as 60m, 1h30m or 90s")
    return TimeLimit(time=text, fixed=before.fixed if before else ())


def _short(value: object) -> object:
    return {"time": value} if isinstance(value, str) else value


Within = Annotated[TimeLimit | None, BeforeValidator(_short, json_schema_input_type=str | TimeLimit | None)]
