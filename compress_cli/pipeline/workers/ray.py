"""A Ray cluster."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from typing import Any

from pydantic import Field

from compress_cli.errors import RecipeError, StageError
from compress_cli.pipeline.workers import Handle, Job, Outcome, Workers

ANSWER_S = 10.0


class Ray(Workers):
    """Each long step as a task of a Ray cluster whose machines see the same files.

        compress run recipe.yaml --on '{type: ray, address: "ray://head:10001"}'

    Without an address Ray is started on this machine. A task whose machine is lost is started again and goes on from the last
    save. Needs `pip install compress-cli[ray]`.
    """

    address: str | None = Field(None, description="of the cluster, such as ray://head:10001 or auto; default: this machine")
    cores: int = Field(1, ge=1, description="processor cores of a task")
    gpus: float = Field(0.0, ge=0, description="GPUs of a task")
    jobs: int = Field(64, ge=1, description="tasks that are queued at once")
    retries: int = Field(3, ge=0, description="how often a task whose machine is lost is started again")

    @property
    def slots(self) -> int:
        return self.jobs

    def check(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RecipeError("--on ray: needs `pip install compress-cli[ray]`")
        host, _, port = (self.address or "").removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal():
            return  # this machine, or `auto`
        try:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise RecipeError(f"--on ray: nobody answers at {self.address} ({error}); is the cluster's head up?") from None

    def start(self, job: Job, folder: Path) -> Handle:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        import ray

        try:
            if not ray.is_initialized():
                ray.init(address=self.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, TimeoutError) as error:
            reason = str(error).partition("\n")[0]
            raise StageError(f"--on ray: can't be reached at {self.address or 'this machine'}: {reason}") from error
        if job.threads is None:
            job = job.model_copy(update={"threads": self.cores})
        task = ray.remote(num_cpus=self.cores, num_gpus=self.gpus, max_retries=self.retries)(_make)
        return _Task(task.remote(job.model_dump_json()))


def _make(job: str) -> str:
    import subprocess
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # a process of its own: signals reach only a main thread
        path, result = Path(folder, "job.json"), Path(folder, "outcome.json")
        path.write_text(job)
        command = [sys.executable, "-m", "compress_cli.pipeline.job", str(path), str(result)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:  # by which Ray cancels a task
            process.terminate()
            output, _ = process.communicate()
        if result.is_file():
            return result.read_text()
        reason = f"its process ended with {process.returncode}: {output[-2000:]}"
        return Outcome(code=4, message=reason, resource=True).model_dump_json()


class _Task(Handle):
    """A task of the cluster."""

    def __init__(self, reference: Any):
        self.reference = reference

    def outcome(self) -> Outcome | None:
        import ray

        ready, _ = ray.wait([self.reference], timeout=0)
        if not ready:
            return None
        try:
            return Outcome.model_validate_json(ray.get(self.reference))
        except ray.exceptions.RayError as error:
            return Outcome(code=4, message=str(error).partition("\n")[0], resource=True)

    def stop(self) -> None:
        import ray

        ray.cancel(self.reference)
