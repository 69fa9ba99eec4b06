"""Which number format trains fastest here: timed once per model and machine, then remembered."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.data.batch import Batch
from compress_cli.networks.models import Network
from compress_cli.store.saves import Save
from compress_cli.training.config import TrainingConfig

Name = Literal["float32", "float32_channels_last", "bfloat16", "bfloat16_channels_last"]
"""Weights are float32 in all of them; bfloat16 means that convolutions and products are computed in it (autocast).

On CUDA, convolutions of float32 round their factors to TF32 where the GPU has it, which is PyTorch's own default."""

NAMES: tuple[Name, ...] = get_args(Name)

HOPELESS = 3.0  # a format whose first step takes that much longer than the best one's is not timed further
GAIN = 0.1  # a smaller gain is not worth other bytes: timed again it may be none
WORTH_S = 2.0  # training that takes less than that in float32 is not worth a choice
BUDGET_S = 1.2  # time for timing; each format gets at least two steps all the same
REMEMBERED = "precision.json"


@dataclass(frozen=True)
class PrecisionChoice:
    """A format, why it was taken, and the milliseconds a step took in each format that was timed."""

    name: Name
    reason: str
    step_ms: dict[str, float] = field(default_factory=dict)


def computing(name: Name, device: str) -> AbstractContextManager[object]:
    """The context of a forward pass in that format."""
    if name.startswith("bfloat16"):
        return torch.autocast(device.partition(":")[0], torch.bfloat16)
    return nullcontext()


def reorder_weights(module: nn.Module, name: Name) -> None:
    """Order the weights in memory as that format wants them."""
    last = name.endswith("channels_last")
    module.to(memory_format=torch.channels_last if last else torch.contiguous_format)  # type: ignore[call-overload]


def reordered(inputs: dict[str, Tensor], name: Name) -> dict[str, Tensor]:
    """Images in that format's order."""
    if not name.endswith("channels_last"):
        return inputs
    last = torch.channels_last
    return {key: value.contiguous(memory_format=last) if value.ndim == 4 else value for key, value in inputs.items()}


def of_training(
    network: Network, config: TrainingConfig, context: Context, first: Batch, steps: int, saved: Save | None = None
) -> PrecisionChoice:
    """The format of a training with so many steps an epoch, whose first microbatch this is; that of its save where there is
    one. A smoke run takes, and remembers, the format of the whole run, so that its steps take as long."""
    if saved:
        return PrecisionChoice(**saved.document["precision"])
    processes = context.processes
    if processes.several and config.shard == "all" and config.precision == "auto":
        return PrecisionChoice("float32", "formats are not timed where weights are divided")
    if not processes.several:
        return _of_process(network, config, context, first, steps)
    share = first.part(processes.share(len(first.index)))
    chosen = asdict(_of_process(network, config, context, share, steps)) if processes.rank == 0 else {}
    return PrecisionChoice(**processes.same(chosen))


