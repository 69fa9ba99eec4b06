"""Chains that fit, chains that don't, and what a key depends on."""

import time

import pytest

from compress_cli.errors import RecipeError
from compress_cli.measurement import sessions
from compress_cli.pipeline import plan, recipe
from compress_cli.pipeline.step import key
from compress_cli.store.artifact import Checkpoint, OnnxModel, Program

CHAIN = """\
dataset: digits
stages:
  - {type: train, name: teacher, model: convnet, training: {epochs: 1}}
  - {type: distill, name: student, model: {type: convnet, widths: [4, 8]}, training: {epochs: 1}}
  - {type: prune, ratio: 0.5, teacher: teacher, training: {epochs: 1}}
  - quantize
  - export
"""


@pytest.fixture
def planned(tmp_path):
    def _planned(text, *overrides, name="r"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return plan.plan(recipe.load(path, overrides))

    return _planned


def keys(planned):
    return {step.name: step.key for step in planned.stages}


def test_each_stage_takes_the_one_before_or_the_one_it_names(planned):
    made = planned(CHAIN)
    assert [step.kind for step in made.stages] == [Checkpoint, Checkpoint, Checkpoint, Program, OnnxModel]
    taken = {
        step.name: {role: [each.name for each in steps] for role, steps in step.inputs.items() if steps} for step in made.stages
    }
    assert taken == {
        "teacher": {},
        "student": {"teacher": ["teacher"]},
        "prune": {"start": ["student"], "teacher": ["teacher"]},
        "quantize": {"start": ["prune"]},
        "export": {"start": ["quantize"]},
    }


def test_models_are_measured_by_implied_steps_after_their_inputs(planned):
    made = planned(CHAIN)
    assert [row.step.name for row in made.rows] == ["teacher", "student", "prune", "quantize", "export"]
    assert made.baseline == "teacher"
    assert made.rows[0].comparison is None
    position = {step.key: place for place, step in enumerate(made.steps)}
    assert len(position) == len(made.steps)
    for step in made.steps:
        assert all(position[each.key] < position[step.key] for sources in step.inputs.values() for each in sources)
    assert made.rows[3].onnx.key == made.rows[4].step.key  # the int8 graph is exported once


def test_a_stage_that_takes_a_file_takes_a_checkpoints_export(planned):
    made = planned(CHAIN.rstrip() + "\n  - {type: robustness, start: student, baseline: teacher}\n")
    robust = made.step("robustness")
    files = {row.step.name: row.onnx.key for row in made.rows}
    assert {role: [each.key for each in steps] for role, steps in robust.inputs.items()} == {
        "start": [files["student"]],
        "baseline": [files["teacher"]],
    }


def test_what_makes_no_model_is_passed_over(planned):
    text = CHAIN.replace("  - quantize", "  - {type: attack, name: tried}\n  - quantize")
    before = {step.name: step for step in planned(CHAIN).stages}
    after = {step.name: step for step in planned(text).stages}
    assert after["quantize"].inputs["start"][0].name == before["quantize"].inputs["start"][0].name
    assert after["quantize"].key == before["quantize"].key


def test_the_plan_until_a_stage_ends_there(planned):
    made = planned(CHAIN).until("student")
    assert [step.name for step in made.stages] == ["teacher", "student"]
    expected = {"train", "distill", "export", "predict", "measure", "compare_predictions", "compare"}
    assert {step.stage.type for step in made.steps} == expected
    with pytest.raises(RecipeError, match=r"no stage 'studnt'.*did you mean 'student'"):
        planned(CHAIN).until("studnt")


def test_inserting_a_stage_keeps_the_earlier_ones(planned):
    before = keys(planned(CHAIN))
    after = keys(planned(CHAIN.replace("  - quantize", "  - {type: prune, name: more, ratio: 0.2}\n  - quantize")))
    same = {name for name in before if before[name] == after[name]}
    assert same == {"teacher", "student", "prune"}


def test_a_temperature_changes_distil_and_what_follows(planned):
    before = keys(planned(CHAIN))
    warm = CHAIN.replace("[4, 8]}", "[4, 8]}, losses: [{type: soft_targets, temperature: 9}]")
    after = keys(planned(warm))
    assert {name for name in before if before[name] == after[name]} == {"teacher"}


def test_names_of_recipe_stage_and_folder_are_not_part_of_a_key(planned, tmp_path):
    before = planned(CHAIN)
    renamed = planned(CHAIN.replace("student", "small").replace("dataset", "name: other\ndataset"), name="elsewhere")
    assert [step.key for step in before.stages] == [step.key for step in renamed.stages]


def test_seed_and_data_change_every_key(planned):
    before = keys(planned(CHAIN))
    for other in (planned(CHAIN, "seed=1"), planned(CHAIN, "dataset={type: digits, split_seed: 1}")):
        assert not set(before.values()) & set(keys(other).values())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("stages: [quantize]", "2: stages[0]: stage 'quantize' comes first, but needs a Checkpoint or an OnnxModel"),
        (
            "stages:\n" + 2 * "  - {type: train, model: mlp, training: {epochs: 1}}\n",
            "4: stages[1]: two stages are called 'train' (see stages[0]); rename one",
        ),
        (
            "stages:\n  - {type: train, name: t, model: mlp, training: {epochs: 1}}\n"
            "  - {type: distill, model: mlp, teacher: tt, training: {epochs: 1}}",
            "4: stages[1].teacher: teacher 'tt' is no stage of this recipe; did you mean 't'?",
        ),
        (
            "stages:\n  - {type: distill, model: mlp, teacher: t, training: {epochs: 1}}\n"
            "  - {type: train, name: t, model: mlp, training: {epochs: 1}}",
            "3: stages[0].teacher: teacher 't' is not before stage 'distill'; move it up",
        ),
        (
            "stages:\n  - {type: train, model: mlp, training: {epochs: 1}}\n  - export\n  - {type: prune, ratio: 0.5}",
            "5: stages[2]: stage 'prune' needs a Checkpoint, but 'export' makes an OnnxModel",
        ),
        (
            "baseline: tain\nstages:\n  - {type: train, model: mlp, training: {epochs: 1}}",
            "2: baseline: 'tain' is no stage that makes a model; did you mean 'train'?",
        ),
    ],
)  # fmt: skip
def test_a_chain_that_does_not_fit_is_refused_with_its_line(planned, tmp_path, text, complaint):
    with pytest.raises(RecipeError) as caught:
        planned(f"dataset: digits\n{text}\n")
    assert str(caught.value).startswith(f"{tmp_path}/r.yaml:{complaint}")
    assert len(str(caught.value).splitlines()) == 1


