"""One cut of a network: its groups, how much of each remains, which channels go, and the proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import restore
from compress_cli.networks.narrowing import Proof
from compress_cli.pruning import coupling, dependency_graph, widths
from compress_cli.pruning.channels import Group
from compress_cli.pruning.cost import Cost
from compress_cli.pruning.dependency_graph import named as named
from compress_cli.pruning.distributions import Curve, Distribution

PROBES = 2  # samples that a cut is proved on
CURVES = "curves.json"  # of a stage pruning_sensitivity
UNREAD = (
    "nothing that could be followed reads its channels, and the narrower model goes wrong; does its code leave PyTorch, "
    "for NumPy say?"
)


def cuttable(
    body: torch.nn.Module,
    inputs: tuple[Tensor, ...],
    ignore: Sequence[str],
    proof: Proof,
    proven: Sequence[Group] | None = None,
) -> tuple[list[Group], dict[str, str]]:
    """The groups that can be cut, and the layers that stay whole, with the reason; RecipeError where none can.

    `proven`: groups that were proved on the same model before it was cut."""
    dependencies = dependency_graph.build(body, inputs, ignore)
    groups = proof.provable(dependencies.groups) if proven is None else coupling.again(dependencies.groups, proven)
    cut = {layer for group in groups for layer in (group.layer, *group.coupled)}
    unproven = [group for group in dependencies.groups if group.layer not in cut]
    whole = dependencies.whole | {group.layer: proof.reason if group.playing("reads") else UNREAD for group in unproven}
    if not groups:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in list(whole.items())[:5])
        raise RecipeError(
            f"there is no layer that can be cut ({reasons}); sparsify and factorise, which follow no channels, take any layer "
            "of weights"
        )
    return groups, whole


def matched(ratios: Mapping[str, float], groups: Sequence[Group]) -> dict[str, float]:
    """Layer of a group -> the share that a pattern removes of it; RecipeError where a pattern matches none, or two disagree."""
    found: dict[str, tuple[str, float]] = {}
    for pattern, share in ratios.items():
        layers = [group.layer for group in groups if any(fnmatchcase(name, pattern) for name in _makers(group))]
        if not layers:
            known = ", ".join(group.layer for group in groups[:8])
            raise RecipeError(f"ratios: no layer that can be cut matches '{pattern}'; those that can: {known}, ...")
        for layer in layers:
            other, before = found.setdefault(layer, (pattern, share))
            if before != share:
                raise RecipeError(f"ratios: '{other}' and '{pattern}' both match layers that are cut with '{layer}'")
    return {layer: share for layer, (_, share) in found.items()}


def _makers(group: Group) -> set[str]:
    return {group.layer, *(part.layer for part in group.playing("makes"))}


def spread(
    distribution: Distribution, groups: Sequence[Group], scores: Sequence[Tensor], curves: Mapping[str, Curve]
) -> widths.Spread:
    """The distribution as a function of strength and the number of a group."""
    by_layer = {group.layer: score for group, score in zip(groups, scores, strict=True)}

    def at(strength: float) -> Any:
        shares = distribution.remaining(strength, by_layer, curves)
        return lambda group: shares[group]

    return at


def pinned(choices: Sequence[widths.WidthChoice], kept: Mapping[int, int]) -> list[widths.WidthChoice]:
    """The choices with one count alone for some groups: the permitted one nearest to what is asked for, of any choice."""
    nearest = {
        group: min({count for choice in choices for count in choice[group]}, key=lambda option: abs(option - count))
        for group, count in kept.items()
    }
    return [[[nearest[group]] if group in nearest else options for group, options in enumerate(choice)] for choice in choices]


def check_finite(restored: restore.Restored) -> None:
    """StageError where a weight is not a number."""
    for name, tensor in restored.network.body.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StageError(f"the weights hold NaN or infinity (such as {name}): no channel's importance can be computed")


def check_cut(proof: Proof, groups: Sequence[Group], removed: Sequence[Tensor]) -> None:
    """StageError where this very cut would change more than it removes."""
    if proof.holds(groups, removed):
        return
    pairs = zip(groups, removed, strict=True)
    wrong = [group.layer for group, numbers in pairs if not proof.holds([group], [numbers])]
    raise StageError(
        "the narrowed model does not compute what the model computes without these channels; name in 'ignore': "
        + ", ".join(wrong or [group.layer for group in groups])
    )


def facts(groups: Sequence[Group], cost: Cost, kept: list[int]) -> dict[str, Any]:
    """For the manifest: cost and widths before and after."""
    return {
        "macs": [cost.macs(), cost.macs(kept)],
        "parameters": [cost.parameters(), cost.parameters(kept)],
        "widths": {group.layer: [group.width, group.width_of(count)] for group, count in zip(groups, kept, strict=True)},
    }


def probes(restored: restore.Restored, context: Context) -> tuple[Tensor, ...]:
    """Inputs of the body that a cut is proved on: training samples, with noise for normalised values.

    Normalised values of real samples may hardly vary, and a wrong cut would show as little.
    """
    signature = restored.signature
    rows = samples.tensors(samples.drawn(context.split("train"), PROBES, context.seed), signature)
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(tensor.shape, generator=generator) if getattr(torch, spec.dtype).is_floating_point else tensor
        for tensor, spec in zip(rows, signature.inputs.values(), strict=True)
    )
