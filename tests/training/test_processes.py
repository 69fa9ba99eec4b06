"""Two processes that train together do what one does."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist

from compress_cli.errors import RecipeError, StageError
from compress_cli.processes import ALONE
from compress_cli.together import Together
from tests.training import together

HERE = Path(__file__).parent
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Case -> what one process gives, and what two give: weights, facts, notes."""
    folder, before = tmp_path_factory.mktemp("together"), torch.get_num_threads()
    torch.set_num_threads(1)
    one = {name: together.alone(folder / "one", name) for name in together.CASES}
    (folder / "two").mkdir()
    for case in ("saved", "divided", "tabled"):
        _without_the_end(folder / "one" / case, folder / "two" / f"{case} by one")
    store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    cases = [*together.CASES, "saved by one", "divided by one", "tabled by one"]
    command = [sys.executable, HERE / "together.py", str(store.port), folder / "other", json.dumps(cases)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as other:
        two = together.two(0, store, folder / "two", cases)
    assert other.returncode == 0
    for case in ("saved", "divided", "tabled"):
        _without_the_end(folder / "two" / case, folder / "one" / f"{case} by two")
        one[f"{case} by two"] = together.CASES[case](folder / "one" / f"{case} by two", ALONE)
    torch.set_num_threads(before)
    return one, two


def _without_the_end(source, target):
    """The saves up to the sixth of nine steps."""
    shutil.copytree(source, target)
    *_, last = sorted(target.glob("*.safetensors"))
    last.unlink()


def far(one, other):
    """The largest difference between the weights of two trainings."""
    assert one[0].keys() == other[0].keys()
    return max(float(np.abs(value.astype(float) - other[0][name]).max()) for name, value in one[0].items())


def test_the_gradient_is_that_of_the_whole_batch_by_hand(results):
    for found, _, _ in (results[0]["by_hand"], results[1]["by_hand"]):
        scores = found["inputs"] @ found["weight"].T
        shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        gradient = (shares - np.eye(3)[found["labels"]]).T @ found["inputs"] / 5
        np.testing.assert_allclose(found["gradient"], gradient, atol=1e-12)


@pytest.mark.parametrize("case", ["everything", "distilled", "normalised", "saved", "divided", "masked"])
def test_weights_and_losses_are_those_of_one_process(results, case):
    one, two = results[0][case], results[1][case]
    assert far(one, two) < TOLERANCE
    for name in ("loss", "accuracy"):
        curves = ([epoch[name] for epoch in facts["epochs"]] for _, facts, _ in (one, two))
        np.testing.assert_allclose(*curves, atol=TOLERANCE)
    begun = together.network(together.Mlp(hidden=(12,)), 0).state_dict()
    if case == "everything":
        moved = max(float(np.abs(one[0][name] - value.numpy()).max()) for name, value in begun.items())
        assert moved > 100 * TOLERANCE


@pytest.mark.parametrize("case", ["saved", "divided"])
def test_one_process_goes_on_from_what_two_saved_and_two_from_what_one_saved(results, case):
    one, two = results
    by_one, by_two = one[f"{case} by two"], two[f"{case} by one"]
    assert far(one[case], by_one) < TOLERANCE
    assert far(one[case], by_two) < TOLERANCE
    assert "(saved by 2 processes, now 1 process: equal but for rounding)" in by_one[2][0]
    assert "(saved by 1 process, now 2 processes: equal but for rounding)" in by_two[2][0]
    assert "trained by 2 processes, then by 1 process" in by_one[1]["notes"][-1]


def test_a_teachers_table_of_two_processes_has_the_bytes_of_one(results):
    """Whoever began it: one goes on from what two saved, and two from what one saved."""
    one, two = results
    whole, facts, _ = one["tabled"]
    assert facts["samples"] == 41
    assert sorted(array.shape for array in whole.values()) == [(2, 41, 3), (2, 41, 5, 3, 3), (41,), (41,)]
    assert not np.array_equal(*whole["1.npy"])  # the views differ
    for made, _, _ in (two["tabled"], one["tabled by two"], two["tabled by one"]):
        assert made.keys() == whole.keys()
        assert all(array.tobytes() == whole[name].tobytes() for name, array in made.items())
    assert [one["tabled by two"][2], two["tabled by one"][2]] == [
        ["resumed at row 69"],
        ["resumed at row 76"],
    ]  # chunks of 7 and 6


@pytest.mark.parametrize(("samples", "count"), [(13, 2), (13, 4), (4, 4), (7, 3)])
def test_every_sample_is_in_one_share(samples, count):
    shares = [np.arange(samples)[Together(rank, count).share(samples)] for rank in range(count)]
    assert np.concatenate(shares).tolist() == [*range(samples)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_batch_with_fewer_samples_than_processes_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"a microbatch of 6 .* can't be divided among 8 processes; choose a larger"):
        together.everything(tmp_path, Together(0, 8))


def test_features_whose_first_axis_is_not_the_samples_are_refused():
    with pytest.raises(StageError, match=r"'body.1' has the shape \(7, 4\) for 2 samples"):
        Together(0, 2).joined("body.1", torch.zeros(7, 4), 4)


def test_a_gpu_by_number_is_refused_for_several_processes():
    assert ALONE.device("cuda:1") == "cuda:1"
    assert Together(1, 2, 1).device("cpu") == "cpu"
    with pytest.raises(RecipeError, match="is one GPU, and 2 processes train together"):
        Together(1, 2, 1).device("cuda:1")
