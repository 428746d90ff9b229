from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ksae_lib import TrainConfig
from replication.methods import RBMConfig
from replication.plan import (
    BaselineRun,
    DataConfig,
    FinetuneRun,
    PlanError,
    ReadoutRun,
    Row,
    TrainRun,
    default_path,
    from_json,
    load_plan,
    requires,
    shown,
    to_json,
)
from replication.study import Study, project_root


@pytest.mark.parametrize("profile", ["smoke", "quick", "paper", "full", "search"])
def test_every_planned_run_survives_json_and_has_an_id_of_its_own(profile: str) -> None:
    plan = load_plan(profile)
    configs = {}
    for experiment in plan.experiments:
        for run in experiment.runs():
            assert from_json(json.loads(json.dumps(to_json(run)))) == run
            assert plan.run(run.run_id) == run
            assert configs.setdefault(run.run_id, run) == run
    assert len(configs) > 8


def test_ids_do_not_change_from_one_version_to_the_next() -> None:
    assert TrainRun().run_id == "train-k25-zeros-e5000-s0-6f165dd083"
    assert ReadoutRun(encoder=TrainRun()).run_id == "readout-k25-zeros-e5000-s0-922a3ac54a"


def test_later_settings_of_the_readout_are_part_of_the_id_only_where_they_say_something() -> None:
    base = ReadoutRun(encoder=TrainRun())
    assert "refit" not in to_json(base)["readout"]
    changed = [replace(base, readout=replace(base.readout, **{name: True})) for name in ("refit", "dense_relu")]
    assert len({run.run_id for run in (base, *changed)}) == 3
    assert [from_json(to_json(run)) for run in changed] == changed


def test_sweeps_change_settings_of_the_readout_as_well() -> None:
    (alphas,) = [s for s in load_plan("search", 2).experiment("settings").sweeps if s.factor == "alphas"]
    assert alphas.base == (2.0, 3.0)
    assert [value for value, _ in alphas.points] == [(1.0,), (2.0,), (3.0,), (4.0,), (2.0, 3.0)]
    for value, runs in alphas.points:
        assert [run.readout.alphas for run in runs] == [value, value]
        assert [run.encoder for run in runs] == [run.encoder for run in alphas.points[0][1]]


def test_sweeps_change_several_settings_together() -> None:
    (together,) = load_plan("search", 2).experiment("combinations").sweeps
    assert together.base == {} == together.points[0][0]
    chosen = together.points[0][1][0].encoder
    assert isinstance(chosen, TrainRun)
    for change, runs in together.points:
        assert [run.encoder for run in runs] == [
            replace(chosen, train=replace(chosen.train, **change, seed=seed)) for seed in range(2)
        ]


def test_experiments_on_norb_run_on_the_stand_in_or_on_norb() -> None:
    toy, real = load_plan("quick"), load_plan("quick", norb="norb")
    for plan, name in ((toy, "toy_norb"), (real, "norb")):
        experiment = plan.shown_by("02_unsupervised_table", "norb")
        assert (experiment.name, experiment.executed) == ("norb_features", "02_unsupervised_table_norb")
        assert plan.experiment("02_unsupervised_table_norb") == experiment
        assert {run.data.name for run in experiment.runs()} == {name}
        assert all(f"-{name}-" in run.run_id for run in experiment.runs())
    assert toy.experiment("features") == real.experiment("features")
    sizes = [plan.experiment("norb_features").rows[0].runs[0].data for plan in (toy, real)]
    assert (sizes[0].share, sizes[0].is_whole, sizes[1].share, sizes[1].is_whole) == (3, False, None, True)
    full = load_plan("full", norb="norb").experiment("norb_features").rows[-1].runs[0]
    assert full.data.is_whole and isinstance(full.encoder, TrainRun)
    assert (full.encoder.train.units, full.encoder.train.learning_rate, full.encoder.train.epochs) == (4000, 1e-4, 5000)
    with pytest.raises(PlanError, match="not a form of NORB"):
        load_plan("quick", norb="cifar")
    with pytest.raises(PlanError, match="no experiment on 'norb' for notebook 04"):
        toy.shown_by("04_activity_histograms", "norb")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "cifar"}, "There is no data set 'cifar'"),
        ({"recipe": "author"}, "recipe = 'author' is not possible"),
        ({"name": "norb", "split": "other"}, "split = 'other' is not possible"),
        ({"name": "norb", "share": 2}, "share = 2 is not possible"),
        ({"name": "toy_norb", "share": 0}, "share = 0 is not possible"),
        ({"name": "patches"}, "source = None is not possible"),
        ({"source": "samples"}, "source = 'samples' is not possible"),
    ],
)
def test_impossible_data_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**wrong)


