"""Losses: settings, one formula, and the trainable part where the formula needs one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.data.batch import Batch, Outputs
from compress_cli.errors import RecipeError, StageError
from compress_cli.losses._projection import channel_axis, per_sample
from compress_cli.losses._relations import between, nearest
from compress_cli.plugin import Plugin
from compress_cli.settings import Many, Settings, suggest


def _text(given: object) -> object:
    return str(given) if type(given) is int else given


def _both(given: object) -> object:
    return {"student": given, "teacher": given} if isinstance(given, str) or type(given) is int else given


Layer = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int)]


class Pair(Settings):
    """Two layers that are compared. In YAML one name does where both networks call it the same."""

    student: Layer = Field(description="the student's layer: a name such as layer3, or a position such as -2")
    teacher: Layer = Field(description="the teacher's layer")


Layers = Many[Annotated[Pair, BeforeValidator(_both, json_schema_input_type=str | int | Pair)]]


class Loss(Plugin):
    """What training makes small. `weight * factor(epoch)` is applied by the loop, not by the formula.

    A loss on features has a field `layers: Layers`; its formula is summed over layers and averaged over teachers.
    """

    taught: ClassVar[bool] = True
    """Whether it learns from a teacher."""

    weight: float = Field(1.0, ge=0, description="factor of this loss in the sum")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs in which the weight rises in a line from 0")
    until_epoch: float | None = Field(None, gt=0, description="epochs after which the weight is 0; default: never")
    teacher: str = Field("", description="of several teachers, the stage to learn from; default: all of them")

    @model_validator(mode="after")
    def _teacher_for_the_taught(self) -> Loss:
        if self.teacher and not self.taught:
            raise ValueError(f"teacher: {self.type} learns from no teacher; leave it out")
        return self

    decay_epochs: float = Field(0.0, ge=0, description="epochs before until_epoch in which the weight falls in a line to 0")

    @model_validator(mode="after")
    def _decay_ends(self) -> Loss:
        if self.decay_epochs > (self.until_epoch or 0):
            what = f"longer than until_epoch, {self.until_epoch:g}" if self.until_epoch else "without an end: set until_epoch"
            raise ValueError(f"decay_epochs: the weight can't fall for {self.decay_epochs:g} epochs, {what}")
        return self

    def factor(self, epoch: float) -> float:
        """The share of `weight` that counts after so many epochs, fractions included: 0..1."""
        risen = min(1.0, epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        if self.until_epoch is None or epoch <= self.until_epoch - self.decay_epochs:
            return risen
        left = self.until_epoch - epoch
        return min(risen, left / self.decay_epochs) if left > 0 else 0.0

    def student_layers(self) -> tuple[str, ...]:
        """Names of the student's layers whose features the formula reads."""
        return tuple(each.student for each in self._pairs())

    def teacher_layers(self) -> tuple[str, ...]:
        """Names of the teacher's layers whose features the formula reads; empty for losses on heads alone."""
        return tuple(each.teacher for each in self._pairs())

    def _pairs(self) -> tuple[Pair, ...]:
        return getattr(self, "layers", ())

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        """The trainable part (a projector, a memory), made on the first batch and owned by the loop.

        `samples` is how many different ones it is shown in training. RecipeError where shapes can't be brought together.
        """
        return nn.Identity()

    def reads_labels(self) -> bool:
        """Whether the formula reads `batch.targets`; of samples without labels it is then shown nothing."""
        return not self.taught

    @abstractmethod
    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        """The loss, shape (), averaged over samples and unmasked positions."""


def one_number(loss: Loss, given: object) -> Tensor:
    """What the formula gave, a tensor of shape (); StageError where it is anything else."""
    if isinstance(given, Tensor) and given.shape == ():
        return given
    what = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
    raise StageError(f"the loss '{loss.type}' gave {what} instead of one number, a tensor of shape ()")


def chosen(tensors: dict[str, Tensor], name: str, what: str) -> Tensor:
    """The head or target of that name, or the only one where `name` is empty; RecipeError where that is not clear."""
    if name in tensors:
        return tensors[name]
    if not name and len(tensors) == 1:
        return next(iter(tensors.values()))
    if not name and not tensors:
        raise RecipeError(f"this loss needs a {what}, and there is none")
    if not name:
        raise RecipeError(f"there are several {what}s ({', '.join(tensors)}): the loss must say which one in `{what}`")
    raise RecipeError(f"there is no {what} '{name}'; {suggest(name, list(tensors))}")


def labels(batch: Batch, target: str, places: Tensor) -> Tensor:
    """The class numbers of a target, int64, one for each of `places` (N, ...); RecipeError where there are more or fewer."""
    found = chosen(batch.targets, target, "target")
    if found.shape != places.shape:
        raise RecipeError(f"target: the labels have shape {per_sample(found)}; this loss needs {per_sample(places)}")
    return found.long()


