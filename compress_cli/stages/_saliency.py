"""The scores of a model's weights, by a criterion for single weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.batch import from_arrays
from compress_cli.errors import StageError
from compress_cli.networks import features
from compress_cli.networks.models import Network
from compress_cli.pruning.channels import evaluating
from compress_cli.pruning.saliencies import Saliency
from compress_cli.randomness import seed_layers
from compress_cli.training.objective import hard_losses

SAMPLES = 1024  # that a criterion which reads gradients sees, in batches of its size
SINGLE = 256  # of them, where it asks for one sample at a time


def scores(
    saliency: Saliency, weights: Mapping[str, Tensor], network: Network, context: Context, untrained: bool = False
) -> dict[str, Tensor]:
    """Parameter -> scores of its shape. Samples are drawn by seed and sample id.

    untrained: whether the network, on the CPU, normalises by the statistics of each batch, as in training, since it has none
    of its own yet. StageError where a score is not a number.
    """
    if saliency.reads == "weights":
        found = {name: saliency(name, weight.detach(), None) for name, weight in weights.items()}
    else:
        with _as_in_training(network, context) if untrained else evaluating(network):
            found = _by_gradients(saliency, weights, network, context)
    broken = [name for name, score in found.items() if not score.isfinite().all()]
    if broken:
        raise StageError(f"the scores of '{broken[0]}' are not numbers: its weights, or a gradient, hold NaN or infinity")
    return found


def _by_gradients(saliency: Saliency, weights: Mapping[str, Tensor], network: Network, context: Context) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = batches = 0
    for samples_seen, gradients in _gradients(saliency, weights, network, context):
        for name, gradient in gradients.items():
            if saliency.reads == "batch_gradients":
                sums[name] += saliency(name, weights[name].detach(), gradient)
            else:
                sums[name] += samples_seen * gradient
        seen, batches = seen + samples_seen, batches + 1
    if saliency.reads == "batch_gradients":
        return {name: total / batches for name, total in sums.items()}
    return {name: saliency(name, weights[name].detach(), total / seen) for name, total in sums.items()}


def _gradients(
    saliency: Saliency, weights: Mapping[str, Tensor], network: Network, context: Context
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """For each of some batches of the train split its size, and parameter -> gradient of the mean loss on true labels."""
    losses = hard_losses(context.task, network.signature.heads)
    device = str(next(iter(weights.values())).device)
    train = context.split("train", saliency.batch)
    if not len(train):
        raise StageError(
            f"criterion {saliency.type} reads gradients of training samples, and the train split is empty; take one that reads "
            "weights alone, such as magnitude"
        )
    for part in samples.parts(samples.drawn(train, SAMPLES if saliency.batch > 1 else SINGLE, context.seed), saliency.batch):
        batch = from_arrays(part.inputs, part.targets, part.index).to(device)
        with torch.enable_grad():
            outputs = features.outputs(network, network.signature, batch, (), {})
            loss = torch.stack([loss(outputs, (), batch, nn.Identity()) for loss in losses]).sum()
            gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
        yield len(part), dict(zip(weights, gradients, strict=True))


@contextmanager
def _as_in_training(network: Network, context: Context) -> Iterator[None]:
    """Training mode for a while; neither the running statistics nor any generator are changed."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = {name: value.clone() for name, value in network.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        seed_layers("cpu", context.seed)
        network.train()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            with torch.no_grad():
                for name, value in network.named_buffers():
                    value.copy_(buffers[name])
