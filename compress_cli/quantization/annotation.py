"""Where numbers become integers: annotations of quantise/dequantise pairs that let ONNX Runtime run a graph whole in int8.

ONNX Runtime replaces an operator by its integer kernel when every tensor that goes in comes out of a DequantizeLinear
and what comes out goes into a QuantizeLinear. A pair inside `conv -> batch norm -> relu`, or a missing one at an
addition, leaves float operators behind; so one annotation covers everything that becomes one kernel.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compress_cli.quantization import training_modes, twins

ATEN = torch.ops.aten
CONTRACTIONS = {*training_modes.FOLDING, ATEN.linear.default}  # args: input, weight, ...
RELUS = {ATEN.relu.default, ATEN.relu_.default}
CLAMPS = {ATEN.hardtanh.default, ATEN.hardtanh_.default, ATEN.clamp.default, ATEN.clamp_.default}  # args: input, low, high
PAIRS = {ATEN.add.Tensor, ATEN.add_.Tensor, ATEN.mul.Tensor, ATEN.mul_.Tensor}
CURVES = {ATEN.sigmoid.default, ATEN.sigmoid_.default, ATEN.leaky_relu.default, ATEN.leaky_relu_.default}
JOINS = {ATEN.cat.default}
POOLS = {ATEN.avg_pool1d.default, ATEN.avg_pool2d.default}
ADAPTIVE = {ATEN.adaptive_avg_pool1d.default, ATEN.adaptive_avg_pool2d.default}  # args: input, sizes
MOVES = {ATEN.max_pool1d.default, ATEN.max_pool2d.default, ATEN.flatten.using_ints, ATEN.reshape.default, ATEN.view.default,
         ATEN.permute.default, ATEN.transpose.int, ATEN.unsqueeze.default, ATEN.squeeze.dim, ATEN.slice.Tensor,
         ATEN.unflatten.int}  # fmt: skip
SPLITS = {ATEN.chunk.default, ATEN.split.Tensor, ATEN.split_with_sizes.default}
IDLE = {ATEN.dropout.default, ATEN.dropout_.default, ATEN.alias.default, ATEN.contiguous.default}  # vanish in the file
VERSION = 5  # a product with a number has the integers of the other factor
ANNOTATION = "quantization_annotation"  # the key that torchao reads


@dataclass(frozen=True)
class Annotation:
    """Nodes that become one integer kernel."""

    nodes: tuple[Node, ...]  # in order; the first takes the inputs, the last gives the output
    inputs: tuple[Node, ...]
    weight: Node | None = None
    bias: Node | None = None  # where no kernel rounds it by itself, since the output is open
    scale_of: tuple[Node, Node] | None = None  # (value, user): values are only moved, so the output keeps its scale
    multiple: bool = False  # a product with a number: the same integers with other steps, which nothing observes
    open: bool = False  # its output is not observed: a head, where 8 bits would make logits tie; or several outputs

    def annotate(self, activation: Any, weight: Any) -> None:
        """Write torchao's annotations; `activation` and `weight` are its QuantizationSpec."""
        from torchao.quantization.pt2e.quantizer import DerivedQuantizationSpec, QuantizationAnnotation, SharedQuantizationSpec

        for node in self.nodes:
            node.meta[ANNOTATION] = QuantizationAnnotation(_annotated=True)
        first, last = self.nodes[0].meta[ANNOTATION], self.nodes[-1].meta[ANNOTATION]
        rounded = [value for value in self.inputs if not is_multiple(value)]
        first.input_qspec_map = dict.fromkeys(rounded, activation) | ({self.weight: weight} if self.weight else {})
        if self.bias:
            first.input_qspec_map[self.bias] = DerivedQuantizationSpec(
                derived_from=[(self.inputs[0], self.nodes[0]), (self.weight, self.nodes[0])],
                derive_qparams_fn=_product, dtype=torch.int32, quant_min=-(2**31), quant_max=2**31 - 1,
                qscheme=torch.per_channel_symmetric, ch_axis=0,
            )  # fmt: skip
        if self.scale_of:
            last.output_qspec = SharedQuantizationSpec(self.scale_of)
        elif not self.open and not self.multiple:
            last.output_qspec = activation


