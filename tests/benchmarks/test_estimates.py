"""What `plan` says each step will take, after a smoke run, against what it then takes.

Recipes whose data is in the packages, and with COMPRESS_DATA those on Fashion-MNIST that take minutes.

python -m pytest tests/benchmarks/test_estimates.py -m slow -s [-k breast_cancer]
python tests/benchmarks/test_estimates.py TABLE.md [breast_cancer ...]    # writes the table of the documentation

Everything is counted in CPU seconds of one thread, in place of seconds, so that other work on the machine hardly matters.
Exports are printed and not judged: the same one was seen to take 1.4 and 2.3 s.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPES = (
    "every_stage", "digits", "breast_cancer", "diabetes", "names", "segmentation", "anomalies", "synthetic_ratings",
    "synthetic_reviews", "tags", "masked_words", "digits_warm_start", "mobile_face", "user_similarity", "black_box",
    "keyword_spotting",
)  # fmt: skip
REAL = ("fashion_mnist_equal_bytes", "lenet_deep_compression", "fashion_mnist_mobilenet")
EVERY_STAGE = """\
dataset: digits
stages:
  - {type: train, name: teacher, model: {type: convnet, widths: [32, 64]}, training: {epochs: 12}}
  - type: distill
    name: student
    teacher: teacher
    teacher_cache: true
    model: {type: convnet, widths: [16, 32]}
    training: {epochs: 20, augment: [{type: crop, padding: 1}], views: 10}
  - type: prune
    name: pruned
    keep: {macs: 0.5}
    round_to: 2
    steps: {count: 3, training: {epochs: 4}}
    training: {epochs: 6}
  - {type: sparsify, name: sparse, start: student, ratio: 0.8, rounds: 3, training: {epochs: 5}}
  - {type: quantize_aware, name: aware, start: student, training: {epochs: 4, optimizer: {type: sgd, learning_rate: 0.005}}}
  - {type: quantize, name: int8, start: student}
"""
LONG_S, WITHIN = 2.0, 0.25
SCRIPT = """
import time

time.perf_counter = time.monotonic = time.process_time
import json
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from compress_cli.pipeline import plan, recipe, smoke
from compress_cli.pipeline.estimate import MEMORY, Estimates
from compress_cli.pipeline.run import Run
from compress_cli.store.store import Store


class Silent:
    def __init__(self):
        self.took = {}

    def begins(self, step, smoke): ...
    def progress(self, step, progress): ...

    def ended(self, step, cached, seconds, problem):
        self.took[step.name] = seconds


loaded = recipe.load(Path(sys.argv[1]), ["threads=1", "measure.threads=1", "compare.threads=1"])
planned, store, listener = plan.plan(loaded), Store(Path(sys.argv[2])), Silent()
begun = time.perf_counter()
trials = smoke.smoke(planned, Silent(), memory=store.root / MEMORY)
smoked = time.perf_counter() - begun
smoke.note(planned, trials, store.root / MEMORY)
estimates = Estimates(loaded, store, trials)
expected = {step.name: estimates.of(step) for step in planned.steps}
Run(planned, store, Path(sys.argv[3]), listener).execute()
steps = [
    [step.name, step.stage.type, expected[step.name] and expected[step.name].seconds, listener.took[step.name]]
    for step in planned.steps
]
print(json.dumps({"smoke_s": smoked, "steps": steps}))
"""


def measured(name, folder):
    """What a smoke run took, and of each step: name, stage, estimate, and what it took."""
    path = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
    if name == "every_stage":
        path = folder / "every_stage.yaml"
        path.write_text(EVERY_STAGE)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, path, folder / "store", folder / "run"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*RECIPES, *REAL])
def test_steps_take_about_what_was_estimated(name, tmp_path):
    if name in REAL and not os.environ.get("COMPRESS_DATA"):
        pytest.skip("COMPRESS_DATA names no folder with Fashion-MNIST")
    document = measured(name, tmp_path)
    print(f"\n{name}: smoke run {document['smoke_s']:.1f} s")
    off = []
    for step, stage, expected, took in document["steps"]:
        ratio = f"{expected / max(took, 1e-9):.2f}" if expected else "?"
        print(f"  {step:36} {stage:20} estimated {expected or 0:7.2f} s, took {took:7.2f} s, ratio {ratio}")
        if took >= LONG_S and stage != "export" and not (expected and abs(expected / took - 1) <= WITHIN):
            off.append(step)
    expected = sum(expected or 0.0 for *_, expected, _ in document["steps"])
    took = sum(took for *_, took in document["steps"])
    print(f"  all: estimated {expected:.1f} s, took {took:.1f} s, ratio {expected / took:.2f}")
    assert abs(expected / took - 1) <= WITHIN
    assert not off


def row(name, document):
    """A line of the table: the whole run, and each stage that takes longer than LONG_S, as estimate over what it took."""
    steps = document["steps"]
    expected, took = (sum(step[place] or 0.0 for step in steps) for place in (2, 3))
    long = [step for step in steps if step[3] >= LONG_S]
    ratios = ", ".join(f"{step[0]} {step[2] / step[3]:.2f}" if step[2] else f"{step[0]} ?" for step in long)
    return f"| {name} | {expected:.0f} s | {took:.0f} s | {expected / took:.2f} | {ratios} |\n"


if __name__ == "__main__":
    table = Path(sys.argv[1])
    if not table.exists():
        table.write_text("| recipe | estimated | took | ratio | of each long step |\n| --- | ---: | ---: | ---: | --- |\n")
    for recipe in sys.argv[2:] or RECIPES:
        with tempfile.TemporaryDirectory() as place, table.open("a") as lines:
            found = measured(recipe, Path(place))
            lines.write(row(recipe, found))
        for step in found["steps"]:
            print(recipe, *step)
