"""A graph that is trained with fake quantisers, and its ranges as those of a graph that is quantised after training.

Both graphs are recorded from one network and annotated alike, so that their quantisers correspond in order.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compress_cli.errors import StageError
from compress_cli.quantization import training_modes
from compress_cli.quantization.fake_quantization import Activations, FakeQuantize, Weights
from compress_cli.quantization.training_modes import BatchNorm


class TrainableGraph(GraphModule):
    """A network's graph with fake quantisers: it is trained, evaluated and observed as the network is.

    Its parameters have the names of the network's; those of learned ranges have others. Who trains it gives it what else a
    network has: signature, edits, and what its weights were trained on.
    """

    def freeze(self, batch_norms: bool, ranges: bool) -> None:
        """Leave statistics of batch norms, or ranges, as they are from now on."""
        for module in self.modules():
            if batch_norms and isinstance(module, BatchNorm):
                module.frozen = True
            if ranges and isinstance(module, FakeQuantize):
                module.frozen = True

    def give_weights(self, network: nn.Module) -> None:
        """Copy weights and statistics into the network that it was made from."""
        state, own = network.state_dict(), self.state_dict()
        with torch.no_grad():
            for name, tensor in state.items():
                if name in own:
                    tensor.copy_(own[name])


@dataclass(frozen=True)
class Pair:
    """A quantiser of the trained graph and the observer that has its place in the other one."""

    node: Node  # in the trained graph
    trained: FakeQuantize
    observer: nn.Module


def begin_weights(graph: GraphModule) -> None:
    """Show the weights to their fake quantisers, which have the shapes of a saved state from then on."""
    for node, module in _quantisers(graph):
        if isinstance(module, Weights):
            module.begin(_weight(graph, node))


def begin(graph: GraphModule, calibrated: nn.Module) -> None:
    """Start from the ranges of activations that calibration found."""
    for pair in pairs(graph, calibrated):
        if isinstance(pair.trained, Activations):
            scale, zero_point = (float(value) for value in pair.observer.calculate_qparams())  # type: ignore[operator]
            steps = pair.trained.quant_max
            pair.trained.begin(-zero_point * scale, (steps - zero_point) * scale)


@torch.no_grad()
def narrow(graph: GraphModule, narrower: GraphModule, cut: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Give the graph of a network that has lost channels the ranges of the graph that was trained before.

    cut: what remains of tensors shaped as the parameters of their names, in the network's body.
    """
    for (node, trained), (_, fresh) in zip(_quantisers(graph), _quantisers(narrower), strict=True):
        if isinstance(trained, Activations):
            fresh.load_state_dict(trained.state_dict())
        elif isinstance(trained, Weights):
            weight, name = _weight(graph, node), str(node.all_input_nodes[0].target).removeprefix("body.")
            scales = trained.scale.reshape(-1, *(1 for _ in weight.shape[1:])).expand_as(weight).contiguous()
            fresh.scale.copy_(cut({name: scales})[name].flatten(1)[:, 0])  # type: ignore[operator, union-attr]


@torch.no_grad()
def settle(graph: GraphModule, prepared: nn.Module) -> dict[str, float]:
    """Give the observers of a graph the trained ranges; of each observer, the share of what it saw that these cut off."""
    clipped: dict[str, float] = {}
    for pair in pairs(graph, prepared):
        if isinstance(pair.trained, Weights):
            pair.trained(_weight(graph, pair.node))  # the last step changed the weights after they were rounded
        scale, zero_point = pair.trained.calculate_qparams()
        if isinstance(pair.trained, Weights):
            reach = scale * _fold(graph, pair.node) * pair.trained.quant_max
            pair.observer.min_val.copy_(-reach)  # type: ignore[operator, union-attr]
            pair.observer.max_val.copy_(reach)  # type: ignore[operator, union-attr]
            continue
        step, zero, steps = float(scale), int(zero_point), pair.trained.quant_max
        low, high = -zero * step, (steps - zero) * step
        histogram = pair.observer.histogram
        share = histogram.share_outside(low - step / 2, high + step / 2)  # type: ignore[operator, union-attr]
        clipped[str(pair.node.target)] = share
        limit = histogram.limit or 2.0 ** math.frexp(max(-low, high))[1]  # type: ignore[operator, union-attr]
        pair.observer.extremes.copy_(torch.tensor([limit, low, high], dtype=torch.float64))  # type: ignore[operator, union-attr]
    return clipped


def pairs(graph: GraphModule, other: nn.Module) -> Iterator[Pair]:
    """The quantisers of a trained graph with the observers of one that was prepared for calibration; StageError where the
    two graphs differ."""
    assert isinstance(other, GraphModule)
    ours, theirs = (_observed(each) for each in (graph, other))
    if [place for _, _, place in ours] != [place for _, _, place in theirs]:
        raise StageError(
            "the model can't be trained in integers: folding its batch norms changes more of its graph than their "
            "convolutions, such as where a convolution's output is read elsewhere too; quantise it after training"
        )
    for (node, module, _), (_, observer, _) in zip(ours, theirs, strict=True):
        if isinstance(module, FakeQuantize):
            yield Pair(node, module, observer)


def _quantisers(graph: GraphModule) -> Iterator[tuple[Node, nn.Module]]:
    for node, module, _ in _observed(graph):
        yield node, module


def _observed(graph: GraphModule) -> list[tuple[Node, nn.Module, tuple[str, ...]]]:
    """The nodes of quantisers, in order: node, module, and what reads its values."""
    from torchao.quantization.pt2e.observer import ObserverBase

    calls = ((node, graph.get_submodule(str(node.target))) for node in graph.graph.nodes if node.op == "call_module")
    return [
        (node, module, (str(node.target), *sorted(str(user.target) for user in _readers(node))))
        for node, module in calls
        if isinstance(module, ObserverBase)
    ]


def _readers(node: Node) -> list[Node]:
    """Operators that compute with a value, and not how it is normalised or dropped."""
    return [user for user in node.users if user.op == "call_function" and user.target not in training_modes.REPLACED]


def _weight(graph: GraphModule, node: Node) -> Tensor:
    (source,) = node.all_input_nodes
    weight: Tensor = operator.attrgetter(str(source.target))(graph)
    return weight


def _fold(graph: GraphModule, node: Node) -> Tensor:
    """(channels,) what a batch norm behind the convolution that reads these weights multiplies them with at inference,
    without its sign."""
    (convolution,) = node.users
    one = torch.ones(1)
    norms = [user for user in convolution.users if training_modes.batch_norm_of(user)]
    if len(norms) != 1 or convolution.target not in training_modes.FOLDING:
        return one
    norm, module = norms[0], training_modes.batch_norm_of(norms[0])
    assert module is not None
    scale, variance = norm.args[1], norm.args[4]
    gamma = operator.attrgetter(str(scale.target))(graph) if isinstance(scale, Node) else one
    assert isinstance(variance, Node)
    folded: Tensor = gamma.detach() * torch.rsqrt(operator.attrgetter(str(variance.target))(graph) + module.eps)
    return folded.abs()
