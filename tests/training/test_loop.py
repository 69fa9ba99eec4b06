"""The loop: against a loop written by hand, and what it promises about repetition, choice and failure."""

from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from compress_cli.data.batch import Outputs
from compress_cli.data.signature import Head
from compress_cli.data.tasks.classification import Classification
from compress_cli.data.tasks.multi_task import MultiTask
from compress_cli.distillation.ensemble import Ensemble
from compress_cli.errors import DataError, RecipeError, StageError
from compress_cli.losses import Loss
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.randomness import order
from compress_cli.training import loop, meter, precision
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.config import TrainingConfig
from compress_cli.training.objective import hard_losses
from compress_cli.training.optimizers.adamw import AdamW
from compress_cli.training.optimizers.sgd import Sgd
from compress_cli.training.schedules.constant import Constant
from compress_cli.training.schedules.cosine import Cosine

pytestmark = pytest.mark.usefixtures("one_thread")

CONVNET = Convnet(widths=(4, 6), convs=1, dropout=0.3)


def fresh(model, context):
    return restore.build(model, context.dataset.signature(), context.seed).network


def fitted(model, context, losses=None, teachers=(), **settings):
    network = fresh(model, context)
    settings = TrainingConfig(**{"epochs": 2, "batch": 16, "precision": "float32", **settings})
    facts = loop.fit(network, losses or (CrossEntropy(),), settings, context, Ensemble(dict(enumerate(teachers))))
    return network, facts


def same(one, other):
    return all(torch.equal(each, other[name]) for name, each in one.items())


def test_it_learns(toy, context_for):
    network, facts = fitted(CONVNET, context_for(toy()), epochs=15, optimizer=Sgd(learning_rate=0.05))
    assert facts["epochs"][-1]["loss"] < 0.6 < 0.9 < facts["epochs"][0]["loss"]
    test = toy().split("test")
    with torch.no_grad():
        right = network(torch.from_numpy(test.inputs["image"]).float())["logits"].argmax(1).numpy() == test.targets["label"]
    assert right.mean() > 0.9
    assert not network.training


def test_it_is_the_loop_one_would_write_by_hand(toy, context_for):
    context = context_for(toy(train=41), seed=3)
    epochs, rate, warmup, steps = 3, 0.05, 1.5, 3
    split = context.dataset.split("train")
    images, labels = torch.from_numpy(split.inputs["image"]).float(), torch.from_numpy(split.targets["label"])
    network = fresh(CONVNET.model_copy(update={"dropout": 0.0}), context)
    network.train()
    weights, vectors = ([each for each in network.parameters() if (each.ndim > 1) == thick] for thick in (True, False))
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.01}, {"params": vectors}], lr=rate, momentum=0.9, nesterov=True
    )
    for epoch in range(epochs):
        for place, rows in enumerate(np.array_split(order(3, epoch + 1, split.index), steps), 1):
            at = epoch + (place - 0.5) / steps
            factor = at / warmup if at < warmup else (1 + np.cos(np.pi * (at - warmup) / (epochs - warmup))) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            loss = nn.functional.cross_entropy(network(images[rows])["logits"], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
    found, _ = fitted(
        CONVNET.model_copy(update={"dropout": 0.0}), context, epochs=epochs, clip_norm=1.0, keep="last",
        optimizer=Sgd(learning_rate=rate, weight_decay=0.01), schedule=Cosine(warmup_epochs=warmup),
    )  # fmt: skip
    for name, each in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": (Crop(padding=1), Flip()), "ema": 0.9, "accumulate": 3, "clip_norm": 1.0},
        {"optimizer": AdamW(), "precision": "bfloat16"},
        {"precision": "float32_channels_last", "augment": (Flip(),)},
    ],
    ids=["plain", "everything", "bfloat16", "channels_last"],
)
def test_the_same_bytes_again_whatever_was_drawn_before(toy, context_for, settings):
    torch.manual_seed(1)
    first, _ = fitted(CONVNET, context_for(toy()), **settings)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, _ = fitted(CONVNET, context_for(toy()), **settings)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first.state_dict(), again.state_dict())
    other, _ = fitted(CONVNET, context_for(toy(), seed=1), **settings)
    assert not same(first.state_dict(), other.state_dict())


