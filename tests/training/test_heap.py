"""Freed memory stays with the process while it is kept, and goes back to the system afterwards."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from compress_cli.training.heap import retained_heap

def step():
    return [torch.ones(2**20) for _ in range(20)]  # 4 MB each

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with retained_heap():
    for _ in range(3):
        step()
    before = faults()
    for _ in range(5):
        step()
    print(faults() - before, resident())
print(resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_steps_cost_no_page_faults_while_memory_is_kept():
    made = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    faults, during, after = (int(word) for word in made.stdout.split())
    pages = 5 * 20 * 4 * 2**20 // resource.getpagesize()
    assert faults < pages / 20
    assert during - after > 40 * 2**20
