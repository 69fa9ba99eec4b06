"""What a step will cost is taken from a step that is like it, of the same architecture."""

import pytest

from compress_cli.pipeline import estimate, plan, recipe
from compress_cli.store.artifact import File, Manifest, Source

TEXT = """\
dataset: digits
seed: SEED
stages:
  - {type: train, model: {type: convnet, widths: WIDTHS}, training: {epochs: EPOCHS}}
  - {type: prune, ratio: 0.5}
  - export
"""


@pytest.fixture
def steps(tmp_path):
    def _steps(seed=0, widths="[8, 16]", epochs=3):
        (tmp_path / "r.yaml").write_text(
            TEXT.replace("SEED", str(seed)).replace("WIDTHS", widths).replace("EPOCHS", str(epochs))
        )
        return {step.name: step for step in plan.plan(recipe.load(tmp_path / "r.yaml")).steps}

    return _steps


def manifest(step, seconds):
    return Manifest(
        format=1,
        kind=step.kind.__name__,
        key=step.key,
        stage=step.stage.model_dump(mode="json"),
        facts={},
        inputs={role: [Source(key=each.key, digest="") for each in found] for role, found in step.inputs.items()},
        environment={"peak_memory_bytes": 7},
        wall_time_s=seconds,
        files={"model": File(bytes=100, sha256="")},
    )


def test_an_earlier_run_of_the_step_itself_comes_first(steps):
    known = [manifest(step, float(place)) for place, step in enumerate(steps().values())]
    found = [estimate.cost(step, known, ()) for step in steps().values()]
    assert [(each.source, each.seconds) for each in found] == [("earlier run", float(place)) for place in range(len(known))]
    assert (found[0].disk_bytes, found[0].memory_bytes) == (100, 7)


def test_the_same_settings_count_where_the_network_is_the_same(steps):
    known = [manifest(step, 1.0) for step in steps().values()]
    alike = {name: estimate.cost(step, known, ()) for name, step in steps(seed=1).items()}
    assert {each.source for each in alike.values()} == {"same settings"}
    longer = {name: estimate.cost(step, known, ()) for name, step in steps(epochs=4).items()}
    assert longer["train"] is None
    assert longer["export"].source == "same settings"
    wider = {name: estimate.cost(step, known, ()) for name, step in steps(widths="[64, 128]").items()}
    assert set(wider.values()) == {None}
