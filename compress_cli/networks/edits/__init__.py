"""Edits: changes of a model's structure, recorded in its checkpoint and replayed when it is restored."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn

from compress_cli.plugin import Plugin


class Edit(Plugin):
    """One change of structure. Replaying all edits on a fresh model gives the shapes its weights have."""

    @abstractmethod
    def __call__(self, model: nn.Module) -> None:
        """Change the model (the body of a Network) in place."""