def test_all_misfits_are_named_at_once(planned):
    with pytest.raises(RecipeError) as caught:
        planned(CHAIN.replace("teacher: teacher", "teacher: nobody").replace("  - export", "  - {type: quantize, start: no}"))
    assert len(str(caught.value).splitlines()) == 3


def test_a_weights_file_enters_a_key_by_its_content(planned, tmp_path):
    text = "dataset: digits\nstages:\n  - {type: load, weights: %s, model: mlp}\n"
    (tmp_path / "first.safetensors").write_bytes(b"one")
    before = keys(planned(text % "first.safetensors"))
    (tmp_path / "moved").mkdir()
    (tmp_path / "first.safetensors").rename(tmp_path / "moved" / "other.safetensors")
    assert keys(planned(text % "moved/other.safetensors")) == before
    (tmp_path / "moved" / "other.safetensors").write_bytes(b"two")
    assert keys(planned(text % "moved/other.safetensors")) != before


SEEDS = CHAIN.replace("name: student,", "name: student, teacher: teacher, seeds: [4, 5, 6],")


def test_seeds_repeat_their_stage_and_what_follows_and_no_more(planned):
    made = planned(SEEDS)
    assert [step.name for step in made.stages] == ["teacher", "student", "prune", "quantize", "export"]
    assert {step.name for step in made.repeated} == {
        f"{name}.seed{seed}" for name in ("student", "prune", "quantize", "export") for seed in (5, 6)
    }
    by_name = {step.name: step for step in (*made.stages, *made.repeated)}
    assert {name: step.seed for name, step in by_name.items() if "seed" not in name} == {
        "teacher": 0, "student": 4, "prune": 4, "quantize": 4, "export": 4,
    }  # fmt: skip
    assert by_name["prune.seed5"].inputs["start"] == (by_name["student.seed5"],)
    assert by_name["prune.seed5"].inputs["teacher"] == (by_name["teacher"],)
    assert len({step.key for step in by_name.values()}) == len(by_name)
    assert {row.step.name for row in made.variants} == {step.name for step in made.repeated}
    assert {row.measurement.key for row in made.variants} < {step.key for step in made.steps}
    assert all(row.comparison is None for row in made.variants)


