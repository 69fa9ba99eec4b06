"""How candidates are trained, for a glance, for a comparison, and in the recipe, whose time fits the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress_cli.auto.subject import Subject, settings_of, short
from compress_cli.data.signature import Signature

MOST = 160  # epochs, beyond which little is won
EPOCHS_A_VIEW = 10  # of a table of the teacher's outputs: a view costs what the teacher takes for an epoch
EPOCHS_AN_AWARE = 8  # for each epoch of training in integers
AWARE_RATE = 0.05  # of the learning rate from scratch, for training in integers
LARGEST_TABLE = 2e8  # bytes of one view


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of every training, and whether the teacher's outputs are stored."""

    settings: Mapping[str, Any]  # of a training from scratch, without its epochs
    stored: bool

    @classmethod
    def of(cls, subject: Subject, signature: Signature, samples: int) -> TrainingSettings:
        """The given model's own settings where they are known, else a shift for pictures and no more, since what else changes a
        picture and leaves its class depends on the data. Outputs are stored where a view of them is not too large."""
        known = {name: _without_defaults(value) for name, value in subject.training.items()}
        if "augment" not in known and subject.dataset is None:
            shapes = [spec.shape for spec in signature.inputs.values()]
            side = min((length or 0 for length in shapes[0][1:]), default=0) if len(shapes) == 1 and len(shapes[0]) == 3 else 0
            if side >= 16:
                known["augment"] = [{"type": "crop", "padding": max(1, side // 14)}]
        settings = {name: value for name, value in known.items() if value not in ((), [], 128, "shuffled", "sgd")}
        return cls(settings, 4 * samples * _outputs(signature) <= LARGEST_TABLE)

    def stage(self, name: str, stage: Mapping[str, Any], rate: float, epochs: int, views: int = 1) -> dict[str, Any]:
        """A candidate's stage with its name, and a training with a share `rate` of the learning rate from scratch."""
        training: dict[str, Any] = {"epochs": epochs, **self.settings}
        if rate != 1:
            training["optimizer"] = self._optimizer(rate)
        if self.stored and training.get("augment"):
            training["views"] = views
        cached = {"teacher_cache": True} if self.stored else {}
        kind = {"type": stage["type"], "name": name}
        return {**kind, **{field: value for field, value in stage.items() if field != "type"}, **cached, "training": training}

    def _optimizer(self, share: float) -> dict[str, Any]:
        """The settings of the optimiser with a share of its learning rate, for a model that has learnt before."""
        from compress_cli.training.config import TrainingConfig
        from compress_cli.training.optimizers import Optimizer

        stated = self.settings.get("optimizer")
        known = Optimizer.model_validate(stated) if stated else TrainingConfig(epochs=1).optimizer
        return {**settings_of(known), "learning_rate": float(f"{known.learning_rate * share:.3g}")}


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
