"""Objective: the weighted sum of losses between a network's outputs, labels and teachers, which training minimises."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.data.tasks import Task
from compress_cli.distillation.ensemble import Ensemble, TeacherOutputs
from compress_cli.errors import RecipeError, StageError
from compress_cli.losses import Loss, one_number
from compress_cli.networks.features import observe, outputs
from compress_cli.networks.models import Network
from compress_cli.plugin import find
from compress_cli.processes import ALONE, Processes
from compress_cli.training.precision import Name, computing, reordered


def hard_losses(task: Task, heads: Collection[str]) -> tuple[Loss, ...]:
    """The losses on true labels of the parts of a task that a model with these heads can do, each on its head and target."""
    return tuple(_hard_loss(part) for part in (task.within(heads) or task).parts.values())


def _hard_loss(task: Task) -> Loss:
    if not task.loss:
        raise RecipeError(f"the task {task.type} names no loss on true labels; name one in the stage")
    try:
        cls = find(Loss, task.loss)
    except PydanticCustomError as error:
        raise RecipeError(f"the task {task.type}: {error}") from None
    loss = cls.model_validate({name: value for name, value in task.loss_settings().items() if name in cls.model_fields})
    assert isinstance(loss, Loss)
    return loss


class Objective:
    """The losses that are minimised: a weighted sum over a network's outputs, in a number format, against labels and teachers.

    It owns the trainable parts of the losses, `adapters`. RecipeError where no loss has a weight.
    """

    def __init__(
        self,
        network: Network,
        losses: tuple[Loss, ...],
        teachers: Ensemble,
        device: str,
        precision: Name,
        processes: Processes = ALONE,
    ):
        self.losses = tuple(loss for loss in losses if loss.weight)
        if not self.losses:
            raise RecipeError("no loss has a weight above 0: nothing would be learnt")
        self.network, self.teachers, self.device, self.precision = network, teachers, device, precision
        self.processes = processes
        self._seed, self._passes = -1, 0  # what layers were seeded with last, and the passes before this one since then
        self.forward: Callable[..., Any] = network  # calls the network, with other weights in place of its own maybe
        self.layers = tuple(dict.fromkeys(layer for loss in self.losses for layer in loss.student_layers()))
        self.adapters = nn.ModuleList()

    def observed(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Yields the activations of the requested layers in the latest forward pass."""
        return observe(self.network, self.layers)

    def build_adapters(self, first: Batch, labelled: int, samples: int) -> None:
        """Make the adapters, on one pass that changes nothing; of so many samples, `labelled` have labels."""
        self.network.eval()
        with torch.no_grad(), self.observed() as features:
            mixer = self.teachers.adapter().to(self.device)
            student, teachers = self._outputs(first, features, mixer)
        counts = [labelled if loss.reads_labels() else samples for loss in self.losses]
        adapters = [
            loss.adapter(student, teachers.for_loss(loss), count) for loss, count in zip(self.losses, counts, strict=True)
        ]
        self.adapters = nn.ModuleList([*adapters, mixer]).to(self.device)

    def __call__(self, batch: Batch, features: dict[str, Tensor], epochs: float, label_share: float) -> Tensor:
        """The loss of a microbatch after so many epochs, shape ().

        label_share: its share of the batch's labels over its share of the samples. StageError where nothing that is trained
        has a part in the loss.
        """
        *adapters, mixer = self.adapters
        student, teachers = self._outputs(batch, features, mixer)
        terms = []
        for loss, adapter in zip(self.losses, adapters, strict=True):
            arguments = teachers.arguments(loss, student)
            if arguments:
                share = label_share if loss.reads_labels() else 1.0
                value = one_number(loss, loss(*arguments, adapter))
                terms.append(loss.weight * loss.factor(epochs) * share * value)
        total, mixing = torch.stack(terms).sum() if terms else torch.zeros(()), teachers.loss()
        if not total.requires_grad:
            raise StageError(f"no loss depends on the trained weights: {', '.join(loss.type for loss in self.losses)}")
        return total if mixing is None else total + label_share * mixing

    def evaluated(self, network: Callable[..., Any], batch: Batch) -> dict[str, np.ndarray]:
        """Head name -> (N, ...), what a network in evaluation mode computes; each process takes its share, if there is one."""
        samples = len(batch.index)
        shared = self.processes.several and samples >= self.processes.count
        inputs = reordered(batch.part(self.processes.share(samples)).inputs if shared else batch.inputs, self.precision)
        with torch.no_grad(), self.processes.forward(self.device, 0) if shared else nullcontext():
            heads = network(*(inputs[name] for name in self.network.signature.inputs))
            joined = {name: self.processes.joined(name, head, samples) if shared else head for name, head in heads.items()}
        return {name: head.cpu().numpy() for name, head in joined.items()}

    def _outputs(self, batch: Batch, features: dict[str, Tensor], mixer: nn.Module) -> tuple[Outputs, TeacherOutputs]:
        """Those of the student and the teachers for a batch, of which each process computes its share."""
        share = batch.part(self.processes.share(len(batch.index))) if self.processes.several else batch
        teachers = self.teachers.outputs(share, mixer)
        seed = torch.initial_seed()
        self._seed, self._passes = seed, self._passes + 1 if seed == self._seed else 0
        with self.processes.forward(self.device, self._passes):
            student = self._student(share, features)
        if not self.processes.several:
            return student, teachers
        by_name = {name: self._joined(outputs, len(batch.index)) for name, outputs in teachers.by_name.items()}
        return self._joined(student, len(batch.index)), replace(teachers, by_name=by_name, batch=batch)

    def _joined(self, outputs: Outputs, samples: int) -> Outputs:
        """Those of all processes, each of which has a share of so many samples."""
        heads, features = (
            {name: self.processes.joined(name, value, samples) for name, value in kind.items()}
            for kind in (outputs.heads, outputs.features)
        )
        return replace(outputs, heads=heads, features=features)

    def _student(self, batch: Batch, features: dict[str, Tensor]) -> Outputs:
        """Outputs in float32, whatever they were computed in: losses are sums of small differences."""
        batch = Batch(reordered(batch.inputs, self.precision), batch.targets, batch.index)
        with computing(self.precision, self.device):
            student = outputs(self.forward, self.network.signature, batch, self.layers, features)
        return replace(student, heads=_float(student.heads), features=_float(student.features))


def _float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
