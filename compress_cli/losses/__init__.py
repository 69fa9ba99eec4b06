"""Losses: settings, one formula, and the trainable part where the formula needs one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from compress_cli.batch import Batch, Outputs
from compress_cli.errors import RecipeError, StageError
from compress_cli.plugin import Plugin
from compress_cli.settings import Many, Settings, suggest

Distance = Literal["mse", "l1", "cosine"]


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


def paired(student: Outputs, teacher: tuple[Outputs, ...], head: str, standardise: bool = False) -> tuple[Tensor, list[Tensor]]:
    """The student's head and every teacher's, without gradient; RecipeError where their shapes differ."""
    own = chosen(student.heads, head, "head")
    others = [chosen(each.heads, head, "head").detach() for each in _present(teacher)]
    for each in others:
        if each.shape != own.shape:
            raise RecipeError(f"the teacher gives {_sizes(each)} per sample where the student gives {_sizes(own)}")
    return (standardised(own), [standardised(each) for each in others]) if standardise else (own, others)


def standardised(logits: Tensor) -> Tensor:
    """(N, classes, ...) -> the same with mean 0 and deviation 1 over the classes (Sun et al. 2024, arXiv:2403.01427).

    Student and teacher then differ in the order and the proportions of their logits, no longer in their size.
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
        raise RecipeError(f"mask: the input '{mask}' has shape {_shape(kept)}; the positions have {_shape(values)}")
    return (kept != 0).to(values.dtype)


def average(values: Tensor, kept: Tensor) -> Tensor:
    """The mean of the values at kept positions (ones and zeros of the same shape); 0 where there are none."""
    return (values * kept).sum() / kept.sum().clamp(min=1)


def matched(student: Outputs, teacher: tuple[Outputs, ...], layers: tuple[Pair, ...]) -> list[tuple[Tensor, Tensor]]:
    """(student's features, teacher's without gradient) of every teacher and pair, teachers outermost.

    A layer that is missing was not observed, which is the loop's fault: KeyError.
    """
    return [
        (student.features[pair.student], each.features[pair.teacher].detach()) for each in _present(teacher) for pair in layers
    ]


def comparable(student: Tensor, teacher: Tensor, axes: tuple[int, ...] = (2, 3, 4)) -> None:
    """RecipeError unless both are vectors (N, C), tokens (N, T, C) or images (N, C, H, W), as many tokens on both sides."""
    alike = student.dim() == teacher.dim() and student.dim() in axes
    if not alike or (student.dim() == 3 and student.shape[1] != teacher.shape[1]):
        kinds = {2: "vectors (N, C)", 3: "tokens (N, T, C), as many on both sides,", 4: "images (N, C, H, W)"}
        wanted = " or ".join(kinds[axis] for axis in axes)
        raise RecipeError(
            f"the student's features of shape {_shape(student)} can't be compared with the teacher's {_shape(teacher)}: "
            f"this loss takes {wanted}"
        )


def projector(student: Tensor, teacher: Tensor, axes: tuple[int, ...] = (2, 3, 4)) -> nn.Module:
    """What brings the student's width to the teacher's: a 1 x 1 convolution for images, a linear map for vectors and
    tokens, nothing where the widths agree. RecipeError where they are not `comparable`."""
    comparable(student, teacher, axes)
    width, wanted = student.shape[channel_axis(student)], teacher.shape[channel_axis(teacher)]
    if width == wanted:
        return nn.Identity()
    return nn.Conv2d(width, wanted, 1) if student.dim() == 4 else nn.Linear(width, wanted)


def projectors(
    student: Outputs, teacher: tuple[Outputs, ...], layers: tuple[Pair, ...], axes: tuple[int, ...] = (2, 3, 4)
) -> nn.ModuleList:
    """One projector for each pair of `matched`, in its order."""
    return nn.ModuleList(projector(own, other, axes) for own, other in matched(student, teacher, layers))


def channel_axis(features: Tensor) -> int:
    """1 for images (N, C, H, W), the last one for vectors (N, C) and tokens (N, T, C)."""
    return 1 if features.dim() == 4 else -1


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) averaged down to the smaller height and width of both; other features as they are."""
    if student.dim() != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    height, width = (min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return shrunk(student, height, width), shrunk(teacher, height, width)


def shrunk(images: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) averaged down to (N, C, height, width)."""
    if images.shape[2] % height or images.shape[3] % width:
        return functional.adaptive_avg_pool2d(images, (height, width))
    # the same means, but CUDA knows a gradient that repeats bit for bit
    return functional.avg_pool2d(images, (images.shape[2] // height, images.shape[3] // width))


def distances(student: Tensor, teacher: Tensor, distance: Distance) -> Tensor:
    """How far features of one shape are apart at each position: (N, H, W), (N, T) or (N,); the mean over channels of
    squares or of absolute values, or 1 - cosine."""
    axis = channel_axis(student)
    if distance == "cosine":
        return 1 - functional.cosine_similarity(student, teacher, dim=axis)
    difference = student - teacher
    return difference.square().mean(axis) if distance == "mse" else difference.abs().mean(axis)


def off_diagonal(size: int, like: Tensor) -> Tensor:
    """(size, size) of ones, zero on the diagonal: the pairs of two different samples."""
    return 1 - torch.eye(size, dtype=like.dtype, device=like.device)


def relations(
    student: Outputs,
    teacher: tuple[Outputs, ...],
    batch: Batch,
    layers: tuple[Pair, ...],
    by: str,
    neighbours: int,
    target: str,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each layer (and teacher, where `by` is "teacher"), (N, N) each: the student's distances between flattened
    features of length 1, which two different samples belong together, and which do not.

    Together are samples of one label, or a sample (row) and its `neighbours` most similar ones by the teacher's cosine.
    """
    if by == "teacher":
        found = [(own, _nearest(other, neighbours)) for own, other in matched(student, teacher, layers)]
    else:
        labels = chosen(batch.targets, target, "target")
        found = [(student.features[pair.student], labels[:, None] == labels[None, :]) for pair in layers]
    different = ~torch.eye(len(batch.index), dtype=torch.bool, device=batch.index.device)
    return [(_between(own), together & different, ~together & different) for own, together in found]


def _between(features: Tensor) -> Tensor:
    unit = functional.normalize(features.flatten(1), dim=1)
    found: Tensor = torch.linalg.vector_norm(unit[:, None] - unit[None, :], dim=2)  # no NaN gradient where two coincide
    return found


def _nearest(features: Tensor, count: int) -> Tensor:
    unit = functional.normalize(features.flatten(1), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    found = similarity.topk(min(count, len(unit) - 1), dim=1).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, found, True)


def _present(teacher: tuple[Outputs, ...]) -> tuple[Outputs, ...]:
    if not teacher:
        raise RecipeError("this loss learns from a teacher, and the stage has none")
    return teacher


def _shape(tensor: Tensor) -> str:
    return "(N, " + ", ".join(str(size) for size in tensor.shape[1:]) + ")"


def _sizes(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape[1:]) + " values"
