"""How a model bears inputs that were made to fool it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.batch import Batch, from_arrays
from compress_cli.data.datasets import Split, SplitName
from compress_cli.errors import RecipeError
from compress_cli.measurement import measure
from compress_cli.networks import features, restore
from compress_cli.progress import Progress
from compress_cli.settings import Many
from compress_cli.stages import Role, Stage
from compress_cli.statistics.findings import Findings, Line
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.scores import change
from compress_cli.store.artifact import Artifact, Checkpoint, Table
from compress_cli.training import loop
from compress_cli.training.objective import hard_losses

Loss = Callable[[dict[str, Tensor]], Tensor]
"""Inputs -> the task's loss on the true targets."""


class Attack(Stage):
    """Measure a checkpoint on test inputs that were moved against it, by FGSM and PGD.

    One step along the gradient's sign (Goodfellow et al. 2015, arXiv:1412.6572), and many small ones from a random start
    (Madry et al. 2018, arXiv:1706.06083).

    No value moves by more than epsilon, in the data's raw range (of 255 for pictures), nor out of the data's range. The
    attacker knows the model whole; it runs in PyTorch, since an exported file gives no gradients.
    """

    consumes: ClassVar[dict[str, Role]] = {"start": Role((Checkpoint,))}
    shared: ClassVar[dict[str, int]] = {"training": loop.VERSION, "measure": measure.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("test",)
    long: ClassVar[bool] = True

    start: str | None = Field(None, description="the stage whose checkpoint is attacked; default: the one before")
    epsilons: Many[Annotated[float, Field(gt=0)]] = Field(
        (1.0, 4.0), min_length=1, description="the farthest that a value moves, in the data's raw range"
    )
    steps: int = Field(10, ge=1, le=1000, description="of PGD; each goes a quarter of epsilon, or 2.5 / steps if that is less")
    samples: int = Field(512, ge=1, description="test samples, drawn by seed and sample id")
    batch: int = Field(64, ge=1, description="samples that are attacked at once")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Table

    def run(self, context: Context) -> dict[str, Any]:
        split = samples.drawn(context.split("test", self.batch), self.samples, context.seed)
        given = {name: split.inputs[name] for name in restore.signature_of(context.inputs["start"][0]).inputs}
        real = [name for name, each in given.items() if each.dtype == np.uint8 or each.dtype.kind == "f"]
        if not real:
            raise RecipeError("an attack moves real numbers, and what this model takes of the dataset's inputs holds none")
        network = restore.checkpoint(context.inputs["start"][0]).network.to(context.device).requires_grad_(False)
        tries: list[tuple[str, str, float]] = [("clean", "", 0.0)]
        tries += [(f"{kind} {each:g}", kind, each) for kind in ("fgsm", "pgd") for each in self.epsilons]
        lines: list[Line] = []
        for done, (title, kind, epsilon) in enumerate(tries):
            found = measure.judge(self._heads(network, split, real, kind, epsilon, context), split, context.task)
            score = found.scores[found.primary]
            if not kind:
                clean = score
            lines.append(Line(name=title, cells=[score.estimate, change(clean, score) if kind else None]))
            context.log(Progress("attack", done + 1, len(tries)))
        Findings(
            title="Attacks",
            about=f"{len(split)} test samples; the number is epsilon, the farthest that any value moves (L-infinity), in the "
            f"data's raw range. FGSM: Goodfellow et al. 2015; PGD with {self.steps} steps from a random start: Madry et al. "
            "2018. The attacker knows the whole model. Changes are paired, against the same samples unmoved.",
            side="PyTorch",
            what="attack",
            columns=[found.primary, f"{found.primary}_change"],
            lines=lines,
        ).write(context.output)
        return {line.name: cell.value for line in lines if isinstance(cell := line.cells[0], Estimate)}

    def _heads(
        self, network: nn.Module, split: Split, real: list[str], kind: str, epsilon: float, context: Context
    ) -> dict[str, np.ndarray]:
        """Head name -> (N, ...) on inputs moved by an attack of that kind."""
        signature = restore.signature_of(context.inputs["start"][0])
        hard, names = hard_losses(context.task, signature.heads), list(signature.inputs)
        ends = {name: (float(split.inputs[name].min()), float(split.inputs[name].max())) for name in real}
        parts = []
        for number, part in enumerate(samples.parts(split, self.batch)):
            batch = from_arrays(part.inputs, part.targets, part.index).to(context.device)

            def loss(inputs: dict[str, Tensor], batch: Batch = batch) -> Tensor:
                made = features.outputs(network, signature, replace(batch, inputs=inputs), (), {})
                return torch.stack([each(made, (), batch, nn.Identity()) for each in hard]).sum()

            inputs = batch.inputs
            if kind:
                inputs = _moved(loss, inputs, ends, epsilon, self.steps if kind == "pgd" else 1, context.seed + number)
            with torch.no_grad():
                given = network(*(inputs[name] for name in names))
            parts.append({name: each.cpu().numpy() for name, each in given.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _moved(
    loss: Loss, inputs: dict[str, Tensor], ends: dict[str, tuple[float, float]], epsilon: float, steps: int, seed: int
) -> dict[str, Tensor]:
    """Inputs within epsilon that the model gets wrong: one full step, or several from a random start."""
    generator = torch.Generator().manual_seed(seed)
    moved = dict(inputs)
    if steps > 1:
        for name in ends:
            start = torch.rand(inputs[name].shape, generator=generator).to(inputs[name]) * 2 - 1
            moved[name] = _within(inputs[name] + epsilon * start, inputs[name], epsilon, ends[name])
    far = epsilon if steps == 1 else min(0.25, 2.5 / steps) * epsilon
    for _ in range(steps):
        free = {name: moved[name].detach().requires_grad_(True) for name in ends}
        slopes = torch.autograd.grad(loss({**moved, **free}), list(free.values()))
        for (name, each), slope in zip(free.items(), slopes, strict=True):
            moved[name] = _within(each.detach() + far * slope.sign(), inputs[name], epsilon, ends[name])
    return moved


def _within(moved: Tensor, original: Tensor, epsilon: float, ends: tuple[float, float]) -> Tensor:
    near = torch.minimum(torch.maximum(moved, original - epsilon), original + epsilon)
    return near.clamp(*ends)
