"""PyTorch's table of translations: how each of its operators is written in ONNX."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

_tables: dict[Hashable, Any] = {}  # arguments -> the table made for them


@contextmanager
def kept() -> Iterator[None]:
    """Keep the table from one export to the next: PyTorch makes it anew for each, which takes longer than a small model does.

    A table names the operators that are registered when it is made: one more of them, and it is made anew. Only translations of
    the caller's own would change a table, and we have none. Where PyTorch makes its table in another way, nothing is kept.
    """
    import torch
    from torch.onnx._internal.exporter import _registration

    registry = getattr(_registration, "ONNXRegistry", None)
    make = getattr(registry, "from_torchlib", None)
    if registry is None or make is None:
        yield
        return

    def remembered(*arguments: Hashable, **options: Hashable) -> Any:
        operators = len(torch._C._dispatch_get_all_op_names())
        key = (operators, arguments, *sorted(options.items()))
        if key not in _tables:
            _tables[key] = make(*arguments, **options)
        return _tables[key]

    before = vars(registry)["from_torchlib"]
    registry.from_torchlib = staticmethod(remembered)
    try:
        yield
    finally:
        registry.from_torchlib = before
