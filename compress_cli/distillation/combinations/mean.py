"""Every teacher alike."""

from __future__ import annotations

from torch import Tensor, nn

from compress_cli.data.batch import Batch
from compress_cli.distillation.combinations import Combination


class Mean(Combination):
    """The mean of the teachers' outputs: of logits, the geometric mean of their probabilities (Hinton et al. 2015,
    arXiv:1503.02531, section 1)."""

    def shares(self, said: Tensor, batch: Batch, adapter: nn.Module) -> Tensor:
        return said.new_full((len(said),), 1 / len(said))
