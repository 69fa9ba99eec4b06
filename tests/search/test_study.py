"""The study: what workers share, who may have a trial, and what is said where it can't be used."""

import contextlib
import os
import platform
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from optuna import trial
from optuna.trial import TrialState

from compress_cli.cli import tune
from compress_cli.errors import ArtifactError, GateError, Interrupted, RecipeError, StageError
from compress_cli.search import outcome, sampling, space, study, tables
from compress_cli.search import trial as work
from compress_cli.search.objectives import Figures, Goal
from compress_cli.statistics import gate
from compress_cli.statistics.gate import Gate
from compress_cli.statistics.intervals import Estimate
from compress_cli.store.store import Store

GOAL = Goal(objectives=("size",), gates=(Gate(promise="accuracy>=0.9"),), primary="accuracy", better="higher")


@pytest.fixture
def searched(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "dataset: digits\nstages:\n  - type: train\n    model: {type: mlp, hidden: [{search: [4, 8, 6]}]}\n"
        "    training: {epochs: {search: {low: 1, high: 8, step: 3}}, precision: {search: [float32, bfloat16]}}\n"
    )
    return space.load(path)


@pytest.fixture
def opened(tmp_path):
    return study.opened(f"sqlite:///{tmp_path / 'study.db'}", "x", ["minimize"], {"recipe": {"seed": 0}})


def begun(opened, searched, drawn=None):
    known = {each.name: sampling.distribution(each) for each in searched.dimensions}
    return opened.begin(drawn or searched.first, known)


def test_a_waiting_trial_is_claimed_by_one_worker_only(opened, searched, tmp_path):
    trial = begun(opened, searched)
    opened.note(trial, rungs={"0": 0.5})
    opened.wait(trial, paused=True)
    other = study.opened(opened.url, "x", ["minimize"], {"recipe": {"seed": 0}})
    assert [(each.paused, each.rungs) for each in other.trials()] == [(True, {0: 0.5})]
    assert other.claim(other.trials()[0])
    assert not opened.claim(opened.trials()[0])
    assert [(each.state, each.paused) for each in opened.trials()] == [("running", False)]


def test_the_trial_of_a_dead_worker_is_queued_again_until_it_kills_too_many(opened, searched):
    trial = begun(opened, searched)
    assert opened.requeue() == []  # this process lives
    for death in range(1, study.ATTEMPTS + 2):
        dead = os.fork()
        if dead == 0:
            os._exit(0)
        os.waitpid(dead, 0)
        opened.note(trial, worker=f"{platform.node()}:{dead}")
        assert [lost.number for lost in opened.requeue()] == [0]
        (now,) = opened.trials()
        assert now.notes["deaths"] == death
        assert now.state == ("waiting" if death <= study.ATTEMPTS else "fail")
        if now.state == "waiting":
            assert not now.paused
            assert opened.claim(now)


@pytest.mark.parametrize(
    ("error", "state"), [(StageError("training broke down"), "fail"), (Interrupted("on the way"), "waiting")]
)
def test_the_work_of_a_trial_that_failed_or_was_interrupted_counts(opened, searched, tmp_path, monkeypatch, error, state):
    def _run(shop, trial, watch):
        watch.trained = 5
        raise error

    monkeypatch.setattr(work, "_run", _run)
    shop = work.Workshop(searched, opened, GOAL, Store(tmp_path / "store"), tmp_path / "trials", say=lambda line: None)
    with contextlib.suppress(Interrupted):
        work.attempt(shop, begun(opened, searched))
    (now,) = opened.trials()
    assert (now.state, now.notes["trained"]) == (state, 5)
    assert now.notes["seconds"] > 0


def test_a_trial_that_another_worker_finished_meanwhile_stays_as_it_is(opened, searched):
    trial = begun(opened, searched)
    opened.complete(trial, [3.0], {"g": 0.0})
    opened.note(trial, seconds=9.0)
    opened.complete(trial, [4.0], {"g": 1.0})
    (frozen,) = opened.frozen()
    assert (frozen.values, dict(frozen.constraints), "seconds" in frozen.user_attrs) == ([3.0], {"g": 0.0}, False)