def test_any_change_of_a_setting_changes_the_id() -> None:
    base = TrainRun()
    changes = [{"k": 24}, {"seed": 1}, {"engine": "reference"}, {"learning_rate": 0.011}, {"k_start": None}]
    ids = {replace(base, train=replace(base.train, **change)).run_id for change in changes}
    assert len(ids | {base.run_id}) == len(changes) + 1


def test_full_profile_has_the_settings_of_section_4_2() -> None:
    train = load_plan("full").experiment("filters").filters[0].train
    assert (train.weight_std, train.momentum, train.learning_rate, train.epochs) == (0.01, 0.9, 0.01, 5000)
    assert (train.units, train.k, train.bias_init, train.activation) == (1000, 70, "zeros", "linear")


def rows(seeds: int | None = None) -> tuple[Row, ...]:
    plan = load_plan("quick", seeds)
    return plan.experiment("features").rows + plan.experiment("beyond").rows


def test_seeds_multiply_the_rows_with_a_random_encoder_only() -> None:
    for row in rows(3):
        assert len(row.runs) == (1 if row.method in ("Raw pixels", "PCA") else 3)
    assert [row.runs[0] for row in rows(3)] == [row.runs[0] for row in rows(1)]


@pytest.mark.parametrize(("experiment", "trials"), [("search", 8), ("rates", 4)])
def test_every_method_of_a_search_has_as_many_trials(experiment: str, trials: int) -> None:
    for search in load_plan("search").experiment(experiment).searches:
        assert len({run.run_id for _, run in search.trials}) == len(search.trials) == trials


def test_the_rows_have_the_settings_that_the_search_found_best() -> None:
    stored = Study("search", project_root() / "results")
    rows = {(e.dataset, r.method, r.variant): r for e in load_plan("quick").experiments for r in e.rows}
    for experiment in stored.plan.experiments:
        for search in experiment.searches:
            errors = [stored.store.load(run).metrics["validation_error"] for _, run in search.trials]
            settings, _ = search.trials[errors.index(min(errors))]
            run = rows[experiment.dataset, search.method, search.variant].runs[0]
            config: object
            if isinstance(run, FinetuneRun):
                config = run.finetune
            else:
                assert run.encoder is not None
                config = run.encoder.train if isinstance(run.encoder, TrainRun) else run.encoder.baseline
            assert {name: getattr(config, name) for name in settings} == settings, search.method


def test_the_designed_row_has_the_settings_that_came_out_best_over_all_seeds() -> None:
    errors: dict[float, dict[str, Any]] = {}
    stored = Study("search", project_root() / "results")
    for experiment, sweep, value, runs in stored.sweeps():
        if experiment in ("settings", "combinations") and len(runs) >= 3:
            mean = sum(run.metrics["validation_error"] for run in runs) / len(runs)
            errors[mean] = value if isinstance(value, dict) else {sweep.factor: value}
    row, refitted = load_plan("paper").experiment("designed").rows
    run, again = row.runs[0], refitted.runs[0]
    assert isinstance(run, ReadoutRun) and isinstance(run.encoder, TrainRun) and isinstance(again, ReadoutRun)
    chosen = stored.plan.experiment("combinations").sweeps[0].points[0][1][0].encoder
    assert isinstance(chosen, TrainRun)
    assert run.encoder.train == replace(chosen.train, **errors[min(errors)])
    assert (again.encoder, again.readout) == (run.encoder, replace(run.readout, refit=True))