@pytest.mark.parametrize("parts", [2, 5, 16])
def test_accumulation_is_the_whole_batch(toy, context_for, parts):
    settings = {"epochs": 3, "optimizer": Sgd(learning_rate=0.02), "augment": (Crop(padding=1),), "keep": "last"}
    whole, _ = fitted(Mlp(hidden=(12,)), context_for(toy()), **settings)
    taken, _ = fitted(Mlp(hidden=(12,)), context_for(toy()), accumulate=parts, **settings)
    start = fresh(Mlp(hidden=(12,)), context_for(toy()))
    for name, each in whole.state_dict().items():
        torch.testing.assert_close(taken.state_dict()[name], each, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole.body[1].weight, start.body[1].weight, atol=1e-3)


def test_clipping_bounds_the_step(toy, context_for):
    context = context_for(toy(train=16))
    sgd = Sgd(learning_rate=0.5, momentum=0.0, weight_decay=0.0)
    before = fresh(Mlp(), context).state_dict()
    after, _ = fitted(Mlp(), context, epochs=1, keep="last", clip_norm=0.01, optimizer=sgd, schedule=Constant())
    moved = sum((each - before[name]).double().square().sum() for name, each in after.state_dict().items()).sqrt()
    assert moved.item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_average_is_what_is_kept(toy, context_for):
    raw, _ = fitted(CONVNET, context_for(toy()), keep="last")
    averaged, _ = fitted(CONVNET, context_for(toy()), keep="last", ema=0.9)
    again, _ = fitted(CONVNET, context_for(toy()), keep="last", ema=1e-9)  # an average that forgets at once
    assert not torch.allclose(raw.body.fc.weight, averaged.body.fc.weight, atol=1e-4)
    assert not torch.allclose(raw.body.layer1[1].running_var, averaged.body.layer1[1].running_var, atol=1e-4)
    torch.testing.assert_close(raw.state_dict(), again.state_dict())


class Scripted(Classification):
    """Whose values on val are given in advance."""

    script: ClassVar[list[float]] = []

    def combine(self, pieces):
        return {"accuracy": self.script.pop(0)}


class ScriptedDown(Scripted):
    metrics: ClassVar = {"accuracy": "lower"}


@pytest.mark.parametrize(
    ("task", "values", "keep", "val", "expected"),
    [
        (Scripted, [0.2, 0.9, 0.5, 0.7], "best", 12, 2),
        (ScriptedDown, [0.9, 0.2, 0.1, 0.7], "best", 12, 3),
        (Scripted, [0.2, 0.9, 0.9, 0.7], "best", 12, 3),  # of equals the later
        (Scripted, [0.9, 0.1, 0.1, 0.1], "last", 12, 4),
        (Scripted, [], "best", 0, 4),
    ],
)
def test_the_epoch_that_counts(toy, context_for, monkeypatch, task, values, keep, val, expected):
    monkeypatch.setattr(Scripted, "script", list(values))
    after, network = {}, None

    def log(progress):
        if progress.epoch_ended:
            after[progress.epoch] = {name: each.clone() for name, each in network.state_dict().items()}
            assert ("accuracy" in progress.figures) == bool(val)

    context = context_for(toy(val=val), task=task(), log=log)
    network = fresh(CONVNET, context)
    facts = loop.fit(network, (CrossEntropy(),), TrainingConfig(epochs=4, batch=16, keep=keep, precision="float32"), context)
    assert facts["kept_epoch"] == expected
    assert same(network.state_dict(), after[expected])
    assert sum(same(each, after[expected]) for each in after.values()) == 1
    assert [each.get("accuracy") for each in facts["epochs"]] == pytest.approx(values or [None] * 4)


class Counting(Loss):
    """Cross-entropy that can turn to NaN at one of its calls, and shows what it was given."""

    calls: ClassVar[list] = []
    nan_at: int = 0

    def __call__(self, student, teacher, batch, adapter):
        self.calls.append((student, teacher, batch))
        loss = CrossEntropy()(student, teacher, batch, adapter)
        return loss * float("nan") if len(self.calls) == self.nan_at else loss


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr(Counting, "calls", [])
    return Counting.calls


def test_a_loss_that_is_not_finite_stops_with_its_place_and_what_was_good(toy, context_for, calls):
    with pytest.raises(StageError, match="epoch 3 of 4, at step 2 of 3: the loss is nan") as caught:
        fitted(CONVNET, context_for(toy()), epochs=4, losses=(Counting(nan_at=8),))
    assert "the last whole epoch, 2, had loss" in str(caught.value)
    assert "optimizer.learning_rate" in str(caught.value)


