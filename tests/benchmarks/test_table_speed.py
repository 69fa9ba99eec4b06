"""What a teacher's table costs: samples of it in the way that is chosen against plain float32, and against epochs of a student.

python -m pytest tests/benchmarks/test_table_speed.py -m slow -s

CPU seconds of one thread, in turn; the costs of a subset are extrapolated to 48,000 pictures. The teacher is trained for some
epochs first: the outputs of random weights hardly differ between samples, and rounding would seem to change everything.
"""

import itertools
import statistics
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from compress_cli.data.batch import Batch
from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.distillation.teachers import teacher_for
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.networks import restore
from compress_cli.networks.models.resnet import Resnet
from compress_cli.stages import _table_precision
from compress_cli.stages._table_ways import Request, Ways, in_batches
from compress_cli.store.artifact import Checkpoint, Draft
from compress_cli.training import loop
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.config import TrainingConfig
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.optimizers.sgd import Sgd
from compress_cli.training.pool import SamplePool

pytestmark = pytest.mark.slow

PICTURES, VIEWS, ROUNDS, CHUNK = 48_000, 6, 5, 256
AUGMENT = (Crop(padding=4), Flip())


class Digits(Dataset):
    """The handwritten digits as colour pictures of 32 x 32."""

    def split(self, name):
        count = 1280 if name == "train" else 0
        pictures, labels = load_digits(return_X_y=True)
        grey = (pictures[:count].reshape(-1, 1, 8, 8) * 15).astype(np.uint8)
        large = np.kron(grey, np.ones((1, 3, 4, 4), np.uint8))
        return Split({"image": large}, {"label": labels[:count]}, np.arange(count))

    def fingerprint(self):
        return "digits, 32 x 32"

    def signature(self):
        image = Input(shape=(3, 32, 32), mean=(73.0,) * 3, deviation=(90.0,) * 3)
        return Signature(inputs={"image": image}, heads={"logits": Head(shape=(10,))})


@pytest.fixture
def teacher(context_for):
    """A ResNet-56 after some steps on the digits."""
    context = context_for(Digits())
    restored = restore.build(Resnet(depth=56), context.dataset.signature(), 1)
    training = TrainingConfig(
        epochs=8,
        batch=32,
        precision="bfloat16_channels_last",
        keep="last",
        optimizer=Sgd(learning_rate=0.02),
        augment=AUGMENT[:1],
    )
    loop.fit(restored.network, (CrossEntropy(),), training, context)
    restore.save(restored, context.output)
    return Draft(Checkpoint, "t", {}).commit(context.output)


def epochs_s(context, precision):
    """CPU seconds a sample of a ResNet-20's epochs, without the first."""
    spent = []

    def log(progress):
        if progress.epoch_ended:
            spent.append(time.process_time())

    student = restore.build(Resnet(depth=20), context.dataset.signature(), 0).network
    training = TrainingConfig(
        epochs=3, batch=128, precision=precision, keep="last", optimizer=Sgd(learning_rate=0.05), augment=AUGMENT, views=VIEWS
    )
    object.__setattr__(context, "log", log)
    loop.fit(student, (CrossEntropy(),), training, context)
    return [(after - before) / 1280 for before, after in itertools.pairwise(spent)]


def test_a_table_costs_less_than_half_of_float32_and_few_epochs(context_for, teacher, report_ratios, tmp_path, one_thread):
    dataset = Digits()
    pool = SamplePool(dataset.split("train"), "cpu")
    plain = teacher_for(teacher).open(teacher, (), "cpu")
    request = Request(teacher, (), PICTURES * VIEWS, "cpu", CHUNK, tmp_path)
    loader = Loader(pool, CHUNK, Augmenter(AUGMENT))
    students = {name: [] for name in ("float32_channels_last", "bfloat16_channels_last")}
    with ExitStack() as stack:
        ways = Ways(request, plain, lambda count: pool.batch(np.linspace(0, len(pool) - 1, count, dtype=np.int64)), stack)
        begun = time.process_time()
        choice = _table_precision.choose(ways, "auto")
        chose_s = time.process_time() - begun
        print(f"\n{choice}\nchosen in {chose_s:.1f} CPU s")
        rows: dict[str, list[float]] = {"float32": [], choice.name: [], "augment": []}
        fast = in_batches(ways.opened(choice.name), choice.batch)
        for turn in range(ROUNDS):
            begun = time.process_time()
            chunk: Batch = next(iter(list(loader.fixed(turn % VIEWS, CHUNK))))
            rows["augment"].append((time.process_time() - begun) / len(pool))
            for name, way in (("float32", plain), (choice.name, fast)):
                begun = time.process_time()
                way(chunk)
                rows[name].append((time.process_time() - begun) / len(chunk.index))
            for name in students:
                students[name] += epochs_s(context_for(dataset), name)
    middle = {name: statistics.median(spent) for name, spent in (rows | students).items()}
    print("".join(f"\n{name}: {1e3 * spent:.3f} ms a sample, {1 / spent:.0f} samples/s" for name, spent in middle.items()))
    table_s = PICTURES * VIEWS * (middle[choice.name] + middle["augment"]) + chose_s
    for name in students:
        epochs = table_s / (PICTURES * middle[name])
        print(f"a table of {VIEWS} views of {PICTURES} pictures: {table_s:.0f} s, {epochs:.2f} epochs of the student in {name}")
    pairs = zip(rows[choice.name], rows["float32"], rows["augment"], strict=True)
    assert report_ratios("the chosen way over float32", [(way + more) / (before + more) for way, before, more in pairs]) <= 0.5
    assert torch.get_num_threads() == 1