def test_constraints_are_those_that_optuna_samples_by(opened, searched):
    opened.complete(begun(opened, searched), [3.0], {"accuracy>=0.9": 0.25, "size_bytes<=9kB": -0.5})
    (frozen,) = opened.frozen()
    assert dict(frozen.constraints) == {"accuracy>=0.9": 0.25, "size_bytes<=9kB": -0.5}
    assert frozen.values == [3.0]


def test_values_are_proposed_once_each_until_none_is_left(opened, searched):
    assert searched.combinations == 18
    seen = []
    while (proposal := sampling.proposed(opened, searched, GOAL, 0)) is not None:
        drawn, which = proposal
        assert drawn not in seen
        assert which == "tpe"
        seen.append(drawn)
        opened.complete(begun(opened, searched, drawn), [float(len(seen))], {"accuracy>=0.9": 0.0})
    assert len(seen) == 18
    assert {searched.words(drawn)["train.model.hidden.0"] for drawn in seen} == {"4", "6", "8"}
    assert {searched.words(drawn)["train.training.epochs"] for drawn in seen} == {"1", "4", "7"}


def test_the_last_combination_is_found_where_luck_would_hardly_hit_it(opened, searched, tmp_path):
    (tmp_path / "large.yaml").write_text(
        "dataset: digits\nstages:\n  - type: train\n    model: {type: mlp, hidden: [{search: {low: 1, high: 2000}}]}\n"
        "    training: {epochs: {search: [4, 2]}}\n"
    )
    large = space.load(tmp_path / "large.yaml")
    known = {each.name: sampling.distribution(each) for each in large.dimensions}
    tried = [
        {"train.model.hidden.0": neurons, "train.training.epochs": position}
        for neurons in range(1, 2001)
        for position in (0, 1)
        if (neurons, position) != (1500, 1)
    ]
    stored = [trial.create_trial(state=TrialState.FAIL, params=drawn, distributions=known) for drawn in tried]
    opened.frozen = lambda: stored
    assert sampling.proposed(opened, large, GOAL, 0)[0] == {"train.model.hidden.0": 1500, "train.training.epochs": 1}


def test_a_paused_trial_counts_for_the_sampler_with_what_it_showed_at_its_rung(opened, searched):
    opened.complete(begun(opened, searched), [5000.0], {"accuracy>=0.9": -0.01})
    paused = begun(opened, searched)
    opened.note(paused, rungs={"0": 0.36, "1": 0.45}, size=700.0)
    opened.wait(paused, paused=True)
    queued = begun(opened, searched)
    opened.wait(queued, paused=False)
    trials = opened.frozen()
    shown = [sampling._shown(trial, trials[:1], GOAL) for trial in trials]
    assert [trial.state.name for trial in shown] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert shown[1].values == [700.0]
    assert dict(shown[1].constraints) == {"accuracy>=0.9": pytest.approx((0.9 - 0.45) / 0.9)}


def test_a_gaussian_process_proposes_where_trials_take_minutes(opened, searched):
    for width in range(2):
        trial = begun(opened, searched, {**searched.first, "train.model.hidden.0": width})
        opened.note(trial, seconds=90.0)
        opened.complete(trial, [1.0], {})
    assert sampling.proposed(opened, searched, GOAL, 0)[1] == "gp"


def test_a_study_of_another_recipe_is_refused_with_the_first_difference(opened):
    with pytest.raises(
        RecipeError, match=r"the study 'x' in .* was made by another recipe: recipe.seed was 0 and is 1; .* --study"
    ):
        study.opened(opened.url, "x", ["minimize"], {"recipe": {"seed": 1}})


def test_a_database_that_is_gone_is_said_so_and_not_written_into_the_void(opened, searched, tmp_path):
    begun(opened, searched)
    (tmp_path / "study.db").unlink()
    with pytest.raises(ArtifactError, match=r"study.db: the study's database is gone"):
        opened.trials()
    assert not (tmp_path / "study.db").exists()


