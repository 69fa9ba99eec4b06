"""How the loop compares with one written by hand, and what choosing a number format brings. Ratios within one run.

python -m pytest tests/benchmarks/test_training_speed.py -m slow -s
"""

import time

import pytest
import torch
from torch import nn

from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.resnet import Resnet
from compress_cli.training import loop
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.sgd import Sgd

pytestmark = pytest.mark.slow

BATCH = 128
AUGMENT = (Crop(padding=2), Flip())


CASES = {  # model, data of one short epoch, epochs
    "resnet-20, 3 x 32 x 32": (Resnet(depth=20), {"samples": 4 * BATCH, "channels": 3, "side": 32}, 16),
    "convnet, 1 x 8 x 8": (Convnet(), {"samples": 8 * BATCH, "channels": 1, "side": 8}, 32),
}


def bare_loop(model, dataset, epochs):
    """Seconds of each epoch of the float32 loop that anyone would write, with the same augmentation and optimiser."""
    split = dataset.split("train")
    images, labels = torch.from_numpy(split.inputs["image"]), torch.from_numpy(split.targets["label"])
    network = restore.build(model, dataset.signature(), 0).network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)
    steps, side = len(images) // BATCH, dataset.side
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    while True:
        begun = time.perf_counter()
        for rows in torch.randperm(len(images)).split(BATCH):
            batch = nn.functional.pad(images[rows].float(), (2, 2, 2, 2))
            batch = batch.unfold(2, side, 1).unfold(3, side, 1)[
                torch.arange(BATCH), :, torch.randint(0, 5, (BATCH,)), torch.randint(0, 5, (BATCH,))
            ]
            batch = torch.where((torch.rand(BATCH) < 0.5)[:, None, None, None], batch.flip(3), batch)
            loss = nn.functional.cross_entropy(network(batch)["logits"], labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
        yield time.perf_counter() - begun


def speedups(model, dataset, epochs, context_for, precision="float32"):
    """How many times faster our epochs are than those of the bare loop, which runs one after each of ours."""
    bare, ours, theirs, begun = bare_loop(model, dataset, epochs), [], [], 0.0

    def log(progress):
        nonlocal begun
        if progress.epoch_ended:
            ours.append(time.perf_counter() - begun)
            theirs.append(next(bare))
            begun = time.perf_counter()

    network = restore.build(model, dataset.signature(), 0).network
    settings = TrainingConfig(epochs=epochs, batch=BATCH, precision=precision, optimizer=Sgd(), augment=AUGMENT)
    facts = loop.fit(network, (CrossEntropy(),), settings, context_for(dataset, log=log))
    print(f"\nfastest epoch of each: x{min(theirs) / min(ours):.3f}")
    pairs = list(zip(ours, theirs, strict=True))[2:]  # without what only the first steps cost
    return [bare_s / our_s for our_s, bare_s in pairs], facts


@pytest.mark.parametrize("case", CASES)
def test_the_loop_is_as_fast_as_one_written_by_hand(case, context_for, noise, report_ratios):
    model, size, epochs = CASES[case]
    ratios, facts = speedups(model, noise(**size), epochs, context_for)
    assert report_ratios(f"{case}: {facts['samples_per_s']} samples/s, against a bare loop", ratios) >= 0.97


def test_auto_precision_pays(context_for, noise, report_ratios):
    """At least 1.7x plain float32 where the processor computes in bfloat16; printed everywhere."""
    model, size, epochs = CASES["resnet-20, 3 x 32 x 32"]
    dataset = noise(**size)
    context = context_for(dataset)
    network = restore.build(model, dataset.signature(), 0).network
    inputs = {"image": torch.from_numpy(dataset.split("train").inputs["image"][:BATCH]).float()}
    begun = time.perf_counter()
    choice = loop.precision.choose(network, inputs, 10**6, "cpu", context.memory)
    print(f"\nchosen in {time.perf_counter() - begun:.1f} s: {choice.name}, ms a step: {choice.step_ms}")
    ratios, _ = speedups(model, dataset, epochs, context_for, choice.name)
    ratio = report_ratios(f"resnet-20 in {choice.name}, against a bare float32 loop", ratios)
    if not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("this processor has no AVX512-BF16: no promise is made for it")
    assert ratio >= 1.7
