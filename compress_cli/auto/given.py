"""The model as it was given, measured on val."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress_cli.auto.architectures import Size
from compress_cli.report import Report
from compress_cli.store.artifact import Artifact

UNKNOWN = 10**15  # a count that the graph does not tell: it bounds nothing


@dataclass(frozen=True)
class Given:
    """The model as it is: its artifact, its float file, and the figures of that on val."""

    stage: Mapping[str, Any]
    artifact: Artifact
    file: Path
    report: Report

    @property
    def bytes(self) -> int:
        return self.report.rows[0].size_bytes or 1

    @property
    def size(self) -> Size:
        row = self.report.rows[0]
        return Size(row.parameters or UNKNOWN, row.macs or UNKNOWN)
