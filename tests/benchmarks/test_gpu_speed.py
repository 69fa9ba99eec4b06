"""TrainingConfig on pictures that lie in the GPU's memory, against the loop with eight workers that most people write.

python -m pytest tests/benchmarks/test_gpu_speed.py -m "slow and gpu" -s
"""

import time

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader, Dataset

from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.networks import restore
from compress_cli.networks.models.resnet import Resnet
from compress_cli.training import loop
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.sgd import Sgd

DEVICE, SAMPLES, BATCH, EPOCHS, WORKERS = "cuda", 50_000, 64, 6, 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Pictures(Dataset):
    """CIFAR as torchvision gives it: a picture at a time, changed by Pillow, then a normalised tensor."""

    def __init__(self, split):
        self.images, self.labels = split.inputs["image"].transpose(0, 2, 3, 1), split.targets["label"]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        padded = ImageOps.expand(Image.fromarray(self.images[place]), 4)
        left, top, mirrored = (int(torch.randint(0, most, ())) for most in (9, 9, 2))
        picture = padded.crop((left, top, left + 32, top + 32))
        if mirrored:
            picture = ImageOps.mirror(picture)
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return (tensor - 0.5) / 0.25, int(self.labels[place])


def usual_loop(model, dataset):
    """Seconds of each epoch."""
    network = model.build(dataset.signature()).to(DEVICE).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        Pictures(dataset.split("train")), BATCH, shuffle=True, num_workers=WORKERS, pin_memory=True, persistent_workers=True
    )
    while True:
        begun = time.perf_counter()
        for images, labels in loader:
            given, wanted = images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)
            loss = nn.functional.cross_entropy(network(given), wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        yield time.perf_counter() - begun


def test_training_in_memory_is_five_times_as_fast_as_the_usual_loop(context_for, noise, report_ratios):
    model, dataset = Resnet(depth=20), noise(samples=SAMPLES, channels=3, side=32)
    usual, ours, theirs, begun = usual_loop(model, dataset), [], [], 0.0

    def log(progress):  # an epoch of each in turn
        nonlocal begun
        if progress.epoch_ended:
            ours.append(time.perf_counter() - begun)
            theirs.append(next(usual))
            begun = time.perf_counter()

    network = restore.build(model, dataset.signature(), 0).network
    settings = TrainingConfig(epochs=EPOCHS, batch=BATCH, optimizer=Sgd(learning_rate=0.05), augment=(Crop(), Flip()))
    loop.fit(network, (CrossEntropy(),), settings, context_for(dataset, device=DEVICE, log=log))
    ratios = [their_s / our_s for our_s, their_s in zip(ours, theirs, strict=True)][1:]  # the first one chooses and warms up
    print(f"\n{SAMPLES / min(ours):.0f} samples/s, the usual loop {SAMPLES / min(theirs):.0f}")
    assert report_ratios("resnet-20 at batch 64, against the usual loop", ratios) >= 5