def label_entropy(logits: Tensor, classes: Tensor, smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy of (N, classes, ...) with class numbers (N, ...), without those of -100; 0 where all are."""
    found = functional.cross_entropy(logits, classes, label_smoothing=smoothing)
    return torch.where((classes != -100).any(), found, 0)  # a mean over none is NaN


def paired(
    student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, head: str, mask: str, standardise: bool = False
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The student's head (N, size, ...), every teacher's without gradient, and which positions count, ones and zeros (N, ...).

    RecipeError where their shapes differ. What the networks say at positions that do not count is 0.
    """
    own = chosen(student.heads, head, "head")
    others = [chosen(each.heads, head, "head").detach().to(own.dtype) for each in _present(teacher)]
    for each in others:
        if each.shape != own.shape:
            raise RecipeError(f"the teacher gives {_sizes(each)} per sample where the student gives {_sizes(own)}")
    kept = unmasked(batch, mask, own[:, 0])
    if mask:
        own, others = own.where(kept[:, None] > 0, 0), [each.where(kept[:, None] > 0, 0) for each in others]
    return (standardised(own), [standardised(each) for each in others], kept) if standardise else (own, others, kept)


def standardised(logits: Tensor) -> Tensor:
    """(N, classes, ...) -> the same with mean 0 and deviation 1 over the classes (Sun et al. 2024, arXiv:2403.01427).

    Student and teacher then differ in the order and the proportions of their logits, no longer in their size. The squares
    are divided by the number of classes K; by K - 1, as in the authors' code, is a temperature higher by sqrt(K / (K - 1)).
    """
    if logits.shape[1] == 1:
        raise RecipeError("standardise needs a head of two classes or more; this one gives 1 value")
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-12).sqrt()  # equal logits have no deviation


def several_classes(logits: Tensor, loss: str) -> Tensor:
    """(N, classes, ...) -> (positions, classes); RecipeError for a head of one value."""
    if logits.shape[1] == 1:
        raise RecipeError(f"the loss '{loss}' needs a head of two classes or more; this one gives 1 value")
    return logits.movedim(1, -1).flatten(0, -2)


def unmasked(batch: Batch, mask: str, values: Tensor) -> Tensor:
    """(N, ...) of ones and zeros: which of these positions count; all of them where `mask` is empty."""
    if not mask:
        return torch.ones_like(values)
    kept = chosen(batch.inputs, mask, "input")
    if kept.shape != values.shape:
        raise RecipeError(f"mask: the input '{mask}' has shape {per_sample(kept)}; the positions have {per_sample(values)}")
    return (kept != 0).to(values.dtype)


def average(values: Tensor, kept: Tensor) -> Tensor:
    """The mean of the values at kept positions (ones and zeros of the same shape); 0 where there are none."""
    return (values * kept).sum() / kept.sum().clamp(min=1)


def matched(
    student: Outputs, teacher: tuple[Outputs, ...], layers: tuple[Pair, ...], batch: Batch | None = None, mask: str = ""
) -> list[tuple[Tensor, Tensor]]:
    """(student's features, teacher's without gradient) of every teacher and pair, teachers outermost.

    With a batch and the name of its mask, both are 0 at positions that are masked out. A layer that is missing was not
    observed, which is the loop's fault: KeyError.
    """
    found = []
    for each in _present(teacher):
        for pair in layers:
            own = student.features[pair.student]
            found.append((own, each.features[pair.teacher].detach().to(own.dtype)))
    return [(visible(own, batch, mask), visible(other, batch, mask)) for own, other in found] if batch else found


def visible(features: Tensor, batch: Batch, mask: str) -> Tensor:
    """Tokens (N, T, C) or images (N, C, H, W) with 0 at the positions that are masked out."""
    if not mask:
        return features
    axis = channel_axis(features)
    kept = unmasked(batch, mask, features.select(axis, 0))
    return features.where(kept.unsqueeze(axis) > 0, 0)


def relations(
    student: Outputs,
    teacher: tuple[Outputs, ...],
    batch: Batch,
    layers: tuple[Pair, ...],
    by: str,
    neighbours: int,
    target: str,
    mask: str,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each layer (and teacher, where `by` is "teacher"), (N, N) each: the student's distances between flattened
    features of length 1, which two different samples belong together, and which do not.

    Together are samples of one label, or a sample (row) and its `neighbours` most similar ones by the teacher's cosine.
    """
    if by == "teacher":
        pairs = matched(student, teacher, layers, batch, mask)
        found = [(own, nearest(other, neighbours)) for own, other in pairs]
    else:
        known = labels(batch, target, batch.index)
        features = [student.features[pair.student] for pair in layers]
        found = [(visible(own, batch, mask), known[:, None] == known[None, :]) for own in features]
    different = ~torch.eye(len(batch.index), dtype=torch.bool, device=batch.index.device)
    return [(between(own), together & different, ~together & different) for own, together in found]


def _present(teacher: tuple[Outputs, ...]) -> tuple[Outputs, ...]:
    if not teacher:
        raise RecipeError("this loss learns from a teacher, and the stage has none")
    return teacher


def _sizes(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape[1:]) + " values"
