"""How the processes of one run find each other: a store of short messages, which the first of them or torchrun keeps.

Store: `hello/1` (who a process is), `order/3` (the third step that is to be made together), `ready/3/1` (process 1 has all
for it), `failed/1` (why process 1 can't go on), `ended` (the first process is done, or gave up).
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

import compress_cli
from compress_cli.errors import RecipeError, StageError
from compress_cli.pipeline import executor
from compress_cli.pipeline.plan import Plan

WAIT_S = 600.0  # for a process that has not come yet: machines of a cluster do not start at once
SILENCE = timedelta(hours=1)  # of a process in the middle of a step, after which it counts as gone
Messages = Store  # short ones, which all processes see; the other store holds artifacts
ENDED = "ended"
DONE = "1"
POLL_S = 0.05
NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Place(BaseModel):
    """A process's place among those of a run, as torchrun and its like tell it in the environment."""

    model_config = ConfigDict(frozen=True)

    rank: int
    count: int
    local_rank: int
    host: str  # of the first process
    port: int
    kept_by_torchrun: bool = False  # the messages
    attempt: int = 0  # torchrun's, which may start all processes again

    @classmethod
    def of_environment(cls) -> Place | None:
        """None where this process is the only one; RecipeError where the environment contradicts itself."""
        known = {name: os.environ.get(name, "") for name in NAMES}
        if known["WORLD_SIZE"] in ("", "1") or not all(known.values()):
            return None
        try:
            place = cls(
                rank=int(known["RANK"]),
                count=int(known["WORLD_SIZE"]),
                local_rank=int(os.environ.get("LOCAL_RANK", known["RANK"])),
                host=known["MASTER_ADDR"],
                port=int(known["MASTER_PORT"]),
                kept_by_torchrun=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                attempt=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            )
        except ValueError:
            place = None
        if place is None or not 0 <= place.rank < place.count:
            listed = ", ".join(f"{name}={value}" for name, value in known.items())
            raise RecipeError(f"the environment names no process of a training on several: {listed}; start it with torchrun")
        return place

    def environment(self) -> dict[str, str]:
        """The same for a process that is to be started."""
        values = (self.rank, self.count, self.host, self.port)
        return dict(zip(NAMES, map(str, values), strict=True)) | {"LOCAL_RANK": str(self.local_rank)}

    def connect(self) -> Messages:
        """The store of messages; StageError where the first process does not come."""
        first = self.rank == 0 and not self.kept_by_torchrun
        try:
            store = TCPStore(self.host, self.port, None, first, timedelta(seconds=WAIT_S), wait_for_workers=False)
        except RuntimeError as error:
            what = "can't be taken" if first else "is not answered by the first process"
            raise StageError(f"{self.host}:{self.port} {what}: {str(error).partition(chr(10))[0]}") from error
        return PrefixStore(f"compress/{self.attempt}", store)

    def join(self, messages: Messages, device: str) -> None:
        """Open the connections over which processes that train together exchange tensors; waits for all of them."""
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo",
            store=PrefixStore("group", messages),
            rank=self.rank,
            world_size=self.count,
            timeout=SILENCE,
        )


class Hello(BaseModel):
    """What has to be the same in all processes, and where this one runs."""

    model_config = ConfigDict(frozen=True)

    machine: str
    keys: dict[str, str]  # stage -> key of its step
    versions: dict[str, str]

    @classmethod
    def of(cls, planned: Plan) -> Hello:
        keys = {step.name: step.key for step in planned.steps if step.stage.distributed}
        return cls(machine=machine(), keys=keys, versions={"compress": compress_cli.__version__, **executor.libraries()})

    def difference(self, other: Hello) -> str:
        """In what the other process differs from this one; empty where in nothing."""
        for name, version in self.versions.items():
            if other.versions.get(name) != version:
                return f"has {name} {other.versions.get(name)}, and the first process {version}; install the same"
        names = [name for name in {**self.keys, **other.keys} if self.keys.get(name) != other.keys.get(name)]
        if names:
            return f"makes another stage '{names[0]}' than the first one: give both the same recipe, data and plugins"
        return ""


class Order(BaseModel):
    """A step that all processes are to make together."""

    model_config = ConfigDict(frozen=True)

    key: str
    name: str
    inputs: dict[str, list[dict[str, Any]]]  # role -> key and digest of each artifact
    threads: int


class Failure(BaseModel):
    """Why a process can't go on."""

    model_config = ConfigDict(frozen=True)

    machine: str
    message: str
    code: int  # as an exit code
    resource: bool = False


def machine() -> str:
    """The name of this machine."""
    return socket.gethostname()
