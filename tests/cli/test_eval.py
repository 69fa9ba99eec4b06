"""`compress eval`: figures of one file, from its own card or from data the user names."""

import json

import numpy as np
import pytest

from compress_cli.card import Card
from compress_cli.datasets.digits import Digits
from compress_cli.intervals import wilson


def card(**changes):
    settings = {
        "task": {"type": "classification", "head": "", "target": ""},
        "dataset": {"type": "digits", "split_seed": 0},
        "fingerprint": Digits().fingerprint(),
        "classes": {"logits": tuple("0123456789")},
        "key": "0" * 64,
    }
    return Card(**{**settings, **changes}).to_metadata()


def right(weight, bias, split="test"):
    samples = Digits().split(split)
    return (samples.inputs["image"].reshape(len(samples), -1) @ weight + bias).argmax(1) == samples.targets["label"]


def test_a_file_with_a_card_needs_no_flags(compress, digits_file):
    path, weight, bias = digits_file(metadata=card())
    size = path.stat().st_size
    outcome = compress("eval", path, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    own = right(weight, bias)
    assert found["metrics"]["accuracy"] == wilson(int(own.sum()), len(own)).model_dump()
    assert (found["data"], found["split"], found["samples"]) == ("digits", "test", 467)
    assert (found["contents"]["parameters"], found["contents"]["macs"], found["contents"]["size_bytes"]) == (650, 640, size)
    assert found["latency"]["p50_ms"]["value"] > 0
    assert found["against"] is None


def test_for_people(compress, digits_file):
    path, weight, bias = digits_file(metadata=card())
    outcome = compress("eval", path)
    assert f"{100 * right(weight, bias).mean():.1f} [" in outcome.out
    assert "(467 test samples of digits)" in outcome.out
    assert "650 (650 float32)" in outcome.out
    assert "samples/s" in outcome.out


def test_data_on_the_command_line(compress, digits_file):
    path, weight, bias = digits_file()
    found = json.loads(compress("eval", path, "--data", "{type: digits}", "--split", "val", "--batch", "7", "--json").out)
    assert found["metrics"]["accuracy"]["value"] == right(weight, bias, "val").mean()
    assert found["samples"] == 252


def test_without_card_and_data_there_is_still_size_and_latency(compress, digits_file):
    path, _, _ = digits_file()
    outcome = compress("eval", path, "--latency-batch", "3", "--threads", "1", "--json")
    found = json.loads(outcome.out)
    assert (found["metrics"], found["data"], found["samples"]) == ({}, "", 0)
    assert (found["latency"]["batch"], found["latency"]["threads"]) == (3, 1)
    assert "name it with --data" in compress("eval", path).out


def test_against_an_older_file(compress, digits_file, linear_file):
    path, weight, bias = digits_file(metadata=card())
    worse = weight.copy()
    worse[:, 3] = 0  # knows no threes
    old = linear_file(worse, bias, name="old.onnx")
    found = json.loads(compress("eval", path, "--baseline", old, "--json").out)["against"]
    before, after = right(worse, bias), right(weight, bias)
    assert found["change"]["value"] == pytest.approx(after.mean() - before.mean())
    assert found["change"]["low"] > 0
    assert found["change_p"] < 0.01
    assert found["compression_ratio"] == old.stat().st_size / path.stat().st_size
    assert found["speedup"]["verdict"] in ("same", "faster", "slower", "too noisy to say")
    assert "McNemar" in compress("eval", path, "--baseline", old).out


def test_other_data_than_it_was_made_with_is_said(compress, digits_file):
    path, _, _ = digits_file(metadata=card(fingerprint="f" * 64))
    outcome = compress("eval", path, "--json")
    assert outcome.code == 0
    assert "is not the one the file was made with" in outcome.err
    json.loads(outcome.out)


def test_a_card_leads_to_no_path(compress, digits_file, tmp_path):
    (tmp_path / "train").mkdir()
    path, _, _ = digits_file(metadata=card(dataset={"type": "image_folder", "root": str(tmp_path)}))
    outcome = compress("eval", path)
    assert outcome.code == 3
    assert "root" in outcome.err
    assert "name it with --data" in outcome.err


@pytest.mark.parametrize(
    ("metadata", "code", "said"),
    [
        ({"compress.task": "{"}, 3, "metadata about its task and data is damaged"),
        (card(dataset={"type": "no_such"}), 3, "there is no dataset 'no_such'"),
        (card(dataset={"type": "digits", "split_seed": -1}), 3, "split_seed"),
        (card(task={"type": 5}), 3, "there is no task '5'"),
    ],
)
def test_cards_that_can_not_be_followed(compress, digits_file, metadata, code, said):
    outcome = compress("eval", digits_file(metadata=metadata)[0])
    assert (outcome.code, outcome.out) == (code, "")
    assert said in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.onnx"], 3, "none.onnx: there is no such file"),
        (["text.onnx"], 3, "is not an ONNX file, or is truncated"),
        (["model.onnx", "--data", "digitz"], 2, "there is no dataset 'digitz'; did you mean 'digits'?"),
        (
            ["model.onnx", "--data", "{type: digits, split_sed: 1}"],
            2,
            "there is no field 'split_sed'; did you mean 'split_seed'?",
        ),
        (["model.onnx", "--data", "{type: digits"], 2, "--data: is not YAML"),
        (["model.onnx", "--data", "{type: npz, train: none.npz, inputs: [image]}"], 3, "there is no file none.npz"),
        (["model.onnx", "--data", "fashion_mnist"], 3, "COMPRESS_DATA"),
        (["model.onnx", "--data", "digits", "--task", "{type: classification, head: loss}"], 2, "no head 'loss'"),
        (
            ["model.onnx", "--data", "{type: npz, train: other.npz, inputs: [image]}"],
            3,
            "takes other inputs than the data gives",
        ),
        (
            ["model.onnx", "--data", "{type: npz, train: labels.npz, inputs: [image], classes: [a]}"],
            3,
            "out of range for 1 class",
        ),
        (["nan.onnx", "--data", "digits"], 4, "output 'logits' is NaN"),
        (["seven.onnx", "--data", "digits"], 3, "has 7 classes"),
        (["model.onnx", "--baseline", "none.onnx"], 3, "none.onnx: there is no such file"),
    ],
)
def test_bad_input(compress, digits_file, linear_file, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.delenv("COMPRESS_DATA", raising=False)
    digits_file()
    linear_file(np.full((64, 10), np.nan), name="nan.onnx")
    linear_file(np.zeros((64, 7)), name="seven.onnx")
    (tmp_path / "text.onnx").write_text("no model at all")
    np.savez(tmp_path / "other.npz", image=np.zeros((20, 3, 9, 9), np.uint8), label=np.arange(20) % 10)
    np.savez(tmp_path / "labels.npz", image=np.zeros((20, 1, 8, 8), np.uint8), label=np.arange(20) % 10)
    outcome = compress("eval", *arguments)
    assert said in outcome.err
    assert (outcome.code, outcome.out) == (code, "")
    assert "Traceback" not in outcome.err