def test_more_seeds_or_a_control_keep_what_is_there(planned):
    before = {step.key for step in planned(SEEDS).steps}
    more = planned(SEEDS.replace("[4, 5, 6]", "[4, 5, 6, 7], control: true"))
    assert before < {step.key for step in more.steps}
    alone = planned(CHAIN, "seed=5")
    assert by(more.repeated, "student.seed5").key != by(alone.stages, "student").key  # its teacher has another seed


def by(steps, name):
    return next(step for step in steps if step.name == name)


def test_a_control_is_the_same_student_without_the_teacher(planned):
    made = planned(SEEDS.replace("seeds: [4, 5, 6]", "control: true, seeds: [4, 5]"))
    controls = {row.step.name: row.step for row in made.variants if row.step.variant == "control"}
    assert {name: step.seed for name, step in controls.items()} == {"student.control": 4, "student.seed5.control": 5}
    control, student = controls["student.control"], by(made.stages, "student")
    assert (control.variant_of, control.kind, [*control.sources]) == ("student", Checkpoint, [])
    assert (control.stage.model, control.stage.training) == (student.stage.model, student.stage.training)
    same = planned(
        "dataset: digits\nstages:\n  - {type: train, model: {type: convnet, widths: [4, 8]}, training: {epochs: 1}}", "seed=4"
    )
    assert control.key == same.stages[0].key


def test_a_seed_of_its_own_follows_another(planned):
    """Born-again generations (Furlanello et al. 2018) start from different weights; one may be repeated too."""
    generation = "  - {type: distill, name: %s, seeds: %s, model: mlp, training: {epochs: 1}}\n"
    text = "dataset: digits\nstages:\n  - {type: train, name: first, model: mlp, training: {epochs: 1}}\n"
    made = planned(text + generation % ("second", [1]) + generation % ("third", [2, 3]) + "  - export\n")
    assert {step.name: step.seed for step in made.stages} == {"first": 0, "second": 1, "third": 2, "export": 2}
    assert by(made.repeated, "third.seed3").inputs["teacher"] == (by(made.stages, "second"),)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            ("ratio: 0.5,", "ratio: 0.5, seeds: [1],"),
            "5: stages[2].seeds: 'prune' follows 'student', which has several seeds",
        ),
        (("[4, 5, 6]", "[4, 4]"), r"4: stages[1].seeds: a seed occurs twice in [4, 4]"),
        (("[4, 5, 6]", "[-1]"), "4: stages[1].seeds[0]: must be greater than or equal to 0"),
        (
            ("ratio: 0.5, teacher: teacher", "ratio: 0.5, teacher: t2, start: student"),
            "6: stages[3]: 'prune' follows student and t2, which have different seeds; give them the same",
        ),
    ],
)
def test_seeds_that_contradict_are_refused(planned, change, complaint):
    text = SEEDS.replace(*change)
    if "t2" in complaint:
        text = text.replace(
            "  - {type: prune",
            "  - {type: train, name: t2, seeds: [1, 2], model: mlp, training: {epochs: 1}}\n  - {type: prune",
        )
    with pytest.raises(RecipeError) as refused:
        planned(text)
    assert complaint in str(refused.value)