def _of_process(network: Network, config: TrainingConfig, context: Context, first: Batch, steps: int) -> PrecisionChoice:
    if config.precision != "auto":
        return PrecisionChoice(config.precision, "set in the recipe")
    network.train()
    parts = min(config.accumulate, config.batch)
    inputs = {name: first.inputs[name] for name in network.signature.inputs if name in first.inputs}
    if context.limit:
        count = len(context.index())
        size = -(-count // -(-count // config.batch))  # of the whole run's first batch
        inputs = {name: values[: -(-size // parts)] for name, values in inputs.items()}
    return choose(network, inputs, config.epochs * steps * parts, context.device, context.memory)


def choose(network: nn.Module, inputs: dict[str, Tensor], steps: int, device: str, memory: Path) -> PrecisionChoice:
    """The fastest format for so many training steps of `network` on `inputs` (in its order), both on `device`.

    Changes neither the weights nor any generator. Float32 where the best is hardly faster, or where training is
    too short for a choice to pay.
    """
    if steps < 20:
        return PrecisionChoice("float32", f"{steps} steps are too few to choose by")
    key, subject = _subject(network, inputs, steps, device)
    known = _recall(memory)
    if key in known:
        choice = known[key]
        return PrecisionChoice(choice["name"], f"remembered: {choice.get('reason')}", choice["step_ms"])
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        fastest = _time(_Trial(network, inputs, device), steps)
    entry: dict[str, object] = {"name": fastest.name, "reason": fastest.reason, "step_ms": fastest.step_ms, "subject": subject}
    _remember(memory, key, entry)
    return fastest


class _Trial:
    """Training steps on a copy of the network."""

    def __init__(self, network: nn.Module, inputs: dict[str, Tensor], device: str):
        self.network, self.inputs, self.device = copy.deepcopy(network), inputs, device
        images = any(tensor.ndim == 4 for tensor in (*inputs.values(), *network.parameters()))
        self.names = [name for name in NAMES if images or not name.endswith("channels_last")]

    def seconds(self, name: Name, share: float = 1.0) -> float:
        """The time of one forward and backward pass on that share of the batch; RuntimeError where an operator lacks it."""
        rows = max(2, int(share * len(next(iter(self.inputs.values())))))
        inputs = reordered({key: tensor[:rows] for key, tensor in self.inputs.items()}, name)
        reorder_weights(self.network, name)
        self._wait()
        start = time.perf_counter()
        with computing(name, self.device):
            heads = self.network(*inputs.values())
        torch.stack([head.float().square().mean() for head in heads.values()]).sum().backward()
        self._wait()
        took = time.perf_counter() - start
        self.network.zero_grad(set_to_none=True)
        return took

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def _time(trial: _Trial, steps: int) -> PrecisionChoice:
    begun = time.perf_counter()
    trial.seconds("float32", 1 / 8)  # pays for what only a process's first step costs
    trial.seconds("float32")
    best = {"float32": min(trial.seconds("float32") for _ in range(2))}
    if best["float32"] * steps < WORTH_S:
        return PrecisionChoice("float32", f"training takes under {WORTH_S:g} s in float32", _milliseconds(best))
    for name in trial.names[1:]:
        try:
            if _hopeless(trial, name, best):
                continue
            best[name] = trial.seconds(name)
        except RuntimeError:  # an operator of this model does not know the format; float32 above is not forgiven
            continue
    rounds = 0
    while len(best) > 1 and (rounds < 2 or (rounds < 7 and time.perf_counter() - begun < BUDGET_S)):
        rounds += 1  # in turn, so that a disturbance does not hit one format alone
        best = {name: min(took, trial.seconds(name)) for name, took in best.items()}  # type: ignore[arg-type]
    fastest = min(best, key=lambda name: best[name])
    if best[fastest] > (1 - GAIN) * best["float32"]:
        return PrecisionChoice("float32", "no format is faster by a tenth", _milliseconds(best))
    return PrecisionChoice(fastest, "the fastest of those timed", _milliseconds(best))  # type: ignore[arg-type]


def _hopeless(trial: _Trial, name: Name, best: dict[str, float]) -> bool:
    """Whether first steps, on a small part of the batch and then on the whole, are far slower than the best.

    Twice each, since the very first one builds kernels.
    """
    small = min(trial.seconds("float32", 1 / 8) for _ in range(2))
    return all(trial.seconds(name, 1 / 8) > HOPELESS * small for _ in range(2)) or all(
        trial.seconds(name) > HOPELESS * min(best.values()) for _ in range(2)
    )


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(1000 * duration, 3) for name, duration in seconds.items()}


def _subject(network: nn.Module, inputs: dict[str, Tensor], steps: int, device: str) -> tuple[str, dict[str, object]]:
    """The conditions of a choice, and their hash."""
    modules = [(name, type(module).__qualname__) for name, module in network.named_modules()]
    weights = [(name, tuple(weight.shape)) for name, weight in network.state_dict().items()]
    subject = {
        "machine": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "model": hashlib.sha256(json.dumps([modules, weights]).encode()).hexdigest(),
        "inputs": {name: [*tensor.shape] for name, tensor in inputs.items()},
        "steps": steps,
    }
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest(), subject


def _processor() -> str:
    """The processor's model and what PyTorch makes of it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()} {torch.backends.cpu.get_cpu_capability()}"


def _recall(memory: Path) -> dict[str, dict]:
    """Earlier choices. A file that can't be read counts as missing: formats are timed and the file is written again."""
    path = memory / REMEMBERED
    try:
        known = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    known_entries = ((key, entry) for key, entry in entries if isinstance(entry, dict))
    return {key: entry for key, entry in known_entries if entry.get("name") in NAMES and "step_ms" in entry}


def _remember(memory: Path, key: str, choice: dict[str, object]) -> None:
    memory.mkdir(parents=True, exist_ok=True)
    partial = memory / f"{REMEMBERED}.{os.getpid()}"
    partial.write_text(json.dumps({**_recall(memory), key: choice}, indent=1) + "\n")
    os.replace(partial, memory / REMEMBERED)
