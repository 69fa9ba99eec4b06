"""Batch norms folded into the convolutions before them, for networks that are only run."""

from __future__ import annotations

import copy
from typing import Any

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def folded(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode without the batch norms that directly follow a convolution or a linear layer.

    Computes the same but for rounding. Where the module's code can't be traced without running it, the copy has all its batch
    norms; whether a traced copy is the same for other inputs too, only its outputs show.
    """
    copied = copy.deepcopy(module).eval()
    try:
        traced = fx.symbolic_trace(copied)
    except Exception:  # whatever a model's own code raises when it is given no numbers
        return copied
    modules, uses = dict(traced.named_modules()), _uses(traced)
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer, norm = modules[str(before.target)], modules[str(node.target)]
        if not isinstance(norm, NORMS) or norm.running_mean is None or uses[str(before.target)] > 1:
            continue
        merged = _merged(layer, norm)
        if merged is None:
            continue
        traced.set_submodule(str(before.target), merged)
        modules[str(before.target)] = merged
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.recompile()
    return traced


def _uses(traced: fx.GraphModule) -> dict[str, int]:
    """How often each layer is called: one that is called twice may be followed by two batch norms."""
    targets = [str(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    return {target: targets.count(target) for target in targets}


def _merged(layer: nn.Module, norm: Any) -> nn.Module | None:
    if isinstance(layer, CONVOLUTIONS):
        return fuse_conv_bn_eval(layer, norm)
    if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
        return fuse_linear_bn_eval(layer, norm)
    return None
