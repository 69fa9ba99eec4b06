"""Start-up: `--help`, a cached run, and what the commands that need no PyTorch cost, each as a whole process."""

import os
import statistics
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


def seconds(arguments, folder, rounds=7):
    """Wall time of each of some runs of `python ARGUMENTS`, after one that warms the caches."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    took = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True, timeout=300)
        took.append(time.perf_counter() - begun)
    return took[1:]


def test_help_takes_under_a_quarter_of_a_second(tmp_path):
    took = seconds(["-m", "compress_cli", "--help"], tmp_path, 15)
    print(f"\n--help: median {1e3 * statistics.median(took):.0f} ms, {1e3 * min(took):.0f} to {1e3 * max(took):.0f} ms")
    assert statistics.median(took) < 0.25


def test_a_cached_run_costs_at_most_a_second_more_than_its_imports(tmp_path):
    recipe = os.path.join(os.getcwd(), "recipes", "digits.yaml")
    run = ["-m", "compress_cli", "run", recipe, "--quiet"]
    imports = (
        "import compress_cli.pipeline.run, compress_cli.report.terminal, compress_cli.stages.train, "
        "compress_cli.stages.distill, compress_cli.stages.prune, compress_cli.stages.quantize, compress_cli.stages.export"
    )
    seconds(run, tmp_path, 0)
    more = []
    for _ in range(5):
        cached, bare = seconds(run, tmp_path, 1)[0], seconds(["-c", imports], tmp_path, 1)[0]
        more.append(cached - bare)
    print(f"\ncached run: {statistics.median(more):.2f} s more than its imports ({min(more):.2f} to {max(more):.2f})")
    assert statistics.median(more) <= 1.0
