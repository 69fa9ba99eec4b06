"""Second-order change of the loss without a weight."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from compress_cli.pruning.saliencies import Saliency


class Hessian(Saliency):
    """Saliency of optimal brain damage, 1/2 h w^2 (LeCun et al. 1990, Advances in Neural Information Processing Systems 2:598).

    The Hessian's diagonal h is that of the Fisher information: squared gradients of single training samples, averaged (as
    Theis et al. 2018, arXiv:1801.05787, do), which equals it for a model that has learnt its data.
    """

    reads: ClassVar[Literal["weights", "gradient", "batch_gradients", "training"]] = "batch_gradients"
    batch: ClassVar[int] = 1

    def __call__(self, name: str, weight: Tensor, gradient: Tensor | None) -> Tensor:
        assert gradient is not None
        return (weight * gradient).square() / 2
