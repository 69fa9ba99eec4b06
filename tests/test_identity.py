"""What a key depends on: data in any field enters by its content, without the stage's help."""

from typing import Annotated, ClassVar

import pytest

from compress_cli.data.datasets import Dataset
from compress_cli.identity import identity
from compress_cli.settings import Many, NotInKey, Settings
from compress_cli.stages import Stage


class Nested(Settings):
    """Data within other settings."""

    data: Dataset


class Reader(Stage):
    """A stage that has data in every form of field, and remembers none of it."""

    one: Dataset | None = None
    several: Many[Dataset] = ()
    nested: Nested | None = None
    named: Annotated[Dataset | None, NotInKey()] = None

    def produces(self, kinds):
        raise AssertionError("only its settings matter here")

    def run(self, context):
        raise AssertionError("only its settings matter here")


class Changing(Dataset):
    """Settings that stay while the content changes."""

    content: ClassVar[str] = "before"

    def fingerprint(self):
        return Changing.content

    def signature(self):
        raise AssertionError("only its settings matter here")

    def split(self, name):
        raise AssertionError("only its settings matter here")


@pytest.mark.parametrize(
    ("settings", "enters"),
    [
        ({"one": Changing()}, True),
        ({"several": (Changing(), Changing())}, True),
        ({"nested": Nested(data=Changing())}, True),
        ({"named": Changing()}, False),
        ({}, False),
    ],
)
def test_data_in_a_field_enters_by_its_content(monkeypatch, settings, enters):
    stage = Reader(**settings)
    before = identity(stage)
    monkeypatch.setattr(Changing, "content", "after")
    assert (identity(stage) != before) == enters


def test_what_a_dataset_makes_its_fingerprint_of_is_its_settings_alone():
    assert "fingerprint" not in identity(Changing())
