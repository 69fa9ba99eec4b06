"""A run with a task of a user's plugin file, whose metric is no mean over samples."""

import json
from pathlib import Path

import pytest

TASK = '''
from typing import ClassVar

import numpy as np
from compress_cli.data.tasks import Task


class Threes(Task):
    """Tell threes from other digits: area under the ROC curve."""

    loss: ClassVar = "cross_entropy"
    primary: ClassVar = "auc"
    metrics: ClassVar = {"auc": "higher", "margin": "higher"}

    def check(self, signature, targets):
        pass

    def pieces(self, heads, targets):
        return np.stack([heads["logits"][:, 3], targets["label"] == 3], axis=1)

    def combine(self, pieces):
        scores, threes = pieces[:, 0], pieces[:, 1] == 1
        if threes.all() or not threes.any():
            return {"auc": np.nan, "margin": np.nan}
        above = (scores[threes][:, None] > scores[~threes]) + 0.5 * (scores[threes][:, None] == scores[~threes])
        return {"auc": above.mean(), "margin": scores[threes].mean() - scores[~threes].mean()}
'''
RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
task: threes
threads: 1
gates: [{promise: auc_drop<=1}, {promise: margin_worse<=1000}, {promise: auc_change>=-1}, {promise: auc>=0}]
stages:
  - {type: train, name: teacher, model: {type: mlp, hidden: [16]}, training: &fast {epochs: 2, precision: float32}}
  - {type: train, name: small, model: {type: mlp, hidden: [2]}, training: *fast}
"""


def test_its_metric_reaches_epochs_report_and_gates(compress, one_thread):
    Path("threes.py").write_text(TASK)
    Path("r.yaml").write_text(RECIPE)
    outcome = compress("run", "r.yaml", "--quiet", "--plugin", "threes.py")
    assert outcome.code == 0, outcome
    report = json.loads(Path("runs/r/report.json").read_text())
    teacher, small = report["rows"]
    change = small["change"]["value"]
    assert change == pytest.approx(small["metrics"]["auc"]["value"] - teacher["metrics"]["auc"]["value"])
    assert small["secondary_changes"].keys() == {"margin"}
    drop, worse, signed, _ = report["gates"]
    assert (drop["value"], signed["value"]) == (-change, change)
    assert worse["value"] == -small["secondary_changes"]["margin"]["value"]
    refused = compress("report", "runs/r", "--gate", "auk_drop<=1")  # a report needs no plugin
    assert refused.code == 2
    assert "did you mean 'auc_drop'" in refused.err
