"""What benchmarks of training share."""

import statistics

import numpy as np
import pytest

from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature


class Noise(Dataset):
    """Pictures of nothing, to train on at full speed."""

    samples: int
    channels: int
    side: int

    def split(self, name):
        count = self.samples if name == "train" else 0
        random = np.random.RandomState(0)
        images = random.randint(0, 256, (count, self.channels, self.side, self.side)).astype(np.uint8)
        return Split({"image": images}, {"label": random.randint(0, 10, count)}, np.arange(count))

    def fingerprint(self):
        return f"noise {self.samples} {self.channels} {self.side}"

    def signature(self):
        shape, of = (self.channels, self.side, self.side), self.channels
        mean, deviation = (127.0,) * of, (74.0,) * of
        return Signature(
            inputs={"image": Input(shape=shape, mean=mean, deviation=deviation)}, heads={"logits": Head(shape=(10,))}
        )


@pytest.fixture
def noise():
    """noise(samples=512, channels=3, side=32): a dataset."""
    return Noise


@pytest.fixture
def report_ratios():
    """report_ratios(what, ratios): their median, printed with the middle half."""

    def _report(what, ratios):
        middle = statistics.quantiles(ratios, n=4)
        print(f"\n{what}: x{middle[1]:.3f} (of {len(ratios)} pairs half lie from x{middle[0]:.3f} to x{middle[2]:.3f})")
        return middle[1]

    return _report
