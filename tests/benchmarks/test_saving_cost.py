"""What saving costs: epochs with a save and without one in turn, and from that the share at the default interval.

python -m pytest tests/benchmarks/test_saving_cost.py -m slow -s
"""

import statistics
import time

import numpy as np
import pytest

from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.networks import restore
from compress_cli.networks.models.mlp import Mlp
from compress_cli.networks.models.resnet import Resnet
from compress_cli.store.saves import COST_FACTOR, DEFAULT_S, Saves
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.adamw import AdamW

pytestmark = pytest.mark.slow

BATCH = 128


class Noise(Dataset):
    """Pictures of nothing, to train on at full speed."""

    samples: int

    def fingerprint(self):
        return "noise"

    def split(self, name):
        count = self.samples if name == "train" else 128 if name == "val" else 0
        random = np.random.RandomState(0)
        images = random.randint(0, 256, (count, 3, 32, 32)).astype(np.uint8)
        return Split({"image": images}, {"label": random.randint(0, 10, count)}, np.arange(count))

    def signature(self):
        return Signature(
            inputs={"image": Input(shape=(3, 32, 32), mean=(127.0,) * 3, deviation=(74.0,) * 3)},
            heads={"logits": Head(shape=(10,))},
        )


class EveryOther(Saves):
    """Saves once in the middle of every second epoch."""

    def __init__(self, folder, steps):
        super().__init__(folder)
        self.every, self.count, self.took, self.bytes = 2 * steps, 0, [], 0

    def step(self, state, epoch_ended=False):
        self.count += not epoch_ended
        super().step(state, epoch_ended)

    def _due(self):
        return self.count % self.every == self.every // 4

    def _save(self, state, folder):
        super()._save(state, folder)
        self.took.append(self._took)
        self.bytes = max(folder.glob("*.safetensors")).stat().st_size


CASES = {  # model, steps of an epoch: one of about 3 s
    "resnet-20 with AdamW and an average": (Resnet(depth=20), 16),
    "12.6M parameters with AdamW and an average": (Mlp(hidden=(3072, 1024)), 24),
}


@pytest.mark.parametrize("case", CASES)
def test_saving_costs_at_most_3_percent_at_the_default_interval(case, context_for, tmp_path):
    model, steps = CASES[case]
    saves, epochs, begun = EveryOther(tmp_path, steps), [], time.perf_counter()

    def log(progress):
        nonlocal begun
        if progress.epoch_ended:
            epochs.append(time.perf_counter() - begun)
            begun = time.perf_counter()

    context = context_for(Noise(samples=steps * BATCH), saves=saves, log=log)
    network = restore.build(model, context.dataset.signature(), 0).network
    settings = TrainingConfig(epochs=18, batch=BATCH, precision="float32", optimizer=AdamW(), ema=0.99)
    loop.fit(network, (CrossEntropy(),), settings, context)
    pairs = list(zip(epochs[2::2], epochs[3::2], strict=True))  # with, without
    ratios = statistics.quantiles([with_s / without_s for with_s, without_s in pairs], n=4)
    took = statistics.median(saves.took[1:])
    interval = max(DEFAULT_S, COST_FACTOR * took)
    print(
        f"\n{case}: a save of {saves.bytes / 1e6:.1f} MB takes {took * 1000:.0f} ms "
        f"({min(saves.took) * 1000:.0f} to {max(saves.took) * 1000:.0f}); epochs of {statistics.median(epochs):.1f} s with one "
        f"take x{ratios[1]:.3f} (of {len(pairs)} pairs half lie from x{ratios[0]:.3f} to x{ratios[2]:.3f}); "
        f"at the default interval of {interval:.0f} s that is {took / interval:.2%} of the time"
    )
    extra = min(with_s for with_s, _ in pairs) - min(without_s for _, without_s in pairs)  # what disturbs only adds
    assert took / interval <= 0.03
    assert extra / interval <= 0.03  # caches that the save displaced included