class AnnotationQuantizer:
    """The interface by which torchao's `prepare_pt2e` requests annotations (its Quantizer protocol)."""

    def __init__(self, activation: Any, weight: Callable[[str], Any]):
        """`weight` gives the QuantizationSpec of a layer's weights, None where the layer is to stay float."""
        self.activation = activation
        self.weight = weight
        self.annotations: list[Annotation] = []
        self.layers: dict[str, Any] = {}  # layer -> the spec of its weights

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Write operators as ones that have an integer kernel."""
        twins.write(model)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate the whole graph, in order."""
        self.layers = {layer_of(node): self.weight(layer_of(node)) for node in model.graph.nodes if is_learned(node)}
        floating = {name for name, spec in self.layers.items() if spec is None}
        self.annotations = list(annotations_of(model, floating))
        for annotation in self.annotations:
            annotation.annotate(self.activation, self.layers[layer_of(annotation.nodes[0])] if annotation.weight else None)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: annotations come from one source."""

    def prepare_obs_or_fq_callback(self, model: GraphModule, observers: dict[Any, Any]) -> None:
        """Observers stay as they are."""


def annotations_of(model: GraphModule, floating: Collection[str] = (), joins: Collection[str] = ()) -> Iterator[Annotation]:
    """The annotations of a graph whose batch norms are folded already, in the order of execution.

    Integers begin at the first convolution or linear layer that is learned; what comes before it (normalisation of the
    inputs, fixed products such as those of a log-mel front end) stays float, as do operators that ONNX Runtime has no
    integer kernel for, layers named in `floating`, and nodes named in `joins` with the sums and products that read them.
    """
    integers: set[Node] = set()  # nodes whose values are quantised
    exact: set[Node] = set()  # joins that stay float, and parts of them: contractions alone may round them
    for node in model.graph.nodes:
        if node.target in CONTRACTIONS and (not is_learned(node) or layer_of(node) in floating):
            continue
        if node.name in joins or (node.target not in CONTRACTIONS and exact & set(_tensors(node))):
            exact |= {node} if node.name in joins or node.target in MOVES | SPLITS | {operator.getitem} else set()
            continue
        annotation = _annotation(node, integers) if node.op == "call_function" else None
        if annotation is not None:
            yield annotation
            if not annotation.open or node.target in SPLITS:
                integers.add(annotation.nodes[-1])


def is_learned(node: Node) -> bool:
    """Whether it is a convolution or linear layer whose weight is a parameter, not a fixed buffer."""
    weight = node.args[1] if node.target in CONTRACTIONS and len(node.args) > 1 else None
    if not isinstance(weight, Node) or weight.op != "get_attr" or node.graph.owning_module is None:
        return False
    return isinstance(operator.attrgetter(str(weight.target))(node.graph.owning_module), nn.Parameter)


def layer_of(node: Node) -> str:
    """The name of a layer, as in overrides and reports."""
    return home(node).removeprefix("body.")


def name_weights(converted: GraphModule) -> None:
    """Call the integers of a layer's weights as its weights were, in whose place they stand: exported files show the names."""
    taken = {node.target for node in converted.graph.nodes if node.op == "get_attr"}
    for node in converted.graph.nodes:
        rounded = node.args[1] if node.target in CONTRACTIONS and len(node.args) > 1 else None
        codes = rounded.args[0] if isinstance(rounded, Node) and rounded.op == "call_function" else None
        name = f"{home(node)}.weight"
        if not isinstance(codes, Node) or codes.op != "get_attr" or name in taken:
            continue
        integers = operator.attrgetter(str(codes.target))(converted)
        with contextlib.suppress(AttributeError):  # a module that the graph does not have: its weights are another's
            module = converted.get_submodule(home(node))
            del module.weight
            module.register_buffer("weight", integers)
            delattr(converted, str(codes.target))
            codes.target = name
            taken.add(name)
    converted.recompile()


