"""Imports point only downward, and the slow libraries are imported late."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "compress_cli"
LAYERS = [  # top to bottom; within a layer nobody imports a neighbour
    {"__main__"},
    {"cli"},
    {"report"},
    {"reproduction", "evaluation"},
    {"run"},
    {"estimate", "attempt"},
    {"smoke", "lock"},
    {"work"},
    {"plan"},
    {"chain"},
    {"step"},
    {"recipe"},
    {"document"},
    {"stages"},
    {"training"},
    {"state", "objective"},
    {"precision", "feed", "averaging"},
    {"regimen"},
    {"ensemble"},
    {"teachers", "combinations"},
    {"restore"},
    {"classify"},
    {"measure", "preprocess"},
    {"latency", "clients", "profile"},
    {"runtime"},
    {"disturbances"},
    {"context", "samples"},
    {"saves"},
    {
        "losses",
        "criteria",
        "quantizers",
        "edits",
        "models",
        "datasets",
        "tasks",
        "exporters",
        "optimizers",
        "schedules",
        "augmentations",
    },
    {"cost", "layers", "coupling"},
    {"contents"},
    {"activations", "storage"},
    {"projection", "relations", "features", "channels", "widths", "placement", "graph", "randomness", "allocation", "tracing"},
    {"onnx_file"},
    {"reclaim"},
    {"integrity"},
    {"register"},
    {"store", "table"},
    {"artifact"},
    {"record"},
    {"gate", "repeats"},
    {"damage", "findings"},
    {"batch", "signature", "intervals", "agreement", "progress", "card", "pictures", "arrays", "cifar", "weights"},
    {"durable", "stopping"},
    {"fault"},
    {"disk"},
    {"identity"},
    {"plugin"},
    {"settings"},
    {"errors"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
TORCH_FREE = {
    "tasks",
    "datasets",
    "measure",
    "latency",
    "clients",
    "profile",
    "runtime",
    "evaluation",
    "report",
    "graph",
    "contents",
    "activations",
    "storage",
    "layers",
    "intervals",
    "agreement",
    "damage",
    "disturbances",
    "findings",
    "pictures",
    "arrays",
    "cifar",
    "classify",
}
SLOW = {"torchao", "torchvision", "torch_pruning", "onnxscript", "sklearn"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module:
        if node.module == "compress_cli":
            yield from (f"compress_cli.{each.name}" for each in node.names)
        else:
            yield node.module
    elif isinstance(node, ast.Import):
        yield from (each.name for each in node.names)


def upward(path: Path, source: str) -> list[str]:
    part = part_of(path)
    targets = [
        name.split(".")[1] for node in ast.walk(ast.parse(source)) for name in modules(node) if name.startswith("compress_cli.")
    ]
    return [target for target in targets if target != part and RANK[target] <= RANK[part]]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    assert upward(path, path.read_text()) == []


def test_an_upward_import_is_seen():
    assert upward(PACKAGE / "losses" / "x.py", "from compress_cli import plan\nfrom compress_cli.run import Run") == [
        "plan",
        "run",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_plugin_files_import_only_their_own_contract(path):
    home = path.parent
    if home == PACKAGE or part_of(path) in ("cli", "report"):
        return
    named = {name for node in ast.walk(ast.parse(path.read_text())) for name in modules(node)}
    neighbours = {f"compress_cli.{home.name}.{other.stem}" for other in home.glob("*.py") if other != path}
    assert not named & neighbours


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_slow_libraries_and_torch_stay_where_they_may(path):
    at_top = {name.split(".")[0] for node in ast.parse(path.read_text()).body for name in modules(node)}
    assert not at_top & SLOW
    if part_of(path) in TORCH_FREE:
        everywhere = {name.split(".")[0] for node in ast.walk(ast.parse(path.read_text())) for name in modules(node)}
        assert "torch" not in everywhere


def test_files_are_one_noun_long():
    assert {str(path): lines for path in FILES if (lines := path.read_text().count("\n")) > 330} == {}
