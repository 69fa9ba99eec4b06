"""Samples without labels, and stored outputs of a teacher: both from the user's files."""

from dataclasses import replace

import numpy as np
import pytest

from compress_cli.cli import main
from compress_cli.data.datasets.npz import Npz
from compress_cli.distillation import table
from compress_cli.errors import ArtifactError, DataError, RecipeError
from compress_cli.networks import restore
from compress_cli.pipeline import plan, recipe
from compress_cli.pipeline.run import Run
from compress_cli.store.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = "training: {epochs: 12, batch: 16, keep: last, precision: float32, optimizer: {type: sgd, learning_rate: 0.05}}"
RECIPE = f"""\
dataset: {{type: npz, train: data.npz, inputs: [row]}}
threads: 1
stages:
  - {{type: train, name: teacher, model: {{type: mlp, hidden: [16]}}, {TRAINING}}}
  - {{type: distill, name: student, model: {{type: mlp, hidden: [8]}}, losses: [LOSS],
      transfer: {{type: npz, train: more.npz, inputs: [row], targets: []}}, {TRAINING}}}
"""
STORED = f"""\
dataset: {{type: npz, train: data.npz, inputs: [row]}}
threads: 1
stages:
  - {{type: load, name: teacher, outputs: stored.npz}}
  - {{type: distill, name: student, model: {{type: mlp, hidden: [8]}}, losses: [LOSS], {TRAINING}}}
"""


class Silent:
    def begins(self, step, smoke): ...
    def progress(self, step, progress): ...
    def ended(self, step, cached, seconds, problem): ...


@pytest.fixture
def data(tmp_path):
    """200 labelled rows of two classes, and 160 unlabelled ones."""
    random = np.random.default_rng(0)
    label = np.arange(200) % 2
    row = (random.standard_normal((200, 6)) + 2 * label[:, None] - 1).astype(np.float32)
    np.savez(tmp_path / "data.npz", row=row, label=label)
    more = random.standard_normal((160, 6)).astype(np.float32)
    np.savez(tmp_path / "more.npz", row=more)
    return row, label, more


def executed(tmp_path, text, *overrides):
    (tmp_path / "r.yaml").write_text(text)
    planned = plan.plan(recipe.load(tmp_path / "r.yaml", overrides))
    run = Run(replace(planned, rows=()), Store(tmp_path / "store"), tmp_path / "run", Silent())
    run.execute()
    return {step.name: run.artifacts[step.key] for step in planned.steps if step.key in run.artifacts}


def right(checkpoint, rows, labels):
    import torch

    with torch.no_grad():
        return (restore.checkpoint(checkpoint).network(torch.from_numpy(rows))["logits"].argmax(1).numpy() == labels).mean()


@pytest.mark.parametrize(("loss", "cached"), [("soft_targets", "false"), ("hard_labels", "true")])
def test_a_student_learns_from_unlabelled_samples(tmp_path, data, loss, cached):
    row, label, _ = data
    artifacts = executed(tmp_path, RECIPE.replace("LOSS", loss), f"stages.student.teacher_cache={cached}")
    assert right(artifacts["student"], row, label) > 0.9
    if cached == "true":
        assert table.StoredOutputs(artifacts["student.table"]).ids.tolist() == list(range(160))


def test_samples_without_labels_are_all_for_training(tmp_path, data):
    dataset = Npz(train=tmp_path / "more.npz", inputs=("row",), targets=())
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [160, 0, 0]
    assert dataset.split("train").targets == {}
    assert dataset.signature().heads == {}


def test_the_content_of_the_samples_is_part_of_the_key(tmp_path, data):
    def key():
        (tmp_path / "r.yaml").write_text(RECIPE.replace("LOSS", "soft_targets"))
        return plan.plan(recipe.load(tmp_path / "r.yaml")).stages[1].key

    before = key()
    assert key() == before
    np.savez(tmp_path / "more.npz", row=data[2] + 1)
    assert key() != before
    (tmp_path / "more.npz").unlink()
    with pytest.raises(ArtifactError, match=r"more.npz"):
        key()


def test_what_can_not_be_learnt_without_labels_is_refused(tmp_path, data):
    with pytest.raises(RecipeError, match=r"its samples have no labels, and 'cross_entropy' needs them"):
        executed(tmp_path, RECIPE.replace("LOSS", "soft_targets, cross_entropy"))
    np.savez(tmp_path / "more.npz", row=np.zeros((20, 7), np.float32))
    with pytest.raises(DataError, match=r"transfer: its inputs are {'row': \(7,\)}, and those of the recipe's dataset"):
        executed(tmp_path, RECIPE.replace("LOSS", "soft_targets"))


def test_a_student_learns_from_stored_outputs(tmp_path, data):
    """Of a teacher that no longer exists: rows in any order, found by their ids, the positions in the data's file."""
    row, label, _ = data
    order = np.random.default_rng(1).permutation(200)
    logits = 4 * np.eye(2, dtype=np.float64)[1 - label]  # it calls every class the other
    np.savez(tmp_path / "stored.npz", index=order, logits=logits[order])
    artifacts = executed(tmp_path, STORED.replace("LOSS", "soft_targets"))
    assert right(artifacts["student"], row, 1 - label) > 0.9


@pytest.mark.parametrize(
    ("arrays", "code", "message"),
    [
        ({"logits": np.zeros((200, 2))}, 3, "needs an array 'index' of the sample ids"),
        ({"index": np.arange(200)}, 3, "holds no outputs"),
        ({"index": np.arange(200) // 2, "logits": np.zeros((200, 2))}, 3, "some ids occur twice"),
        ({"index": np.arange(200), "logits": np.full((200, 2), np.nan)}, 3, "none NaN or infinite"),
        (
            {"index": np.arange(200), "logits": np.zeros((200, 3))},
            2,
            "teacher gives 3 values per sample where the student gives 2",
        ),
        (
            {"index": np.arange(90, 200), "logits": np.zeros((110, 2))},
            3,
            ": stages[1]: stored.npz: the table of stored outputs ",
        ),
    ],
)
def test_outputs_that_will_not_do(tmp_path, data, capfd, monkeypatch, arrays, code, message):
    np.savez(tmp_path / "stored.npz", **arrays)
    (tmp_path / "r.yaml").write_text(STORED.replace("LOSS", "soft_targets"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        main(["run", "r.yaml"])
    assert ended.value.code == code
    assert message in capfd.readouterr().err


def test_a_loss_on_features_of_a_table_is_refused(tmp_path, data):
    np.savez(tmp_path / "stored.npz", index=np.arange(200), logits=np.zeros((200, 2)))
    with pytest.raises(RecipeError, match=r"r.yaml:5: stages\[1\]: a loss asks for .* layer '1', but .* holds no layers"):
        executed(tmp_path, STORED.replace("LOSS", '{type: hints, layers: ["1"]}'))
