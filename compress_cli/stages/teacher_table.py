"""A teacher's outputs for every training sample, computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data.batch import Batch, Outputs
from compress_cli.data.datasets import Dataset, SplitName
from compress_cli.distillation import table
from compress_cli.distillation.teachers import teacher_for
from compress_cli.networks import features
from compress_cli.progress import Progress
from compress_cli.settings import Many, NotInKeyAtDefault
from compress_cli.stages import Role, Stage
from compress_cli.store import disk
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.store.saves import Save
from compress_cli.training import loader
from compress_cli.training.augmentations import Augmentation
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.pool import SamplePool

CHUNK = 256  # samples at once: from 16 on, no output was found to depend on the size of its batch
REPORT_S = 0.5  # between progress reports


class TeacherTable(Stage):
    """Run a teacher once over the train split, in each of its fixed views, and store its outputs by sample id.

    `teacher_cache: true` makes one; every stage that learns from the same teacher, data and views reads the same table.
    """

    version: ClassVar[int] = 2  # the table tells on which axis the classes of its heads lie
    consumes: ClassVar[dict[str, Role]] = {"teacher": Role((Checkpoint, Program, OnnxModel, Table))}
    shared: ClassVar[dict[str, int]] = {"loader": loader.VERSION, "features": features.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)
    seed_dependent: ClassVar[bool] = False
    task_dependent: ClassVar[bool] = False
    long: ClassVar[bool] = True

    teacher: str | None = Field(None, description="the stage whose model is run; default: the stage before")
    layers: Many[str] = Field((), description="the teacher's layers whose features are stored too")
    augment: Many[Augmentation] = Field((), description="random changes of images, in this order")
    transfer: Dataset | None = Field(
        None, description="store outputs for its training samples instead of those of the recipe's dataset"
    )
    join: Annotated[bool, NotInKeyAtDefault()] = Field(False, description="store outputs for the samples of both")
    views: int = Field(1, ge=1, le=10_000, description="fixed draws of these changes that are stored")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Table

    def run(self, context: Context) -> dict[str, Any]:
        context = replace(context, transfer=self.transfer, join=self.join)
        source = context.inputs["teacher"][0]
        opened = teacher_for(source).open(source, self.layers, context.device)
        # in a smoke run the rows of two chunks serve for all samples
        train, unlabelled, index = context.split("train", CHUNK), context.unlabelled(CHUNK), context.index()
        pool = SamplePool(train, context.device, unlabelled)
        samples = Loader(pool, CHUNK, Augmenter(self.augment))
        teacher_for(source).check(source, pool.index)
        writer, first = self._resumed(context, index, len(pool))
        chunks, start, reported = -(-len(pool) // CHUNK), time.perf_counter(), time.perf_counter()
        with stopping.held():
            for chunk, batch in enumerate(self._chunks(samples, first, chunks), first + 1):
                outputs = opened(batch)
                if writer is None:
                    writer = self._new_writer(context, index, len(pool), outputs)
                writer.write(_arrays(outputs))
                if time.perf_counter() - reported > REPORT_S:
                    reported = time.perf_counter()
                    context.log(Progress("ask the teacher", chunk, chunks * self.views))
                context.saves.step(partial(_state, writer, chunk))
        assert writer is not None  # a loader is never empty
        writer.close()
        return {
            "samples": len(index), "views": self.views, "planned_bytes": writer.size_bytes(len(index)),
            "planned_steps": self.views * -(-len(index) // CHUNK),
            "seconds_per_step": (time.perf_counter() - start) / max(1, chunks * self.views - first),
        }  # fmt: skip

    def _resumed(self, context: Context, index: np.ndarray, rows: int) -> tuple[table.Writer | None, int]:
        """The writer of an interrupted run and how many chunks it has written; None and 0 where none was saved."""
        saved = context.saves.load()
        if saved is None:
            return None, 0
        arrays = table.unflattened(saved.arrays)
        writer = table.Writer(context.output, index, rows, self.views, arrays, saved.document["class_axes"])
        writer.write(arrays)
        context.log(Progress("ask the teacher", 0, 1, note=f"resumed at {saved.progress}"))
        return writer, saved.document["chunks"]

    def _new_writer(self, context: Context, index: np.ndarray, rows: int, outputs: Outputs) -> table.Writer:
        """A writer for rows like these outputs; reports the size of the table before it is written."""
        arrays = _arrays(outputs)
        size = disk.amount(table.size_bytes(len(index), self.views, arrays))
        views = f"{self.views} {'view' if self.views == 1 else 'views'}"
        note = f"the table of {len(index)} samples in {views} takes {size} on disk"
        context.log(Progress("ask the teacher", 0, 1, note=note))
        return table.Writer(context.output, index, rows, self.views, arrays, outputs.class_axes)

    def _chunks(self, samples: Loader, done: int, chunks: int) -> Iterator[Batch]:
        """The chunks of every view, `chunks` in each, without the first `done`."""
        for view in range(done // chunks, self.views):
            yield from samples.fixed(view, CHUNK, max(0, done - view * chunks))


def _arrays(outputs: Outputs) -> dict[tuple[table.Kind, str], np.ndarray]:
    """(kind, name) -> (N, ...), in their own number types."""
    heads: dict[tuple[table.Kind, str], np.ndarray] = {
        ("heads", name): values.cpu().numpy() for name, values in outputs.heads.items()
    }
    return {**heads, **{("features", name): values.cpu().numpy() for name, values in outputs.features.items()}}


def _state(writer: table.Writer, chunks: int) -> Save:
    return Save(writer.written(), {"chunks": chunks, "class_axes": writer.class_axes}, f"row {writer.done}")