def left_float(model: nn.Module) -> list[str]:
    """Operators of a prepared graph that compute in float, as `module: operator`, in order and each once."""
    names: dict[str, None] = {}
    graphs = [module.graph for module in model.modules() if isinstance(module, GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        if node.op == "call_function" and ANNOTATION not in node.meta and node.target not in IDLE | MOVES:
            names[f"{home(node)}: {_word(node)}"] = None
    return list(names)


def _annotation(node: Node, integers: set[Node]) -> Annotation | None:
    tensors = _tensors(node)
    if node.target in CONTRACTIONS and isinstance(node.args[1], Node) and node.args[1].op == "get_attr":
        nodes = _with_activation(node)
        head = node.target is ATEN.linear.default and _leads_out(nodes[-1])
        bias = node.args[2] if head and len(node.args) > 2 and isinstance(node.args[2], Node) else None
        return Annotation(nodes, (tensors[0],), weight=node.args[1], bias=bias, open=head)
    if node.target in CURVES and tensors[0] in integers:
        return Annotation((node,), tensors[:1])
    if is_multiple(node) and tensors[0] in integers:
        return Annotation((node,), (), multiple=True)
    if node.target in PAIRS and len(tensors) == 2 and "alpha" not in node.kwargs and integers & set(tensors):
        return Annotation(_with_activation(node), tensors) if all(map(_is_float, tensors)) else None
    if node.target in JOINS and integers & set(tensors) and all(map(_is_float, tensors)):
        return Annotation((node,), tensors)
    if node.target in POOLS or (
        node.target in ADAPTIVE and node.args[1] not in ([1], [1, 1])
    ):  # to 1 is a mean: no integer kernel
        return Annotation((node,), tensors[:1]) if tensors[0] in integers else None
    if node.target in MOVES and tensors[0] in integers:
        return Annotation((node,), tensors[:1], scale_of=(tensors[0], node))
    if node.target in SPLITS and tensors[0] in integers:
        return Annotation((node,), tensors[:1], open=True)
    if node.target is operator.getitem and tensors[0] in integers:
        return Annotation((node,), (), scale_of=(tensors[0].all_input_nodes[0], tensors[0]))
    return None


def is_multiple(node: Node) -> bool:
    """Whether it is a value times a number, which only sums and products read: their kernels take it with steps of its own."""
    return twins.is_product(node) and all(user.target in PAIRS for user in node.users)


def _leads_out(node: Node) -> bool:
    """Whether it gives a head, as it is or in the unit of the target."""
    return all(user.op == "output" or (home(user).startswith("denormalise") and _leads_out(user)) for user in node.users)


def _product(observers: list[Any]) -> tuple[Tensor, Tensor]:
    """Scale (channels,) of sums of products: that of the input times those of the weights; zero stays zero."""
    (input_scale, _), (weight_scale, zero_point) = (observer.calculate_qparams() for observer in observers)
    return input_scale * weight_scale, zero_point


def _with_activation(node: Node) -> tuple[Node, ...]:
    """The node and the activation that its kernel takes in: one whose lower end is 0, where uint8 begins as well.

    In a graph that is trained, also the batch norm between them, which is folded into a convolution at inference."""
    nodes: tuple[Node, ...] = (node,)
    if node.target in training_modes.FOLDING and (norm := _only_user(node)) is not None and training_modes.batch_norm_of(norm):
        nodes = (node, norm)
    user = _only_user(nodes[-1])
    if user is None:
        return nodes
    rectifies = user.target in RELUS or (user.target in CLAMPS and len(user.args) > 1 and user.args[1] == 0)
    return (*nodes, user) if rectifies else nodes


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _tensors(node: Node) -> tuple[Node, ...]:
    first = node.args[0] if node.args else ()
    arguments = first if isinstance(first, list | tuple) else node.args
    return tuple(argument for argument in arguments if isinstance(argument, Node))


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def home(node: Node) -> str:
    """The module that a node comes from, by its name in the network."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return list(stack.values())[-1][0] or "network"


def _word(node: Node) -> str:
    return getattr(node.target, "__name__", str(node.target)).partition(".")[0]
