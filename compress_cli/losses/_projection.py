"""Features of two networks, brought to one shape and compared position by position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from compress_cli.errors import RecipeError

Distance = Literal["mse", "l1", "cosine"]


def channel_axis(features: Tensor) -> int:
    """1 for images (N, C, H, W), the last one for vectors (N, C) and tokens (N, T, C)."""
    return 1 if features.dim() == 4 else -1


def comparable(student: Tensor, teacher: Tensor, axes: tuple[int, ...] = (2, 3, 4)) -> None:
    """RecipeError unless both are vectors (N, C), tokens (N, T, C) or images (N, C, H, W), as many tokens on both sides."""
    alike = student.dim() == teacher.dim() and student.dim() in axes
    if not alike or (student.dim() == 3 and student.shape[1] != teacher.shape[1]):
        kinds = {2: "vectors (N, C)", 3: "tokens (N, T, C), as many on both sides,", 4: "images (N, C, H, W)"}
        accepted = " or ".join(kinds[axis] for axis in axes)
        raise RecipeError(
            f"the student's features of shape {per_sample(student)} can't be compared with the teacher's "
            f"{per_sample(teacher)}: this loss takes {accepted}"
        )


def projector(student: Tensor, teacher: Tensor, axes: tuple[int, ...] = (2, 3, 4)) -> nn.Module:
    """Map the student's width to the teacher's: a 1 x 1 convolution for images, a linear map for vectors and tokens, the
    identity where the widths agree. RecipeError where they are not `comparable`."""
    comparable(student, teacher, axes)
    student_width, teacher_width = student.shape[channel_axis(student)], teacher.shape[channel_axis(teacher)]
    if student_width == teacher_width:
        return nn.Identity()
    return nn.Conv2d(student_width, teacher_width, 1) if student.dim() == 4 else nn.Linear(student_width, teacher_width)


def projectors(pairs: Iterable[tuple[Tensor, Tensor]], axes: tuple[int, ...] = (2, 3, 4)) -> nn.ModuleList:
    """One projector for each (student, teacher), in their order."""
    return nn.ModuleList(projector(student, teacher, axes) for student, teacher in pairs)


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
    """Distances between features of one shape at each position, (N, H, W), (N, T) or (N,): the mean over channels of
    squares or of absolute values, or 1 - cosine."""
    axis = channel_axis(student)
    if distance == "cosine":
        return 1 - functional.cosine_similarity(student, teacher, dim=axis)
    difference = student - teacher
    return difference.square().mean(axis) if distance == "mse" else difference.abs().mean(axis)


def first_token(features: Tensor) -> Tensor:
    """(N, T, C) -> (N, C): the state of position 0; RecipeError for other features."""
    if features.dim() != 3:
        raise RecipeError(f"the first token is read from features (N, T, C); these have shape {per_sample(features)}")
    return features[:, 0]


def per_sample(tensor: Tensor) -> str:
    """The shape in an error message: (N, C, H, W) with N for the samples."""
    return "(" + ", ".join(["N", *map(str, tensor.shape[1:])]) + ")"
