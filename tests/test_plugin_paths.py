"""Paths in a key: files by content, places not at all, also where they may be left out."""

from pathlib import Path

from compress_cli.identity import identity
from compress_cli.losses import Loss
from compress_cli.settings import Folder, InputFile, Many


class Paths(Loss):
    """Settings with every form of path."""

    root: Folder | None = None
    file: InputFile | None = None
    files: Many[InputFile] = ()

    def __call__(self, student, teacher, batch, adapter):
        raise AssertionError("only its settings matter here")


def test_places_stay_out_and_files_enter_by_content(tmp_path):
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    (tmp_path / "c").write_text("other")
    a, b, c = (
        identity(Paths(root=tmp_path / name, file=tmp_path / name, files=(tmp_path / name,))) for name in ("a", "b", "c")
    )
    assert a == b != c
    assert "root" not in a
    assert str(tmp_path) not in str(a)


def test_relative_paths_are_relative_to_the_recipe():
    found = Paths.model_validate({"root": "data", "files": ["x"]}, context={"base": Path("/recipes")})
    assert (found.root, found.files) == (Path("/recipes/data"), (Path("/recipes/x"),))


def test_left_out_paths_have_an_identity():
    assert identity(Paths())["file"] is None
