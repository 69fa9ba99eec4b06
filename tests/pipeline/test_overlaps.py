"""A run says which samples of test stand in train too, wherever figures are read."""

import json
from pathlib import Path

import numpy as np

from compress_cli.data.datasets.digits import Digits
from compress_cli.data.datasets.resplit import Resplit
from compress_cli.pipeline import overlaps, recipe

RECIPE = """\
dataset: {type: npz, train: train.npz, test: test.npz, inputs: [x], val_share: 0.0}
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, name: net, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}
"""


def written(folder, repeated):
    """A recipe whose test file repeats so many samples of the training file, under other ids."""
    random = np.random.default_rng(0)
    x, label = random.normal(size=(200, 6)).astype(np.float32), np.arange(200) % 2
    test = np.concatenate([np.arange(150, 200), np.arange(repeated)])
    np.savez(folder / "train.npz", x=x[:150], label=label[:150])
    np.savez(folder / "test.npz", x=x[test], label=label[test])
    (folder / "r.yaml").write_text(RECIPE)
    return folder / "r.yaml"


def test_repeated_samples_are_named_in_the_output_and_in_every_report(compress, tmp_path, monkeypatch):
    recipe = written(tmp_path, repeated=3)
    outcome = compress("run", recipe)
    sentence = "3 of 53 test samples (5.7%) have the same inputs as a training sample (ids 200, 201, 202)"
    assert outcome.code == 0, outcome
    assert f"dataset: {sentence}" in outcome.err
    assert outcome.err.index(sentence) < outcome.err.index("net: done"), "before the training, not after it"
    assert sentence in " ".join(outcome.out.split())
    report = Path("runs/r")
    assert json.loads((report / "report.json").read_text())["doubts"][0].startswith(sentence)
    assert all(sentence in " ".join((report / name).read_text().split()) for name in ("report.md", "report.html"))
    monkeypatch.setattr("compress_cli.data.duplicates.digests", lambda *arguments: 1 / 0)  # it is not looked for again
    again = compress("run", recipe)
    assert "net: up to date" in again.err
    assert sentence in again.err


def test_other_data_are_compared_anew(tmp_path):
    def found(repeated):
        dataset = recipe.load(written(tmp_path, repeated)).dataset
        return overlaps.remarks([dataset], [], tmp_path / "memory", lambda done, total: None)

    assert found(repeated=0) == ()
    assert found(repeated=1)[0].startswith("1 of 51 test samples (2%) has the same inputs")
    assert found(repeated=0) == ()
    (tmp_path / "test.npz").write_bytes(b"damaged")
    dataset = recipe.load(tmp_path / "r.yaml").dataset
    assert overlaps.remarks([dataset], [], tmp_path / "memory", lambda done, total: None) == (), (
        "the stage that reads it says why"
    )


def test_test_samples_among_the_transfer_data_are_named_too(tmp_path):
    """A student learns from the train split of other data, without labels; here those are the same samples cut otherwise."""
    folds = [Resplit(of=Digits(), folds=2, fold=fold, val_share=0.0) for fold in (1, 2)]
    others = Resplit(of=Digits(), test_share=0.25, val_share=0.0)
    trained = set(others.split("train").index.tolist())
    found = overlaps.remarks(folds, [others], tmp_path, lambda done, total: None)
    assert len(found) == 1
    assert found[0].startswith(
        f"{len(trained)} of 1797 test samples (75%) have the same inputs as a sample of the transfer data"
    )