def test_weights_that_overflow_stop_too(toy, context_for):
    with pytest.raises(StageError, match="broke down in epoch 1 of 2"):
        fitted(CONVNET, context_for(toy()), optimizer=Sgd(learning_rate=1e38), schedule=Constant())
    with pytest.raises(StageError, match="broke down in epoch 1 of 1, at step 1 of 1"):
        fitted(CONVNET, context_for(toy(train=16, val=0)), epochs=1, optimizer=Sgd(learning_rate=1e38, weight_decay=1e3))


def test_a_smoke_run_takes_two_steps_again_and_again_until_they_tell_how_long_all_take(toy, context_for, calls):
    reports = []
    context = context_for(toy(train=400, val=400), limit=2, log=reports.append)
    _, facts = fitted(CONVNET, context, epochs=7, precision="auto", losses=(Counting(),))
    assert len(calls) in range(2, 15, 2)
    assert facts["planned_steps"] == 7 * 25
    assert facts["seconds_per_step"] > 0
    assert facts["pace"]["each_s"] > 25 * facts["seconds_per_step"]  # the steps of an epoch, and a validation
    assert context.environment["precision"] in precision.NAMES
    assert reports[-1].epoch_ended
    assert (reports[-1].done, reports[-1].total, reports[-1].epoch) == (2, 2, len(calls) // 2)


def test_a_smoke_run_stops_after_one_round_where_its_steps_take_long(toy, context_for, calls, monkeypatch):
    monkeypatch.setattr(loop, "ENOUGH_S", 0.0)
    fitted(CONVNET, context_for(toy(train=400), limit=2), epochs=7, losses=(Counting(),))
    assert len(calls) == 2


def test_a_smoke_run_remembers_the_precision_that_the_whole_run_takes(toy, context_for, monkeypatch):
    """So that its steps take as long; the choice is timed once."""
    monkeypatch.setattr(precision, "WORTH_S", 0.0)
    smoke, whole = context_for(toy(train=90), limit=2), context_for(toy(train=90))
    _, facts = fitted(CONVNET, smoke, epochs=4, precision="auto")
    object.__setattr__(whole, "memory", smoke.memory)
    _, again = fitted(CONVNET, whole, epochs=4, precision="auto")
    assert again["precision"]["name"] == facts["precision"]["name"]
    assert again["precision"]["reason"] == f"remembered: {facts['precision']['reason']}"


def test_it_tells_how_it_goes(toy, context_for, monkeypatch):
    monkeypatch.setattr(meter, "REPORT_S", 0.0)
    reports = []
    fitted(CONVNET, context_for(toy(), log=reports.append), schedule=Cosine())
    assert [(each.epoch, each.done, each.epoch_ended) for each in reports] == [
        (1, 1, False), (1, 2, False), (1, 3, True), (2, 1, False), (2, 2, False), (2, 3, True)
    ]  # fmt: skip
    assert all({"loss", "samples_per_s", "learning_rate"} <= each.figures.keys() for each in reports)
    rates = [each.figures["learning_rate"] for each in reports]
    assert all(later < earlier for earlier, later in pairwise(rates))


def test_the_default_warm_up_leaves_room_in_a_short_run(toy, context_for, monkeypatch):
    monkeypatch.setattr(meter, "REPORT_S", 0.0)
    reports = []
    fitted(CONVNET, context_for(toy(train=64), log=reports.append), epochs=1)
    assert [each.figures["learning_rate"] for each in reports] == pytest.approx(
        [0.025, 0.075, 0.1 * 0.853553390593, 0.1 * 0.146446609407]
    )


class Hint(Loss):
    """Match a layer through a projector."""

    made: ClassVar[list] = []

    def student_layers(self):
        return ("layer1",)

    def adapter(self, student, teacher, samples):
        self.made.append((nn.Conv2d(student.features["layer1"].shape[1], teacher[0].features["wide"].shape[1], 1), samples))
        self.made.append(self.made[0][0].weight.detach().clone())
        return self.made[0][0]

    def __call__(self, student, teacher, batch, adapter):
        assert adapter is self.made[0][0]
        return (adapter(student.features["layer1"]) - teacher[0].features["wide"]).square().mean()


@pytest.mark.parametrize("precision", ["float32", "bfloat16_channels_last"])
def test_the_loop_owns_what_a_loss_trains(toy, context_for, monkeypatch, precision):
    monkeypatch.setattr(Hint, "made", [])
    seen = []

    def teacher(batch):
        seen.append((torch.is_grad_enabled(), batch))
        return Outputs({}, {"wide": batch.inputs["image"].mean(1, keepdim=True).repeat(1, 5, 1, 1) / 100})

    network, _ = fitted(
        CONVNET, context_for(toy()), losses=(Hint(),), teachers=(teacher,), precision=precision, keep="last", epochs=4,
        optimizer=AdamW(learning_rate=0.02), augment=(Flip(probability=1.0),),
    )  # fmt: skip
    (adapter, samples), start = Hint.made
    assert samples == 40
    assert not torch.allclose(adapter.weight, start, atol=1e-3)
    assert not any(enabled for enabled, _ in seen)
    batch = seen[-1][1]
    rows = batch.index.numpy()
    np.testing.assert_array_equal(batch.inputs["image"].numpy(), toy().split("train").inputs["image"][rows][..., ::-1])
    assert network.body.fc.weight.dtype == torch.float32
    assert network.body.layer1[0].weight.is_contiguous()


def test_layers_are_observed_only_where_a_loss_asks(toy, context_for, calls):
    fitted(CONVNET, context_for(toy()), losses=(Counting(),), precision="bfloat16")
    assert all(student.features == {} for student, _, _ in calls)
    assert all(student.heads["logits"].dtype == torch.float32 for student, _, _ in calls)


def test_a_loss_counts_with_its_weight_and_not_at_all_with_0(toy, context_for, calls):
    sgd = Sgd(learning_rate=0.1, weight_decay=0.0)
    doubled, _ = fitted(Mlp(), context_for(toy()), losses=(CrossEntropy(weight=2.0), Counting(weight=0.0)), optimizer=sgd)
    faster, _ = fitted(Mlp(), context_for(toy()), optimizer=Sgd(learning_rate=0.2, weight_decay=0.0))
    assert calls == []
    torch.testing.assert_close(doubled.state_dict(), faster.state_dict(), rtol=1e-3, atol=1e-4)


def test_losses_that_weigh_nothing_are_refused(toy, context_for):
    with pytest.raises(RecipeError, match="no loss has a weight above 0"):
        fitted(CONVNET, context_for(toy()), losses=(CrossEntropy(weight=0.0),))


def test_the_tasks_loss_is_on_the_tasks_head():
    assert hard_losses(Classification(), {"logits"}) == (CrossEntropy(),)
    assert hard_losses(Classification(head="digit"), {"digit"}) == (CrossEntropy(head="digit"),)


@pytest.mark.parametrize(
    ("loss", "message"), [("", "names no loss on true labels"), ("cross_entrpy", "did you mean 'cross_entropy'")]
)
def test_a_task_without_a_loss_is_refused_in_one_line(monkeypatch, loss, message):
    monkeypatch.setattr(Classification, "loss", loss)
    with pytest.raises(RecipeError, match=f"the task classification.* {message}"):
        hard_losses(Classification(), ("logits",))


def test_what_no_loss_reaches_is_said(toy, context_for):
    """A head that nobody trains ships as it was drawn: that should not go unsaid."""
    signature, reports = toy().signature(), []
    both = signature.model_copy(update={"heads": {**signature.heads, "other": Head(shape=(2,))}})
    network = restore.build(Mlp(hidden=(8,)), both, 0).network
    context = context_for(toy(), task=Classification(head="logits"), log=reports.append)
    facts = loop.fit(network, (CrossEntropy(head="logits"),), TrainingConfig(epochs=1, precision="float32"), context)
    notes = [report.note for report in reports if report.note]
    assert notes == facts["notes"]
    assert "no loss reaches 2 of its parameters (body.3.layers.1.weight, body.3.layers.1.bias)" in notes[0]


def test_several_tasks_have_a_loss_each_on_the_heads_that_are_there():
    tasks = {"one": Classification(head="a", target="x"), "other": Classification(head="b", target="y")}
    both = (CrossEntropy(head="a", target="x"), CrossEntropy(head="b", target="y"))
    assert hard_losses(MultiTask(tasks=tasks), {"a", "b"}) == both
    assert hard_losses(MultiTask(tasks=tasks), {"b"}) == both[1:]


def test_labels_that_do_not_fit_are_refused_before_training(toy, context_for):
    with pytest.raises(DataError, match="out of range for 2 classes"):
        fitted(CONVNET, context_for(toy(classes=2)))


def test_auto_precision_is_recorded(toy, context_for):
    context = context_for(toy())
    _, facts = fitted(CONVNET, context, epochs=10, precision="auto")
    assert facts["precision"]["name"] == context.environment["precision"]
    assert facts["precision"]["name"] in facts["precision"]["step_ms"]
    _, again = fitted(CONVNET, context, epochs=10, precision="auto")
    assert again["precision"] == {**facts["precision"], "reason": f"remembered: {facts['precision']['reason']}"}


def test_settings_say_what_is_wrong():
    assert TrainingConfig.model_validate({"epochs": 30}).optimizer == Sgd()
    assert TrainingConfig.model_validate({"epochs": 3, "optimizer": "adamw", "augment": ["flip"]}).augment == (Flip(),)
    with pytest.raises(ValidationError, match="no field 'epoch'; did you mean 'epochs'"):
        TrainingConfig.model_validate({"epoch": 3})
    with pytest.raises(ValidationError, match="a batch of 2 can't be split into 3 microbatches"):
        TrainingConfig(epochs=1, batch=2, accumulate=3)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [{}, {"ema": 0.9, "accumulate": 3, "clip_norm": 1.0, "precision": "bfloat16_channels_last"}]
)
def test_cuda_learns_and_repeats_its_bytes(toy, context_for, settings):
    settings = {"epochs": 12, "augment": (Flip(),), "optimizer": Sgd(learning_rate=0.05), "deterministic": True, **settings}
    first, facts = fitted(CONVNET, context_for(toy(), device="cuda"), **settings)
    again, _ = fitted(CONVNET, context_for(toy(), device="cuda"), **settings)
    assert facts["epochs"][-1]["loss"] < 0.8 * facts["epochs"][0]["loss"]
    assert same(first.state_dict(), again.state_dict())
    assert all(each.device.type == "cpu" for each in first.state_dict().values())


