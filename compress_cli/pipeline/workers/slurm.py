"""A Slurm cluster, through submitit."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from compress_cli.errors import RecipeError
from compress_cli.pipeline.workers import Handle, Job, Outcome, Workers
from compress_cli.settings import Many


class Slurm(Workers):
    """Each long step as a job of a Slurm cluster whose machines see the same files.

        compress run recipe.yaml --on slurm
        compress run recipe.yaml --on '{type: slurm, partition: gpu, gpus: 1, hours: 8}'

    A job that reaches its time limit, or is preempted, is queued again and goes on from its last save. Scripts and logs lie
    in the run's folder under `.jobs` until the run is done. Needs `pip install compress-cli[slurm]`.
    """

    partition: str | None = Field(None, description="default: the cluster's")
    account: str | None = Field(None, description="which budget pays; default: the user's")
    hours: float = Field(12.0, gt=0, le=10_000, description="the longest that one job takes before it is queued again")
    cores: int = Field(4, ge=1, description="processor cores of a job")
    memory_gb: int = Field(16, ge=1, description="memory of a job")
    gpus: int = Field(0, ge=0, description="GPUs of a job")
    jobs: int = Field(64, ge=1, description="steps that are queued at once")
    setup: Many[str] = Field((), description="shell commands before the job, such as `module load cuda`")
    requeues: int = Field(20, ge=0, description="how often a job that reached its time limit is queued again")

    @property
    def slots(self) -> int:
        return self.jobs

    def check(self) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise RecipeError("--on slurm: needs `pip install compress-cli[slurm]`")
        missing = [program for program in ("sbatch", "srun") if shutil.which(program) is None]
        if missing:
            remedy = "run it where jobs are submitted, or use --jobs"
            raise RecipeError(f"--on slurm: there is no {missing[0]} on this machine; {remedy}")

    def start(self, job: Job, folder: Path) -> Handle:
        if job.threads is None:
            job = job.model_copy(update={"threads": self.cores})
        submitted = self.executor(folder / "slurm").submit(Task(), job.model_dump_json())
        return _Submitted(submitted)

    def executor(self, folder: Path) -> Any:
        """submitit's executor with these settings."""
        import submitit

        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self.requeues)
        settings = {
            "name": "compress",
            "timeout_min": max(1, round(60 * self.hours)),
            "cpus_per_task": self.cores,
            "mem_gb": self.memory_gb,
            "slurm_setup": list(self.setup) or None,
            "gpus_per_node": self.gpus or None,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
        }
        executor.update_parameters(**{name: value for name, value in settings.items() if value is not None})
        return executor


class Task:
    """What a job of the cluster runs; submitit queues it again where the cluster takes its machine away."""

    def __call__(self, job: str) -> str:
        from compress_cli.pipeline import job as jobs

        return jobs.make(Job.model_validate_json(job)).model_dump_json()

    def checkpoint(self, job: str) -> Any:
        """The same job again: it goes on from its last save."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, job)


class _Submitted(Handle):
    """A job in the cluster's queue."""

    def __init__(self, job: Any):
        self.job = job

    def outcome(self) -> Outcome | None:
        import submitit

        if not self.job.done():
            return None
        try:
            return Outcome.model_validate_json(self.job.result())
        except submitit.core.utils.UncompletedJobError as error:  # killed, or out of memory: the cluster's log says which
            reason = str(error).strip().splitlines()[0]
            return Outcome(code=4, message=f"job {self.job.job_id}: {reason}; see {self.job.paths.stderr}", resource=True)
        except submitit.core.utils.FailedJobError as error:
            return Outcome(code=1, message=str(error))

    def stop(self) -> None:
        self.job.cancel(check=False)
