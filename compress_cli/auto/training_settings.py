"""How candidates are trained, for a glance, for a comparison, and in the recipe, whose time fits the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress_cli.auto.subject import Subject, settings_of, short
from compress_cli.data.signature import Signature
from compress_cli.data.tasks import Task
from compress_cli.errors import RecipeError

MOST = 160  # epochs, beyond which little is won
EPOCHS_A_VIEW = 10  # of a table of the teacher's outputs: a view costs what the teacher takes for an epoch
EPOCHS_AN_AWARE = 8  # for each epoch of training in integers
AWARE_RATE = 0.05  # of the learning rate from scratch, for training in integers
LARGEST_TABLE = 2e8  # bytes of one view
TAUGHT: Mapping[str, tuple[Mapping[str, Any], float]] = {
    "cross_entropy": ({"type": "soft_targets", "temperature": 4.0}, 0.9),
    "binary_cross_entropy": ({"type": "multi_label_targets"}, 0.7),
}
"""A task's loss on true labels -> the loss on the teacher's outputs beside it, and the share of that."""
NUMBERS: tuple[Mapping[str, Any], float] = ({"type": "logit_mse"}, 0.5)
"""The same where outputs are no probabilities: numbers, scores, embeddings."""


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of every training, and whether the teacher's outputs are stored."""

    settings: Mapping[str, Any]  # of a training from scratch, without its epochs
    stored: bool
    losses: tuple[Mapping[str, Any], ...] = ()  # of what learns from a teacher; none where a stage's own suit the task

    @classmethod
    def of(cls, subject: Subject, signature: Signature, samples: int, task: Task) -> TrainingSettings:
        """The given model's own settings where they are known, else a shift for pictures and no more, since what else changes a
        picture and leaves its class depends on the data. Outputs are stored where a view of them is not too large."""
        known = {name: _without_defaults(value) for name, value in subject.training.items()}
        if "augment" not in known and subject.dataset is None:
            shapes = [spec.shape for spec in signature.inputs.values()]
            side = min((length or 0 for length in shapes[0][1:]), default=0) if len(shapes) == 1 and len(shapes[0]) == 3 else 0
            if side >= 16:
                known["augment"] = [{"type": "crop", "padding": max(1, side // 14)}]
        settings = {name: value for name, value in known.items() if value not in ((), [], 128, "shuffled", "sgd")}
        return cls(settings, 4 * samples * _outputs(signature) <= LARGEST_TABLE, taught(task, signature))

    def stage(self, name: str, stage: Mapping[str, Any], rate: float, epochs: int, views: int = 1) -> dict[str, Any]:
        """A candidate's stage with its name, and a training with a share `rate` of the learning rate from scratch."""
        training: dict[str, Any] = {"epochs": epochs, **self.settings}
        if rate != 1:
            training["optimizer"] = self._optimizer(rate)
        if self.stored and training.get("augment"):
            training["views"] = views
        cached: dict[str, Any] = {"teacher_cache": True} if self.stored else {}
        if self.losses and stage.get("teacher"):
            cached |= {"losses": list(self.losses)}
        kind = {"type": stage["type"], "name": name}
        return {**kind, **{field: value for field, value in stage.items() if field != "type"}, **cached, "training": training}

    def _optimizer(self, share: float) -> dict[str, Any]:
        """The settings of the optimiser with a share of its learning rate, for a model that has learnt before."""
        from compress_cli.training.config import TrainingConfig
        from compress_cli.training.optimizers import Optimizer

        stated = self.settings.get("optimizer")
        known = Optimizer.model_validate(stated) if stated else TrainingConfig(epochs=1).optimizer
        return {**settings_of(known), "learning_rate": float(f"{known.learning_rate * share:.3g}")}


def taught(task: Task, signature: Signature) -> tuple[Mapping[str, Any], ...]:
    """The losses of a student of this task, on the teacher's outputs and on what is true; none where those are what the stages
    take by themselves, or the task names no loss."""
    from compress_cli.training.objective import hard_losses

    try:
        hard = hard_losses(task, signature.heads)
    except RecipeError:
        return ()
    losses: list[Mapping[str, Any]] = []
    for loss in hard:
        soft, share = TAUGHT.get(loss.type, NUMBERS)
        head = {"head": named} if (named := getattr(loss, "head", "")) else {}
        losses += [{**soft, **head, "weight": share}, {**settings_of(loss), "weight": round(1 - share, 2)}]
    usual = [{"type": "soft_targets", "temperature": 4.0, "weight": 0.9}, {"type": "cross_entropy", "weight": 0.1}]
    return () if losses == usual else tuple(losses)


def _outputs(signature: Signature) -> float:
    """Numbers that a sample's heads have; infinitely many where an axis is open."""
    count = 0.0
    for head in signature.heads.values():
        numbers = 1.0
        for length in head.shape:
            numbers *= float("inf") if length is None else length
        count += numbers
    return count


def _without_defaults(value: Any) -> Any:
    """A plugin as its run recorded it, in the short form of a recipe."""
    from compress_cli.training.augmentations import Augmentation
    from compress_cli.training.optimizers import Optimizer

    if isinstance(value, list):
        return [short(Augmentation.model_validate(entry)) for entry in value]
    return short(Optimizer.model_validate(value)) if isinstance(value, Mapping) else value
