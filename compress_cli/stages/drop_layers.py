"""Whole layers are left out, and the shallower model is trained further."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.datasets import Split
from compress_cli.data.rows import joined
from compress_cli.deployment.exporters import Exporter
from compress_cli.deployment.exporters.onnx import Onnx
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.errors import RecipeError, StageError
from compress_cli.losses import Loss
from compress_cli.measurement import latency, measure, sessions
from compress_cli.measurement.latency import TimingConditions
from compress_cli.networks import ablation, bypassing, features, restore
from compress_cli.networks.edits.bypass import Bypass, Bypassed
from compress_cli.networks.models import Network
from compress_cli.progress import Progress
from compress_cli.pruning import channels
from compress_cli.pruning.cost import Cost
from compress_cli.settings import Many, NotInKeyAtDefault
from compress_cli.stages import Role, Stage, _cut, _depth
from compress_cli.stages._cuts import Keep, Share
from compress_cli.stages._teaching import Names, Teaching
from compress_cli.stages._work import Work
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.store.saves import Save, Saves
from compress_cli.training import loader, loop
from compress_cli.training.config import TrainingConfig

HEADS_BYTES = 500_000_000  # of outputs that are kept at once


class DropLayers(Stage):
    """Leave out whole residual blocks or transformer layers, the least important first, and train the shallower model.

    Layers that could be left out are repeated ones that give a tensor of the shape that they take. The importance is measured:
    each is left out in turn, beside those already chosen, and the one whose absence costs least on val goes next.
    """

    version: ClassVar[int] = 3

    consumes: ClassVar[dict[str, Role]] = {
        "start": Role((Checkpoint,)),
        "teacher": Role((Checkpoint, Program, OnnxModel, Table), previous=False, optional=True, many=True),
    }
    shared: ClassVar[dict[str, int]] = {
        "channels": channels.VERSION, "training": loop.VERSION, "loader": loader.VERSION, "features": features.VERSION,
        "measure": measure.VERSION,
    }  # fmt: skip
    long: ClassVar[bool] = True

    start: str | None = Field(None, description="stage whose model is made shallower; default: the one before")
    remove: int | None = Field(None, ge=1, description="layers that are left out")
    ratio: Annotated[Share | None, NotInKeyAtDefault()] = Field(
        None, description="instead: share of the layers that could be left out, rounded, one at least"
    )
    keep: Annotated[Keep | None, NotInKeyAtDefault()] = Field(
        None, description="instead: layers are left out until at most this share of a cost remains: {macs: 0.6}"
    )
    ignore: Many[str] = Field((), description="layers that stay; a name covers the layers inside it")
    samples: int = Field(512, ge=1, description="val samples, drawn by seed and sample id, that importance is measured on")
    batch: int = Field(64, ge=1, description="samples that run at once")
    exporter: Annotated[Exporter, NotInKeyAtDefault()] = Field(
        Onnx(), description="writes the files whose bytes or latency are the target"
    )
    timing: Annotated[TimingConditions, NotInKeyAtDefault()] = Field(
        TimingConditions(), description="how latency is measured where it is the target"
    )
    training: TrainingConfig | None = Field(None, description="training afterwards; default: none")
    teacher: Names = Field((), description="the stage to learn from in that training, or a list of several")
    losses: Many[Loss] = Field((), description="for that training; default: hard labels, with a teacher its soft targets too")
    combine: Combination = Field(Mean(), description="how losses that name no teacher learn from several")
    teacher_cache: bool = Field(False, description="run the teacher once over the data and read its stored outputs")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        _depth.check_one(self.remove, self.ratio, self.keep)
        return self

    @model_validator(mode="after")
    def _taught(self) -> Self:
        self._teaching.check_optional()
        return self

    @property
    def _teaching(self) -> Teaching:
        return Teaching.of(self, self.training)

    @property
    def distributed(self) -> bool:
        return self.training is not None and not _depth.is_timed(self.keep)

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        self._teaching.check_layers(kinds.get("teacher", ()))
        return Checkpoint

    def needs(self) -> dict[str, Stage]:
        """A table of each teacher's outputs, where they are stored."""
        return self._teaching.tables()

    def depends(self) -> dict[str, Any]:
        machine = {**sessions.machine(), "latency": latency.VERSION} if _depth.is_timed(self.keep) else {}
        return {**machine, **self._teaching.named()}

    def run(self, context: Context) -> dict[str, Any]:
        held_out = context.split("val", self.batch)
        if not len(held_out):
            raise StageError("there are no val samples to measure the importance of layers on; give the dataset a val split")
        split = samples.drawn(held_out, self.samples, context.seed)
        restored = restore.checkpoint(context.inputs["start"][0])
        _cut.check_finite(restored)
        body, inputs = restored.network.body, _cut.probes(restored, context)
        found = self._candidates(restored.network, bypassing.candidates(body, inputs))
        before = Cost(body, inputs)
        target = self._target(restored.network, found, inputs, context)
        work = Work()
        facts = self._drop(_Ranking(restored.network, found, split, self, context), target, work)
        edit = Bypass(layers=tuple(facts["dropped"]), tuples=tuple(name for name in facts["dropped"] if found[name]))
        gone = [f"{layer}.{name}" for layer in edit.layers for name, _ in body.get_submodule(layer).named_parameters()]
        edits = [earlier.without(gone) for earlier in restored.network.edits]
        edit(body)
        after = Cost(body, inputs)
        facts |= {"macs": [before.macs(), after.macs()], "parameters": [before.parameters(), after.parameters()]}
        shallower = restore.Restored(restored.network, restored.model, (*edits, edit))
        if self.training is not None:
            facts |= self._teaching.fit(shallower.network, self.training, context)
        restore.save(shallower, context.output)
        return facts | work.facts(facts.get("pace"))

    def _candidates(self, network: Network, found: dict[str, bool]) -> dict[str, bool]:
        """Those that are not ignored; RecipeError where a name matches nothing, or too few remain."""
        ignored = _cut.named(network.body, self.ignore)
        left = {name: as_tuple for name, as_tuple in found.items() if name not in ignored}
        if not left or (self.remove or 1) > len(left):
            asked = f"remove: {self.remove} layers" if self.remove else "layers"
            raise RecipeError(
                f"{asked} can't be left out; those that could: {', '.join(left) or 'none'} (repeated "
                "layers that give a tensor of the shape that they take)"
            )
        return left

    def _target(
        self, network: Network, found: dict[str, bool], inputs: tuple[torch.Tensor, ...], context: Context
    ) -> _depth.Target | None:
        if self.keep is None:
            return None
        remaining = _depth.remaining(self.keep, network, found, inputs, self.exporter, self.timing)
        return _depth.Target(self.keep, remaining, list(found), context.limit is not None)

    def _drop(self, ranking: _Ranking, target: _depth.Target | None, work: Work) -> dict[str, Any]:
        """For the manifest: what is left out, in this order, and the metric without it."""
        context, found = ranking.context, ranking.found
        saved = context.saves.load() if self.training is None else None
        dropped: list[str] = saved.document["dropped"] if saved else []
        values: list[float] = saved.document["values"] if saved else []
        saves = context.saves if self.training is None else Saves()  # the training's saves are of another kind
        sign = 1 if context.task.better == "higher" else -1
        first, scores = ranking.whole(), dict[str, float]()
        with stopping.held():
            for number in range(len(dropped), _depth.count(self.remove, self.ratio, len(found))):
                if target and target.reached(dropped):
                    break
                rest = [name for name in found if name not in dropped]
                if context.limit is None or not scores:  # a smoke run ranks them once
                    scores = ranking.without_each(rest, dropped)
                best = max(rest, key=lambda name: sign * scores[name])  # of equal ones the first
                dropped, values = [*dropped, best], [*values, scores[best]]
                document = {"dropped": dropped, "values": values}
                saves.step(lambda document=document, number=number: _save(document, number))  # type: ignore[misc]
        if target:
            target.reached(dropped)
        if context.limit is not None:
            work.add(ranking.spent_s, *ranking.passes(len(dropped)))
        reached = target.facts() if target else {}
        return {"dropped": dropped, context.task.primary: [first, *values], "layers": list(found), **reached}


