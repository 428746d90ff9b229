from __future__ import annotations

from dataclasses import replace

import pytest

from ksae_lib.io import KsaeError
from replication.experiments import experiments
from replication.experiments.base import Row
from replication.experiments.gap import BASE
from replication.experiments.profiles import PROFILES, settings
from replication.methods.k_sparse import KSparse
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, Run, from_json, requires, to_json
from replication.study import Study


def rows(profile: str, seeds: int | None = None) -> dict[tuple[int, str, str], Row]:
    return {(row.table, row.data.name, row.key): row for one in experiments(profile, seeds) for row in one.rows}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_run_survives_json_and_has_an_id_of_its_own(profile: str) -> None:
    configs: dict[str, Run] = {}
    for one in experiments(profile):
        for run in one.runs():
            assert from_json(to_json(run)) == run
            assert configs.setdefault(run.run_id, run) == run
    assert len(configs) > 8 or profile == "search", "its runs are those that were tried"


@pytest.mark.parametrize("profile", PROFILES)
def test_rows_are_known_by_their_keys_and_every_experiment_has_a_notebook(profile: str) -> None:
    made = experiments(profile)
    keys = [(row.table, row.data.name, row.key) for one in made for row in one.rows]
    assert len(set(keys)) == len(keys)
    names = {one.name for one in experiments("smoke") + experiments("quick") + experiments("paper") + made}
    for one in made:
        assert one.notebook or (set(one.shown_in) <= names and one.shown_in)


def test_full_profile_has_the_settings_of_section_4_2() -> None:
    method = rows("full")[1, "mnist", "k25_printed"].at(0).encoder.method  # type: ignore[union-attr]
    assert isinstance(method, KSparse)
    assert (method.weight_std, method.momentum, method.learning_rate, method.epochs) == (0.01, 0.9, 0.01, 5000)
    assert (method.units, method.k, method.bias_init, method.activation) == (1000, 25, "zeros", "linear")
    norb = rows("full")[2, "norb", "k150"].at(0)
    assert isinstance(norb, ReadoutRun) and norb.encoder is not None and norb.data.is_whole
    method = norb.encoder.method
    assert isinstance(method, KSparse)
    assert (method.units, method.learning_rate, method.epochs) == (4000, 1e-4, 5000)


def test_k_sparse_rows_keep_k() -> None:
    for k in (40, 25, 10):
        run = rows("quick")[1, "mnist", f"k{k}"].at(3)
        assert isinstance(run, ReadoutRun) and run.encoder is not None
        method = run.encoder.method
        assert isinstance(method, KSparse)
        assert (method.k, method.k_start, method.learning_rate, method.batch_size) == (k, None, 0.005, 20)
        assert (method.epochs, method.bias_init, method.seed) == (60, "centered", 3)


def test_seeds_multiply_the_rows_with_a_random_encoder_only() -> None:
    for (_, _, key), row in rows("quick", 3).items():
        assert row.seeds == (1 if key in ("pixels", "pca") else 3)
        assert len({run.run_id for run in row.runs}) == row.seeds
        assert row.runs[0] == rows("quick")[row.table, row.data.name, key].runs[0]


def test_a_number_of_seeds_that_is_asked_for_is_that_of_every_row() -> None:
    own = {key: row.seeds for (_, _, key), row in rows("paper").items()}
    assert (own["k25"], own["k40"], own["relu"], own["k_sparse, 200 epochs"], own["pixels"]) == (20, 10, 5, 3, 1)
    assert {row.seeds for (_, _, key), row in rows("paper", 2).items() if key not in ("pixels", "pca")} == {2}


def test_further_nets_that_are_judged_or_compared_have_twice_the_epochs_too() -> None:
    for name, alpha, times in (("alpha_nets", 3.0, 10), ("all_at_once", 6.0, 5)):
        (nets,) = [one for one in experiments("paper") if one.name == name]
        tuned = [run.finetune for run in nets.runs() if isinstance(run, FinetuneRun)]
        assert sorted((one.alpha, one.epochs) for one in tuned) == [(alpha, 30)] * times + [(alpha, 60)] * times


def test_every_row_of_tables_1_and_3_that_learns_is_searched_for() -> None:
    searched = {one.name: one for e in experiments("search") for one in e.searches}
    learnt = {"rbm", "dropout", "denoising", "both", "relu", "kl_sparse", "dbn", "k25"}
    nets = {f"table3 {key}" for table, data, key in rows("quick") if (table, data) == (3, "mnist")}
    assert set(searched) == {f"table1 {key}" for key in learnt} | nets
    for one in searched.values():
        assert one.row.data.train_size == 50_000
        assert all(run.run_id for _, run in one.trials)
        longest = {name: values[-1] for name, values in one.space.items()}
        assert one.build(**longest, epochs=one.rungs[-1]).at(0).run_id != one.row.at(0).run_id


def test_the_rows_have_the_settings_that_the_search_found_best() -> None:
    study, quick, compared = Study("search"), rows("quick"), set()
    for search, stored in study.searches():
        if all(stored) and stored:
            compared.add(search.name)
            best = min(
                zip(search.trials, stored, strict=True),
                key=lambda one: (-one[0][0]["epochs"], one[1].metrics["validation_error"]),  # type: ignore[union-attr]
            )
            settings, run = best[0][0], quick[search.row.table, search.row.data.name, search.row.key].at(0)
            config: object
            if isinstance(run, FinetuneRun):
                config = run.finetune
            else:
                assert run.encoder is not None
                config = run.encoder.method
            # Searched for later. The row keeps its own settings, which have the lower validation error.
            kept = {"bias_init": "centered", "learning_rate": 0.005} if search.name == "table1 k25" else {}
            chosen = {name: settings[name] for name in search.space} | kept
            assert {name: getattr(config, name) for name in chosen} == chosen, search.name
    assert compared >= {f"table1 {key}" for key in ("rbm", "dropout", "denoising", "both", "k25")}


