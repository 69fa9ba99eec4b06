"""Epochs fitted to the time, by measured rates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from compress_cli.auto.request import Request, duration
from compress_cli.auto.subject import Subject, settings_of, short
from compress_cli.data import samples
from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks import restore
from compress_cli.store.artifact import Artifact, Checkpoint

VALIDATION = 1 / 3  # what a sample of val costs, next to one that is trained on: a forward pass without a backward one
AWARE = 1.9  # what a step costs that simulates integers, next to a float one
AWARE_SHARE = 0.2  # of the training time that goes to integers
MOST_FRESH, MOST_TUNED = 160, 80  # epochs, beyond which little is won
SLACK = 0.88  # of the time that is planned with: rates vary
VIEWS = 4  # of a table of the teacher's outputs
LEAST_TABLE = 2  # a table pays from so many epochs for each view on
BATCHES, BATCH = 4, 64  # to time the given model with


@dataclass(frozen=True)
class Rates:
    """What a student's training costs here."""

    train: int  # samples
    val: int
    online_s: float  # a trained sample, the teacher's pass included
    teacher_s: float  # the teacher's pass over one

    @property
    def student_s(self) -> float:
        """A trained sample where the teacher's outputs are stored; at least a fifth of the above."""
        return max(self.online_s - self.teacher_s, 0.2 * self.online_s)

    @property
    def epoch_s(self) -> float:
        return self.online_s * (self.train + VALIDATION * self.val)

    @property
    def stored_epoch_s(self) -> float:
        return self.student_s * (self.train + VALIDATION * self.val)

    def table_s(self, views: int) -> float:
        return views * self.teacher_s * self.train


@dataclass(frozen=True)
class Schedule:
    """How long the winner is trained."""

    epochs: int
    aware: int  # epochs of training in integers; 0 for none
    stored: bool  # whether the teacher's outputs are stored first
    views: int
    seconds: float  # that all of it takes, by the rates


def fitted(rates: Rates, seconds: float, fresh: bool, aware: bool, augmented: bool) -> Schedule | None:
    """The most epochs that fit into a time, the teacher running along or its outputs stored; None where not one does."""
    seconds *= SLACK
    share, most = (1 - AWARE_SHARE if aware else 1.0), MOST_FRESH if fresh else MOST_TUNED
    views = VIEWS if augmented else 1
    plans = []
    for stored in (False, True):
        each = rates.stored_epoch_s if stored else rates.epoch_s
        begin = rates.table_s(views) if stored else 0.0
        left = seconds - begin
        tuned = max(1, min(most, int((1 - share) * left / (AWARE * each)))) if aware else 0
        epochs = min(most, int((left - tuned * AWARE * each) / each))
        if epochs >= 1 and (not stored or epochs >= LEAST_TABLE * views):
            plans.append(Schedule(epochs, tuned, stored, views, begin + (epochs + AWARE * tuned) * each))
    return max(plans, key=lambda plan: (plan.epochs, -plan.seconds), default=None)


def too_short(request: Request, rates: Rates, left_s: float) -> RecipeError:
    """What to say where not one epoch fits."""
    needed = rates.epoch_s / SLACK + max(0.0, request.within_s - left_s)
    return RecipeError(
        f"--within {duration(request.within_s)}: is too short for one epoch: {rates.train} samples at "
        f"{1 / rates.online_s:.0f} a second take {duration(rates.epoch_s)}, and {duration(max(0.0, left_s))} remain beside the "
        f"measurements; give at least {duration(1.2 * needed)}, or promise less: what needs no training takes a minute"
    )


def teacher_s(artifact: Artifact, request: Request) -> float:
    """Seconds that the given model needs for a sample, as it teaches: at its fastest, since what is taken off the time of a
    training along with it must not be what another process took."""
    split = request.dataset.split("train").take(slice(0, BATCHES * BATCH))
    if not isinstance(artifact, Checkpoint):
        from compress_cli.measurement import measure, sessions

        session = sessions.open_stored(artifact)
        begun = time.perf_counter()
        measure.predict(session, split, BATCH, lambda progress: None)
        return (time.perf_counter() - begun) / max(1, len(split))
    restored = restore.checkpoint(artifact)
    took = []
    with torch.inference_mode():
        for part in samples.parts(split, BATCH):
            begun = time.perf_counter()
            samples.answers(restored.network, samples.tensors(part, restored.signature))
            took.append((time.perf_counter() - begun) / len(part))
    return min(took)


def training(subject: Subject, signature: Signature) -> dict[str, Any]:
    """The settings of every training: the given model's own where they are known, else a shift for pictures and no more, since
    what else changes a picture and leaves its class depends on the data."""
    known = {name: _without_defaults(value) for name, value in subject.training.items()}
    if "augment" not in known and subject.dataset is None:
        shapes = [spec.shape for spec in signature.inputs.values()]
        side = min((length or 0 for length in shapes[0][1:]), default=0) if len(shapes) == 1 and len(shapes[0]) == 3 else 0
        if side >= 16:
            known["augment"] = [{"type": "crop", "padding": max(1, side // 14)}]
    return {name: value for name, value in known.items() if value not in ((), [], 128, "shuffled", "sgd")}


def _without_defaults(value: Any) -> Any:
    """A plugin as its run recorded it, in the short form of a recipe."""
    from compress_cli.training.augmentations import Augmentation
    from compress_cli.training.optimizers import Optimizer

    if isinstance(value, list):
        return [short(Augmentation.model_validate(entry)) for entry in value]
    return short(Optimizer.model_validate(value)) if isinstance(value, Mapping) else value


def optimizer(base: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The settings of the optimiser with a share of its learning rate, for a model that has learnt before."""
    from compress_cli.training.config import TrainingConfig
    from compress_cli.training.optimizers import Optimizer

    stated = base.get("optimizer")
    known = Optimizer.model_validate(stated) if stated else TrainingConfig(epochs=1).optimizer
    return {**settings_of(known), "learning_rate": float(f"{known.learning_rate * share:.3g}")}
