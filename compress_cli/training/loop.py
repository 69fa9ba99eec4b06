"""The one training loop: train, distill and fine-tuning run through it."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data.batch import Batch
from compress_cli.distillation.ensemble import NO_TEACHERS, Ensemble
from compress_cli.errors import RecipeError, StageError
from compress_cli.losses import Loss
from compress_cli.networks import restore
from compress_cli.networks.models import Model, Network
from compress_cli.networks.restore import Restored
from compress_cli.progress import Progress
from compress_cli.randomness import isolated_random_state, seed_layers, step_seeds
from compress_cli.store.saves import Save
from compress_cli.training import loader, precision
from compress_cli.training.averaging import Average
from compress_cli.training.config import TrainingConfig
from compress_cli.training.heap import retained_heap
from compress_cli.training.loader import Loader
from compress_cli.training.objective import Objective
from compress_cli.training.precision import PrecisionChoice
from compress_cli.training.state import Losses, State

VERSION = 1  # raise it when the same settings give other weights
REPORT_S = 0.5  # between reports within an epoch; reading the loss waits for the device


def begin(model: Model | None, context: Context, inputs: tuple[str, ...] = (), heads: tuple[str, ...] = ()) -> Restored:
    """A fresh network of `model` with these inputs and heads, or the checkpoint in the role `start`.

    RecipeError where the dataset asks for no such heads."""
    wanted = context.dataset.signature().narrowed(inputs, heads)
    if model:
        return restore.build(model, wanted, context.seed)
    (artifact,) = context.inputs["start"]
    restored = restore.checkpoint(artifact)
    own, asked = ({name: each.size for name, each in heads.items()} for heads in (restored.signature.heads, wanted.heads))
    if not own.items() <= asked.items():
        raise RecipeError(f"start: its heads and their sizes are {own}, and the dataset asks for {asked}")
    return restored


def fit(
    network: Network, losses: tuple[Loss, ...], settings: TrainingConfig, context: Context, teachers: Ensemble = NO_TEACHERS
) -> dict[str, Any]:
    """Train `network` in place; returns facts: the curve, the epoch kept, precision, speed.

    It is left with the weights that count (best or last epoch, averaged if asked for), on the CPU, in evaluation mode.
    Teachers see the same augmented batches and compute in float32, so that what they say is what a table of it would say.
    StageError where the loss or the weights are no longer finite.
    """
    with isolated_random_state(context.device, settings.deterministic), retained_heap():
        return _Loop(network, losses, settings, context, teachers).run()


class _Loop:
    def __init__(
        self, network: Network, losses: tuple[Loss, ...], settings: TrainingConfig, context: Context, teachers: Ensemble
    ):
        self.network, self.settings, self.context = network, settings, context
        self.task = context.task.within(network.signature.heads) or context.task
        self.epochs = 1 if context.limit else settings.epochs
        train, self.val = (context.split(name, settings.batch) for name in ("train", "val"))
        for split in (train, self.val) if context.transfer is None or context.join else (self.val,):
            self.task.check(network.signature, split.targets)
        parts, changes, unlabelled = settings.accumulate, settings.augment, context.unlabelled(settings.batch)
        shown = None if context.limit else context.samples
        self.loader = Loader(
            train, settings.batch, parts, changes, context.seed, context.device, settings.views, unlabelled, shown
        )
        network.to(context.device)
        first, saved = self.loader.first(), context.saves.load()
        self.precision = PrecisionChoice(**saved.document["precision"]) if saved else self._choose(first)
        context.environment["precision"] = self.precision.name
        precision.place(network, self.precision.name)
        self.objective = Objective(network, losses, teachers, context.device, self.precision.name)
        seed_layers(context.device, step_seeds(context.seed, 0, 1)[0])
        self.objective.shape(first, self.loader.labelled, len(self.loader))
        adapters = self.objective.adapters
        self.trained = [each for each in (*network.parameters(), *adapters.parameters()) if each.requires_grad]
        average = Average(network, settings.ema) if settings.ema else None
        self.state = State(network, adapters, settings.optimizer.build(self.trained), average, self.precision)
        self.judged = average.network if average else network  # the network that counts
        self.step_s = 0.0  # of the last one
        self.idle: tuple[str, ...] | None = None  # parameters that no loss moves; None before the first step
        if saved:
            self._resume(saved)

    def run(self) -> dict[str, Any]:
        with self.objective.observed() as seen, stopping.held():
            while self.state.epoch < self.epochs:
                self._epoch(self.state.epoch + 1, seen)
        weights = self.state.best or self.judged.state_dict()
        if not all(bool(torch.isfinite(each).all()) for each in weights.values()):
            raise self._broken(self.epochs, self.loader.steps, "a weight is no longer finite")
        self.network.load_state_dict(weights)
        if self.context.limit:
            self.state.save()  # what can't be saved comes out before the long run
        self.network.to("cpu").eval()
        precision.place(self.network, "float32")
        return self._facts()

    def _facts(self) -> dict[str, Any]:
        choice, samples = self.precision, self.context.samples or len(self.context.index())
        return {
            "epochs": self.state.curve,
            "kept_epoch": self.state.best_epoch or self.epochs,
            "precision": {"name": choice.name, "reason": choice.reason, "step_ms": choice.step_ms},
            "samples_per_s": round(self.loader.shown * self.state.epoch / self.state.seconds, 1),
            # of a smoke run only the last step is like those to come
            "seconds_per_step": self.step_s if self.context.limit else self.state.seconds / self.state.steps,
            "planned_steps": self.settings.epochs * -(-samples // self.settings.batch),
            **({"notes": [_untrained(self.idle)]} if self.idle else {}),
        }

    def _choose(self, first: Batch) -> PrecisionChoice:
        inputs = {name: first.inputs[name] for name in self.network.signature.inputs if name in first.inputs}
        steps = self.epochs * self.loader.steps * min(self.settings.accumulate, self.settings.batch)
        if self.settings.precision != "auto":
            choice = PrecisionChoice(self.settings.precision, "set in the recipe")
        elif self.context.limit:
            choice = PrecisionChoice("float32", "smoke run")
        else:
            self.network.train()
            choice = precision.choose(self.network, inputs, steps, self.context.device, self.context.memory)
        return choice

    def _resume(self, saved: Save) -> None:
        reason = self.state.resume(saved)
        if reason:
            self.context.saves.forget(reason)
        else:
            note = f"resumed at {saved.place}"
            self.context.log(
                Progress("train", self.state.step, self.loader.steps, self.state.epoch + 1, self.epochs, note=note)
            )

    def _epoch(self, epoch: int, seen: dict[str, Tensor]) -> None:
        self.network.train()
        state, losses, samples, spent, told = self.state, self.state.losses, 0, 0.0, time.perf_counter()
        begun, rate = told, self._rate(epoch - 0.5 / self.loader.steps)
        seeds = step_seeds(self.context.seed, epoch, self.loader.steps)
        for step, parts in enumerate(self.loader.epoch(epoch, state.step), state.step + 1):
            rate = self._set_rate(epoch - 1 + (step - 0.5) / self.loader.steps)  # its middle: no step is idle
            seed_layers(self.context.device, seeds[step - 1])
            losses.add(self._step(parts, seen, epoch - 1 + step / self.loader.steps))
            state.step = step
            samples += sum(len(part.index) for part in parts)
            last = step == self.loader.steps
            if last or self.context.limit or time.perf_counter() - told > REPORT_S:
                self._check(epoch)
            now = time.perf_counter()
            self.step_s = now - begun
            spent += self.step_s
            state.steps, state.seconds = state.steps + 1, state.seconds + self.step_s
            if not last and now - told > REPORT_S:
                told = now
                self._tell(epoch, step, {"loss": losses.known[-1], "samples_per_s": samples / spent, "learning_rate": rate})
            self.context.saves.step(self._saved)
            begun = time.perf_counter()
        figures = {"loss": statistics.fmean(losses.known), **self._judge(epoch), "learning_rate": rate}
        state.curve.append({"epoch": epoch, **figures})
        state.epoch, state.step, state.losses = epoch, 0, Losses()
        self._tell(epoch, self.loader.steps, {**figures, "samples_per_s": samples / max(spent, 1e-9)}, ended=True)
        self.context.saves.step(self._saved, epoch_ended=True)

    def _saved(self) -> Save | None:
        self._check(self.state.epoch + 1)
        return self.state.save()

    def _step(self, parts: list[Batch], seen: dict[str, Tensor], epochs: float) -> Tensor:
        """One step of the optimiser, after so many epochs; the batch's loss, shape ()."""
        size, known = (sum(counts) for counts in zip(*((len(part.index), part.known) for part in parts), strict=True))
        shares = []
        for part in parts:
            share = len(part.index) / size
            loss = self.objective(part, seen, epochs, part.known / max(1, known) / share) * share
            loss.backward()
            shares.append(loss.detach())
        if self.idle is None:
            self._look_for_idle()
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip_norm)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.state.average:
            self.state.average.update()
        return torch.stack(shares).sum()

    def _look_for_idle(self) -> None:
        named = self.network.named_parameters()
        self.idle = tuple(name for name, each in named if each.requires_grad and each.grad is None)
        if self.idle:
            self.context.log(Progress("train", 0, 0, note=_untrained(self.idle)))

    def _set_rate(self, epochs: float) -> float:
        """Set the learning rate after so many epochs, fractions included."""
        rate = self._rate(epochs)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _rate(self, epochs: float) -> float:
        schedule = self.settings.schedule
        warmup = min(schedule.warmup_epochs, self.settings.epochs / 2)
        factor = epochs / warmup if epochs < warmup else schedule.factor(epochs - warmup, self.settings.epochs - warmup)
        return self.settings.optimizer.learning_rate * factor

    def _judge(self, epoch: int) -> dict[str, float]:
        """The primary metric on val, in float32; remembers the weights where they are the best so far."""
        if not len(self.val):
            return {}
        value = self._metric(epoch)
        values = [each[self.task.primary] for each in self.state.curve]
        sign = 1 if self.task.better == "higher" else -1
        # of equals the later counts: it was trained longer
        if self.settings.keep == "best" and all(sign * value >= sign * each for each in values):
            self.state.best_epoch = epoch
            self.state.best = {name: each.detach().to("cpu", copy=True) for name, each in self.judged.state_dict().items()}
        return {self.task.primary: value}

    def _metric(self, epoch: int) -> float:
        network, heads = self.judged.eval(), []
        with torch.no_grad():
            for part in loader.in_order(self.val, self.settings.batch, self.context.device):
                inputs = precision.placed(part.inputs, self.precision.name)
                made = network(*(inputs[name] for name in self.network.signature.inputs))
                if stopping.told():
                    self.context.saves.step(self._saved)
                heads.append({name: each.cpu().numpy() for name, each in made.items()})
        joined = {name: np.concatenate([each[name] for each in heads]) for name in heads[0]}
        if any(np.isnan(each).any() for each in joined.values()):
            raise self._broken(epoch, self.loader.steps, "an output on val is NaN")
        return self.task.value(joined, self.val.targets)

    def _check(self, epoch: int) -> None:
        losses = self.state.losses
        step = losses.read()
        if step is not None:
            before = f" (the step before: {losses.known[step - 2]:.4g})" if step > 1 else ""
            raise self._broken(epoch, step, f"the loss is {losses.known[step - 1]}{before}")

    def _broken(self, epoch: int, step: int, what: str) -> StageError:
        figures = {name: each for name, each in (self.state.curve or [{}])[-1].items() if name != "epoch"}
        good = ", ".join(f"{name} {each:.4g}" for name, each in figures.items())
        kept = f"the last whole epoch, {self.state.epoch}, had {good}" if good else "no epoch was whole before that"
        saved = self.context.saves.place
        again = f"; the same command would go on from {saved}, the last good save, and break down again" if saved else ""
        return StageError(
            f"training broke down in epoch {epoch} of {self.epochs}, at step {step} of {self.loader.steps}: {what}; {kept}. "
            f"Lower optimizer.learning_rate, set clip_norm, or lengthen schedule.warmup_epochs: that begins anew{again}"
        )

    def _tell(self, epoch: int, step: int, figures: dict[str, float], ended: bool = False) -> None:
        self.context.log(Progress("train", step, self.loader.steps, epoch, self.epochs, figures, ended))


def _untrained(names: tuple[str, ...]) -> str:
    listed = ", ".join(names[:3]) + (", ..." if names[3:] else "")
    return f"no loss reaches {len(names)} of its parameters ({listed}): they stay as they were"
