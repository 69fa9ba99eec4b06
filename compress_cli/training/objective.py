"""Objective: what training makes small, the weighted sum of losses between a network's outputs, labels and teachers."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.data.tasks import Task
from compress_cli.distillation.ensemble import Ensemble
from compress_cli.errors import RecipeError, StageError
from compress_cli.losses import Loss, one_number
from compress_cli.networks.features import observe, outputs
from compress_cli.networks.models import Network
from compress_cli.plugin import find
from compress_cli.training.precision import Name, computing, placed


def hard_losses(task: Task, heads: Collection[str]) -> tuple[Loss, ...]:
    """The losses on true labels of the parts of a task that a model with these heads can do, each on its head and target."""
    return tuple(_hard_loss(each) for each in (task.within(heads) or task).parts.values())


def _hard_loss(task: Task) -> Loss:
    cls = find(Loss, task.loss)
    shared = {"head", "target"} & set(type(task).model_fields) & set(cls.model_fields)
    loss = cls.model_validate({name: getattr(task, name) for name in shared})
    assert isinstance(loss, Loss)
    return loss


class Objective:
    """Losses of a network in a number format, with what teachers say. It owns the trainable parts, `adapters`.

    RecipeError where no loss weighs anything.
    """

    def __init__(self, network: Network, losses: tuple[Loss, ...], teachers: Ensemble, device: str, precision: Name):
        self.losses = tuple(each for each in losses if each.weight)
        if not self.losses:
            raise RecipeError("no loss has a weight above 0: nothing would be learnt")
        self.network, self.teachers, self.device, self.precision = network, teachers, device, precision
        self.layers = tuple(dict.fromkeys(layer for each in self.losses for layer in each.student_layers()))
        self.adapters = nn.ModuleList()

    def observed(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Within it the dictionary that it gives holds what the layers asked for showed in the last pass."""
        return observe(self.network, self.layers)

    def shape(self, first: Batch, labelled: int, samples: int) -> None:
        """Make the adapters, on one pass that changes nothing; `labelled` of all samples count in losses that read labels."""
        self.network.eval()
        with torch.no_grad(), self.observed() as seen:
            student, mixer = self._student(first, seen), self.teachers.adapter().to(self.device)
            teachers = self.teachers.outputs(first, mixer)
        made = [
            each.adapter(student, teachers.for_loss(each), labelled if each.reads_labels() else samples) for each in self.losses
        ]
        self.adapters = nn.ModuleList([*made, mixer]).to(self.device)

    def __call__(self, part: Batch, seen: dict[str, Tensor], epochs: float, known: float) -> Tensor:
        """Shape (), after so many epochs; `known` is the part's share of the batch's labels over its share of the samples.

        StageError where nothing that is trained has a part in it.
        """
        *adapters, mixer = self.adapters
        teachers, student = self.teachers.outputs(part, mixer), self._student(part, seen)
        terms = []
        for each, adapter in zip(self.losses, adapters, strict=True):
            shown, share = teachers.arguments(each, student), known if each.reads_labels() else 1.0
            if shown:
                terms.append(each.weight * each.factor(epochs) * share * one_number(each, each(*shown, adapter)))
        total, mixing = torch.stack(terms).sum() if terms else torch.zeros(()), teachers.loss()
        if not total.requires_grad:
            raise StageError(f"no loss depends on what is trained: {', '.join(each.type for each in self.losses)}")
        return total if mixing is None else total + known * mixing

    def _student(self, given: Batch, seen: dict[str, Tensor]) -> Outputs:
        """Outputs in float32, whatever they were computed in: losses are sums of small differences."""
        given = Batch(placed(given.inputs, self.precision), given.targets, given.index)
        with computing(self.precision, self.device):
            made = outputs(self.network, self.network.signature, given, self.layers, seen)
        return replace(made, heads=_float(made.heads), features=_float(made.features))


def _float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.float() if each.is_floating_point() else each for name, each in tensors.items()}
