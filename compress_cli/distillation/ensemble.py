"""The teachers of a stage: who says what to which loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs, from_arrays
from compress_cli.data.datasets import Split
from compress_cli.data.tasks import Task
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.distillation.teachers import Opened, teacher_for
from compress_cli.errors import RecipeError
from compress_cli.losses import Loss
from compress_cli.settings import suggest
from compress_cli.store.artifact import Artifact


def assemble(
    sources: dict[str, Artifact],
    losses: tuple[Loss, ...],
    index: np.ndarray,
    device: str,
    combination: Combination | None = None,
) -> Ensemble:
    """Open teachers by name, ready for these losses and the samples with these ids (N,).

    RecipeError where a loss asks for a layer that its teacher does not show, DataError where a table lacks samples.
    """
    opened = {}
    for name, source in sources.items():
        kind = teacher_for(source)
        kind.check(source, index)
        opened[name] = kind.open(source, layers_of(name, losses), device)
    return Ensemble(opened, combination or Mean())


def layers_of(teacher: str, losses: Iterable[Loss]) -> tuple[str, ...]:
    """The layers of a teacher that these losses read."""
    return tuple(dict.fromkeys(layer for each in losses if each.teacher in ("", teacher) for layer in each.teacher_layers()))


def score(opened: Opened, split: Split, task: Task, device: str) -> tuple[Task, float] | None:
    """What a teacher can do of a task, and its primary metric on a split; None where it has no head that the task is about."""
    heads: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(split), 256):
        part = split.take(np.arange(start, min(start + 256, len(split))))
        for name, each in opened(from_arrays(part.inputs, {}, part.index).to(device)).heads.items():
            heads.setdefault(name, []).append(each.cpu().numpy())
    joined = {name: np.concatenate(each) for name, each in heads.items()}
    own = task.within(joined)
    return (own, own.value(joined, split.targets)) if own else None


@dataclass(frozen=True)
class Ensemble:
    """Teachers by name, and how they become one where a loss on outputs names none of them."""

    teachers: dict[str, Opened]
    combination: Combination = field(default_factory=Mean)

    def adapter(self) -> nn.Module:
        """The trainable part of the combination, owned by the loop."""
        return self.combination.adapter(len(self.teachers)) if len(self.teachers) > 1 else nn.Identity()

    def outputs(self, batch: Batch, adapter: nn.Module) -> TeacherOutputs:
        """What the teachers say of a batch; they take no gradient."""
        with torch.no_grad():
            said = {name: opened(batch) for name, opened in self.teachers.items()}
        return TeacherOutputs(said, self.combination, batch, adapter)


NO_TEACHERS = Ensemble({})


@dataclass(frozen=True)
class TeacherOutputs:
    """What several teachers say of one batch."""

    said: dict[str, Outputs]
    combination: Combination
    batch: Batch
    adapter: nn.Module

    def of(self, loss: Loss) -> tuple[Outputs, ...]:
        """What a loss learns from: the teacher that it names; for a loss on features, else, each teacher in turn; for one
        on outputs all teachers combined into one."""
        if loss.teacher:
            if loss.teacher not in self.said:
                raise RecipeError(f"there is no teacher '{loss.teacher}' here; {suggest(loss.teacher, list(self.said))}")
            return (self.said[loss.teacher],)
        if len(self.said) < 2 or not loss.taught or loss.teacher_layers():
            return tuple(self.said.values())
        return (Outputs({name: each.detach() for name, each in self._combined.items()}),)

    def shown(self, loss: Loss, student: Outputs) -> tuple[Outputs, tuple[Outputs, ...], Batch] | None:
        """What a loss is given: the student's outputs, those it learns from, and the samples; where it reads labels only
        the samples that have any, and None where none has."""
        heard = self.of(loss)
        if self.batch.labels is None or not loss.reads_labels():
            return student, heard, self.batch
        rows = self.batch.labels.rows
        return (student.of(rows), tuple(each.of(rows) for each in heard), self.batch.labelled()) if len(rows) else None

    def loss(self) -> Tensor | None:
        """What the combination's trainable part makes small, if it has one, on the samples that have labels."""
        if len(self.said) < 2 or not list(self.adapter.parameters()) or not self.batch.known:
            return None
        batch, rows = self.batch.labelled(), self.batch.labels.rows if self.batch.labels else slice(None)
        losses = [loss for each in self._combined.values() if (loss := self.combination.loss(each[rows], batch)) is not None]
        return torch.stack(losses).sum() if losses else None

    @cached_property
    def _combined(self) -> dict[str, Tensor]:
        """Head name -> (N, ...): for every head the teachers that have it."""
        names = dict.fromkeys(name for each in self.said.values() for name in each.heads)
        return {name: self._head(name) for name in names}

    def _head(self, name: str) -> Tensor:
        heads = {teacher: each.heads[name] for teacher, each in self.said.items() if name in each.heads}
        shapes = {teacher: tuple(each.shape[1:]) for teacher, each in heads.items()}
        if len(set(shapes.values())) > 1:
            told = ", ".join(f"{' x '.join(map(str, shape))} from '{teacher}'" for teacher, shape in shapes.items())
            raise RecipeError(
                f"the teachers give other numbers of values in the head '{name}' ({told}) and can't be combined; name the "
                "teacher that each loss learns from in its field `teacher`"
            )
        if len(heads) == 1:
            return next(iter(heads.values()))
        if len(heads) < len(self.said):
            raise RecipeError(
                f"the head '{name}' is given by {' and '.join(heads)} only; name the teacher that each loss learns from in its "
                "field `teacher`"
            )
        said = torch.stack(list(heads.values()))  # (teachers, N, ...)
        shares = self.combination.shares(said, self.batch, self.adapter)
        return (said * shares.reshape(*shares.shape, *(1 for _ in range(said.dim() - shares.dim())))).sum(0)
