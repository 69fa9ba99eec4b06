"""Runs commands, or single steps of a recipe, in processes that die where they are told: imports once, forks for each.

Orders come as lines of JSON on standard input. Either `command` (arguments of `compress`, in the folder `cwd`), whose
process id comes as a first answer. Or `recipe`, `steps` (names; the last one is run, the others serve), `store`, `output`
and `force`, and when to die: `die_at` (the nth place reached between opening and renaming a file) or `after_s`. Both have
`log`. The answer is a line of JSON: `code` (-9 for a kill), `seconds`, and `places`, what was reached. The order
`{"plan": recipe}` is answered with its steps' names, each with the keys of all it takes and its own.
"""

import json
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import onnxscript  # noqa: F401 - the slow imports, once
import sklearn.datasets  # noqa: F401
import torch_pruning  # noqa: F401
from torchao.quantization.pt2e import quantize_pt2e  # noqa: F401

from compress_cli.cli import main
from compress_cli.data.datasets import digits
from compress_cli.pipeline import plan, recipe, run
from compress_cli.pipeline.step import ordered
from compress_cli.store import durable
from compress_cli.store.store import Store


class Silent:
    def begins(self, step, smoke): ...

    def progress(self, step, progress):
        if progress.note:
            print(f"{step.name}: {progress.note}", flush=True)

    def ended(self, step, cached, seconds, problem): ...


PLANS = {}  # recipe -> plan


def obey(order):
    """In the forked process."""
    if "command" in order:
        os.chdir(order["cwd"])
        os.environ.update(COLUMNS="200", NO_COLOR="1")
        main(order["command"])
    planned = PLANS[order["recipe"]]
    places = Path(order["log"]).with_suffix(".places").open("a")
    count = 0

    def crash_point(name):
        nonlocal count
        count += 1
        print(name, file=places, flush=True)
        if count == order.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    durable.crash_point = crash_point
    run.smoke.rehearse = lambda *arguments: []
    named = {step.name: step for step in planned.steps}
    planned = replace(planned, stages=tuple(named[name] for name in order["steps"]), rows=())
    force = frozenset(order.get("force", ()))
    work = run.Run(planned, Store(Path(order["store"])), Path(order["output"]), Silent(), force)
    work._link = lambda made: None  # of the stages that were left out
    work.execute()


def answer(given):
    print(json.dumps(given), flush=True)


def forked(order):
    log = Path(order["log"])
    log.with_suffix(".places").unlink(missing_ok=True)
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = 1
        try:
            obey(order)
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if "command" in order:
        answer(child)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - begun > order.get("after_s", 600):
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    code, seconds = os.waitstatus_to_exitcode(ended[1]), time.monotonic() - begun
    places = log.with_suffix(".places")
    return {"code": code, "seconds": seconds, "places": places.read_text().split("\n")[:-1] if places.is_file() else []}


def listen():
    digits.Digits().split("train")  # read before the first fork
    for line in sys.stdin:
        order = json.loads(line)
        if "plan" in order:
            PLANS[order["plan"]] = plan.plan(recipe.load(Path(order["plan"])))
            answer({step.name: [each.key for each in ordered([step])] for step in PLANS[order["plan"]].steps})
        else:
            answer(forked(order))


if __name__ == "__main__":
    listen()
