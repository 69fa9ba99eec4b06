"""What a teacher says of every training sample, said once."""

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
from compress_cli.training import loader as loader
from compress_cli.training.augmentations import Augmentation
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.pool import SamplePool

CHUNK = 256  # samples at once: from 16 on, no output was seen to depend on the batch it was computed in
TELL_EVERY_S = 0.5


class TeacherTable(Stage):
    """Run a teacher once over the train split, in each of its fixed views, and keep what it says by sample id.

    `teacher_cache: true` makes one; every stage that learns from the same teacher, data and views reads the same table.
    """

    consumes: ClassVar[dict[str, Role]] = {"teacher": Role((Checkpoint, Program, OnnxModel, Table))}
    shared: ClassVar[dict[str, int]] = {"loader": loader.VERSION, "features": features.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)
    seed_dependent: ClassVar[bool] = False
    task_dependent: ClassVar[bool] = False
    long: ClassVar[bool] = True

    teacher: str | None = Field(None, description="the stage whose model is asked; default: the stage before")
    layers: Many[str] = Field((), description="the teacher's layers whose features are kept too")
    augment: Many[Augmentation] = Field((), description="random changes of images, in this order")
    transfer: Dataset | None = Field(
        None, description="ask about its training samples instead of those of the recipe's dataset"
    )
    join: Annotated[bool, NotInKeyAtDefault()] = Field(False, description="ask about both")
    views: int = Field(1, ge=1, le=10_000, description="fixed draws of these changes that are kept")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Table

    def run(self, context: Context) -> dict[str, Any]:
        context = replace(context, transfer=self.transfer, join=self.join)
        source = context.inputs["teacher"][0]
        opened = teacher_for(source).open(source, self.layers, context.device)
        # of a smoke run the rows of two chunks serve for all samples
        train, unlabelled, index = context.split("train", CHUNK), context.unlabelled(CHUNK), context.index()
        loader = Loader(SamplePool(train, context.device, unlabelled), CHUNK, Augmenter(self.augment))
        teacher_for(source).check(source, loader.pool.index)
        saved, writer = context.saves.load(), None
        if saved:
            writer = table.Writer(context.output, index, len(loader.pool), self.views, table.unflattened(saved.arrays))
            context.log(Progress("ask the teacher", 0, 1, note=f"resumed at {saved.place}"))
        first = saved.document["chunks"] if saved else 0
        each, begun, told = -(-len(loader.pool) // CHUNK), time.perf_counter(), time.perf_counter()
        with stopping.held():
            for chunk, part in enumerate(self._parts(loader, first, each), first + 1):
                said = _arrays(opened(part))
                if writer is None:
                    self._announce(table.size_bytes(len(index), self.views, said), len(index), context)
                    writer = table.Writer(context.output, index, len(loader.pool), self.views, said, empty=True)
                writer.write(said)
                if time.perf_counter() - told > TELL_EVERY_S:
                    told = time.perf_counter()
                    context.log(Progress("ask the teacher", chunk, each * self.views))
                context.saves.step(partial(_state, writer, chunk))
        assert writer is not None  # a loader is never empty
        writer.close()
        return {
            "samples": len(index), "views": self.views, "planned_bytes": writer.size_bytes(len(index)),
            "planned_steps": self.views * -(-len(index) // CHUNK),
            "seconds_per_step": (time.perf_counter() - begun) / max(1, each * self.views - first),
        }  # fmt: skip

    def _parts(self, loader: Loader, done: int, each: int) -> Iterator[Batch]:
        """The chunks of every view, `each` a view, without the first `done`."""
        for view in range(done // each, self.views):
            yield from loader.fixed(view, CHUNK, max(0, done - view * each))

    def _announce(self, size: int, samples: int, context: Context) -> None:
        """Say what the table takes before it is written."""
        what = f"the table of {samples} samples in {self.views} {'view' if self.views == 1 else 'views'}"
        context.log(Progress("ask the teacher", 0, 1, note=f"{what} takes {disk.amount(size)} on disk"))


def _arrays(said: Outputs) -> dict[tuple[table.Kind, str], np.ndarray]:
    """(kind, name) -> (N, ...), in the number types they came in."""
    heads: dict[tuple[table.Kind, str], np.ndarray] = {("heads", name): each.cpu().numpy() for name, each in said.heads.items()}
    return {**heads, **{("features", name): each.cpu().numpy() for name, each in said.features.items()}}


def _state(writer: table.Writer, chunks: int) -> Save:
    return Save(writer.written(), {"chunks": chunks}, f"row {writer.done}")