@dataclass
class _Ranking:
    """What layers matter: the primary metric on val without each."""

    network: Network
    found: dict[str, bool]  # layer -> whether it gives a tuple
    split: Split
    stage: DropLayers
    context: Context
    together: int = 1  # layers whose outputs for all samples are in memory at once
    spent_s: float = 0.0

    def whole(self) -> float:
        """The metric of all layers."""
        heads = joined([samples.answers(self.network, inputs) for inputs in self._batches()])
        self.together = max(1, HEADS_BYTES // max(1, sum(values.nbytes for values in heads.values())))
        return self._value(heads)

    def without_each(self, rest: Sequence[str], gone: Collection[str]) -> dict[str, float]:
        """Layer -> the metric without it, and without those that are gone."""
        begun, scores, done = time.perf_counter(), dict[str, float](), 0
        passes = len(rest) * -(-len(self.split) // self.stage.batch)
        with ablation.replaced(self.network.body, {name: Bypassed(self.found[name]) for name in gone}):
            for start in range(0, len(rest), self.together):
                names = rest[start : start + self.together]
                parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in names}
                for inputs in self._batches():
                    for name, heads in ablation.without_each(self.network, self.found, names, inputs):
                        parts[name].append(heads)
                        done += 1
                        self.context.log(Progress("drop layers", done, passes))
                scores |= {name: self._value(joined(heads)) for name, heads in parts.items()}
        self.spent_s += time.perf_counter() - begun
        return scores

    def passes(self, dropped: int) -> tuple[int, int]:
        """How many times a sample was seen without a layer in a smoke run, and how often it is where so many are dropped."""
        samples_in_all = min(self.stage.samples, len(self.context.whole("val")))
        each_round = [len(self.found) - number for number in range(dropped)]
        return len(self.split) * len(self.found), samples_in_all * sum(each_round)

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        return (samples.tensors(part, self.network.signature) for part in samples.parts(self.split, self.stage.batch))

    def _value(self, heads: dict[str, np.ndarray]) -> float:
        task = self.context.task.within(self.network.signature.heads) or self.context.task
        return task.value(heads, self.split.truth())


def _save(document: dict[str, Any], number: int) -> Save:
    return Save({"done": np.array(number)}, document, f"layer {number + 1}")
