"""The importance of a model's channels, by a criterion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.batch import from_arrays
from compress_cli.data.datasets import Split
from compress_cli.errors import StageError
from compress_cli.losses import Loss
from compress_cli.networks import features, narrowing
from compress_cli.networks.models import Network
from compress_cli.pruning.channels import Group
from compress_cli.pruning.criteria import Criterion
from compress_cli.training.objective import hard_losses

SAMPLES = 1024  # that a criterion on data sees, in batches of its size
SINGLE = 256  # of them, where it asks for one sample at a time


def scores(criterion: Criterion, groups: Sequence[Group], network: Network, context: Context) -> list[Tensor]:
    """The importance of each group's channels, over training batches where the criterion reads more than weights.

    The samples are drawn by seed and sample id. StageError where there are none.
    """
    if criterion.reads == "weights":
        return [criterion(group, {}) for group in groups]
    parts = list(_batches(criterion, context))
    totals: list[Tensor] = []
    with _kept(network):
        for part in parts:
            evidence = _evidence(criterion, groups, network, part, context)
            values = [criterion(group, evidence) for group in groups]
            if criterion.over_batches == "max":
                totals = [torch.maximum(a, b) for a, b in zip(totals, values, strict=True)] if totals else values
            else:
                totals = [a + b for a, b in zip(totals, values, strict=True)] if totals else values
            _descend(network, evidence, criterion.step())
    return totals if criterion.over_batches == "max" else [total / len(parts) for total in totals]


def errors(
    criterion: Criterion,
    groups: Sequence[Group],
    importance: Sequence[Tensor],
    removed: Sequence[Tensor],
    network: Network,
    context: Context,
) -> dict[str, dict[str, float]]:
    """Layer -> what the criterion foretold of the removal, beside what other samples tell; {} where it foretells nothing."""
    if type(criterion).errors is Criterion.errors:
        return {}
    *_, other = _batches(criterion, context, SAMPLES + criterion.batch)
    evidence = _evidence(criterion, groups, network, other, context)
    rows = zip(groups, importance, removed, strict=True)
    return {group.layer: criterion.errors(group, score, numbers, evidence) for group, score, numbers in rows if len(numbers)}


def lowest(score: Tensor, kept: int) -> Tensor:
    """The numbers of the channels to remove, ascending: those that score lowest, of equal ones the first."""
    return score.argsort(stable=True)[: len(score) - kept].sort().values


def check_finite(importance: Sequence[Tensor]) -> None:
    """StageError where a score is not a number."""
    if not all(bool(score.isfinite().all()) for score in importance):
        raise StageError("a channel's importance is not a number: the criterion, or a gradient, gives NaN or infinity")


def _batches(criterion: Criterion, context: Context, count: int = 0) -> Iterator[Split]:
    """Training batches of the criterion's size, drawn by seed and sample id."""
    train = context.split("train", criterion.batch)
    if not len(train):
        raise StageError(
            f"criterion {criterion.type} reads {criterion.reads} on training samples, and the train split is empty; take one "
            "that reads weights alone, such as l2"
        )
    count = count or (SAMPLES if criterion.batch > 1 else SINGLE)
    return samples.parts(samples.drawn(train, count, context.seed), criterion.batch)


def _evidence(
    criterion: Criterion, groups: Sequence[Group], network: Network, part: Split, context: Context
) -> Mapping[str, Tensor]:
    if criterion.reads == "gradients":
        return _gradients(network, hard_losses(context.task, network.signature.heads), part)
    layers = {entry.layer for group in groups for entry in group.playing("reads")}
    return _activations(network, layers, part)


def _gradients(network: Network, losses: tuple[Loss, ...], part: Split) -> dict[str, Tensor]:
    """Parameter name in the body -> gradient of the losses on some samples."""
    parameters = dict(network.body.named_parameters(remove_duplicate=False))
    batch = from_arrays(part.inputs, part.targets, part.index)
    with torch.enable_grad():  # masks that grow are scored between two steps of the optimiser
        outputs = features.outputs(network, network.signature, batch, (), {})
        loss = torch.stack([loss(outputs, (), batch, nn.Identity()) for loss in losses]).sum()
        gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def _activations(network: Network, layers: set[str], part: Split) -> dict[str, Tensor]:
    """Layer -> what it takes, for some samples; in its last call where it is called more often."""
    taken: dict[str, Tensor] = {}

    def note(name: str) -> object:
        return network.body.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs: taken.update({name: inputs[0].detach()}) if inputs else None
        )

    hooks = [note(name) for name in layers]
    try:
        with torch.no_grad():
            network(*samples.tensors(part, network.signature))
    finally:
        for hook in hooks:
            hook.remove()  # type: ignore[attr-defined]
    return taken


@contextmanager
def _kept(network: Network) -> Iterator[None]:
    """The weights are afterwards what they were."""
    before = {name: tensor.clone() for name, tensor in network.body.state_dict().items()}
    try:
        yield
    finally:
        narrowing.load(network.body, before)


def _descend(network: Network, gradients: Mapping[str, Tensor], rate: float) -> None:
    """One step of plain gradient descent."""
    if rate:
        with torch.no_grad():
            for name, parameter in network.body.named_parameters():
                parameter.sub_(rate * gradients[name])
