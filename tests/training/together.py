"""The same trainings by one process and by two: what `test_processes.py` compares.

python together.py PORT FOLDER: the second of two processes.
"""

import json
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch.distributed.tensor import DTensor
from torch.nn import functional

from compress_cli.context import Context
from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.data.tasks.classification import Classification
from compress_cli.distillation.ensemble import Ensemble
from compress_cli.distillation.teachers.checkpoint import Running
from compress_cli.losses import Loss
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.dist import Dist
from compress_cli.losses.hints import Hints
from compress_cli.networks import features, restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.processes import ALONE
from compress_cli.stages import teacher_table
from compress_cli.store.artifact import Checkpoint, Draft
from compress_cli.store.saves import Saves, Saving
from compress_cli.together import Together
from compress_cli.training import loop, sharding
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.optimizers.adamw import AdamW
from compress_cli.training.optimizers.sgd import Sgd
from compress_cli.training.regularizers.l1 import L1
from compress_cli.training.sparsification import Moving, Ramp

IMAGE, CLASSES = (2, 6, 6), 3
LABELS = (CrossEntropy(),)


class Blots(Dataset):
    """41 random images: batches of 16 become 14, 14 and 13, which two processes can't halve evenly."""

    def split(self, name):
        count = {"train": 41, "val": 13, "test": 5}[name]
        random = np.random.default_rng(count)
        images, labels = random.normal(size=(count, *IMAGE)).astype(np.float32), np.arange(count) % CLASSES
        images += 0.7 * labels[:, None, None, None].astype(np.float32)
        return Split({"image": images}, {"label": labels}, np.arange(count))

    def fingerprint(self):
        return "blots"

    def signature(self):
        image = Input(shape=IMAGE, mean=(0.7, 0.7), deviation=(1.2, 1.2))
        return Signature(inputs={"image": image}, heads={"logits": Head(shape=(CLASSES,))})


class SomeLabels(Loss):
    """Cross entropy over the samples that are not of class 0: of each share another number."""

    needs_teacher = False

    def __call__(self, student, teacher, batch, adapter):
        (logits,), labels = student.heads.values(), batch.targets["label"]
        return functional.cross_entropy(logits[labels > 0], labels[labels > 0])


def network(model, seed):
    return restore.build(model, Blots().signature(), seed).network


def trained(folder, processes, model, losses=LABELS, teacher=None, saves=None, rate=0.05, attach=(), **settings):
    """The weights after a training, by name; only the first process has a folder for saves."""
    folder.mkdir(parents=True, exist_ok=True)
    student, notes = network(model, processes.rank), []  # the others begin with other weights, and take over the first one's
    context = Context(
        inputs={}, output=folder, dataset=Blots(), task=Classification(), device="cpu", seed=0, key="k", memory=folder,
        log=lambda progress: notes.append(progress.note), saves=saves or Saves(processes=processes), processes=processes,
    )  # fmt: skip
    config = TrainingConfig(
        **{"epochs": 3, "batch": 16, "precision": "float32", "optimizer": Sgd(learning_rate=rate), **settings}
    )
    facts = loop.fit(student, losses, config, context, Ensemble({"teacher": teacher} if teacher else {}), attach)
    return {name: value.numpy() for name, value in student.state_dict().items()}, facts, [note for note in notes if note]


def teacher():
    whole = network(Mlp(hidden=(20, 9)), 7).eval()
    seen, _ = features.attach(whole, ("3",))

    def opened(batch):
        with torch.no_grad():
            return features.outputs(whole, Blots().signature(), batch, ("3",), seen)

    return opened


def everything(folder, processes):
    model = Mlp(hidden=(12,))
    settings = {"accumulate": 2, "clip_norm": 0.5, "ema": 0.8, "regularizers": (L1(weight=0.01),)}
    return trained(folder, processes, model, (SomeLabels(),), augment=(Crop(padding=1),), **settings)


def distilled(folder, processes):
    """With a loss that relates the samples of a batch to each other, and one with a trainable part of its own."""
    losses = (Dist(), SomeLabels(weight=0.5), Hints(layers=({"student": "1", "teacher": "3"},), weight=0.3))
    return trained(folder, processes, Mlp(hidden=(6,)), losses, teacher(), rate=0.02)


def normalised(folder, processes):
    return trained(folder, processes, Convnet(widths=(4, 5), convs=1), rate=0.02)


def saved(folder, processes):
    """Saved after every second step of nine."""
    saves = Saves(None if processes.rank else folder, Saving(steps=2), processes=processes)
    return trained(folder, processes, Convnet(widths=(4, 5), convs=1), rate=0.02, saves=saves)


