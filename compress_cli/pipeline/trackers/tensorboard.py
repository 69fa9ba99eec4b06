"""TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from compress_cli.errors import RecipeError
from compress_cli.pipeline.trackers import Ending, Figures, TrackedRun, Tracker, Tracking
from compress_cli.settings import Folder


class Tensorboard(Tracker):
    """Event files for TensorBoard, written without TensorFlow: one run per stage, so that their curves share a chart.

        tracking: [tensorboard]

    `tensorboard --logdir runs/digits/tensorboard` shows them. Needs `pip install compress-cli[tensorboard]`.
    """

    folder: Folder | None = Field(None, description="where the event files go; default: tensorboard/ in the run's folder")

    def open(self, run: TrackedRun) -> Tracking:
        try:
            from tensorboard.summary.writer import record_writer  # noqa: F401 - the one place that finds it missing
        except ImportError:
            raise RecipeError("tracker tensorboard: needs `pip install compress-cli[tensorboard]`") from None
        folder = self.folder / run.name if self.folder else run.directory / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        return _EventFiles(folder)


class _EventFiles(Tracking):
    """One event file per stage."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.writers: dict[str, Any] = {}

    def epoch(self, stage: str, epoch: int, figures: Figures) -> None:
        self._write(stage, epoch, figures)

    def results(self, models: Mapping[str, Figures], gates: Mapping[str, str], files: Sequence[Path]) -> None:
        for model, figures in models.items():
            self._write(model, 0, figures)

    def close(self, ending: Ending) -> None:
        for writer in self.writers.values():
            writer.close()

    def _write(self, stage: str, step: int, figures: Figures) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=figure) for tag, figure in figures.items()]
        writer = self.writers.get(stage) or self._begin(stage)
        writer.write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)).SerializeToString())
        writer.flush()  # what was written survives a kill

    def _begin(self, stage: str) -> Any:
        # Not EventFileWriter: through tensorboard.compat it imports TensorFlow wherever that is installed.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"  # in the order in which they were begun
        writer = RecordWriter((folder / name).open("wb"))
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        self.writers[stage] = writer
        return writer
