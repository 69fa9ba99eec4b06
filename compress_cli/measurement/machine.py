"""The machine that measures: its processor, and the cores at hand."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import onnxruntime


def cores() -> int:
    """Physical cores that this process may use, container limits included."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    physical = {_physical_core(core) for core in allowed}
    return max(1, min(len(physical), _quota()))


def machine() -> dict[str, str | int]:
    """What a latency depends on besides the file: processor, cores at hand, system, ONNX Runtime's version.

    In a virtual machine the processor's name may say little; its family, model and stepping tell generations apart.
    """
    return {
        "processor": _processor("model name") or platform.processor() or platform.machine(),
        "stepping": ".".join(filter(None, map(_processor, ("cpu family", "model", "stepping")))),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": onnxruntime.__version__,
    }


def _processor(fact: str) -> str:
    """What the system says of its first processor; empty where it says nothing."""
    lines = (line.partition(":") for line in _cpuinfo().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == fact), "")


def _physical_core(logical: int) -> str:
    """A name that two hyperthreads of one core share."""
    siblings = Path(f"/sys/devices/system/cpu/cpu{logical}/topology/thread_siblings_list")
    return siblings.read_text().strip() if siblings.is_file() else str(logical)


def _quota() -> int:
    """Cores that the container's limit leaves (cgroup v2)."""
    limit = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = limit.read_text().partition(" ") if limit.is_file() else ("max", "", "")
    return max(1, int(quota) // int(period)) if quota.isdigit() else os.cpu_count() or 1


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""
