"""How far one batch and one key travel: files entered and functions returned from. `python docs/walks.py`

A batch goes from the loader that orders its samples to the value of the loss; a key from the recipe's text to the manifest that
carries it. Only this package's own functions count, comprehensions left out.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from compress_cli.pipeline import plan, recipe
from compress_cli.pipeline.run import Run
from compress_cli.store.store import Store

PACKAGE = Path(__file__).parent.parent / "compress_cli"
RECIPE = """\
dataset: digits
threads: 1
stages:
  - type: train
    model: {{type: mlp, hidden: [8]}}
    training: {{epochs: {epochs}, batch: 2000, precision: float32, augment: [{{type: crop, padding: 1}}]}}
"""


class Walk:
    """Counts the package's functions between a first and a last moment, without what a stage does in its `run`."""

    def __init__(self, first: tuple[str, str], last: tuple[str, str], through_stages: bool):
        self.first, self.last, self.through_stages = first, last, through_stages
        self.files: list[str] = []
        self.returns, self.on_the_way, self.arrived, self.at_work = 0, False, False, None

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if self.arrived or event not in ("call", "return") or not path.startswith(str(PACKAGE)):
            return
        file, function = str(Path(path).relative_to(PACKAGE)), frame.f_code.co_name
        self.on_the_way = self.on_the_way or (event == "call" and (file, function) == self.first)
        if self.at_work is frame and event == "return":
            self.at_work = None
        if not self.on_the_way or self.at_work:
            return
        if event == "call":
            self.files += [] if file in self.files else [file]
            if not self.through_stages and file.startswith("stages/") and function == "run":
                self.at_work = frame
        elif not function.startswith("<"):
            self.returns += 1
            self.arrived = (file, function) == self.last

    def __str__(self) -> str:
        return f"{len(self.files)} files, {self.returns} returns: {' '.join(self.files)}"


class Silent:
    """Listens to a run and shows nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *details, **more: None


def main() -> None:
    walks = {
        "batch": Walk(("training/loader.py", "epoch"), ("losses/cross_entropy.py", "__call__"), through_stages=True),
        "key": Walk(("pipeline/recipe.py", "load"), ("store/artifact.py", "commit"), through_stages=False),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.yaml")

        def run(epochs: int) -> None:
            path.write_text(RECIPE.format(epochs=epochs))
            until = plan.plan(recipe.load(path)).until("train")
            Run(until, Store(Path(folder, "store")), Path(folder, "runs"), Silent()).execute()

        run(1)  # imports, and what is remembered
        for epochs, (name, walk) in enumerate(walks.items(), 2):
            sys.setprofile(walk)
            run(epochs)
            sys.setprofile(None)
            print(f"{name}: {walk}")


if __name__ == "__main__":
    main()