ONE = "dataset: digits\nstages:\n  - {type: train, model: mlp, training: {epochs: 1}}\n"


def of_type(planned, kind):
    (found,) = (step for step in planned.steps if step.stage.type == kind)
    return found


def test_a_run_of_one_model_times_it_alone(planned):
    compared = of_type(planned(ONE), "compare")
    assert compared.inputs["baseline"] == ()
    assert compared.inputs["start"] == (planned(ONE).rows[0].onnx,)
    assert planned(ONE).rows[0].comparison == compared


def test_another_task_is_judged_from_predictions_that_are_there(planned):
    made = planned(ONE)
    other = planned(ONE + "task: {type: classification, head: logits}\n").recipe
    for step, kept in ((of_type(made, "predict"), True), (of_type(made, "measure"), False), (of_type(made, "compare"), True)):
        assert (
            key(step.stage, step.inputs, step.seed, other, "f") == key(step.stage, step.inputs, step.seed, made.recipe, "f")
        ) is kept


def test_another_machine_times_again_and_measures_nothing_again(planned, monkeypatch):
    before = planned(CHAIN)
    here = sessions.machine()
    for fact in here:
        monkeypatch.setattr(sessions, "machine", lambda fact=fact: {**here, fact: "another"})
        fresh = {step.key for step in planned(CHAIN).steps} - {step.key for step in before.steps}
        assert fresh == {row.comparison.key for row in planned(CHAIN).rows if row.comparison}


@pytest.mark.parametrize(
    ("block", "changed"),
    [
        ("measure: {batch: 7}", {"predict", "measure", "compare_predictions"}),
        ("measure: {session: {optimisation: basic}}", {"predict", "measure", "compare_predictions"}),
        ("compare: {threads: 1}", {"compare"}),
        ("compare: {concurrency: 3, session: {execution: parallel}}", {"compare"}),
        ("compare: {}", set()),
        ("compare: {session: {providers: [cpu]}}", set()),
    ],
)
def test_how_models_are_measured_and_timed_is_the_recipes_to_say(planned, block, changed):
    before = {step.key for step in planned(CHAIN).steps}
    assert {step.stage.type for step in planned(CHAIN + block + "\n").steps if step.key not in before} == changed


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("compare: {thread: 1}", "r.yaml:8: compare.thread: there is no field 'thread'; did you mean 'threads'?"),
        ("measure: {batch: 0}", "r.yaml:8: measure.batch: must be greater than or equal to 1 (got 0)"),
        (
            "measure: {session: {providers: [cpuu]}}",
            "r.yaml:8: measure.session.providers: this ONNX Runtime has no provider 'cpuu'; did",
        ),
        (
            "compare: {session: {optimisation: most}}",
            "r.yaml:8: compare.session.optimisation: must be 'none', 'basic', 'extended' or 'all'",
        ),
    ],
)
def test_a_slip_in_those_is_answered_with_its_line(planned, block, message):
    with pytest.raises(RecipeError) as error:
        planned(CHAIN + block + "\n")
    assert message in str(error.value)


def test_thousands_of_seeds_plan_in_seconds(tmp_path):
    stages = "  - {type: train, model: {type: mlp, hidden: [4]}, training: {epochs: 1}, seeds: SEEDS}\n"
    (tmp_path / "r.yaml").write_text("dataset: digits\nstages:\n" + stages.replace("SEEDS", str([*range(3000)])))
    loaded = recipe.load(tmp_path / "r.yaml")
    begun = time.process_time()
    made = plan.plan(loaded)
    assert len(made.steps) > 3 * 3000
    assert len({step.key for step in made.steps}) == len(made.steps)
    assert time.process_time() - begun < 10
