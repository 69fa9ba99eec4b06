"""The main job keeps what its recipe's header says."""

import json
import statistics
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
RECIPE = Path(__file__).parent.parent / "recipes" / "digits.yaml"


def test_ten_times_smaller_within_a_point_and_a_half_over_three_seeds(compress):
    drops = []
    for seed in range(3):
        outcome = compress("run", RECIPE, "--quiet", "--json", "--set", f"seed={seed}")
        assert outcome.code == 0, outcome
        rows = {row["name"]: row for row in json.loads(outcome.out)["rows"]}
        sizes = [rows[name]["size_bytes"] for name in ("teacher", "student", "pruned", "int8")]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) == 4
        assert sizes[0] >= 10 * sizes[-1]
        assert rows["teacher"]["parameters"] <= 300_000
        accuracies = [rows[name]["metrics"]["accuracy"]["value"] for name in ("teacher", "int8")]
        drops.append(accuracies[0] - accuracies[1])
    print(f"\naccuracy lost: {[f'{100 * drop:.2f}' for drop in drops]} points")
    assert statistics.fmean(drops) <= 0.015
