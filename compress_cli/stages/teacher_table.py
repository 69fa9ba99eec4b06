"""A teacher's outputs for every training sample, computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data.batch import Batch, Outputs
from compress_cli.data.datasets import Dataset, SplitName
from compress_cli.distillation import table
from compress_cli.distillation.teachers import teacher_for
from compress_cli.errors import RecipeError
from compress_cli.networks import features
from compress_cli.processes import Processes
from compress_cli.progress import Progress
from compress_cli.quantization import joins, placement
from compress_cli.settings import Many, NotInKeyAtDefault
from compress_cli.stages import Role, Stage, _table_precision
from compress_cli.stages._table_precision import Choice
from compress_cli.stages._table_ways import FILES, INTEGERS, Name, Request, Ways, in_batches
from compress_cli.store import disk
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.store.saves import Save
from compress_cli.training import loader
from compress_cli.training.augmentations import Augmentation
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.pool import SamplePool

CHUNK = 256  # samples at once: from 16 on, no output was found to depend on the size of its batch
TRIED = 64  # in a smoke run
PLAIN = Choice("float32", CHUNK, "saved by an earlier version")
REPORT_S = 0.5  # between progress reports


class TeacherTable(Stage):
    """Run a teacher once over the train split, in each of its fixed views, and store its outputs by sample id.

    `teacher_cache: true` makes one; every stage that learns from the same teacher, data and views reads the same table.

    A table that takes long is computed in the fastest way (number format, order in memory, folded batch norms, ONNX Runtime,
    its 8-bit integers) whose outputs agree with plain float32 on samples of the table: rms difference of each head and layer
    at most 2% of its deviation over samples, at least 97% of the decisions the same. The way is chosen once per teacher and
    machine; the manifest tells it, with what was measured, and an interrupted table goes on in the same one.
    """

    version: ClassVar[int] = 2  # the table tells on which axis the classes of its heads lie
    consumes: ClassVar[dict[str, Role]] = {"teacher": Role((Checkpoint, Program, OnnxModel, Table))}
    shared: ClassVar[dict[str, int]] = {"loader": loader.VERSION, "features": features.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("train",)
    seed_dependent: ClassVar[bool] = False
    task_dependent: ClassVar[bool] = False
    long: ClassVar[bool] = True
    distributed: ClassVar[bool] = True  # several processes take turns with the chunks of samples

    teacher: str | None = Field(None, description="the stage whose model is run; default: the stage before")
    layers: Many[str] = Field((), description="the teacher's layers whose features are stored too")
    augment: Many[Augmentation] = Field((), description="random changes of images, in this order")
    transfer: Dataset | None = Field(
        None, description="store outputs for its training samples instead of those of the recipe's dataset"
    )
    join: Annotated[bool, NotInKeyAtDefault()] = Field(False, description="store outputs for the samples of both")
    views: int = Field(1, ge=1, le=10_000, description="fixed draws of these changes that are stored")
    precision: Annotated[
        Literal["auto"] | Name,
        NotInKeyAtDefault(),
    ] = Field("auto", description="how the teacher computes; auto: the fastest way whose outputs agree with float32")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Table

    def depends(self) -> dict[str, Any]:
        """How integers are made, where they are asked for; those that are chosen agree whatever they are."""
        return {"placement": placement.VERSION, "joins": joins.VERSION} if self.precision in INTEGERS else {}

    def run(self, context: Context) -> dict[str, Any]:
        context = replace(context, transfer=self.transfer, join=self.join)
        source, size = context.inputs["teacher"][0], CHUNK if context.limit is None else TRIED
        plain = teacher_for(source).open(source, self.layers, context.device)
        # in a smoke run the rows of two chunks serve for all samples
        train, unlabelled, index = context.split("train", size), context.unlabelled(size), context.index()
        pool = SamplePool(train, context.device, unlabelled)
        samples = Loader(pool, size, Augmenter(self.augment))
        teacher_for(source).check(source, pool.index)
        writer, first, choice = self._resumed(context, index, len(pool))
        request = Request(
            source, self.layers, len(index) * self.views, context.device, size, context.memory, context.limit is not None
        )
        spread = partial(np.linspace, 0, len(pool) - 1, dtype=np.int64)
        chunks, done, reported = -(-len(pool) // size), first, time.perf_counter()
        with ExitStack() as stack:
            ways = Ways(request, plain, lambda count: samples.viewed(spread(count), 0), stack)
            choice = choice or self._choose(ways, context)
            context.environment["precision"] = choice.name
            stack.enter_context(stopping.held())
            opened, start = in_batches(ways.opened(choice.name), choice.batch), time.perf_counter()
            for batch in self._chunks(samples, first, chunks, size, context.processes):
                outputs = opened(batch) if batch else None
                for arrays in context.processes.gathered(_arrays(outputs) if outputs else {}):
                    if writer is None:
                        assert outputs is not None  # the first process has a part of every turn
                        writer = self._new_writer(context, index, len(pool), arrays, outputs.class_axes)
                    if arrays:
                        writer.write(table.unflattened(arrays))
                        done += 1
                if time.perf_counter() - reported > REPORT_S:
                    reported = time.perf_counter()
                    context.log(Progress("ask the teacher", done, chunks * self.views))
                context.saves.step(partial(_state, writer, done, choice))
            spent_s = time.perf_counter() - start
        if writer is None:  # the first process has it
            return {}
        writer.close()
        a_row_s = spent_s / max(1, (chunks * self.views - first) * len(pool) / chunks)
        return {
            "samples": len(index), "views": self.views, "planned_bytes": writer.size_bytes(len(index)),
            "precision": asdict(choice), "pace": {"each_s": a_row_s * len(index), "worked_s": spent_s},
        }  # fmt: skip

    def _choose(self, ways: Ways, context: Context) -> Choice:
        """The way to compute; RecipeError for one that this teacher does not have."""
        source = ways.request.source
        if self.precision not in ("auto", "float32"):
            if not isinstance(source, Checkpoint):
                raise RecipeError(f"precision: the teacher is a {source.manifest.kind} and runs as it is; leave it out")
            if self.precision in FILES and (self.layers or ways.request.device != "cpu"):
                raise RecipeError(f"precision: {self.precision} shows no layers, and runs on the CPU; take another, or auto")
        context.log(Progress("time number formats", 0, 1))
        processes = context.processes
        chosen = asdict(_table_precision.choose(ways, self.precision)) if processes.rank == 0 else {}
        return Choice(**processes.same(chosen)) if processes.several else Choice(**chosen)

    def _resumed(self, context: Context, index: np.ndarray, rows: int) -> tuple[table.Writer | None, int, Choice | None]:
        """The writer of an interrupted run, how many chunks it has written, and how; None, 0 and None where none was saved.
        Only the first of several processes has a writer."""
        saved = context.saves.load(arrays=False)
        if saved is None:
            return None, 0, None
        done, choice = saved.document["chunks"], Choice(**saved.document["choice"]) if "choice" in saved.document else PLAIN
        if context.processes.rank:
            return None, done, choice
        arrays = table.unflattened(saved.arrays)
        writer = table.Writer(context.output, index, rows, self.views, arrays, saved.document["class_axes"])
        writer.write(arrays)
        context.log(Progress("ask the teacher", 0, 1, note=f"resumed at {saved.progress}"))
        return writer, done, choice

    def _new_writer(
        self, context: Context, index: np.ndarray, rows: int, first: Mapping[str, np.ndarray], class_axes: table.ClassAxes
    ) -> table.Writer:
        """A writer for rows like these; reports the size of the table before it is written."""
        arrays = table.unflattened(first)
        size = disk.amount(table.size_bytes(len(index), self.views, arrays))
        views = f"{self.views} {'view' if self.views == 1 else 'views'}"
        note = f"the table of {len(index)} samples in {views} takes {size} on disk"
        context.log(Progress("ask the teacher", 0, 1, note=note))
        return table.Writer(context.output, index, rows, self.views, arrays, class_axes)

    def _chunks(self, samples: Loader, done: int, chunks: int, size: int, processes: Processes) -> Iterator[Batch | None]:
        """The chunks of every view, `chunks` in each, without the first `done`: several processes take turns. None is a turn
        in which this one has nothing left to do."""
        for view in range(done // chunks, self.views):
            begun = max(0, done - view * chunks)
            own = samples.fixed(view, size, begun + processes.rank, processes.count)
            for _ in range(begun, chunks, processes.count):
                yield next(own, None)


def _arrays(outputs: Outputs) -> dict[str, np.ndarray]:
    """`heads logits` -> (N, ...), in their own number types."""
    heads = {f"heads {name}": values.cpu().numpy() for name, values in outputs.heads.items()}
    return {**heads, **{f"features {name}": values.cpu().numpy() for name, values in outputs.features.items()}}


def _state(writer: table.Writer | None, chunks: int, choice: Choice) -> Save | None:
    if writer is None:
        return None
    document = {"chunks": chunks, "class_axes": writer.class_axes, "choice": asdict(choice)}
    return Save(writer.written(), document, f"row {writer.done}")
