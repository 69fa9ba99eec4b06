"""The one training loop: train, distill and fine-tuning run through it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress_cli import stopping
from compress_cli.context import Context
from compress_cli.data import rows
from compress_cli.data.batch import Batch
from compress_cli.distillation.ensemble import NO_TEACHERS, Ensemble
from compress_cli.errors import RecipeError, StageError
from compress_cli.losses import Loss
from compress_cli.networks import edits, restore
from compress_cli.networks.edits.mask import masks_of
from compress_cli.networks.models import Model, Network
from compress_cli.networks.restore import Restored
from compress_cli.progress import Progress
from compress_cli.pruning.weights import sparsity
from compress_cli.randomness import isolated_random_state, seed_layers, step_seeds
from compress_cli.store.saves import Save
from compress_cli.training import hindsight, precision, sharding
from compress_cli.training.attachment import ATTACHED, Attach, Attachments
from compress_cli.training.averaging import Average, decay
from compress_cli.training.breakdown import broken_down, untrained_note
from compress_cli.training.config import TrainingConfig
from compress_cli.training.heap import retained_heap
from compress_cli.training.loader import Augmenter, Loader, in_order
from compress_cli.training.meter import ENOUGH_S, Meter, Pace
from compress_cli.training.objective import Objective
from compress_cli.training.pool import SamplePool
from compress_cli.training.sharding import for_parts, undivided, whole_of
from compress_cli.training.state import Losses, State, copied

VERSION = 1  # raise it when the same settings give other weights


def begin(model: Model | None, context: Context, inputs: tuple[str, ...] = (), heads: tuple[str, ...] = ()) -> Restored:
    """A fresh network of `model` with these inputs and heads, or the checkpoint in the role `start`.

    RecipeError where the checkpoint's heads are not those that the dataset asks for."""
    required = context.dataset.signature().narrowed(inputs, heads)
    if model:
        return restore.build(model, required, context.seed)
    (artifact,) = context.inputs["start"]
    restored = restore.checkpoint(artifact)
    offered = restored.model.heads_for(required)
    present, asked = ({name: head.size for name, head in part.items()} for part in (restored.signature.heads, offered))
    if not present.items() <= asked.items():
        raise RecipeError(f"start: its heads and their sizes are {present}, and the dataset asks for {asked}")
    return restored


def fit(
    network: Network,
    losses: tuple[Loss, ...],
    config: TrainingConfig,
    context: Context,
    teachers: Ensemble = NO_TEACHERS,
    attach: Sequence[Attach] = (),
) -> dict[str, Any]:
    """Train `network` in place; returns facts: the curve, the epoch kept, precision, speed.

    The network ends with the weights that count (best or last epoch, averaged if asked for), on the CPU, in evaluation
    mode. What its edits demand of its weights, such as zeros, holds after every step. Teachers see the same augmented
    batches and compute in float32, so that their outputs are those that a table would hold.
    What regularizers and `attach` leave behind, such as masks, joins the network's edits; epochs to keep are written into the
    context's output. StageError where the loss or the weights are no longer finite.
    """
    with isolated_random_state(context.device, config.deterministic), retained_heap():
        return _Loop(network, losses, config, context, teachers, attach).run()


