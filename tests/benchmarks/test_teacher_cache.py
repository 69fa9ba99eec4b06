"""What a student of a teacher's table costs, against the same student on true labels: whole epochs, in turn.

python -m pytest tests/benchmarks/test_teacher_cache.py -m slow -s
"""

import time

import pytest

from compress_cli.distillation.ensemble import NO_TEACHERS, assemble
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.resnet import Resnet
from compress_cli.stages import Stage
from compress_cli.store.artifact import Checkpoint, Draft, Table
from compress_cli.training import loop
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.sgd import Sgd

pytestmark = pytest.mark.slow

BATCH, STEPS, EPOCHS, ROUNDS = 64, 8, 4, 4
AUGMENT = (Crop(padding=2), Flip())
PAIRS = {  # teacher, student, channels, side
    "resnets 20 and 8, 3 x 32 x 32": (Resnet(depth=20), Resnet(depth=8), 3, 32),
    "convnets, 1 x 28 x 28": (Convnet(widths=(16, 32, 64, 128)), Convnet(widths=(8, 16, 32, 64), convs=1), 1, 28),
}
SOFT = (SoftTargets(weight=0.9), CrossEntropy(weight=0.1))


def made(stage, context, kind):
    return Draft(kind, "k", {}, stage.run(context)).commit(context.output)


@pytest.mark.parametrize("pair", PAIRS)
def test_an_epoch_with_the_cache_costs_little_more_than_plain_training(pair, context_for, noise, report_ratios, one_thread):
    master, student, channels, side = PAIRS[pair]
    dataset = noise(samples=STEPS * BATCH, channels=channels, side=side)
    folder = context_for(dataset).output
    restore.save(restore.build(master, dataset.signature(), 1), folder)
    teacher = Draft(Checkpoint, "t", {}).commit(folder)
    asked = Stage.model_validate({"type": "teacher_table", "views": 2, "augment": [each.model_dump() for each in AUGMENT]})
    table = made(asked, context_for(dataset, inputs={"teacher": (teacher,)}), Table)
    settings = TrainingConfig(
        epochs=EPOCHS, batch=BATCH, precision="float32", optimizer=Sgd(learning_rate=0.01), augment=AUGMENT, views=2
    )
    ways = {"plain": ((CrossEntropy(),), None), "cached": (SOFT, table), "online": (SOFT, teacher)}
    seconds = {way: [] for way in ways}

    def epochs(losses, source):
        """Seconds of each epoch, without the first."""
        times, begun = [], 0.0

        def log(progress):
            nonlocal begun
            if progress.epoch_ended:
                times.append(time.perf_counter() - begun)
                begun = time.perf_counter()

        network, context = restore.build(student, dataset.signature(), 0).network, context_for(dataset, log=log)
        split = dataset.split("train")
        teachers = assemble({"teacher": source}, losses, split.index, "cpu") if source else NO_TEACHERS
        begun = time.perf_counter()
        loop.fit(network, losses, settings, context, teachers)
        return times[1:]

    for _ in range(ROUNDS):
        for way, given in ways.items():
            seconds[way] += epochs(*given)
    ratios = {way: [one / plain for one, plain in zip(each, seconds["plain"], strict=True)] for way, each in seconds.items()}
    print("".join(f"\n{way}: {1000 * min(each) / STEPS:.1f} ms a step at best" for way, each in seconds.items()))
    report_ratios(f"{pair}: an epoch with the teacher online over plain training", ratios["online"])
    assert report_ratios(f"{pair}: an epoch with the teacher's table over plain training", ratios["cached"]) <= 1.1