def test_a_damaged_database_is_said_so(opened, searched, tmp_path):
    begun(opened, searched)
    (tmp_path / "study.db").write_bytes(b"x" * 9000)
    with pytest.raises(ArtifactError, match=r"can't be used: .* the same command"):
        study.opened(opened.url, "x", ["minimize"], {"recipe": {"seed": 0}})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://me:secret@nowhere.invalid/x", "its driver is missing .*pip install 'psycopg"),
        ("mysql://nowhere.invalid/x", "its driver is missing .*pip install pymysql, and write mysql.pymysql:"),
        ("tables://x", "its driver is missing"),
        ("study.db", "--storage study.db: is no database's URL"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_with_the_remedy(url, reason):
    with pytest.raises(RecipeError, match=reason) as error:
        study.opened(url, "x", ["minimize"], {})
    assert "secret" not in str(error.value)


def test_without_optuna_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"pip install 'compress-cli\[search\]'"):
        study.opened(f"sqlite:///{tmp_path}/s.db", "x", ["minimize"], {})


def test_of_files_of_one_size_the_one_that_does_better_on_val_is_the_best(opened, searched):
    for metric, size in ((0.91, 900), (0.94, 900), (0.93, 900)):
        trial = begun(opened, searched)
        figures = Figures(row="train", metric=metric, low=metric, high=metric, samples=9, size_bytes=size)
        opened.note(trial, figures=figures.model_dump())
        opened.complete(trial, [float(size)], {})
    assert outcome.collect(opened, searched, GOAL, Path("r.yaml")).best == 1
    errors = GOAL.model_copy(update={"better": "lower"})
    assert outcome.collect(opened, searched, errors, Path("r.yaml")).best == 0


def test_where_no_trial_keeps_the_gates_the_nearest_is_named(opened, searched):
    for number, metric in enumerate((0.7, 0.8, 0.6)):
        trial = begun(opened, searched, {**searched.first, "train.training.epochs": 1 + 3 * number})
        result = gate.judge(GOAL.gates[0], "train", Estimate(value=metric, low=metric, high=metric, samples=100))
        figures = Figures(
            row="train", metric=metric, low=metric, high=metric, samples=100, size_bytes=900 + number, gates=(result,)
        )
        opened.note(trial, figures=figures.model_dump(mode="json"))
        opened.complete(trial, [float(figures.size_bytes)], {"accuracy>=0.9": 0.9 - metric})
    nothing = outcome.collect(opened, searched, GOAL, Path("r.yaml"))
    assert (nothing.best, nothing.nearest) == (None, 1)
    with pytest.raises(GateError, match=r"nearest is trial 1 \(.*epochs: 4.*\)\ngate accuracy>=0.9 \(train\): not met"):
        tune._decide(nothing)


def test_a_trial_that_the_user_names_is_not_called_the_best_nor_the_nearest(searched, tmp_path):
    opened = study.opened(f"sqlite:///{tmp_path / 'two.db'}", "x", ["minimize", "maximize"], {})
    aims = GOAL.model_copy(update={"objectives": ("size", "accuracy")})
    for number, metric in enumerate((0.95, 0.8)):
        trial = begun(opened, searched, {**searched.first, "train.training.epochs": 1 + 3 * number})
        result = gate.judge(GOAL.gates[0], "train", Estimate(value=metric, low=metric, high=metric, samples=100))
        figures = Figures(row="train", metric=metric, low=metric, high=metric, samples=100, size_bytes=900, gates=(result,))
        opened.note(trial, figures=figures.model_dump(mode="json"))
        opened.complete(trial, [900.0, metric], {"accuracy>=0.9": 0.9 - metric})
    named = outcome.collect(opened, searched, aims, Path("r.yaml"), 1)
    with pytest.raises(GateError, match=r"^trial 1, which --trial names, does not keep every gate on val") as error:
        tune._decide(named)
    assert "no trial" not in str(error.value)
    assert tables.verdict(named).startswith("Trial 1, the one that --trial names:")
    assert "It breaks: accuracy>=0.9" in tables.verdict(named)
    assert "nearest to the best of both" in tables.verdict(outcome.collect(opened, searched, aims, Path("r.yaml")))
