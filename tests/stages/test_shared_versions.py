"""A stage's key holds the version of every shared noun that decides its bytes: found by its imports, not by memory."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "compress_cli"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
STAGES = [module for module in MODULES if module.startswith("compress_cli.stages.") and "._" not in module]
DECIDES_ONLY = {
    # Tasks and restored networks bring these along; only the stages named here write what they compute.
    "statistics.predictions": {"compare_predictions"},
    "measurement.latency": {"compare"},
    "measurement.measure": {
        "attack",
        "drop_layers",
        "measure",
        "predict",
        "pruning_sensitivity",
        "robustness",
        "sensitivity",
    },  # others open a file and read types
    "onnx_graph.contents": {"measure"},
    "statistics.charts": {"measure"},
    "onnx_graph.packing": {"export"},  # others unpack, or count what is packed
    "pruning.weights": {"joint", "sparsify"},  # others count zeros
    "pruning.channels": {"joint", "prune", "pruning_sensitivity"},  # others carry masks through a cut that they do not make
    "onnx_graph.files": {"export", "load", "quantize"},  # others read files
    "networks.features": {"distill", "prune", "similarity", "teacher_table", "train"},  # `restore` only looks up layers' names
    "quantization.placement": {"quantize"},  # of ONNX files
    "quantization.joins": {"quantize"},  # training with simulated integers leaves no join float
    "quantization.annotation": {"joint", "quantize", "quantize_aware", "sensitivity"},  # a table's integers are those of a file
    "stages._initialise": set(),  # `depends` brings it, and the channels' with it, where `initialise: auto` is asked for
    "stages._width_budget": set(),  # the same, where a budget chooses widths
    "training.loader": {"distill", "teacher_table"},  # its version is that of fixed views, which only tables hold
}


@cache
def tree(module):
    return ast.parse(MODULES[module].read_text())


@cache
def imported(module):
    """Modules of the package that a module imports, for types alone too: name in the module -> module."""
    found = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found[alias.asname or alias.name] = whole if whole in MODULES else node.module
    return found


def reached(module):
    """Every module of the package that a module imports, directly or through others."""
    seen, waiting = set(), [module]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += imported(current).values()
    return seen


def versioned(module):
    """Whether a module states the VERSION of what it computes."""
    assigned = [node for node in tree(module).body if isinstance(node, ast.Assign)]
    return any(isinstance(name, ast.Name) and name.id == "VERSION" for node in assigned for name in node.targets)


def listed(module):
    """The modules whose VERSION a stage lists in `shared`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "shared":
            return {imported(module)[version.value.id] for version in node.value.values}
    return set()


def lacking(module, stage):
    nouns = {each.removeprefix("compress_cli.") for each in reached(module) - listed(module) if versioned(each)}
    return sorted(noun for noun in nouns if stage in DECIDES_ONLY.get(noun, {stage}))


@pytest.mark.parametrize("module", STAGES)
def test_a_stage_lists_the_version_of_every_noun_that_decides_its_bytes(module):
    assert lacking(module, module.rpartition(".")[2]) == [], "list them in `shared`, or say in DECIDES_ONLY why not"


def test_a_forgotten_version_is_seen():
    assert lacking("compress_cli.training.loop", "train") == ["networks.features", "training.loop"]
    assert lacking("compress_cli.training.loop", "distill") == ["networks.features", "training.loader", "training.loop"]


def test_exceptions_are_about_nouns_and_stages_that_there_are():
    assert all(versioned(f"compress_cli.{noun}") for noun in DECIDES_ONLY)
    assert {stage for stages in DECIDES_ONLY.values() for stage in stages} <= {module.rpartition(".")[2] for module in STAGES}
