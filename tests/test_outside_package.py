"""A package from elsewhere adds a loss, a model and a dataset by its entry points alone."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "docs" / "example_plugin"
MODULE = "compress_example_plugin.py"
RECIPE = (PACKAGE / "recipe.yaml").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed the package."""
    folder = tmp_path_factory.mktemp("outside")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    groups = project["entry-points"].items()
    entries = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in groups]
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    wheel = folder / f"{stem}-py3-none-any.whl"  # by hand: building one may need a newer setuptools than there is
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(PACKAGE / MODULE, MODULE)
        for name, text in (("METADATA", metadata), ("WHEEL", tags), ("entry_points.txt", "".join(entries)), ("RECORD", "")):
            archive.writestr(f"{stem}.dist-info/{name}", text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", folder / "site", wheel], check=True, timeout=60)
    return folder / "site"


def compress(installed, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{os.getcwd()}"}
    command = [sys.executable, "-m", "compress_cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_recipe_runs_with_plugins_from_another_package(installed, tmp_path):
    (tmp_path / "outside.yaml").write_text(RECIPE)
    done = compress(installed, tmp_path, "run", "outside.yaml", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == ["net", "export"]
    assert rows[0]["metrics"]["accuracy"]["value"] > 0.95
    assert rows[0]["parameters"] == 4 * 6 + 6 + 6 * 2 + 2


def test_its_plugins_are_listed_and_their_fields_checked(installed, tmp_path):
    assert "one_hidden" in compress(installed, tmp_path, "list", "models").stdout
    (tmp_path / "outside.yaml").write_text(RECIPE.replace("hidden: 6", "hiden: 6"))
    done = compress(installed, tmp_path, "plan", "outside.yaml")
    assert done.returncode == 2
    assert "outside.yaml:6: stages[0].model.hiden: there is no field 'hiden'; did you mean 'hidden'?" in done.stderr
