"""Weights & Biases."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compress_cli.errors import RecipeError, StageError
from compress_cli.pipeline.trackers import Ending, Figures, TrackedRun, Tracker, Tracking


class Wandb(Tracker):
    """A run of a Weights & Biases project: the recipe as its configuration, curves, the report's figures and files.

        tracking:
          - {type: wandb, project: keywords}

    `mode: offline` keeps everything in the run's folder, and `wandb sync` sends it later. A run that was interrupted goes on
    as the same run. Needs `pip install compress-cli[wandb]` and, online, `wandb login`.
    """

    project: str = Field("compress", min_length=1, description="the project, made where there is none of that name")
    entity: str | None = Field(None, description="the team or user; default: the one that is logged in")
    mode: Literal["online", "offline"] = Field("online", description="offline: `wandb sync` sends it later")

    def open(self, run: TrackedRun) -> Tracking:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError:
            raise RecipeError("tracker wandb: needs `pip install compress-cli[wandb]`") from None
        if self.mode == "online" and not wandb.api.api_key:
            raise RecipeError("tracker wandb: nobody is logged in; run `wandb login`, or set mode: offline")
        with _told():
            tracked = wandb.init(
                project=self.project,
                entity=self.entity,
                name=run.name,
                id=run.identity or secrets.token_hex(4),
                resume="allow",
                mode=self.mode,
                dir=run.directory,
                config=dict(run.settings),
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True, init_timeout=60),
            )
        return _Run(tracked)


class _Run(Tracking):
    """A run of wandb's; each stage counts its own epochs."""

    def __init__(self, run: Any):
        self.run, self.identity = run, str(run.id)
        self.stages: set[str] = set()

    def epoch(self, stage: str, epoch: int, figures: Figures) -> None:
        with _told():
            if stage not in self.stages:
                self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/epoch")
                self.stages.add(stage)
            self.run.log({f"{stage}/epoch": epoch, **{f"{stage}/{name}": figure for name, figure in figures.items()}})

    def results(self, models: Mapping[str, Figures], gates: Mapping[str, str], files: Sequence[Path]) -> None:
        with _told():
            for model, figures in models.items():
                self.run.summary.update({f"{model}/{name}": figure for name, figure in figures.items()})
            self.run.summary.update({f"gate {promise}": outcome for promise, outcome in gates.items()})
            for file in files:
                self.run.save(str(file), base_path=str(file.parent), policy="now")

    def close(self, ending: Ending) -> None:
        with _told():
            self.run.finish(exit_code=0 if ending == "finished" else 1)


@contextmanager
def _told() -> Iterator[None]:
    """The library's errors as one line of ours."""
    import wandb

    try:
        yield
    except wandb.Error as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"tracker wandb: {reason}") from error
