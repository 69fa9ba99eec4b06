"""A table that a stage makes about a model: the report shows it, and gates may name its figures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from compress_cli.statistics.intervals import Estimate

FINDINGS = "findings.json"


class Line(BaseModel):
    """The figures of one thing: a layer, a disturbance of some severity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    cells: list[Estimate | float | None]
    """One for each column, with an interval where there is one; None where there is no such figure."""


class Findings(BaseModel):
    """The document of a Table that the report shows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    about: str
    """What the figures are, in a sentence or two: definitions, samples, papers."""
    side: Literal["ONNX Runtime", "PyTorch"]
    """Where the model ran: as the exported file, or as the checkpoint that it was made from."""
    what: str
    """The subject of a line: a layer, a corruption."""
    columns: list[str]
    """Names of figures; that of a metric where it is one."""
    lines: list[Line]

    def figures(self) -> dict[str, Estimate | float]:
        """Every figure by the name that a gate gives it: `noise_3_accuracy`, `conv1_accuracy_change`."""
        return {
            re.sub(r"\W+", "_", f"{line.name}_{column}"): cell
            for line in self.lines
            for column, cell in zip(self.columns, line.cells, strict=True)
            if cell is not None
        }

    def write(self, folder: Path) -> None:
        (folder / FINDINGS).write_text(self.model_dump_json(indent=1) + "\n")
