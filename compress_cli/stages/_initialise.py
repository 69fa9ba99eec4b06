"""A student that starts with its teacher's weights: blocks and channels of the teacher, mapped onto a smaller architecture."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.datasets import Split
from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError
from compress_cli.networks import inheritance, restore
from compress_cli.networks.alignment import Alignment, align
from compress_cli.networks.inheritance import Inherited
from compress_cli.networks.models import Model, Network
from compress_cli.networks.restore import ORIGINS, Restored
from compress_cli.progress import Progress
from compress_cli.pruning import channels
from compress_cli.pruning.channels import Group, evaluating
from compress_cli.pruning.criteria.l2 import L2
from compress_cli.stages import _width_budget
from compress_cli.store.artifact import Artifact

VERSION = 1  # raise it when the same teacher gives a student other weights

BATCH, SAMPLES = 64, 256  # training samples that choices are made on
ESTIMATED = 2048  # training samples that batch normalisation's statistics are estimated on
CHANGES_SHAPE = 1e3  # of a block that can't be left out; real ones change what they take by about as much as that is

Choice = tuple[Alignment, nn.Module, list[str]]  # with the teacher that is as deep as the student, and what it lacks


def depends() -> dict[str, Any]:
    """What changes the weights of a student that starts so."""
    return {"initialise": VERSION, "channels": channels.VERSION}


def student(
    model: Model, source: Artifact, context: Context, inputs: tuple[str, ...], heads: tuple[str, ...], budgeted: bool = False
) -> tuple[Restored, dict[str, Any]]:
    """A network of `model` with what its teacher has for it, and for the manifest what came from where.

    `budgeted`: a budget chooses the widths. A smoke run does not know them, and where the model as it is written is wider
    than its teacher it takes the widest that is not. RecipeError where the teacher takes other inputs, or has nothing for it.
    """
    tried = _width_budget.narrower(model) if budgeted and context.limit is not None else [model]
    for wide in tried[:-1]:
        with suppress(RecipeError):
            return _begun(wide, source, context, inputs, heads)
    return _begun(tried[-1], source, context, inputs, heads)


def _begun(
    model: Model, source: Artifact, context: Context, inputs: tuple[str, ...], heads: tuple[str, ...]
) -> tuple[Restored, dict[str, Any]]:
    teacher = restore.checkpoint(source)
    required = context.dataset.signature().narrowed(inputs, heads)
    restored = restore.build(model, _in_units_of(teacher.signature, required), context.seed)
    _check_inputs(teacher.signature, restored.signature)
    network = restored.network.eval()
    drawn = samples.drawn(context.split("train", BATCH), SAMPLES, context.seed)
    probes = _probes(teacher.network, drawn)
    choices = [_choice(network.body, teacher.network.body, probes, None)]
    if choices[0][0].dropped and choices[0][2]:
        changes = _changes(teacher.network, drawn)
        other = _choice(network.body, teacher.network.body, probes, changes)
        choices += [other] if other[2] != choices[0][2] else []
    errors = [_error(_with_body(teacher.network, body), teacher.network, drawn) for _, body, _ in choices]
    (alignment, shallower, dropped), by = choices[errors.index(min(errors))], errors.index(min(errors))
    inherited = inheritance.inherit(network.body, shallower, alignment, probes, _by_norm)
    if not any(tensor.dim() > 1 for tensor in inherited.state.values()):
        raise RecipeError(
            f"initialise: nothing of the teacher, a '{teacher.model.type}', fits into a '{model.type}': no layer with "
            "weights has a counterpart of its kind, or none whose channels can be followed; take a student of the teacher's "
            "family, as wide as it where that is recurrent, or leave 'initialise' out"
        )
    restore.put(network.body, inherited.state)
    network.trained_on = max(network.trained_on, teacher.network.trained_on, key=ORIGINS.index)
    error = _error(network, teacher.network, drawn)
    if error:
        before = copy.deepcopy(network.state_dict())
        _estimate_statistics(network, context)
        if (estimated := _error(network, teacher.network, drawn)) > error:
            network.load_state_dict(before)
        error = min(error, estimated)
    facts = _facts(inherited, alignment, teacher.model, ("even", "change")[by])
    facts |= {"blocks_dropped": dropped, "error": None if error == float("inf") else error}
    note = _sentence(inherited, teacher.model, alignment)
    context.log(Progress("initialise", 1, 1, note=note))
    return Restored(network.train(), restored.model), {"initialised": facts, "notes": [note]}


def joined(begun: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a training with those of its beginning."""
    notes = [*begun.get("notes", []), *facts.get("notes", [])]
    return {**facts, **begun, **({"notes": notes} if notes else {})}


def _in_units_of(teacher: Signature, required: Signature) -> Signature:
    """The signature that the student needs, with the normalisation and the units that its teacher's weights know."""
    inputs = {
        name: spec.model_copy(update={"mean": known.mean, "deviation": known.deviation})
        if (known := teacher.inputs.get(name)) and known.shape == spec.shape
        else spec
        for name, spec in required.inputs.items()
    }
    heads = {
        name: head.model_copy(update={"mean": trained.mean, "deviation": trained.deviation})
        if (trained := teacher.heads.get(name)) and trained.shape == head.shape
        else head
        for name, head in required.heads.items()
    }
    return required.model_copy(update={"inputs": inputs, "heads": heads})


