"""The weight of each loss, epoch by epoch, from the curve of a real run."""

import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.data.batch import Outputs
from compress_cli.distillation.ensemble import Ensemble
from compress_cli.losses import Loss
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks import restore
from compress_cli.networks.models.mlp import Mlp
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.sgd import Sgd

pytestmark = pytest.mark.usefixtures("one_thread")

STILL = {"precision": "float32", "keep": "last", "optimizer": Sgd(learning_rate=1e-12)}
"""The weights do not move, so a loss costs the same in every epoch."""


class Flat(Loss):
    """Costs 1, whatever happens."""

    def __call__(self, student: Outputs, teacher, batch, adapter: nn.Module) -> torch.Tensor:
        return 1 + 0 * student.heads["logits"].sum()


def curve(toy, context_for, losses, teacher=None, **settings):
    network = restore.build(Mlp(hidden=(8,)), toy().signature(), 0).network
    images, labels = (toy().split("train").inputs["image"], toy().split("train").targets["label"])
    with torch.no_grad():
        logits = network(torch.from_numpy(images).float())["logits"].double().numpy()
    teachers = Ensemble({"t": teacher}) if teacher else loop.NO_TEACHERS
    facts = loop.fit(network, losses, TrainingConfig(**STILL, **settings), context_for(toy()), teachers)
    return [epoch["loss"] for epoch in facts["epochs"]], logits, labels


def test_the_sum_is_weighed_anew_every_epoch(toy, context_for):
    """One step an epoch; warm-up, decay and end as their definitions say."""
    answer = torch.tensor([[2.0, -1.0, 0.5]])
    losses = (
        SoftTargets(weight=0.7, temperature=2.0, warmup_epochs=4.0),
        CrossEntropy(weight=0.3, until_epoch=5.0, decay_epochs=2.0),
    )
    values, logits, labels = curve(
        toy, context_for, losses, lambda batch: Outputs({"logits": answer.expand(len(batch.index), 3)}), epochs=6, batch=40
    )
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    hard = -logs[np.arange(len(labels)), labels].mean()
    p = np.exp(answer.double().numpy() / 2) / np.exp(answer.double().numpy() / 2).sum()
    q = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    soft = 4 * (p * np.log(p / q)).sum(1).mean()
    rise, fall = (0.25, 0.5, 0.75, 1, 1, 1), (1, 1, 1, 0.5, 0, 0)
    assert values == pytest.approx([0.7 * a * soft + 0.3 * b * hard for a, b in zip(rise, fall, strict=True)], rel=1e-5)


def test_weights_move_within_an_epoch(toy, context_for):
    """Four steps an epoch, the warm-up over six of them."""
    values, _, _ = curve(toy, context_for, (Flat(weight=3.0, warmup_epochs=1.5),), epochs=3, batch=10)
    steps = np.minimum(1, np.arange(1, 13) / 6).reshape(3, 4)
    assert values == pytest.approx(3 * steps.mean(1), rel=1e-6)


def test_a_loss_of_weight_nothing_is_left_out(toy, context_for):
    values, _, _ = curve(toy, context_for, (Flat(weight=2.0), SoftTargets(weight=0.0)), epochs=1)
    assert values == [2.0]
