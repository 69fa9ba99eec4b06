"""`compress predict`: pictures, folders and arrays become class names with probabilities."""

import json
import os

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from compress_cli.data.datasets.digits import Digits
from compress_cli.onnx_graph.card import Card

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CARD = Card(
    task={"type": "classification"}, dataset={"type": "digits"}, fingerprint="", classes={"logits": NAMES}, key=""
).to_metadata()


@pytest.fixture
def pictures(tmp_path):
    """A folder of 5 test digits as picture files, and the pixels."""
    images = Digits().split("test").inputs["image"][:5]
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0]).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures", images


def shares(images, weight, bias):
    scores = images.reshape(len(images), -1) @ weight + bias
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_a_picture(compress, digits_file, pictures):
    path, weight, bias = digits_file(metadata=CARD)
    folder, images = pictures
    answers = json.loads(compress("predict", path, folder / "2.png", "--json").out)
    expected = shares(images[2:3], weight, bias)[0]
    assert [row["class"] for row in answers[0]["classes"]] == [NAMES[label] for label in np.argsort(-expected)[:3]]
    np.testing.assert_allclose([row["probability"] for row in answers[0]["classes"]], np.sort(expected)[::-1][:3], atol=1e-5)


def test_a_folder_and_an_npz_say_the_same(compress, digits_file, pictures, tmp_path):
    path, weight, bias = digits_file()
    folder, images = pictures
    np.savez(tmp_path / "x.npz", whatever=images)
    of_folder = json.loads(compress("predict", path, folder, "--top", "10", "--json").out)
    of_npz = json.loads(compress("predict", path, tmp_path / "x.npz", "--top", "10", "--json").out)
    assert [answer["input"] for answer in of_folder] == [f"{number}.png" for number in range(5)]
    assert [answer["classes"] for answer in of_folder] == [answer["classes"] for answer in of_npz]
    expected = shares(images, weight, bias)
    for share, answer in zip(expected, of_npz, strict=True):
        assert answer["classes"][0]["class"] == str(share.argmax())
        assert sum(row["probability"] for row in answer["classes"]) == pytest.approx(1)


def test_the_only_output_answers_where_the_task_is_about_another(compress, digits_file, pictures):
    """As of a teacher of one task, exported in a recipe that judges another; the names of its classes are known."""
    card = {"classes": {"logits": NAMES}, "task": {"type": "classification", "head": "colour"}}
    metadata = Card(**card, dataset={"type": "digits"}, fingerprint="", key="").to_metadata()
    path, weight, bias = digits_file(metadata=metadata)
    folder, images = pictures
    answers = json.loads(compress("predict", path, folder / "2.png", "--json").out)
    assert answers[0]["classes"][0]["class"] == NAMES[shares(images[2:3], weight, bias)[0].argmax()]
    refused = compress("predict", path, folder / "2.png", "--head", "colour")
    assert refused.code == 2
    assert "there is no output 'colour'; choose from: logits" in refused.err


def test_for_people(compress, digits_file, pictures):
    path, weight, bias = digits_file(metadata=CARD)
    folder, images = pictures
    lines = compress("predict", path, folder).out.splitlines()
    expected = shares(images, weight, bias)
    assert len(lines) == 5
    assert lines[0].startswith(f"0.png  {NAMES[expected[0].argmax()]} {100 * expected[0].max():.1f}%, ")


def test_a_larger_picture_in_colour_is_resized_to_grey(compress, digits_file, tmp_path):
    path, weight, bias = digits_file()
    Image.new("RGB", (90, 70), (120, 120, 120)).save(tmp_path / "large.png")
    answers = json.loads(compress("predict", path, tmp_path / "large.png", "--top", "1", "--json").out)
    expected = shares(np.full((1, 1, 8, 8), 120), weight, bias)[0]
    assert answers[0]["classes"] == [{"class": str(expected.argmax()), "probability": pytest.approx(expected.max(), abs=1e-5)}]


@pytest.mark.parametrize(("width", "task"), [(1, None), (1, {"type": "regression"}), (2, {"type": "regression"})])
def test_a_regression_answers_with_numbers(compress, linear_file, pictures, tmp_path, width, task):
    """Not with "0 100.0%", the softmax of one number."""
    weight, bias = np.random.default_rng(0).normal(size=(64, width)), np.arange(width) + 0.5
    metadata = Card(task=task, dataset={}, fingerprint="", classes={"logits": ()}, key="").to_metadata() if task else None
    path = linear_file(weight, bias, metadata=metadata)
    _, images = pictures
    np.savez(tmp_path / "x.npz", image=images)
    numbers = images.reshape(5, -1) @ weight + bias
    answers = json.loads(compress("predict", path, "x.npz", "--json").out)
    np.testing.assert_allclose([answer["numbers"] for answer in answers], numbers, rtol=1e-4)
    assert "classes" not in answers[0]
    text = compress("predict", path, "x.npz").out
    assert "%" not in text
    assert len(text.splitlines()) == 5
    assert float(text.split()[1].rstrip(",")) == pytest.approx(numbers[0, 0], rel=1e-4)


def test_names_in_a_file_can_not_write_to_the_terminal(compress, digits_file, pictures):
    evil = Card(task={}, dataset={}, fingerprint="", classes={"logits": ("\x1b[2J",) * 10}, key="").to_metadata()
    outcome = compress("predict", digits_file(metadata=evil)[0], pictures[0])
    assert outcome.code == 0
    assert "\x1b" not in outcome.out


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("none.png", 3, "none.png: there is no such file or folder"),
        ("none.npz", 3, "none.npz: there is no such file"),
        ("empty", 3, "holds no pictures"),
        ("text.png", 3, "is not a picture"),
        ("text.npz", 3, "is no .npz file"),
        ("other.npz", 3, "takes other inputs than the data gives"),
        ("two.npz", 3, "holds arrays a, b; the file takes image"),
    ],
)
def test_bad_input(compress, digits_file, tmp_path, source, code, message):
    path, _, _ = digits_file()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "other.npz", image=np.zeros((2, 3, 9, 9), np.uint8))
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 1, 8, 8), np.uint8), b=np.zeros((2, 1, 8, 8), np.uint8))
    outcome = compress("predict", path, source)
    assert message in outcome.err
    assert (outcome.code, outcome.out) == (code, "")


def test_postscript_under_the_name_of_a_picture_starts_no_program(compress, digits_file, tmp_path, monkeypatch):
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/gs-was-started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (tmp_path / "folder").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "folder" / "zz.png", "EPS")
    for source in ("folder", "folder/zz.png"):
        outcome = compress("predict", digits_file()[0], source)
        assert (outcome.code, outcome.out) == (3, "")
        assert "folder/zz.png: is not a picture that can be read here (formats: BMP" in outcome.err
    assert not (tmp_path / "gs-was-started").exists()


def test_a_file_that_takes_no_pictures(compress, linear_file, pictures):
    outcome = compress("predict", linear_file(np.eye(64, 10), shape=("batch", 64)), pictures[0])
    assert outcome.code == 3
    assert "does not take pictures (it takes image: float32 (?, 64))" in outcome.err
