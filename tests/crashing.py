"""Runs one step of a recipe in a process that dies where it is told: imports once, forks for every try.

Orders come as lines of JSON on standard input: `steps` (names; the last one is run, the others serve), `store`, `output`,
`force`, `log`, and when to die: `die_at` (the nth place reached between opening and renaming a file) or `after_s`. The
answer is a line of JSON: `code` (-9 for a kill), `seconds`, and `places`, what was reached.
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

from compress_cli import durable, plan, recipe, run
from compress_cli.store import Store


class Silent:
    def begins(self, step, smoke): ...

    def progress(self, step, progress):
        if progress.note:
            print(f"{step.name}: {progress.note}", flush=True)

    def ended(self, step, cached, seconds, problem): ...


def obey(order, planned):
    """In the forked process."""
    places = Path(order["log"]).with_suffix(".places").open("a")
    count = 0

    def reached(place):
        nonlocal count
        count += 1
        print(place, file=places, flush=True)
        if count == order.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    durable.reached = reached
    run.smoke = lambda *arguments: []
    named = {step.name: step for step in planned.steps}
    planned = replace(planned, steps=tuple(named[name] for name in order["steps"]), rows=())
    force = frozenset(order.get("force", ()))
    work = run.Run(planned, Store(Path(order["store"])), Path(order["output"]), Silent(), force)
    work._link = lambda: None  # of the stages that were left out
    work.execute()


def forked(order, planned):
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
            obey(order, planned)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if "after_s" in order and time.monotonic() - begun > order["after_s"]:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    code, seconds = os.waitstatus_to_exitcode(ended[1]), time.monotonic() - begun
    places = log.with_suffix(".places")
    return {"code": code, "seconds": seconds, "places": places.read_text().split("\n")[:-1] if places.is_file() else []}


def main():
    planned = plan.plan(recipe.load(Path(sys.argv[1])))
    for split in ("train", "val", "test"):
        planned.recipe.dataset.split(split)  # read before the first fork
    print(json.dumps({step.name: step.key for step in planned.steps}), flush=True)
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line), planned)), flush=True)


if __name__ == "__main__":
    main()
