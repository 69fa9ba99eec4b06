"""Checkpoints and quantised programs as teachers."""

from __future__ import annotations

from typing import ClassVar

import torch

from compress_cli.data.batch import Batch, Outputs
from compress_cli.distillation.teachers import Opened, Teacher
from compress_cli.networks import features, restore
from compress_cli.store import artifact
from compress_cli.store.artifact import Artifact


class CheckpointTeacher(Teacher):
    """A trained network, or a quantised graph; heads and features of named layers."""

    takes: ClassVar[tuple[type[Artifact], ...]] = (artifact.Checkpoint, artifact.Program)

    def open(self, artifact: Artifact, layers: tuple[str, ...], device: str) -> Opened:
        network, signature = restore.runnable(artifact).to(device), restore.signature_of(artifact)
        seen, _ = features.attach(network, layers)

        def opened(batch: Batch) -> Outputs:
            with torch.no_grad():
                return features.outputs(network, signature, batch, layers, seen)

        return opened
