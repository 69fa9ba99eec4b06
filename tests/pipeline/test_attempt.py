"""When a try goes on from what an earlier one left, and when it begins anew."""

import pytest

from compress_cli.pipeline.attempt import Attempt, begin
from compress_cli.store.artifact import Checkpoint, Draft, Source

INPUTS = {"start": [Source(key="a", digest="b")]}
FIRST = {"forced": False, "inputs": INPUTS, "device": "cpu", "libraries": {"torch": "2.15.0"}, "threads": 2}


def attempt(**changes):
    return Attempt(**{**FIRST, **changes})


@pytest.fixture
def left(tmp_path):
    """`left(**what the earlier try began with)` -> its folders, with one save and a half-written file."""

    def _left(**changes):
        output, saves = tmp_path / "output", tmp_path / "saves"
        output.mkdir()
        saves.mkdir()
        attempt(**changes).write(saves)
        (saves / "a-save").write_text("x")
        (output / "half").mkdir()
        return output, saves

    return _left


@pytest.mark.parametrize(
    ("earlier", "now", "reason"),
    [
        ({}, {}, ""),
        ({}, {"threads": 1}, ""),
        ({"forced": True}, {"forced": True}, ""),
        ({"forced": True}, {}, ""),
        ({}, {"forced": True}, "--force requests a fresh result"),
        ({}, {"inputs": {}}, "its saves were made from other inputs"),
        ({"device": "cuda"}, {}, "its saves were made on cuda, and this is cpu"),
        ({}, {"libraries": {"torch": "3"}}, "its saves were made with torch 2.15.0, and this is 3"),
        ({"format": 0}, {}, "its saves are of another version of compress"),
    ],
)
def test_what_is_gone_on_from(left, earlier, now, reason):
    output, saves = left(**earlier)
    notes = []
    begun = begin(attempt(**now), output, saves, notes.append)
    assert (saves / "a-save").exists() == (not reason)
    assert notes == ([f"begins anew: {reason}"] if reason else [])
    assert list(output.iterdir()) == []
    assert begun == (attempt(**now) if reason else attempt(**earlier))  # so with the threads it had
    assert begin(begun, output, saves, notes.append) == begun


def test_another_processor_goes_on_and_says_so(left):
    output, saves = left(processor="Vendor A")
    notes = []
    begin(attempt(processor="Vendor B"), output, saves, notes.append)
    assert (saves / "a-save").exists()
    assert notes == ["goes on from a save of another processor (Vendor A): last digits may differ from those of either"]


@pytest.mark.parametrize("text", ["", "{", '{"forced": 3}'])
def test_a_mark_that_can_not_be_read_is_none(left, text):
    output, saves = left()
    (saves / "attempt.json").write_text(text)
    begin(attempt(), output, saves, print)
    assert not (saves / "a-save").exists()


@pytest.mark.parametrize(
    ("now", "damage", "finished"),
    [({}, b"weights", True), ({"forced": True}, b"weights", False), ({"inputs": {}}, b"weights", False), ({}, b"other", False)],
)
def test_a_try_that_lacked_only_its_name_is_taken_as_it_is(left, now, damage, finished):
    output, saves = left()
    (output / "weights").write_bytes(b"weights")
    Draft(Checkpoint, "k", {}, inputs=INPUTS).commit(output)
    (output / "weights").write_bytes(damage)
    begun = begin(attempt(**now), output, saves, lambda note: None)
    assert begun.finished(output) == finished
    assert bool(list(output.iterdir())) == finished
