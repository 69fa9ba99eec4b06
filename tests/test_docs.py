"""The pages are true: the reference is what the code says, links lead somewhere, recipes in them load."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from compress_cli import errors
from compress_cli.pipeline import recipe, searched
from compress_cli.plugin import catalogue
from compress_cli.search import space

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says(reference):
    pages = reference.pages()
    assert {path.name for path in (DOCS / "reference").glob("*.md")} == pages.keys(), "run `make docs`"
    stale = [name for name, text in pages.items() if (DOCS / "reference" / name).read_text() != text]
    assert stale == [], "run `make docs`"


def test_every_plugin_and_command_has_its_place_in_the_reference(reference):
    pages = reference.pages()
    for folder, names in catalogue().items():
        headings = set(re.findall(r"^## (\S+)$", pages[f"{folder}.md"], re.MULTILINE))
        assert headings == names.keys()
    assert "## compress eval" in pages["commands.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_recipes_in_pages_load(page, tmp_path):
    """Whole recipes as they stand; parts of one as the stages of a recipe, tasks as its task."""
    for number, block in enumerate(BLOCK.findall(page.read_text())):
        data = yaml.safe_load(block)
        if isinstance(data, list):
            data = {"dataset": "digits", "stages": data}
        elif data.keys() == {"task"}:
            data = {"dataset": "digits", "stages": ["export"], **data}
        elif "stages" not in data:
            continue  # a workflow
        path = tmp_path / f"recipe{number}.yaml"
        path.write_text(yaml.safe_dump(data))
        assert space.load(path).plans() if searched.find(recipe.read(path)) else recipe.load(path).stages


def test_the_task_in_the_pages_runs(compress):
    (example,) = [code for code in PYTHON.findall((DOCS / "models_and_data.md").read_text()) if "(Task)" in code]
    assert len(example.splitlines()) <= 40
    Path("my_task.py").write_text(example)
    labels = np.arange(200) % 2
    features = np.random.default_rng(0).normal(size=(200, 4)) + 2 * labels[:, None]
    np.savez("points.npz", features=features.astype(np.float32), label=labels)
    Path("r.yaml").write_text(
        "{dataset: {type: npz, train: points.npz, inputs: [features]}, task: ranking, gates: [auc>=0.6], "
        "stages: [{type: train, model: {type: mlp, hidden: [8]}, training: {epochs: 5, batch: 32}}]}"
    )
    outcome = compress("run", "r.yaml", "-q", "--json", "--plugin", "my_task.py")
    assert outcome.code == 0, outcome
    (row,) = json.loads(outcome.out)["rows"]
    assert row["metrics"].keys() == {"auc", "accuracy"}


def test_exit_codes_are_those_of_the_errors():
    codes = {cls.exit_code for cls in vars(errors).values() if isinstance(cls, type) and hasattr(cls, "exit_code")}
    page = (DOCS / "exit_codes.md").read_text()
    assert {int(code) for code in re.findall(r"^\| (\d+)", page, re.MULTILINE)} >= codes | {0}


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.search(r"```{toctree}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)[1].split())
    assert listed == {path.stem for path in DOCS.glob("*.md") if path.stem != "index"} | {"reference/index"}


def test_workflows_are_yaml_that_calls_what_there_is():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        commands = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
        assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= targets
        called = set(re.findall(r"\bcompress ([a-z]+)", commands))
        assert called <= {path.stem for path in (ROOT / "compress_cli" / "cli").glob("[a-z]*.py")}


def test_every_target_of_the_makefile_says_what_it_does():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    assert set(phony) == set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
