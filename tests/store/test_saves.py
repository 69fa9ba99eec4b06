"""Saves: two are kept, a torn one is noticed, and the default interval bounds what they cost."""

import time

import numpy as np
import pytest
from pydantic import ValidationError

from compress_cli import stopping
from compress_cli.pipeline.plan import plan
from compress_cli.pipeline.recipe import load
from compress_cli.store import saves
from compress_cli.store.saves import Paused, Save, Saves, Saving

EVERY = Saving(steps=1)


def state(number, size=4):
    return Save(
        {"x": np.full(size, number, np.float32), "empty": np.zeros((0, 3)), "scalar": np.array(2)}, {"n": number}, f"n {number}"
    )


def saved(folder, count):
    made = Saves(folder, EVERY)
    for number in range(count):
        made.step(lambda number=number: state(number))
    return made


def test_the_last_two_are_kept_and_the_last_comes_back(tmp_path):
    assert Saves(tmp_path).load() is None
    assert saved(tmp_path, 5).progress == "n 4"
    assert len(list(tmp_path.iterdir())) == 2
    again = Saves(tmp_path).load()
    assert (again.document, again.progress) == ({"n": 4}, "n 4")
    np.testing.assert_array_equal(again.arrays["x"], np.full(4, 4, np.float32))
    assert (again.arrays["empty"].shape, again.arrays["scalar"].shape) == ((0, 3), ())


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_torn_one_is_said_and_the_one_before_is_used(tmp_path, damage):
    saved(tmp_path, 3)
    path = max(tmp_path.iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"cut": content[:50], "flip": content, "empty": b""}[damage])
    notes = []
    found = Saves(tmp_path, warn=notes.append)
    assert found.load().document == {"n": 1}
    assert found.progress == "n 1"
    assert notes == [f"{path.name}: is damaged; the save before it is used, where there is one"]
    path = max(tmp_path.iterdir())
    path.write_bytes(b"")
    assert Saves(tmp_path).load() is None


def test_what_is_not_whole_is_never_taken(tmp_path):
    (tmp_path / "save.partial").write_bytes(b"half")
    (tmp_path / "00000007-ab.safetensors").write_bytes(b"half")
    assert Saves(tmp_path).load() is None


def test_numbers_that_overflowed_leave_the_last_good_one(tmp_path):
    made = saved(tmp_path, 1)
    made.step(lambda: None)
    assert Saves(tmp_path).load().document == {"n": 0}
    with pytest.raises(ValueError, match="JSON"):
        made.step(lambda: Save({}, {"loss": float("nan")}, ""))


def test_intervals(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def times(saving, takes, until, epoch=10):
        """Seconds at which a stage of one step a second is saved."""
        nonlocal now
        now, found = 0.0, []
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        made = Saves(folder, saving)

        def slow():
            nonlocal now
            found.append(now)
            now += takes
            return state(0)

        while now < until:
            now += 1
            made.step(slow)
            if now % epoch == 0:
                made.step(slow, epoch_ended=True)
        return found

    assert times(Saving(steps=7), 0, 22) == [7, 14, 21]
    assert times(Saving(epochs=2), 0, 41) == [20, 40]
    assert times(Saving(minutes=0.5), 0, 61) == [30, 60]
    assert times(Saving(minutes=0.5, steps=20), 0, 61) == [20, 40, 60]
    assert times(Saving(), 0, 200) == [60, 120, 180]
    spent = times(Saving(), 10, 5000)
    assert len(spent) * 10 / 5000 < 0.03
    assert Saves().step(lambda: pytest.fail("a smoke run saves nothing")) is None


def test_time_spent_goes_on(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made = Saves(tmp_path, EVERY)
    now = 130.0
    made.step(lambda: state(0))
    now = 1000.0
    again = Saves(tmp_path)
    again.load()
    now = 1005.0
    assert again.spent_s == 35.0


def test_a_stop_that_was_told_saves_first(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping._stop, "signal", stopping.signal.SIGTERM)
    made = Saves(tmp_path)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        made.step(lambda: state(3))
    assert Saves(tmp_path).load().document == {"n": 3}
    with pytest.raises(KeyboardInterrupt):
        Saves().step(lambda: state(3))


def test_how_often_one_saves_changes_no_key(tmp_path):
    text = "dataset: digits\nstages: [{type: train, model: mlp, training: {epochs: 1}}]\n"
    keys = []
    for name, more in (("a", ""), ("b", "save: {steps: 5}\n")):
        (tmp_path / f"{name}.yaml").write_text(text + more)
        keys.append([step.key for step in plan(load(tmp_path / f"{name}.yaml")).steps])
    assert keys[0] == keys[1]


def test_settings():
    assert saves.Saving.model_validate({"minutes": 5.0}).steps is None
    for wrong in ({"steps": 0}, {"minutes": 0}, {"epochs": -1}, {"hours": 1}):
        with pytest.raises(ValidationError):
            Saving.model_validate(wrong)


def test_a_stage_that_is_asked_to_pauses_with_a_save_of_all_that_it_did(tmp_path):
    """Asked after each piece of work, with whether an epoch ended."""
    asked = []
    saves = Saves(tmp_path, Saving(minutes=60), pause=lambda epoch_ended: asked.append(epoch_ended) or len(asked) == 3)
    with pytest.raises(Paused, match="piece 3"):
        for piece in range(1, 9):
            saves.step(lambda piece=piece: Save({}, {"done": piece}, f"piece {piece}"), epoch_ended=piece == 3)
    assert asked == [False, False, True]
    assert Saves(tmp_path).load().document == {"done": 3}