def by_hand(folder, processes):
    """The gradient of a softmax regression on 5 samples."""
    random = np.random.default_rng(0)
    inputs, labels = random.normal(size=(5, 4)), np.array([0, 2, 1, 1, 0])
    weight = torch.tensor(random.normal(size=(3, 4)), requires_grad=True)
    unused = torch.zeros(2, requires_grad=True)
    share = torch.tensor(inputs)[processes.share(5)]
    logits = processes.joined("logits", share @ weight.T, 5)
    functional.cross_entropy(logits, torch.tensor(labels)).backward()
    processes.sum_gradients([weight, unused])
    assert unused.grad is None
    return {"gradient": weight.grad.numpy(), "inputs": inputs, "labels": labels, "weight": weight.detach().numpy()}, {}, []


def divided(folder, processes):
    """A student and its teacher whose weights are divided, blocks from 50 parameters on by themselves."""
    losses = (Dist(), SomeLabels(weight=0.5), Hints(layers=({"student": "1", "teacher": "3"},), weight=0.3))
    small, sharding.BLOCK = sharding.BLOCK, 50
    try:
        whole = network(Mlp(hidden=(20, 9)), 7).eval().requires_grad_(False)
        seen, _ = features.attach(whole, ("3",))
        opened = Running(whole, Blots().signature(), ("3",), seen)
        if processes.several:
            sharding.divided(whole, processes, "cpu")
        saves = Saves(None if processes.rank else folder, Saving(steps=2), processes=processes)
        settings = {"shard": "all", "clip_norm": 0.5, "saves": saves, "optimizer": AdamW(learning_rate=0.01)}
        counts = [0]

        def counted(*arguments):
            counts[0] += 1
            return divide(*arguments)

        divide, sharding.divided = sharding.divided, counted
        result = trained(folder, processes, Mlp(hidden=(6, 5)), losses, opened, **settings)
        sharding.divided = divide
        assert counts == [int(processes.several)]  # the student's weights were divided
        assert any(isinstance(weight, DTensor) for weight in whole.parameters()) == processes.several
        return result
    finally:
        sharding.BLOCK = small


def masked(folder, processes):
    """Movement pruning: scores that are summed from the gradients of masked weights."""

    def attach(student, steps):
        weights = {name: weight for name, weight in student.body.named_parameters() if weight.ndim > 1}
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}

        def lowest(scores, share):
            return {name: score > score.flatten().quantile(share(0.5)) for name, score in scores.items()}

        def movement(name, weight, gradient):
            return -weight * gradient

        return Moving(weights, masks, Ramp(1, 7, 1), 0.0, lowest, movement)

    return trained(folder, processes, Mlp(hidden=(12,)), attach=(attach,), accumulate=2)


def tabled(folder, processes):
    """A teacher's outputs, in two views of six chunks, of which the processes take turns; saved after every turn."""
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    (made / "table").mkdir()
    restore.save(restore.build(Convnet(widths=(4, 5), convs=1), Blots().signature(), 7), made)
    folder.mkdir(exist_ok=True)
    notes, whole, teacher_table.CHUNK = [], teacher_table.CHUNK, 8
    context = Context(
        inputs={"teacher": (Draft(Checkpoint, "t", {}).commit(made),)}, output=made / "table", dataset=Blots(),
        task=Classification(), device="cpu", seed=0, key="k", memory=made, log=lambda progress: notes.append(progress.note),
        saves=Saves(None if processes.rank else folder, Saving(steps=1), processes=processes), processes=processes,
    )  # fmt: skip
    stage = teacher_table.TeacherTable(views=2, layers=("layer2",), augment=(Crop(padding=1),))
    facts = stage.run(context)
    teacher_table.CHUNK = whole
    return {path.name: np.load(path) for path in (made / "table").glob("*.npy")}, facts, [note for note in notes if note]


CASES = {case.__name__: case for case in (by_hand, everything, distilled, normalised, saved, divided, masked, tabled)}


def two(rank, store, folder, cases):
    """The results of these cases as one of two processes."""
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        return {name: CASES[name.partition(" ")[0]](folder / name, Together(rank, 2)) for name in cases}
    finally:
        dist.destroy_process_group()


def alone(folder, name):
    return CASES[name](folder / name, ALONE)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    port, place, cases = sys.argv[1:]
    store = dist.TCPStore("127.0.0.1", int(port), None, False, timedelta(seconds=60))
    two(1, store, Path(place), json.loads(cases))
