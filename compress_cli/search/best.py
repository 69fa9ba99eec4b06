"""The best trial's recipe as a file: the original text with values in place of its searches."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from compress_cli.errors import ArtifactError
from compress_cli.pipeline import plan, recipe
from compress_cli.search.outcome import Outcome
from compress_cli.search.space import Space
from compress_cli.search.study import Trial
from compress_cli.search.trial import described


def text(space: Space, trials: Sequence[Trial], outcome: Outcome, header: str) -> str:
    """The recipe of the trial `outcome.best`, with a header that says where it comes from."""
    found = outcome.trial(outcome.best if outcome.best is not None else -1)
    trial = next(each for each in trials if each.number == found.number)
    assert found.figures is not None
    overrides = "".join(f" --set {shlex.quote(assignment)}" for assignment in space.overrides)
    source = f"trial {found.number} of {len(outcome.trials)} of the study '{outcome.study}' of {Path(outcome.recipe).name}"
    lines = [
        f"{header}: {source}.",
        f"On val: {described(found.figures, outcome.goal)}.",
        f"compress run {Path(outcome.written).name}{overrides}   (its stages are up to date; it measures on test)",
        "",
    ]
    return space.written(trial.drawn, lines, trial.notes.get("threads"))


def check(path: Path, overrides: Sequence[str], outcome: Outcome) -> None:
    """ArtifactError where the written recipe would make other artifacts than its trial did."""
    made = set(outcome.trial(outcome.best if outcome.best is not None else -1).keys.values())
    steps = plan.plan(recipe.load(path, overrides)).stages
    other = [step.name for step in steps if step.key not in made]
    if other:
        raise ArtifactError(
            f"{path}: would make {', '.join(other)} anew: the recipe, its data or this program changed meanwhile"
        )
