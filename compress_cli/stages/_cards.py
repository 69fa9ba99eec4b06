"""What an exported file says of itself."""

from __future__ import annotations

from compress_cli.context import Context
from compress_cli.data.signature import Signature
from compress_cli.onnx_graph.card import Card, settings_of


def card(context: Context, signature: Signature) -> Card:
    """Task, classes, data and step of a file whose heads are those of `signature`."""
    encoder = context.dataset.encoder()
    return Card(
        task=context.task.model_dump(mode="json"),
        dataset=settings_of(context.dataset.recorded()),
        fingerprint=context.dataset.fingerprint(),
        classes={name: head.classes for name, head in signature.heads.items() if head.classes},
        independent=tuple(name for name, head in signature.heads.items() if head.classes and head.class_axis is None),
        key=context.key,
        encoder=encoder.model_dump(mode="json") if encoder else None,
    )
