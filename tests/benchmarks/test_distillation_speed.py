"""What a step of distillation costs, against a student's step and a teacher's forward pass written by hand.

python -m pytest tests/benchmarks/test_distillation_speed.py -m slow -s
"""

import time

import pytest
import torch
from torch.nn import functional

from compress_cli.distillation.ensemble import Ensemble
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks import features, restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.resnet import Resnet
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.sgd import Sgd

pytestmark = pytest.mark.slow

STEPS = 8  # of one short epoch
PAIRS = {  # teacher, student, channels, side, epochs
    "convnets, 1 x 28 x 28": (Convnet(widths=(16, 32, 64, 128)), Convnet(widths=(8, 16, 32, 64), convs=1), 1, 28, 24),
    "resnets 20 and 8, 3 x 32 x 32": (Resnet(depth=20), Resnet(depth=8), 3, 32, 12),
}


def bare_loop(teacher, student, dataset, batch):
    """Seconds of each epoch of the loop that anyone would write."""
    split = dataset.split("train")
    images, labels = torch.from_numpy(split.inputs["image"]), torch.from_numpy(split.targets["label"])
    teacher = restore.build(teacher, dataset.signature(), 1).network.eval()
    network = restore.build(student, dataset.signature(), 0).network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    while True:
        begun = time.perf_counter()
        for rows in torch.randperm(len(images)).split(batch):
            given = images[rows].float()
            with torch.no_grad():
                wanted = functional.log_softmax(teacher(given)["logits"] / 4, 1)
            logits = network(given)["logits"]
            soft = functional.kl_div(functional.log_softmax(logits / 4, 1), wanted, reduction="batchmean", log_target=True) * 16
            loss = 0.9 * soft + 0.1 * functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        yield time.perf_counter() - begun


@pytest.mark.parametrize("batch", [64, 128])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_step_costs_little_more_than_its_parts(pair, batch, context_for, noise, report_ratios, one_thread):
    teacher, student, channels, side, epochs = PAIRS[pair]
    dataset = noise(samples=STEPS * batch, channels=channels, side=side)
    bare, ours, theirs, begun = bare_loop(teacher, student, dataset, batch), [], [], 0.0

    def log(progress):  # an epoch of each in turn
        nonlocal begun
        if progress.epoch_ended:
            ours.append(time.perf_counter() - begun)
            theirs.append(next(bare))
            begun = time.perf_counter()

    trained = restore.build(teacher, dataset.signature(), 1).network.eval()

    def opened(given):
        with torch.no_grad():
            return features.outputs(trained, trained.signature, given, (), {})

    network = restore.build(student, dataset.signature(), 0).network
    settings = TrainingConfig(epochs=epochs, batch=batch, precision="float32", optimizer=Sgd(learning_rate=0.01))
    losses = (SoftTargets(weight=0.9), CrossEntropy(weight=0.1))
    loop.fit(network, losses, settings, context_for(dataset, log=log), Ensemble({"teacher": opened}))
    ratios = [our_s / their_s for our_s, their_s in zip(ours, theirs, strict=True)][2:]  # without what first steps cost
    print(f"\n{1000 * min(ours) / STEPS:.1f} ms a step, by hand {1000 * min(theirs) / STEPS:.1f}")
    assert report_ratios(f"{pair}, batch {batch}: time of ours over that by hand", ratios) <= 1.05
