"""Weights divided among the processes that train together, for networks that do not fit into the memory of one (FSDP2).

Each process keeps a part of every weight, of its gradient and of what the optimiser keeps for it; a block's weights are brought
together while it computes (Zhao et al. 2023, arXiv:2304.11277, in PyTorch's second version).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn, optim

from compress_cli.context import Context
from compress_cli.errors import RecipeError
from compress_cli.networks.edits import Edit
from compress_cli.networks.models import Network
from compress_cli.processes import Processes
from compress_cli.store.saves import Save, Saves
from compress_cli.training.config import TrainingConfig

M = TypeVar("M", bound=nn.Module)

BLOCK = 1_000_000  # parameters from which on a block is brought together by itself


def divided(network: M, processes: Processes, device: str) -> M:
    """The network, its weights divided among the processes; they go to the device block by block, never all at once."""
    from torch.distributed.device_mesh import init_device_mesh  # slow, and seldom needed: 0.8 s
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.partition(":")[0], (processes.count,))
    blocks: list[nn.Module] = [*_blocks(network), network]
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    for module in network.modules():
        if isinstance(module, FSDPModule):  # gradients are added up, as those of undivided weights are
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return network


def to_be_trained(network: Network, config: TrainingConfig, context: Context, attached: bool) -> tuple[Network, Saves]:
    """The network on the device, and its saves; where its weights are to be divided, a copy that other processes share.

    RecipeError where something in the training needs them whole.
    """
    processes = context.processes
    if config.shard != "all" or not processes.several:
        return network.to(context.device), context.saves
    bound = [edit.type for edit in network.edits if type(edit).constraint is not Edit.constraint]
    needs = {
        "ema": bool(config.ema),
        "regularizers": bool(config.regularizers),
        "channels_last": config.precision.endswith("channels_last"),
        f"weights that are bound ({', '.join(bound) or 'masks'})": attached or bool(bound),
    }
    for name, needed in needs.items():
        if needed:
            raise RecipeError(f"training.shard: all divides the weights, and {name} need them whole; leave one of the two out")
    processes.agree(network.state_dict())
    return divided(copy.deepcopy(network), processes, context.device), SavedTogether(context.saves, processes)


def is_part(tensor: Tensor) -> bool:
    """Whether this process has a part of it only: a DTensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, on the CPU if it was divided; all of them have to ask for it."""
    return tensor.full_tensor().cpu() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def put(tensor: Tensor, value: Tensor) -> Tensor:
    """Give a tensor, of which this process may have a part, a value that is whole in all processes."""
    if is_part(tensor):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)  # type: ignore[attr-defined]
    return tensor.copy_(value)


def undivided(weights: Iterable[Tensor]) -> list[Tensor]:
    """Those that every process has whole."""
    return [weight for weight in weights if not is_part(weight)]


def for_parts(optimizer: optim.Optimizer) -> optim.Optimizer:
    """The optimiser, fit for weights some of which are divided and some not."""
    if len(undivided(weights := [weight for group in optimizer.param_groups for weight in group["params"]])) < len(weights):
        for group in optimizer.param_groups:
            group.update(fused=False, foreach=False)
    return optimizer


def clip(weights: list[Tensor], longest: float) -> None:
    """Shorten the gradient of all weights together to a length, L2, as torch.nn.utils.clip_grad_norm_ does."""
    if len(undivided(weights)) == len(weights):
        nn.utils.clip_grad_norm_(weights, longest)
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = torch.stack([whole(gradient.norm()).cpu() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient.mul_((longest / (norm + 1e-6)).clamp(max=1.0).item())


class SavedTogether(Saves):
    """The saves of the first process, where all have to bring their parts together for each."""

    def __init__(self, saves: Saves, processes: Processes):
        super().__init__()
        self.saves, self.processes = saves, processes

    def step(self, state: Callable[[], Save | None], epoch_ended: bool = False) -> None:
        if self.processes.rank:
            if self.processes.same(False):
                state()
            return
        saved = False

        def together() -> Save | None:
            nonlocal saved
            saved = self.processes.same(True)
            return state()

        self.saves.step(together, epoch_ended)
        if not saved:
            self.processes.same(False)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Modules of a sequence with enough weights of their own, inner ones first; weights that several share stay outside."""
    users: dict[Tensor, int] = {}
    for module in network.modules():
        for weight in module.parameters(recurse=False):
            users[weight] = users.get(weight, 0) + 1
    sequences = [module for module in network.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    in_sequence = {child for sequence in sequences for child in sequence.children()}
    taken, blocks = set[Tensor](), list[nn.Module]()
    for module in reversed([*network.modules()]):
        weights = set(module.parameters()) - taken
        large = sum(weight.numel() for weight in weights) >= BLOCK
        if large and module in in_sequence and not isinstance(module, nn.ModuleList) and all(users[w] == 1 for w in weights):
            blocks.append(module)
            taken |= weights
    return blocks


def whole_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same by name."""
    return {name: whole(value) for name, value in tensors.items()}
