"""What a teacher says of every training sample, said once."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from compress_cli import features, feed, table
from compress_cli.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.augmentations import Augmentation
from compress_cli.batch import Outputs
from compress_cli.context import Context
from compress_cli.datasets import Dataset, SplitName
from compress_cli.errors import StageError
from compress_cli.feed import Feed
from compress_cli.progress import Progress
from compress_cli.settings import Many
from compress_cli.stages import Role, Stage
from compress_cli.teachers import teacher_for

CHUNK = 256  # samples at once: from 16 on, no output was seen to depend on the batch it was computed in
TELL_EVERY_S = 0.5


class TeacherTable(Stage):
    """Run a teacher once over the train split, in each of its fixed views, and keep what it says by sample id.

    `teacher_cache: true` makes one; every stage that learns from the same teacher, data and views reads the same table.
    """

    consumes: ClassVar[dict[str, Role]] = {"teacher": Role((Checkpoint, Program, OnnxModel, Table))}
    shared: ClassVar[dict[str, int]] = {"feed": feed.VERSION, "features": features.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)
    seeded: ClassVar[bool] = False
    tasked: ClassVar[bool] = False
    long: ClassVar[bool] = True

    teacher: str | None = Field(None, description="the stage whose model is asked; default: the stage before")
    layers: Many[str] = Field((), description="the teacher's layers whose features are kept too")
    augment: Many[Augmentation] = Field((), description="random changes of images, in this order")
    transfer: Dataset | None = Field(
        None, description="ask about its training samples instead of those of the recipe's dataset"
    )
    views: int = Field(1, ge=1, le=10_000, description="fixed draws of these changes that are kept")

    def depends(self) -> dict[str, Any]:
        return {"transfer": self.transfer.fingerprint()} if self.transfer else {}

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Table

    def run(self, context: Context) -> dict[str, Any]:
        context = replace(context, transfer=self.transfer)
        source = context.inputs["teacher"][0]
        opened = teacher_for(source).open(source, self.layers, context.device)
        whole, index = self._feed(context, context.limit), context.whole("train").index
        teacher_for(source).check(source, whole.index)
        steps = self.views * -(-len(whole) // CHUNK)
        writer, size, spent, told = None, 0, 0.0, time.perf_counter()
        for view in range(self.views):
            start = 0
            for part in whole.fixed(view, CHUNK):
                begun = time.perf_counter()
                said = _arrays(opened(part))
                if writer is None:
                    size = table.size_bytes(len(index), self.views, said)
                    self._announce(size, len(index), context)
                    writer = table.Writer(context.output, index, len(whole), self.views, said)
                writer.write(view, start, said)
                start += len(part.index)
                spent += time.perf_counter() - begun
                if time.perf_counter() - told > TELL_EVERY_S:
                    told = time.perf_counter()
                    context.log(Progress("ask the teacher", view * len(whole) + start, self.views * len(whole)))
        assert writer is not None  # a feed is never empty
        writer.close()
        planned = self.views * -(-len(index) // CHUNK)
        return {
            "samples": len(index), "views": self.views, "planned_bytes": size,
            "planned_steps": planned, "seconds_per_step": spent / steps,
        }  # fmt: skip

    def _feed(self, context: Context, limit: int | None) -> Feed:
        """The samples in the order they have; of a smoke run two chunks, whose rows serve for all."""
        split = context.split("train", CHUNK)
        return Feed(split, CHUNK, 1, self.augment, 0, context.device, self.views)

    def _announce(self, size: int, samples: int, context: Context) -> None:
        """Say what the table takes before it is written; StageError where the disk has no room for it."""
        free = shutil.disk_usage(context.output).free
        what = f"the table of {samples} samples in {self.views} {'view' if self.views == 1 else 'views'}"
        if size > free:
            raise StageError(
                f"{what} takes {_mb(size)}, and {context.output.parent} has {_mb(free)} left; make room, take fewer views, "
                "leave losses on features out, or set teacher_cache: false"
            )
        context.log(Progress("ask the teacher", 0, self.views * samples, note=f"{what} takes {_mb(size)} on disk"))


def _arrays(said: Outputs) -> dict[tuple[table.Kind, str], np.ndarray]:
    """(kind, name) -> (N, ...), in the number types they came in."""
    heads: dict[tuple[table.Kind, str], np.ndarray] = {("heads", name): each.cpu().numpy() for name, each in said.heads.items()}
    return {**heads, **{("features", name): each.cpu().numpy() for name, each in said.features.items()}}


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
