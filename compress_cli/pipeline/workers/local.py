"""Processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationError

from compress_cli.pipeline.workers import Handle, Job, Outcome, Workers


class Local(Workers):
    """So many processes of this machine, which share its cores: `--jobs 2` is short for it.

    compress run recipe.yaml --on '{type: local, jobs: 2}'
    """

    here: ClassVar[bool] = True

    jobs: int = Field(2, ge=1, le=1024, description="steps that are made at once")

    @property
    def slots(self) -> int:
        return self.jobs

    def start(self, job: Job, folder: Path) -> Handle:
        path = folder.resolve() / f"{job.key}.json"  # whole, so that a list of processes shows whose job it is
        path.write_text(job.model_dump_json())
        result = path.with_suffix(".outcome")
        result.unlink(missing_ok=True)
        log = path.with_suffix(".log")
        if job.threads is None:
            job = job.model_copy(update={"threads": max(1, (os.cpu_count() or 1) // self.jobs)})
            path.write_text(job.model_dump_json())
        with log.open("wb") as output:
            # In a session of its own: a Ctrl-C reaches this process alone, which then asks the others to save.
            command = [sys.executable, "-m", "compress_cli.pipeline.job", str(path), str(result)]
            process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)
        return _Process(process, result, log)


class _Process(Handle):
    """A process that makes one step."""

    def __init__(self, process: subprocess.Popen[bytes], result: Path, log: Path):
        self.process, self.result, self.log = process, result, log

    def outcome(self) -> Outcome | None:
        code = self.process.poll()
        if code is None:
            return None
        try:
            return Outcome.model_validate_json(self.result.read_bytes())
        except (OSError, ValidationError):
            pass  # it died before it could say how it ended
        if code < 0:
            reason = f"its process was killed by signal {signal.Signals(-code).name}, as happens when memory runs out"
            return Outcome(code=4, message=reason, resource=True)
        return Outcome(code=1, message=self.log.read_text(errors="replace")[-4000:])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