def test_encoders_that_are_compared_are_runs_of_the_experiment() -> None:
    experiment = load_plan("quick").experiment("beyond")
    assert len(experiment.compared) == 2
    assert {encoder.run_id for _, encoder in experiment.compared} <= {run.run_id for run in experiment.runs()}


def test_a_notebook_shows_the_rows_of_another_experiment_where_both_are_wanted() -> None:
    plan = load_plan("quick")
    features, beyond = plan.experiment("features"), plan.experiment("beyond")
    own, both = shown(features, [features]), shown(features, plan.experiments)
    assert own == list(features.runs())
    assert {run.run_id for run in both} == {run.run_id for e in (features, beyond) for run in e.runs()}
    assert len({run.run_id for run in both}) == len(both) > len(own)


def test_a_third_layer_is_refused(tmp_path: Path) -> None:
    text = default_path().read_text(encoding="utf-8")
    upper = "upper: {train: {<<: *chosen, k: 25}}"
    assert upper in text
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace(upper, "upper: {train: {k: 25}, upper: {train: {k: 25}}}"), encoding="utf-8")
    with pytest.raises(PlanError, match="two layers at most"):
        load_plan("quick", path=path)


def test_a_second_layer_is_trained_on_codes_of_the_first() -> None:
    row = next(r for r in load_plan("quick").experiment("beyond").rows if "at once" in r.variant)
    run = row.runs[0]
    assert isinstance(run, FinetuneRun) and isinstance(run.encoder, TrainRun) and not run.finetune.layerwise
    lower, upper = requires(run)
    assert (lower.below, upper.below, upper.below_alpha) == (None, lower, run.finetune.alpha)
    assert requires(upper) == (lower,)
    experiment = list(load_plan("quick").experiment("beyond").runs())
    assert experiment.index(lower) < experiment.index(upper) < experiment.index(run)
    assert from_json(json.loads(json.dumps(to_json(run)))) == run


def test_a_search_tries_every_combination_of_each_grid(tmp_path: Path) -> None:
    text = default_path().read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    grids = [{"cd_steps": [1, 2], "learning_rate": [0.1, 0.2]}, {"weight_decay": [0.5]}]
    document["experiments"]["search"]["search"] = [{"method": "RBM", "baseline": {"method": "rbm"}, "grids": grids}]
    path = tmp_path / "experiments.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    experiment = load_plan("search", path=path).experiment("search")
    tried = []
    for settings, run in experiment.searches[0].trials:
        assert isinstance(run.encoder, BaselineRun) and isinstance(run.encoder.baseline, RBMConfig)
        assert {name: getattr(run.encoder.baseline, name) for name in settings} == settings
        tried.append((run.encoder.baseline.cd_steps, run.encoder.baseline.learning_rate))
    assert tried == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2), (1, RBMConfig.learning_rate)]


def test_encoders_come_before_their_readouts() -> None:
    runs = list(load_plan("quick", 2).experiment("features").runs())
    for place, run in enumerate(runs):
        if isinstance(run, ReadoutRun) and run.encoder is not None:
            assert run.encoder in runs[:place]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k: 70", "k: 7000", r"k = 7000 is not possible with 1000 hidden units"),
        ("k: 70", "kk: 70", "TrainConfig has no field 'kk'"),
        ("epochs: 40}", "epochs: 0}", "epochs = 0 is not possible"),
        ("alphas: [1, 3]", "alphas: [0.5]", "each at least 1"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = default_path().read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "experiments.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(PlanError, match=message):
        for profile in ("smoke", "quick"):
            load_plan(profile, path=path)


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(PlanError, match="choose one of smoke, quick, paper"):
        load_plan("tiny")
    with pytest.raises(PlanError, match="choose one of filters, features"):
        load_plan("quick").experiment("filter")
    with pytest.raises(PlanError, match="--list"):
        load_plan("quick").run("train-k25")
    with pytest.raises(PlanError, match="at least 1"):
        load_plan("quick", 0)
    with pytest.raises(PlanError, match="writes version 1"):
        from_json({**to_json(TrainRun(train=TrainConfig())), "version": 0})
