"""Losses: settings, one formula, and the trainable part where the formula needs one."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from compress_cli.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.plugin import Plugin, suggest


class Loss(Plugin):
    """What training makes small. `weight` is applied by the loop, not by the formula."""

    weight: float = Field(1.0, ge=0, description="factor of this loss in the sum")

    def student_layers(self) -> tuple[str, ...]:
        """Names of the student's layers whose features the formula reads."""
        return ()

    def teacher_layers(self) -> tuple[str, ...]:
        """Names of the teacher's layers whose features the formula reads; empty for losses on heads alone."""
        return ()

    def adapter(self, student: Outputs, teacher: tuple[Outputs, ...], samples: int) -> nn.Module:
        """The trainable part (a projector, a memory), made on the first batch and owned by the loop.

        `samples` is the size of the train split.
        """
        return nn.Identity()

    def __call__(self, student: Outputs, teacher: tuple[Outputs, ...], batch: Batch, adapter: nn.Module) -> Tensor:
        """The loss, shape (), averaged over samples and unmasked positions."""
        raise NotImplementedError


def chosen(tensors: dict[str, Tensor], name: str, what: str) -> Tensor:
    """The head or target of that name, or the only one where `name` is empty; RecipeError where that is not clear."""
    if name in tensors:
        return tensors[name]
    if not name and len(tensors) == 1:
        return next(iter(tensors.values()))
    if not name:
        raise RecipeError(f"there are several {what}s ({', '.join(tensors)}): the loss must say which one in `{what}`")
    raise RecipeError(f"there is no {what} '{name}'; {suggest(name, list(tensors))}")


def paired(student: Outputs, teacher: tuple[Outputs, ...], head: str) -> tuple[Tensor, list[Tensor]]:
    """The student's head and every teacher's, without gradient; RecipeError where their shapes differ."""
    own = chosen(student.heads, head, "head")
    others = [chosen(each.heads, head, "head").detach() for each in teacher]
    if not others:
        raise RecipeError("this loss learns from a teacher, and the stage has none")
    for each in others:
        if each.shape != own.shape:
            raise RecipeError(f"the teacher gives {_sizes(each)} per sample where the student gives {_sizes(own)}")
    return own, others


def _sizes(tensor: Tensor) -> str:
    return " x ".join(str(size) for size in tensor.shape[1:]) + " values"