@pytest.mark.gpu
def test_cuda_takes_the_same_steps_as_a_cpu(toy, context_for):
    settings = {"epochs": 1, "optimizer": Sgd(learning_rate=0.01), "augment": (Crop(padding=1), Flip()), "deterministic": True}
    model = CONVNET.model_copy(update={"dropout": 0.0})
    here, _ = fitted(model, context_for(toy()), **settings)
    there, _ = fitted(model, context_for(toy(), device="cuda"), **settings)
    for name, each in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name], each, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_cuda_chooses_a_format_and_remembers_it(toy, context_for):
    context = context_for(toy(), device="cuda")
    choices = [fitted(CONVNET, context, epochs=10, precision="auto")[1]["precision"] for _ in range(2)]
    assert choices[0]["name"] == choices[1]["name"]
    assert choices[1]["reason"].startswith("remembered")


def test_epochs_are_kept_as_they_were_trained(toy, context_for):
    """Epoch 0 is the fresh network; a training cut short after an epoch ends where the longer one kept it."""
    settings = {"batch": 16, "precision": "float32", "schedule": Constant(), "keep": "last"}
    network = restore.build(Convnet(widths=(4,), convs=1), toy().signature(), 0).network
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    context = context_for(toy())
    loop.fit(network, (CrossEntropy(),), TrainingConfig(epochs=3, keep_epochs=(0, 2), ema=0.5, **settings), context)
    kept = {epoch: load_file(context.output / f"epoch-{epoch}.safetensors") for epoch in (0, 2)}
    assert len(list(context.output.iterdir())) == 2
    short = restore.build(Convnet(widths=(4,), convs=1), toy().signature(), 0).network
    loop.fit(short, (CrossEntropy(),), TrainingConfig(epochs=2, **settings), context_for(toy()))
    for expected, epoch in ((fresh, 0), (short.state_dict(), 2)):
        assert all(torch.equal(kept[epoch][name], tensor) for name, tensor in expected.items()), epoch
    context = context_for(toy(), limit=2)  # a smoke run gives a later stage something to rewind to
    loop.fit(short, (CrossEntropy(),), TrainingConfig(epochs=9, keep_epochs=(0, 7), **settings), context)
    assert sorted(path.name for path in context.output.iterdir()) == ["epoch-0.safetensors", "epoch-7.safetensors"]
