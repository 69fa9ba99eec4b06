"""A search whose trials pause against one whose trials all run through (Optuna's TPE alone), after equally many epochs.

Learning curves are simulated: accuracy rises towards a value that widths, rate and momentum decide, with noise, at a pace that
the rate decides. Each search is after the smallest file whose accuracy is surely above 0.9.

python -m pytest tests/benchmarks/test_search.py -m slow -s
"""

import math
import random
from types import SimpleNamespace

import pytest

pytest.importorskip("optuna")

from compress_cli.pipeline.searched import SearchSettings
from compress_cli.search import promotion, space, study, watch, worker
from compress_cli.search.objectives import Figures, Goal
from compress_cli.statistics import gate
from compress_cli.statistics.gate import Gate
from compress_cli.statistics.intervals import Estimate

pytestmark = pytest.mark.slow

EPOCHS, SEEDS = 24, 6
PROMISE = Gate(promise="accuracy>=0.9")
GOAL = Goal(objectives=("size",), gates=(PROMISE,), primary="accuracy", better="higher")
RECIPE = """\
dataset: digits
stages:
  - type: train
    name: net
    model: {type: mlp, hidden: [{search: {low: 4, high: 64}}, {search: {low: 4, high: 64}}]}
    training:
      epochs: 24
      ema: {search: [0.9, 0.99, 0.999]}
      optimizer:
        type: sgd
        momentum: {search: {low: 0.0, high: 0.99}}
        learning_rate: {search: {low: 0.001, high: 1.0, log: true}}
  - {type: quantize, when: {search: [true, false]}}
"""


def training(drawn, seed):
    """Accuracy after each epoch, bytes of the file."""
    first, second, rate, momentum, int8 = (
        drawn[name] for name in ("net.model.hidden.0", "net.model.hidden.1", "net.training.optimizer.learning_rate",
                                 "net.training.optimizer.momentum", "quantize.when")
    )  # fmt: skip
    off = math.log10(rate / (1 - momentum)) + 0.5
    limit = 0.985 - 0.5 / (first + 1) - 0.4 / (second + 1) - 0.06 * off**2 * (3 if off > 0 else 1) - 0.003 * (int8 == "true")
    pace = 2.0 * 10 ** max(0.0, -off)
    noise = random.Random(f"{seed} {sorted(drawn.items())}")
    curve = [max(0.1, limit * (1 - math.exp(-epoch / pace))) + noise.gauss(0, 0.006) for epoch in range(1, EPOCHS + 1)]
    weights = 64 * first + first * second + 10 * second
    return curve, weights * (1 if int8 == "true" else 4) + 300


def judged(accuracy, size):
    estimate = Estimate(value=accuracy, low=accuracy - 0.02, high=accuracy + 0.02, samples=250)
    result = gate.judge(PROMISE, "net", estimate)
    return Figures(
        row="net", metric=accuracy, low=estimate.low, high=estimate.high, samples=250, size_bytes=size, gates=(result,)
    )


def searched(place, folder, settings, seed, trials, budget=math.inf):
    """The smallest feasible file of a search that ends with so many trials or epochs, and the epochs."""
    opened = study.opened("sqlite://", "simulated", GOAL.directions, {"seed": seed})
    shop = SimpleNamespace(
        space=place, study=opened, goal=GOAL, settings=settings, folder=folder, say=lambda line: None, deadline=math.inf
    )
    rungs, spent, best = promotion.rung_epochs(settings.rungs, EPOCHS), 0, math.inf
    while spent < budget and (made := worker._next(shop, trials, seed, "tpe")) is not None:
        curve, size = training(made.drawn, seed)
        for epoch in range(made.notes.get("reached", 0) + 1, EPOCHS + 1):
            spent += 1
            if epoch in rungs:
                rung = rungs.index(epoch)
                opened.note(made, rungs={**made.notes.get("rungs", {}), str(rung): curve[epoch - 1]}, size=size, reached=epoch)
                if not watch.goes_on(shop, made, rung, "net"):
                    opened.wait(made, paused=True)
                    break
        else:
            outcome = judged(curve[-1], size)
            opened.complete(made, [float(size)], {PROMISE.promise: outcome.violations[0]})
            best = min(best, size) if outcome.feasible else best
    return best, spent


def test_trials_that_pause_lead_to_a_file_at_most_as_large_as_tpe_alone_after_equally_many_epochs(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    place, logs = space.load(tmp_path / "r.yaml"), []
    for seed in range(SEEDS):
        ours, epochs = searched(place, tmp_path, SearchSettings(), seed, trials=40)
        alone, _ = searched(place, tmp_path, SearchSettings(rungs=()), seed, trials=10**6, budget=epochs)
        print(f"seed {seed}, {epochs} epochs: pausing {ours} bytes, TPE alone {alone} bytes")
        logs.append(math.log(ours / alone))
    print(f"geometric mean of the ratios: {math.exp(sum(logs) / SEEDS):.2f}")
    assert sum(logs) <= 0
