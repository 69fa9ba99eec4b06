"""Equal weights."""

from __future__ import annotations

from torch import Tensor, nn

from compress_cli.data.batch import Batch
from compress_cli.distillation.combinations import Combination


class Mean(Combination):
    """The mean of the teachers' outputs: of logits, the geometric mean of their probabilities (Hinton et al. 2015,
    arXiv:1503.02531, section 1)."""

    def shares(self, logits: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        return logits.new_full((len(logits),), 1 / len(logits))