def _check_inputs(teacher: Signature, student: Signature) -> None:
    ours, theirs = ({name: spec.shape for name, spec in part.inputs.items()} for part in (student, teacher))
    if list(ours.items()) != list(theirs.items()):
        raise RecipeError(f"initialise: the teacher takes the inputs {theirs}, and the student {ours}; they must agree")


def _choice(body: nn.Module, teacher: nn.Module, probes: tuple[Tensor, ...], changes: Mapping[str, float] | None) -> Choice:
    alignment = align(body, teacher, changes)
    return (alignment, *inheritance.shallower(teacher, alignment, probes))


def _probes(network: Network, drawn: Split) -> tuple[Tensor, ...]:
    """Two samples as the body takes them."""
    rows = samples.tensors(next(samples.parts(drawn, 2)), network.signature)
    if len(rows[0]) < 2:
        rows = tuple(row.repeat(2, *(1 for _ in row.shape[1:])) for row in rows)
    with torch.no_grad():
        return tuple(normalise(values) for normalise, values in zip(network.normalise, rows, strict=True))


def _by_norm(groups: Sequence[Group]) -> list[Tensor]:
    return [L2()(group, {}) for group in groups]


def _changes(network: Network, drawn: Split) -> dict[str, float]:
    """Repeated layer -> how much it changes what it takes: |output - input| / |input| over some samples."""
    sums: dict[str, tuple[float, float]] = {}
    taken: dict[str, Tensor] = {}

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> Any:
            if not (args and isinstance(args[0], Tensor)):
                return None
            taken[name] = args[0]
            return (args[0].clone(), *args[1:])  # a layer that works in place would seem to change nothing

        return hook

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            given, first = taken.pop(name, None), output[0] if isinstance(output, tuple) and output else output
            if given is None or not isinstance(first, Tensor) or given.shape != first.shape:
                sums[name] = (CHANGES_SHAPE, 1.0)
                return
            over, under = sums.get(name, (0.0, 0.0))
            sums[name] = (over + float((first - given).norm()), under + float(given.norm()))

        return hook

    names = [name for name, _ in network.body.named_modules() if name.rpartition(".")[2].isdigit()]
    layers = [(name, network.body.get_submodule(name)) for name in names]
    hooks = [layer.register_forward_pre_hook(before(name)) for name, layer in layers]
    hooks += [layer.register_forward_hook(after(name)) for name, layer in layers]
    try:
        _outputs(network, drawn)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: over / under if under else 0.0 for name, (over, under) in sums.items()}


def _outputs(network: Network, drawn: Split) -> list[dict[str, Tensor]]:
    """Of each batch, head name -> (N, ...)."""
    with torch.no_grad(), evaluating(network):
        return [network(*samples.tensors(part, network.signature)) for part in samples.parts(drawn, BATCH)]


def _with_body(network: Network, body: nn.Module) -> Network:
    changed = copy.copy(network)
    changed._modules = {**network._modules, "body": body}
    return changed


def _error(network: Network, teacher: Network, drawn: Split) -> float:
    """|outputs - teacher's outputs|^2 / |teacher's outputs|^2 over the heads that both have; infinite where there is none."""
    over, under = 0.0, 0.0
    for ours, theirs in zip(_outputs(network, drawn), _outputs(teacher, drawn), strict=True):
        for name in ours.keys() & theirs.keys():
            if ours[name].shape == theirs[name].shape:
                over += float((ours[name] - theirs[name]).double().square().sum())
                under += float(theirs[name].double().square().sum())
    return over / under if under else float("inf")


def _estimate_statistics(network: Network, context: Context) -> None:
    """Let batch normalisation average what it sees of training samples now: the teacher's statistics are of other channels."""
    norms = [module for module in network.body.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    drawn = samples.drawn(context.split("train", BATCH), ESTIMATED, context.seed)
    with torch.no_grad():
        for part in samples.parts(drawn, BATCH):
            if len(part) > 1:
                network(*samples.tensors(part, network.signature))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _facts(inherited: Inherited, alignment: Alignment, teacher: Model, by: str) -> dict[str, Any]:
    return {
        "from": teacher.model_dump(mode="json"),
        "tensors": inherited.sources,
        "cut": list(inherited.cut),
        "random": list(inherited.random),
        "widths": {layer: list(pair) for layer, pair in inherited.widths.items()},
        "blocks": alignment.chosen,
        "blocks_by": by if alignment.chosen else None,
    }


def _sentence(inherited: Inherited, teacher: Model, alignment: Alignment) -> str:
    """`starts from the resnet: 128 of 128 tensors, 106 of them cut to the most important channels; blocks ...`"""
    count = len(inherited.sources) + len(inherited.random)
    cut = f", {len(inherited.cut)} of them cut to the channels with the largest norm" if inherited.cut else ""
    random = ""
    if inherited.random:
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in inherited.random))
        more = ", ..." if len(layers) > 3 else ""
        random = f"; {len(inherited.random)} start at random ({', '.join(layers[:3])}{more})"
    blocks = ""
    if alignment.chosen:
        listed = [f"{ours} from {theirs}" for ours, theirs in alignment.chosen.items() if ours != theirs]
        more = ", ..." if len(listed) > 3 else ""
        blocks = f"; fewer blocks ({', '.join(listed[:3])}{more})" if listed else "; fewer blocks"
    return f"starts from the teacher ({teacher.type}): {len(inherited.sources)} of {count} tensors{cut}{blocks}{random}"
