"""The choice of a number format: by the clock, within reason, and remembered."""

import json

import pytest
import torch

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.training import precision

pytestmark = pytest.mark.usefixtures("one_thread")

SIGNATURE = Signature(inputs={"image": Input(shape=(1, 8, 8))}, heads={"logits": Head(shape=(3,))})
INPUTS = {"image": torch.rand(16, 1, 8, 8)}
LONG = 10**9  # steps


class Clock:
    """Stands for a trial: the seconds that each format takes on the whole batch; None where it fails."""

    def __init__(self, **seconds):
        self.given, self.asked = seconds, []
        self.names = list(precision.NAMES)

    def seconds(self, name, share=1.0):
        self.asked.append((name, share))
        if self.given[name] is None:
            raise RuntimeError("not implemented for 'BFloat16'")
        return self.given[name] * share


def choice(steps=LONG, **seconds):
    clock = Clock(**seconds)
    return precision._time(clock, steps), clock


def times(plain, channels, half, both):
    return dict(zip(precision.NAMES, (plain, channels, half, both), strict=True))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (times(1.0, 0.8, 0.6, 0.5), "bfloat16_channels_last"),
        (times(1.0, 0.7, 2.0, 0.9), "float32_channels_last"),
        (times(1.0, 0.92, 0.97, 0.99), "float32"),  # hardly faster, and perhaps not the next time
        (times(1.0, None, 0.6, None), "bfloat16"),
        (times(1.0, None, None, None), "float32"),
    ],
)
def test_the_fastest_counts_unless_float32_is_nearly_as_fast(seconds, expected):
    assert choice(**seconds)[0].name == expected


def test_what_is_hopeless_is_tried_twice_on_a_small_part():
    found, clock = choice(**times(0.1, 0.09, 50.0, 40.0))
    assert found.name == "float32_channels_last"
    tried = [each for each in clock.asked if each[0].startswith("bfloat16")]
    assert tried == [("bfloat16", 1 / 8)] * 2 + [("bfloat16_channels_last", 1 / 8)] * 2
    assert set(found.step_ms) == {"float32", "float32_channels_last"}


def test_short_training_is_not_worth_it():
    found, clock = choice(steps=100, **times(0.01, 0.001, 0.001, 0.001))
    assert found.name == "float32"
    assert "under 2 s" in found.reason
    assert {name for name, _ in clock.asked} == {"float32"}


def test_a_format_that_float32_fails_in_is_the_models_fault():
    with pytest.raises(RuntimeError):
        choice(**times(None, 1.0, 1.0, 1.0))


def test_timing_changes_no_weight_and_no_generator(tmp_path):
    network = restore.build(Convnet(widths=(4,), dropout=0.5), SIGNATURE, 0).network.train()
    weights = {name: each.clone() for name, each in network.state_dict().items()}
    generator = torch.get_rng_state()
    found = precision.choose(network, INPUTS, LONG, "cpu", tmp_path)
    assert found.name in found.step_ms
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(each, weights[name]) for name, each in network.state_dict().items())
    assert all(each.grad is None for each in network.parameters())


def test_a_choice_is_remembered_for_its_model_machine_and_batch(tmp_path, monkeypatch):
    network = restore.build(Mlp(hidden=(8,)), SIGNATURE, 0).network.train()
    timed = []
    monkeypatch.setattr(
        precision, "_time", lambda trial, steps: timed.append(steps) or precision.PrecisionChoice("bfloat16", "fast")
    )
    for inputs in (INPUTS, INPUTS, {"image": INPUTS["image"][:8]}, INPUTS):
        assert precision.choose(network, inputs, 100, "cpu", tmp_path).name == "bfloat16"
    assert len(timed) == 2
    wider = restore.build(Mlp(hidden=(9,)), SIGNATURE, 0).network
    precision.choose(wider, INPUTS, 100, "cpu", tmp_path)
    assert len(timed) == 3
    assert [each.name for each in tmp_path.iterdir()] == [precision.REMEMBERED]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        precision.choose(network, INPUTS, 100, "cpu", tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert len(timed) == 4


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"x": {"name": "float8"}}'])
def test_a_damaged_memory_is_written_anew(tmp_path, content):
    (tmp_path / precision.REMEMBERED).write_text(content)
    network = restore.build(Mlp(hidden=(8,)), SIGNATURE, 0).network.train()
    precision.choose(network, INPUTS, 30, "cpu", tmp_path)
    (known,) = json.loads((tmp_path / precision.REMEMBERED).read_text()).values()
    assert known["name"] == "float32"


def test_rows_have_no_channels_to_order():
    network = restore.build(
        Mlp(hidden=(8,)), Signature(inputs={"row": Input(shape=(4,))}, heads={"y": Head(shape=(2,))}), 0
    ).network
    assert precision._Trial(network, {"row": torch.rand(8, 4)}, "cpu").names == ["float32", "bfloat16"]


def test_a_handful_of_steps_is_float32_without_a_trial(tmp_path):
    network = restore.build(Mlp(hidden=(8,)), SIGNATURE, 0).network
    assert precision.choose(network, INPUTS, 19, "cpu", tmp_path).name == "float32"
    assert list(tmp_path.iterdir()) == []