class _Loop:
    def __init__(
        self,
        network: Network,
        losses: tuple[Loss, ...],
        config: TrainingConfig,
        context: Context,
        teachers: Ensemble,
        attach: Sequence[Attach],
    ):
        self.network, self.config, self.context = network, config, context
        self.task = context.task.within(network.signature.heads) or context.task
        self.epochs, self.pace = 1 if context.limit else config.epochs, Pace()
        self.val = context.split("val", config.batch)
        self.loader = self._load()
        self.whole = network
        network, self.saves = sharding.to_be_trained(network, config, context, bool(attach))
        self.network = network
        first, saved = self.loader.first(), context.saves.load()
        self.precision = precision.of_training(network, config, context, first, self._whole_steps(), saved)
        context.environment["precision"] = self.precision.name
        if network is self.whole:
            precision.reorder_weights(network, self.precision.name)
        self.constraints = edits.constraints(network.body, network.edits)
        losses = tuple(loss.fitted(self.loader.pool.split.targets, network.signature.heads) for loss in losses)
        self.objective = Objective(network, losses, teachers, context.device, self.precision.name, context.processes)
        seed_layers(context.device, step_seeds(context.seed, 0, 1)[0])
        self.objective.build_adapters(first, self.loader.pool.labelled, len(self.loader.pool))
        attachments = [regularizer.attach(network) for regularizer in config.regularizers]
        attachments += [make(network, self.loader.steps) for make in attach]
        self.attachments = Attachments(attachments)
        self.constraints += tuple(constraint for attachment in attachments for constraint in attachment.constraints)
        self.objective.forward = self.attachments.substituted(network)
        self.state = self._begin_state()
        self.evaluated = self.state.average.network if self.state.average else network  # the network that counts
        self.untrained: tuple[str, ...] | None = None  # parameters that no loss reaches; None before the first step
        chooses = len(self.val) and not context.limit
        self.doubts = hindsight.warnings(network.trained_on, context.dataset, config) if chooses else []
        if saved:
            self._resume(saved)
        self.state.agree(context.processes)

    def _load(self) -> Loader:
        """Batches of the train split; DataError where the targets do not fit the task."""
        config, context = self.config, self.context
        train, unlabelled = context.split("train", config.batch), context.unlabelled(config.batch)
        for split in (train, self.val) if context.transfer is None or context.join else (self.val,):
            self.task.check_split(self.network.signature, split)
        pool = SamplePool(train.without(self.network.signature.judging), context.device, unlabelled)
        augmenter = Augmenter(config.augment, context.seed, config.views)
        samples = None if context.limit else context.samples
        loader = Loader(pool, config.batch, augmenter, config.accumulate, samples, config.sampler)
        loader.check_divides(context.processes)
        return loader

    def _begin_state(self) -> State:
        adapters = self.objective.adapters
        parts = (self.network, adapters, self.attachments)
        trained = [weight for part in parts for weight in part.parameters() if weight.requires_grad]
        average = Average(self.network, decay(self.config.ema, self.epochs * self.loader.steps)) if self.config.ema else None
        optimizer = for_parts(self.config.optimizer.build(trained))
        return State(self.network, adapters, optimizer, average, self.precision, self.attachments)

    def run(self) -> dict[str, Any]:
        for note in self.doubts:
            self._log(0, 0, note=note)
        if not self.state.epoch and not self.state.step:
            self._keep(0)
        with self.objective.observed() as features, stopping.held():
            while self.state.epoch < self.epochs:
                self._epoch(self.state.epoch + 1, features)
        self._finish()
        return self._facts()

    def _epoch(self, epoch: int, features: dict[str, Tensor]) -> None:
        """Train through an epoch, or through the rest of a saved one."""
        self.network.train()
        self.attachments.train()
        state, meter, steps = self.state, Meter(), self.loader.steps
        seeds = step_seeds(self.context.seed, epoch, steps)
        rate = self.config.rate(epoch - 0.5 / steps)
        for step, microbatches in enumerate(self.loader.epoch(epoch, state.step), state.step + 1):
            rate = self._set_rate(epoch - 1 + (step - 0.5) / steps)  # the step's middle: none has a rate of 0
            seed_layers(self.context.device, seeds[step - 1])
            state.losses.add(self._step(microbatches, features, epoch - 1 + step / steps))
            state.step, last = step, step == steps
            report = meter.report_due()
            if report or last or self.context.limit:
                self._check_losses(epoch)
            state.count(self.pace.step(meter.stop(sum(len(part.index) for part in microbatches))))
            if report and not last:
                figures = {"loss": state.losses.known[-1], "samples_per_s": meter.samples_per_s, "learning_rate": rate}
                self._log(step, epoch, figures=figures)
            self.saves.step(self._save)
            meter.start()
        if self.context.limit and self.pace.worked_s < ENOUGH_S:
            self.epochs = min(self.epochs + 1, self.config.epochs)
        self._end_epoch(epoch, rate, meter)

    def _step(self, microbatches: list[Batch], features: dict[str, Tensor], epochs: float) -> Tensor:
        """One step of the optimiser, after so many epochs; the batch's loss, shape ()."""
        size, known = sum(len(part.index) for part in microbatches), sum(part.known for part in microbatches)
        losses = []
        for part in microbatches:
            share = len(part.index) / size
            loss = self.objective(part, features, epochs, part.known / max(1, known) / share) * share
            loss.backward()
            losses.append(loss.detach())
        self.context.processes.sum_gradients(undivided((*self.network.parameters(), *self.attachments.trained())))
        for regularizer, attachment in zip(self.config.regularizers, self.attachments.all, strict=False):
            penalty = attachment.penalty()
            if penalty is not None:
                penalty = regularizer.strength(epochs, self.epochs) * penalty
                penalty.backward()
                losses.append(penalty.detach())
        if self.untrained is None:
            self._find_untrained()
        for attachment in self.attachments.all:
            attachment.after_backward()
        for constraint in self.constraints:
            if constraint.projects_always or self.config.clip_norm:
                constraint.project_gradients()
        if self.config.clip_norm:
            sharding.clip(self.state.trained(), self.config.clip_norm)
        self.state.optimizer.step()
        for constraint in self.constraints:
            constraint.hold()
        for attachment in self.attachments.all:
            attachment.after_step(self.state.steps + 1)
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.state.average:
            self.state.average.update()
        return torch.stack(losses).sum()

    def _set_rate(self, epochs: float) -> float:
        """Set the learning rate after so many epochs, fractions included."""
        rate = self.config.rate(epochs)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _end_epoch(self, epoch: int, rate: float, meter: Meter) -> None:
        self.context.processes.check_drift(undivided(self.network.parameters()))
        checked = self.pace.check(lambda: self._validate(epoch))
        figures = {"loss": statistics.fmean(self.state.losses.known), **checked, "learning_rate": rate}
        figures |= self.attachments.figures()
        self.state.curve.append({"epoch": epoch, **figures})
        self.state.epoch, self.state.step, self.state.losses = epoch, 0, Losses()
        self._keep(epoch)
        self._log(self.loader.steps, epoch, figures={**figures, "samples_per_s": meter.samples_per_s}, epoch_ended=True)
        self.saves.step(self._save, epoch_ended=True)

    def _validate(self, epoch: int) -> dict[str, float]:
        """The primary metric on val; keeps the weights where they are the best so far."""
        if not len(self.val):
            return {}
        value = self._metric(epoch)
        settled = self.attachments.settled_after  # epochs before that have another sparsity
        values = [figures[self.task.primary] for figures in self.state.curve if figures["epoch"] >= settled]
        sign = 1 if self.task.better == "higher" else -1
        # On a tie keep the later epoch.
        if self.config.keep == "best" and epoch >= settled and all(sign * value >= sign * earlier for earlier in values):
            self.state.best_epoch = epoch
            self.state.best = copied(self.attachments.outcome(self.evaluated))
        return {self.task.primary: value}

    def _metric(self, epoch: int) -> float:
        network, outputs = self.attachments.eval().substituted(self.evaluated.eval()), []
        for samples in in_order(self.val, self.config.batch, self.context.device):
            outputs.append(self.objective.evaluated(network, samples))
            if stopping.requested() and self.network is self.whole:
                self.saves.step(self._save)
        heads = rows.joined(outputs)
        if any(np.isnan(head).any() for head in heads.values()):
            raise self._broken(epoch, self.loader.steps, "an output on val is NaN")
        return self.context.processes.same(self.task.value(heads, self.val.truth()))

    def _finish(self) -> None:
        """Leave the weights that count in the network, on the CPU, in evaluation mode."""
        weights = self.state.best or whole_of(self.attachments.outcome(self.evaluated))
        if not all(bool(weight.isfinite().all()) for name, weight in weights.items() if not name.startswith(ATTACHED)):
            raise self._broken(self.epochs, self.loader.steps, "a weight is no longer finite")
        self.attachments.finish(self.whole, weights)
        if self.context.limit:
            self.state.save()  # what can't be saved comes out before the long run
        network = self.whole.to("cpu").eval()
        precision.reorder_weights(network, "float32")
        edits.constraints(network.body, network.edits)
        for number, epoch_weights in self.state.kept.items():
            restore.save_epoch(epoch_weights, number, self.context.output)

    def _keep(self, epoch: int) -> None:
        """Keep the weights of an epoch that was asked for, as they are trained; in a smoke run all that were asked for."""
        asked = set(self.config.keep_epochs)
        for number in asked if self.context.limit else asked & {epoch}:
            self.state.kept[number] = copied(self.network.state_dict())

    def _facts(self) -> dict[str, Any]:
        choice, steps, limit = self.precision, self._whole_steps(), self.context.limit
        step_s = self.pace.step_s if limit else self.state.seconds / self.state.steps
        share = len(self.context.whole("val")) / max(1, len(self.val)) if limit else 1.0
        untrained = [untrained_note(self.untrained)] if self.untrained else []
        notes = [*self.doubts, *untrained, *self.attachments.notes(), *self.state.processes_note()]
        return {
            "epochs": self.state.curve,
            "kept_epoch": self.state.best_epoch or self.epochs,
            "precision": {"name": choice.name, "reason": choice.reason, "step_ms": choice.step_ms},
            "samples_per_s": round(self.loader.shown * self.state.epoch / self.state.seconds, 1),
            "seconds_per_step": step_s,
            "planned_steps": self.config.epochs * steps,
            "pace": self.pace.facts(step_s, steps, share),
            **({"sparsity": sparsity(masks)} if (masks := masks_of(self.network.edits)) else {}),
            **{name: value for loss in self.objective.losses for name, value in loss.noted().items()},
            **({"notes": notes} if notes else {}),
        }

    def _whole_steps(self) -> int:
        """Of an epoch; in a smoke run those of the whole run."""
        return -(-(self.context.samples or len(self.context.index())) // self.config.batch)

    def _save(self) -> Save | None:
        self._check_losses(self.state.epoch + 1)
        return self.state.save()

    def _resume(self, saved: Save) -> None:
        reason = self.state.resume(saved)
        if reason:
            self.context.saves.forget(reason)
        else:
            changed = self.state.changes(self.context.processes)
            self._log(self.state.step, self.state.epoch + 1, note=f"resumed at {saved.progress}{changed}")

    def _find_untrained(self) -> None:
        parameters = self.network.named_parameters()
        self.untrained = tuple(name for name, weight in parameters if weight.requires_grad and weight.grad is None)
        if self.untrained:
            self.context.log(Progress("train", 0, 0, note=untrained_note(self.untrained)))

    def _check_losses(self, epoch: int) -> None:
        losses = self.state.losses
        step = losses.read()
        if step is not None:
            before = f" (the step before: {losses.known[step - 2]:.4g})" if step > 1 else ""
            raise self._broken(epoch, step, f"the loss is {losses.known[step - 1]}{before}")

    def _broken(self, epoch: int, step: int, what: str) -> StageError:
        place = f"epoch {epoch} of {self.epochs}, at step {step} of {self.loader.steps}"
        return broken_down(place, what, self.state, self.context.saves.progress)

    def _log(self, step: int, epoch: int, **details: Any) -> None:
        self.context.log(Progress("train", step, self.loader.steps, epoch, self.epochs, **details))
