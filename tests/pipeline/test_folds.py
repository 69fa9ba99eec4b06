"""Cross-validation of a whole recipe."""

import json
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from compress_cli.data.datasets.digits import Digits
from compress_cli.data.datasets.resplit import Resplit
from compress_cli.errors import RecipeError
from compress_cli.pipeline import plan, recipe

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
folds: 3
gates: [net.accuracy>=0.35]
stages:
  - {type: train, name: net, model: {type: mlp, hidden: [8]}, training: {epochs: 1, precision: float32}}
  - {type: prune, name: small, ratio: 0.5, criterion: l1}
"""


def planned(folder, text):
    (folder / "r.yaml").write_text(text)
    return plan.plan(recipe.load(folder / "r.yaml"))


def test_every_fold_is_run_tested_on_its_own_part_and_averaged(compress, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE.partition("  - {type: prune")[0].replace("folds: 3", "folds: 2"))
    outcome = compress("run", "r.yaml")
    assert outcome.code in (0, 5), outcome
    record, report = (json.loads(Path("runs/r", name).read_text()) for name in ("run.json", "report.json"))
    tested, right = [], []
    for fold, measured in enumerate([record["rows"][0], *record["variants"]], 1):
        with np.load(Path("runs/.store", measured["measurement"], "predictions.npz")) as file:
            np.testing.assert_array_equal(file["index"], Resplit(of=Digits(), folds=2, fold=fold).split("test").index)
            truth = Resplit(of=Digits(), folds=2, fold=fold).split("test").targets["label"]
            right.append((file["head.logits"].argmax(1) == truth).mean())
            tested.append(file["index"])
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(1797))
    assert len(set(right)) == 2, "each fold has a network of its own"
    accuracy = report["rows"][0]["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx(fmean(right))
    assert [gate["value"] for gate in report["gates"]] == [pytest.approx(fmean(right))], "gates are about the mean"
    (spread,) = report["spread"]
    assert (spread["over"], spread["seeds"], spread["values"]) == ("folds", [1, 2], pytest.approx(right))
    assert report["samples"] == 1797
    lines = {line["name"]: line["cells"][0]["value"] for line in report["findings"][0]["findings"]["lines"]}
    assert lines == {f"net, fold {fold}": pytest.approx(share) for fold, share in enumerate(right, 1)}
    assert "accuracy % over folds 1, 2: mean" in " ".join(outcome.out.split())
    again = compress("run", "r.yaml")
    assert again.err.count("up to date") == 2
    assert "done in" not in again.err


def test_keys_differ_between_folds_and_inputs_stay_within_one(tmp_path):
    resolved = planned(tmp_path, RECIPE)
    keys = {step.name: step.key for step in resolved.steps}
    assert len(set(keys.values())) == len(keys) == len(resolved.steps)
    assert {step.fold for step in resolved.steps} == {1, 2, 3}
    for step in resolved.steps:
        assert {source.fold for source in step.sources} <= {step.fold}
        assert step.dataset.fold == step.fold
    assert {"small", "small.fold2", "small.fold3.onnx"} <= keys.keys()
    other = planned(tmp_path, RECIPE.replace("folds: 3", "folds: 4"))
    assert not {step.key for step in other.steps} & set(keys.values())


def test_one_fold_by_hand_is_that_fold_of_the_recipe(tmp_path):
    """What is written as a dataset shares the store's artifacts with the recipe's own folds."""
    whole = planned(tmp_path, RECIPE)
    alone = planned(
        tmp_path, RECIPE.replace("folds: 3\n", "").replace("digits", "{type: resplit, of: digits, folds: 3, fold: 2}")
    )
    assert alone.step("net").key == next(step.key for step in whole.steps if step.name == "net.fold2")


def test_until_keeps_the_stages_of_every_fold(tmp_path):
    names = [step.name for step in planned(tmp_path, RECIPE).until("net").steps if not step.implied]
    assert sorted(names) == ["net", "net.fold2", "net.fold3"]


def test_folds_of_groups_keep_their_groups(tmp_path):
    text = RECIPE.replace("digits", "{type: resplit, of: digits, group: label, val_share: 0}")
    assert {step.dataset.group for step in planned(tmp_path, text).steps} == {"label"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("name: net,", "name: net, seeds: [0, 1],"), r"r.yaml:7: stages\[0\].seeds: 2 seeds in each of 3 folds are not run"),
        (("digits", "{type: resplit, of: digits, keep_test: true}"), r"r.yaml:1: dataset.keep_test: decides what is tested"),
        (("folds: 3", "folds: 1"), r"r.yaml:4: folds: must be greater than or equal to 2"),
        (
            ("net.accuracy>=0.35]", "robustness.x>=0.5]"),
            r"'robustness.x' is known of the first fold alone",
        ),
    ],
)
def test_what_can_not_be_cross_validated_is_refused(tmp_path, change, complaint):
    text = RECIPE.replace(*change)
    if "robustness" in text:
        text += "  - {type: robustness, start: net}\n"
    with pytest.raises(RecipeError, match=complaint):
        planned(tmp_path, text)
