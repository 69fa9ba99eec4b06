"""The package is eighteen rooms; imports point down from room to room, and slow libraries are imported late."""

import ast
from collections.abc import Iterator
from pathlib import Path

from compress_cli import plugin

PACKAGE = Path(__file__).parent.parent / "compress_cli"
FLOORS = [  # top to bottom; rooms of one floor do not import each other
    {"cli"},
    {"auto"},
    {"search"},
    {"pipeline"},
    {"stages"},
    {"training", "report"},
    {"distillation"},
    {"losses", "networks", "deployment", "measurement", "context"},
    {"quantization", "store", "data"},
    {"pruning", "statistics", "onnx_graph"},
    {"identity", "fault", "document", "plugin", "settings", "errors", "progress", "stopping"}
    | {"processes", "together", "randomness"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TORCH_FREE = {"data", "measurement", "statistics", "onnx_graph", "report"}
WITH_TORCH = {"data/batch.py", "data/samples.py"}  # batches of tensors, made from a dataset's arrays
SLOW = {"torchao", "torchvision", "torch_pruning", "onnxscript", "sklearn", "transformers", "timm", "pyarrow", "tokenizers"}
FILES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__main__.py" and path != PACKAGE / "__init__.py"
}


def room_of(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def upward(path: str, tree: ast.AST) -> list[str]:
    room = room_of(path)
    names = (name.split(".")[1] for name in imported(ast.walk(tree)) if name.startswith("compress_cli."))
    targets = {name for name in names if name in FLOOR and name != room}
    return [f"{path} -> {target}" for target in sorted(targets) if FLOOR[target] <= min(FLOOR[room], len(FLOORS) - 2)]


def test_imports_point_down():
    assert {room_of(path) for path in FILES} <= FLOOR.keys()
    assert sum((PACKAGE / room).is_dir() for room in FLOOR) <= 20
    assert [each for path, tree in FILES.items() for each in upward(path, tree)] == []


def test_an_upward_import_is_seen():
    tree = ast.parse("from compress_cli.pipeline import plan\nfrom compress_cli.networks.models import Model")
    assert upward("losses/x.py", tree) == ["losses/x.py -> networks", "losses/x.py -> pipeline"]


def test_plugin_files_import_only_their_own_contract():
    offenders = []
    for folder in plugin.folders().values():
        home = folder.relative_to(PACKAGE).as_posix()
        siblings = {f"compress_cli.{home.replace('/', '.')}.{path.stem}": path for path in folder.glob("[a-z]*.py")}
        for path in siblings.values():
            names = {name.rpartition(".")[0] for name in imported(ast.walk(FILES[f"{home}/{path.name}"]))}
            offenders += [f"{home}/{path.name} -> {name}" for name in names & siblings.keys()]
    assert offenders == []


def test_slow_libraries_and_torch_stay_where_they_may():
    at_top = {path: {name.split(".")[0] for name in imported(tree.body)} for path, tree in FILES.items()}
    anywhere = {path: {name.split(".")[0] for name in imported(ast.walk(tree))} for path, tree in FILES.items()}
    assert {path: names & SLOW for path, names in at_top.items() if names & SLOW} == {}
    free = {path for path in FILES if room_of(path) in TORCH_FREE} - WITH_TORCH
    assert [path for path in sorted(free) if "torch" in anywhere[path]] == []


def test_files_are_one_noun_long():
    lines = {path: (PACKAGE / path).read_text().count("\n") for path in FILES}
    assert {path: count for path, count in lines.items() if count > 330} == {}
