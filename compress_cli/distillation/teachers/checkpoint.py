"""Checkpoints and quantised programs as teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.data.signature import Signature
from compress_cli.distillation.teachers import Opened, Teacher
from compress_cli.networks import features, restore
from compress_cli.store import artifact
from compress_cli.store.artifact import Artifact


class CheckpointTeacher(Teacher):
    """A trained network, or a quantised graph; heads and features of named layers."""

    takes: ClassVar[tuple[type[Artifact], ...]] = (artifact.Checkpoint, artifact.Program)

    def open(self, artifact: Artifact, layers: tuple[str, ...], device: str) -> Opened:
        network = restore.runnable(artifact).to(device)
        seen, _ = features.attach(network, layers)
        return Running(network, restore.signature_of(artifact), layers, seen)


@dataclass(frozen=True)
class Running:
    """A network that answers as a teacher."""

    network: nn.Module
    signature: Signature
    layers: tuple[str, ...]
    seen: dict[str, Tensor]  # what these layers showed in the last pass

    def __call__(self, batch: Batch) -> Outputs:
        with torch.no_grad():
            return features.outputs(self.network, self.signature, batch, self.layers, self.seen)