def test_the_experiment_on_the_gap_has_the_values_of_its_plan_on_the_seeds_of_the_base() -> None:
    (gap,) = [e for e in experiments("paper") if e.name == "gap"]
    sweeps = {(sweep.factor, sweep.k): dict(sweep.points) for sweep in gap.sweeps}
    assert {k for factor, k in sweeps if factor == "k"} == {10, 25, 40, 70, 100}
    for (factor, k), points in sweeps.items():
        base, *others = [at(3) for at in points.values()]
        assert base.run_id == rows("paper")[1, "mnist", f"k{k}"].at(3).run_id
        assert len({base.run_id, *(run.run_id for run in others)}) == 1 + len(others)
        for run in others:
            assert run.seed == 3 and run.encoder is not None
            assert (run.data == base.data) == (factor != "split")

    def net(factor: str, k: int, value: str) -> KSparse:
        encoder = sweeps[factor, k][value](0).encoder
        assert encoder is not None and isinstance(encoder.method, KSparse)
        return encoder.method

    base = net("k", 25, BASE)
    assert net("loss", 25, "no ½") == replace(base, learning_rate=0.01)
    for epochs in (30, 120, 240, 5000):
        assert net("epochs", 25, str(epochs)) == replace(base, epochs=epochs)
    both = sweeps["60,000 images", 25]["readout, zero biases"](0)
    assert isinstance(both, ReadoutRun) and both.readout.refit
    assert net("60,000 images", 25, "readout, zero biases") == replace(base, bias_init="zeros")
    authors = net("preset", 25, "authors' code")
    printed = rows("quick")[1, "mnist", "k25_printed"].at(0).encoder
    assert printed is not None and net("preset", 25, "as printed") == replace(printed.method, epochs=150)  # type: ignore[type-var]
    for net_of, updates in ((net("batch, with its rate", 25, "1000, 0.02"), 50), (authors, 469)):
        assert net_of.learning_rate * net_of.epochs * updates == pytest.approx(0.005 * 60 * 2500, rel=0.01)
    assert (authors.activation, authors.bias_init, authors.batch_size) == ("relu", "gaussian", 128)
    assert (authors.shuffle, authors.k_start, authors.learning_rate) == (False, None, 0.005)
    encoder, readout = (sweeps["60,000 images", 25][name](0) for name in ("encoder", "readout"))
    assert encoder.encoder is not None and encoder.encoder.data.train_size == 60_000
    assert encoder.data.train_size == 50_000, "the readout is chosen on images that it was not fitted to"
    assert isinstance(readout, ReadoutRun) and readout.readout.refit
    split = sweeps["split", 25]["seed 2"](0)
    assert split.encoder is not None and split.data == split.encoder.data and split.data.split_seed == 2
    sgd = sweeps["readout", 25]["SGD, α = 2"](0)
    assert isinstance(sgd, FinetuneRun) and sgd.finetune.frozen and sgd.finetune.epochs == 200


def test_deep_nets_are_also_planned_with_the_alpha_of_section_4_6() -> None:
    run = rows("paper")[3, "mnist", "deep_k_sparse, α = 3"].at(0)
    assert isinstance(run, FinetuneRun) and (run.finetune.alpha, requires(run)[1].below_alpha) == (3, 3)


def test_a_second_layer_is_trained_on_codes_of_the_first() -> None:
    run = rows("quick")[3, "mnist", "at_once"].at(0)
    assert isinstance(run, FinetuneRun) and not run.finetune.layerwise
    lower, upper = requires(run)
    assert (lower.below, upper.below, upper.below_alpha) == (None, lower, run.finetune.alpha)
    for profile, key, lengths in (
        ("quick", "at_once", [60, 10]),
        ("quick", "deep_dropout", [15, 10]),
        ("paper", "at_once", [60, 60]),
    ):
        assert [layer.method.epochs for layer in requires(rows(profile)[3, "mnist", key].at(0))] == lengths
    (one,) = [e for e in experiments("quick") if e.name == "all_at_once"]
    order = list(one.runs())
    assert order.index(lower) < order.index(upper) < order.index(run)


def test_experiments_on_norb_and_on_its_stand_in_are_two() -> None:
    for name, data in (("table2", "norb"), ("toy_norb_table2", "toy_norb")):
        (one,) = [e for e in experiments("quick") if e.name == name]
        assert one.executed == f"02_unsupervised_table_{data}"
        assert {run.data.name for run in one.runs()} == {data}
        assert all(f"-{data}-" in run.run_id for run in one.runs())


def test_encoders_come_before_their_readouts() -> None:
    for one in experiments("quick", 2):
        seen: set[EncoderRun] = set()
        for run in one.runs():
            assert set(requires(run)) <= seen
            if isinstance(run, EncoderRun):
                seen.add(run)


def test_what_is_misspelt_or_impossible_is_refused_in_one_sentence() -> None:
    quick = settings("quick", "mnist")
    assert quick is not None
    for call, message in (
        (lambda: quick.method("k_sparse", kk=40), "unexpected keyword argument 'kk'"),
        (lambda: quick.method("k_sparse", epochs=float("nan")), "epochs = nan"),
        (lambda: quick.method("k_sparse", units=-1), "units = -1"),
        (lambda: quick.method("rbm", k=3), "unexpected keyword argument 'k'"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    with pytest.raises(KsaeError, match="choose one of smoke, quick, paper"):
        settings("tiny", "mnist")
    with pytest.raises(KsaeError, match="seeds = 0 is not possible"):
        experiments("quick", 0)
