from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from ksae_lib.model import KSparseAutoencoder
from replication.data.base import DataConfig
from replication.experiments.base import Experiment, Row
from replication.experiments.gap import BASE
from replication.methods.k_sparse import KSparse
from replication.report.figures import (
    alpha_curves,
    error_against_k,
    example_panel,
    filter_mosaic,
    finetuning_curves,
    name_lines,
    one_digit,
    save_figure,
    what_it_takes,
)
from replication.report.paired import BEST_K
from replication.report.tables import (
    COLUMNS,
    error_table,
    paper_error,
    readable,
    readable_sweeps,
    search_table,
    sweep_table,
)
from replication.report.verdicts import Length, Spread, interval, length_of, verdict
from replication.report.write import report_texts, write_report
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, RunStore, StoredRun, Supervised, twice
from replication.study import Study

TRIALS = pd.DataFrame({"alpha": [1.0], "l2": [0.1]})
METRICS = {"validation_error": 2.0, "test_images": 24_300, "selected": {"l2": 0.1}}


def evidence(profile: str, folder: Path, seeds: int | None = None) -> Study:
    """A study that writes its evidence to a folder of its own."""
    return Study(profile, seeds, results=folder, evidence=folder)


def row_of(study: Study, table: int, key: str, data: str = "mnist") -> Row:
    (shown,) = [one for one in study.rows(table, data) if one.row.key == key]
    return shown.row


def store_errors(study: Study, store: RunStore, errors: dict[str, list[float]]) -> None:
    """Put readouts with made-up errors in a store, one a seed, for rows of Table 1 by key."""
    for key, of_seeds in errors.items():
        row = row_of(study, 1, key)
        for seed, error in enumerate(of_seeds):
            run = row.at(seed)
            selected = {"l2": 1e-4} if run.encoder is None else {"alpha": 3.0, "l2": 3e-05}
            said = {"test_error": error, "validation_error": error + 0.1, "test_images": 10_000, "selected": selected}
            store.save(run, {**said, "test_mistakes": []}, TRIALS)


def test_interval_of_one_run_is_the_binomial_one() -> None:
    low, high = interval([1.35], 10_000)
    assert (high - low) / 2 == pytest.approx(1.959964 * math.sqrt(1.35 * 98.65 / 10_000))


def test_interval_adds_seed_spread_and_sampling_in_quadrature() -> None:
    errors = [1.0, 2.0, 3.0]
    seeds = 4.302653 * 1.0 / math.sqrt(3)
    sampling = 1.959964 * math.sqrt(2 * 98 / 10_000)
    low, high = interval(errors, 10_000)
    assert (low, high) == (
        pytest.approx(max(0, 2 - math.hypot(seeds, sampling))),
        pytest.approx(2 + math.hypot(seeds, sampling)),
    )


def runs(errors: list[float], seeded: bool = True, **data: int) -> list[StoredRun]:
    part, made = DataConfig(**data), list[StoredRun]()
    for seed, error in enumerate(errors):
        encoder = EncoderRun(data=part, method=KSparse(seed=seed)) if seeded else None
        made.append(StoredRun(ReadoutRun(data=part, encoder=encoder), {"test_error": error}, pd.DataFrame()))
    return made


ENOUGH, UNKNOWN = Length(0.01, 0.05), Length(math.nan, math.nan)


@pytest.mark.parametrize(
    ("paper", "stored", "length", "said"),
    [
        (1.35, runs([1.3, 1.4, 1.5]), ENOUGH, "reproduced"),
        (1.35, runs([1.6, 1.7, 1.8]), ENOUGH, "not reproduced: ours is higher"),
        (1.35, runs([1.0, 1.1, 0.9]), ENOUGH, "not reproduced: ours is lower"),
        (1.35, runs([1.3, 1.4]), ENOUGH, "unresolved: seeds"),
        (1.35, runs([1.6, 1.7, 1.8]), UNKNOWN, "unresolved: length"),
        (1.35, runs([1.3, 1.4, 1.5]), Length(-0.08, 0.03), "unresolved: length"),
        (1.35, runs([1.6, 1.7, 1.8]), Length(0.2, 0.1), "not reproduced: ours is higher"),
        (1.35, runs([1.0, 1.4, 1.8]), ENOUGH, "unresolved: spread"),
        (1.35, runs([1.3, 1.4, 1.5], train_size=2000), ENOUGH, "not tested"),
        (7.2, runs([7.4], seeded=False), Length(math.nan, math.nan, False), "reproduced"),
        (7.2, runs([7.5], seeded=False), Length(math.nan, math.nan, False), "not reproduced: ours is higher"),
        (None, runs([1.3, 1.4, 1.5]), ENOUGH, "not tested"),
        (1.35, [], ENOUGH, "not tested"),
    ],
)
def test_verdict_follows_the_rule(paper: float | None, stored: list[StoredRun], length: Length, said: str) -> None:
    assert verdict(paper, stored, Spread(0.08, 20, 0.25), length) == said


def test_the_prediction_interval_is_for_one_further_run_by_the_pooled_spread() -> None:
    calm, wild = [1.3, 1.4, 1.5], [1.0, 2.0, 3.0]
    spread = Spread.pooled([calm, [2.0, 2.2], wild, [7.4]], 0.25)
    assert (spread.s, spread.degrees) == (pytest.approx(math.sqrt((2 * 0.01 + 0.02) / 3)), 3)
    assert spread.prediction(calm) == pytest.approx(3.182446 * spread.s * math.sqrt(4 / 3))
    assert spread.prediction(wild) == pytest.approx(4.302653 * math.sqrt(4 / 3)), "a wild row has its own"
    draws = np.random.default_rng(0).normal(1.5, 0.1, (400, 6))
    inside = [abs(new - np.mean(row)) <= Spread.pooled([row], 0.25).prediction(row) for *row, new in draws.tolist()]
    assert 0.92 <= np.mean(inside) <= 0.98


def test_a_row_is_long_enough_if_twice_the_epochs_bring_little(tmp_path: Path) -> None:
    study = evidence("quick", tmp_path)
    store_errors(study, study.store, {"k25": [1.4, 1.5, 1.6], "pixels": [7.5]})
    shown = {one.row.key: one.committed for one in study.rows(1)}
    assert not length_of(study.store, shown["k25"]).is_enough
    assert length_of(study.store, shown["pixels"]).is_enough, "there is nothing to train"
    for last, wanted in ((1.62, True), (1.9, False)):
        for seed, error in enumerate((1.41, 1.49, last)):
            longer = twice(shown["k25"][seed].run)  # type: ignore[arg-type]
            assert isinstance(longer, ReadoutRun) and longer.encoder is not None
            assert longer.encoder.method.epochs == 120
            said = {"test_error": error, "validation_error": error + 0.1, "test_images": 10_000, "selected": {}}
            study.store.save(longer, said | {"test_mistakes": []}, TRIALS)
        length = length_of(study.store, shown["k25"])
        assert length.is_enough == wanted
    assert length.effect == pytest.approx(0.1)
    tuned = twice(FinetuneRun(encoder=EncoderRun(method=KSparse(epochs=40))))
    assert isinstance(tuned, FinetuneRun) and tuned.encoder is not None
    assert (tuned.finetune.epochs, tuned.encoder.method.epochs) == (400, 40)


def test_table_1_keeps_its_contract_and_counts_the_stored_seeds(tmp_path: Path) -> None:
    study = evidence("quick", tmp_path)
    store_errors(study, study.store, {"k25_printed": [1.8, 1.9, 1.7], "k25": [1.4], "pixels": [7.5]})
    table = error_table(study, 1)
    assert table.columns.tolist() == COLUMNS
    table = table.set_index("key")
    three, one, none, pixels = (table.loc[key] for key in ("k25_printed", "k25", "k10", "pixels"))
    assert (three["error_mean"], three["n_seeds"], three["paper_error"]) == (1.8, 3, 1.35)
    assert (three["val_error_mean"], json.loads(three["selected"])["alpha"]) == (1.9, 3)
    assert len(three["run_ids"].split()) == 3
    assert (one["n_seeds"], one["verdict"]) == (1, "unresolved: seeds")
    assert (none["n_seeds"], none["verdict"], none["paper_error"]) == (0, "not tested", 2.1)
    assert (pixels["paper_error"], pixels["verdict"]) == (7.2, "not reproduced: ours is higher")
    assert set(table["source"]) == {"replicated"}
    assert readable(table)["Ours"].tolist().count("–") == len(table) - 3
    assert "Yours" not in readable(table)


@pytest.mark.parametrize(
    ("table", "key", "figure"),
    [
        (1, "k40", 1.54),
        (1, "k25_printed", 1.35),
        (1, "both", 1.6),
        (1, "k100", None),
        (1, "dbn", None),
        (3, "none", 1.6),
        (3, "k_sparse", 1.08),
        (3, "deep_k_sparse", 0.97),
        (3, "deep_dropout", 0.85),
        (3, "at_once", None),
        (3, "dbn", None),
    ],
)
def test_rows_have_the_papers_figure_of_their_key(table: int, key: str, figure: float | None) -> None:
    assert paper_error(row_of(Study("quick"), table, key)) == figure


def test_a_reader_sees_their_own_runs_beside_the_committed_ones(tmp_path: Path) -> None:
    committed = evidence("quick", tmp_path / "evidence")
    store_errors(committed, committed.store, {"k25": [1.4, 1.6, 1.5], "k10": [2.0]})
    before = error_table(committed, 1)
    study = Study("quick", results=tmp_path / "own", evidence=tmp_path / "evidence")
    store_errors(study, study.store, {"k25": [1.3, 1.7], "k40": [9.0]})
    table = error_table(study, 1)
    pd.testing.assert_frame_equal(table[COLUMNS], before)
    own = table.set_index("key")[["own_error_mean", "own_n_seeds"]]
    assert own.loc["k25"].tolist() == [1.5, 2] and own.loc["k40"].tolist() == [9.0, 1]
    assert own["own_n_seeds"].sum() == 3
    yours = readable(table).set_index(table["key"])["Yours"]
    assert (yours["k25"], yours["k10"]) == ("1.50 (2)", "–")
    assert set(error_table(committed, 1).columns) == set(COLUMNS), "the committed tables stay as they are"


def test_mosaic_places_filters_row_by_row_and_keeps_their_sign() -> None:
    filters = np.array([[1.0, 0, 0, 0], [0, -4.0, 2.0, 0], [0.0, 0, 0, 5.0]])
    mosaic = filter_mosaic(filters, (2, 2), rows=2, columns=2)
    assert mosaic.shape == (5, 5)
    assert np.array_equal(mosaic[:2, :2], [[1, 0], [0, 0]])
    assert np.array_equal(mosaic[:2, 3:], [[0, -1], [0.5, 0]])
    assert np.array_equal(mosaic[3:, :2], [[0, 0], [0, 1]])
    assert np.isnan(mosaic[3:, 3:]).all()


def test_views_of_a_stereo_pair_go_side_by_side_and_colours_last() -> None:
    pairs = filter_mosaic(np.arange(1.0, 9).reshape(1, 8), (2, 2, 2), rows=1, columns=1)
    assert np.array_equal(pairs * 8, [[1, 2, 5, 6], [3, 4, 7, 8]])
    colours = filter_mosaic(np.arange(1.0, 13).reshape(1, 12), (2, 2, 3), rows=1, columns=2)
    assert colours.shape == (2, 5, 3)
    assert np.array_equal(colours[:, :2] * 12, np.arange(1, 13).reshape(2, 2, 3))
    assert np.isnan(colours[:, 2:]).all()


def test_a_stand_in_has_no_figure_of_the_paper_and_quoted_rows_have_no_run(tmp_path: Path) -> None:
    study = evidence("quick", tmp_path)
    for data, title, source in (("toy_norb", "toy NORB (stand-in)", "stand-in"), ("norb", "NORB", "replicated")):
        for shown in study.rows(4, data):
            study.store.save(shown.row.at(0), {**METRICS, "test_error": 8.0, "test_mistakes": []}, TRIALS)
        table = error_table(study, 4).set_index("key")
        shallow, quoted = table.loc["k_sparse"], table.loc["dbm"]
        assert len(table) == 9, "rows of one of the two, NORB's as soon as there are some, and two quoted"
        assert (shallow["dataset"], shallow["source"], shallow["error_mean"]) == (title, source, 8.0)
        assert shallow["paper_error"] == 7.8 if data == "norb" else math.isnan(shallow["paper_error"])
        assert shallow["verdict"] == ("unresolved: seeds" if data == "norb" else "not tested")
        said = quoted[["dataset", "source", "paper_error", "n_seeds"]].tolist()
        assert said == ["NORB", "quoted", 7.2, 0]
        sources = readable(table)["Source"]
        assert (sources["k_sparse"], sources["dbm"]) == (
            title if data == "toy_norb" else "replicated, NORB",
            "quoted, NORB",
        )
        assert report_texts(study)[study.tables / "table4.md"].startswith(f"Table 4, {title}, profile quick.")
    assert "Source" not in readable(error_table(study, 3)), "all rows are replicated"


def test_one_digit_shows_terms_that_add_up_to_the_reconstruction(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = KSparseAutoencoder(6, 9, 4)
    model.initialize(std=0.5)
    x = torch.rand(6)
    figure = one_digit(model, x.numpy(), (2, 3))
    bias, mosaic, reconstruction, image = (np.ma.filled(axis.images[0].get_array(), np.nan) for axis in figure.axes)
    terms = [mosaic[:, left : left + 3] for left in (0, 4, 8, 12)]
    assert np.allclose(bias + sum(terms), reconstruction, atol=1e-6)
    assert np.allclose(reconstruction.ravel(), model(x[None])[0][0].detach(), atol=1e-6)
    assert np.array_equal(image.ravel(), x.numpy())
    sizes = [float((term**2).sum()) for term in terms]
    assert sizes == sorted(sizes, reverse=True)
    plt.close(figure)


def test_examples_stand_in_one_row_for_each_class_in_their_order() -> None:
    x = np.arange(10.0).reshape(5, 2)
    figure = example_panel(x, np.array([1, 0, 1, 1, 0]), (1, 2), columns=2)
    image = figure.axes[0].images[0].get_array()
    assert image is not None
    assert np.array_equal(image[0, [0, 1, 3, 4]], [2, 3, 8, 9])
    assert np.array_equal(image[2, [0, 1, 3, 4]], [0, 1, 4, 5])
    assert np.isnan(np.ma.filled(image, np.nan)[1]).all()
    plt.close(figure)


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        figure, axis = plt.subplots()
        axis.plot([1, 2, 3])
        save_figure(figure, tmp_path, name)
        plt.close(figure)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_an_svg_says_what_it_shows(tmp_path: Path) -> None:
    figure, axis = plt.subplots()
    axis.set(title="a\npanel", xlabel="k", ylabel="error")
    figure.suptitle("Table 1")
    save_figure(figure, tmp_path, "table1")
    plt.close(figure)
    text = (tmp_path / "table1.svg").read_text(encoding="utf-8")
    assert "<dc:title>Table 1</dc:title>" in text
    assert "<dc:description>a panel; error; k</dc:description>" in text


def test_fine_tuning_has_the_binomial_band_and_names_that_do_not_overlap() -> None:
    rows = [(row.label, stored) for row, stored, _ in Study("quick").rows(3) if stored]
    figure = finetuning_curves(rows)
    assert [len(axis.lines) for axis in figure.axes] == [5, 4]
    shallow, deep = ({" ".join(str(x.get_label()).split()): x for x in axis.lines} for axis in figure.axes)
    colours = [{x.get_color() for name, x in one.items() if "k-sparse" in name} for one in (shallow, deep)]
    assert colours[0] == colours[1] and len({x.get_color() for x in shallow.values()}) == 5, "of the start"
    (line, *_), (band, *_) = figure.axes[0].lines, figure.axes[0].collections
    error, (vertices,) = float(np.asarray(line.get_ydata())[-1]), [path.vertices for path in band.get_paths()]
    at_end = np.asarray(vertices)[np.asarray(vertices)[:, 0] == line.get_xdata()[-1], 1]
    half = 1.96 * math.sqrt(error * (100 - error) / 10_000)
    assert [at_end.min(), at_end.max()] == pytest.approx([error - half, error + half])
    for axis in figure.axes:
        heights = sorted(text.xyann[1] for text in axis.texts)  # type: ignore[attr-defined]
        assert np.diff(heights).min() > 0.099
        assert {text.get_color() for text in axis.texts} == {line.get_color() for line in axis.lines}
    plt.close(figure)


def test_names_stay_beside_the_panel_and_point_to_the_ends_of_their_lines() -> None:
    figure, axis = plt.subplots()
    name_lines(axis, 0.1)
    assert not axis.texts, "no line has a name"
    for end in (0.0, 0.01, 1.0):
        axis.plot([0, 1, 2], [0.5, 0.5, end], label=f"{end}")
    axis.set(xlim=(0, 4), ylim=(0, 1))
    name_lines(axis, 0.1)
    said = {text.get_text(): (text.xy, text.xyann[1]) for text in axis.texts}  # type: ignore[attr-defined]
    assert said == {
        "0.0": ((0.5, 0.0), pytest.approx(0.0)),
        "0.01": ((0.5, pytest.approx(0.01)), pytest.approx(0.1)),
        "1.0": ((0.5, 1.0), pytest.approx(1.0)),
    }
    plt.close(figure)


def test_a_table_without_the_best_row_has_no_comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BEST_K, 1, "gone")
    names = {path.name for path in report_texts(Study("quick", results=tmp_path, evidence=tmp_path))}
    assert "table1.md" in names and "table1_paired.md" not in names


def test_alpha_has_a_row_of_panels_for_each_kind_of_net_and_means_over_seeds() -> None:
    study = Study("quick")
    rows = [(row.label, stored) for row, stored, _ in study.rows(1) if stored and row.key in ("k25", "random_k")]
    figure = alpha_curves(rows)
    panels = np.reshape(np.array(figure.axes, dtype=object), (2, 3))
    assert [axis.get_title() for axis in panels[0]] == ["validation error", "test error", "validation FVU"]
    assert [" ".join(axis.get_ylabel().split()) for axis in panels[:, 0]] == [
        "k-sparse autoencoder",
        "Random weights",
    ]
    (line,), stored = panels[0, 1].lines, rows[0][1]
    best = []
    for run in stored:
        at_two = run.history[run.history["alpha"] == 2]
        best.append(at_two.loc[at_two["validation_error"].idxmin(), "test_error"])
    assert dict(zip(*np.asarray(line.get_data()), strict=True))[2] == pytest.approx(np.mean(best))
    plt.close(figure)


def test_sweep_table_pairs_every_value_with_the_base_over_the_seeds(tmp_path: Path) -> None:
    study = evidence("paper", tmp_path)
    assert len(sweep_table(study)) == 0
    (sweep,) = [one for one in study.experiment("gap").sweeps if (one.factor, one.k) == ("biases", 25)]

    def save(run: Supervised, error: float, best: float = 0.5) -> None:
        said = {"validation_error": error, "test_error": error + 1, "selected": {"alpha": 3.0, "l2": 1e-4}}
        study.store.save(run, said, pd.DataFrame({"test_error": [error + 2, error + best]}))

    for value, at in sweep.points:
        for seed in range(2):
            # Seeds differ by 5 in all runs; away from the base, seed 0 loses 1 and seed 1 loses 2.
            # A readout fitted again on more images may err less than any of its history: Gaussian stands for one.
            save(at(seed), 2.0 + 5 * seed + (0 if value == BASE else 1 + seed), 1.5 if value == "Gaussian" else 0.5)
    table = sweep_table(study)
    table = table[(table["factor"] == "biases") & (table["k"] == 25)]
    assert table["value"].tolist() == [BASE, "zeros", "Gaussian"]
    assert table["is_base"].tolist() == [True, False, False]
    assert table["val_error_mean"].tolist() == [4.5, 6.0, 6.0] and table["test_error_mean"].tolist() == [5.5, 7.0, 7.0]
    assert table["val_effect"].tolist() == table["test_effect"].tolist() == [0.0, 1.5, 1.5]
    assert table["val_ci_half"].tolist() == pytest.approx([0] + [12.706 * 0.5] * 2, abs=1e-3)
    assert table["oracle"].tolist() == [2.5, 3.5, 4.0]
    # Another seed of the base alone moves its mean, and not one of the effects.
    save(dict(sweep.points)[BASE](2), 0.0)
    later = sweep_table(study)
    later = later[(later["factor"] == "biases") & (later["k"] == 25)]
    assert later["val_effect"].tolist() == [0.0, 1.5, 1.5] and later["n_seeds"].tolist() == [3, 2, 2]
    # The measures of a net are those of the net whose error is shown.
    mine = Study("paper", results=tmp_path / "mine", evidence=study.evidence_root)
    encoder = dict(sweep.points)[BASE](0).encoder
    assert encoder is not None
    net = {"validation": {"fvu": 0.1}, "noise_tiles": 0, "effective_area_median": 0.03, "weight_skew": 0.4}
    for one, live in ((study, 900), (mine, 100)):
        one.store.save(encoder, net | {"live_units": live}, pd.DataFrame({"loss": [1.0]}))
    assert set(sweep_table(mine)["live_units"].dropna()) == {900}
    (axis,) = error_against_k(study).axes
    (shown,) = [drawn.lines[0].get_ydata().tolist() for drawn in axis.containers]
    (paper,) = [list(line.get_ydata()) for line in axis.lines if line.get_marker() == "s"]
    assert (shown, paper) == ([4.0], [2.1, 1.35, 1.54])
    plt.close("all")
    plt.close(what_it_takes(study))


def test_the_experiment_on_the_gap_is_shown_as_far_as_it_is_carried_out(tmp_path: Path) -> None:
    study = evidence("paper", tmp_path)
    (row,) = [one.row for one in study.rows(1) if one.row.key == "k25"]
    for seed, error in enumerate((1.38, 1.4, 1.42)):
        said = {"validation_error": error, "test_error": error, "test_images": 10_000, "selected": {}}
        study.store.save(row.at(seed), said | {"test_mistakes": []}, TRIALS.assign(test_error=error))
    write_report(study)
    plt.close(error_against_k(study))
    table = sweep_table(study)
    assert set(table["figure"]) == {"inside"} and readable_sweeps(table)["Live units"].tolist() == ["nan"]
    points = dict(next(s for s in study.experiment("gap").sweeps if (s.factor, s.k) == ("60,000 images", 25)).points)
    for seed in range(3):
        run = points["encoder"](seed)
        said = {"validation_error": 0.1, "test_error": 2.5, "test_images": 10_000, "selected": {}}
        study.store.save(run, said | {"test_mistakes": []}, TRIALS.assign(test_error=2.5))
    table = sweep_table(study).set_index("value")
    assert math.isnan(table.loc["encoder", "val_error_mean"]), "its encoder saw the validation images"  # type: ignore[arg-type]
    assert table.loc["encoder", "figure"] == "outside"
    assert table.loc["encoder", "n_seeds"] == 3
    for draw in (what_it_takes, error_against_k):
        plt.close(draw(study))


def test_search_table_has_the_longest_runs_first_and_marks_the_ends_of_ranges(tmp_path: Path) -> None:
    study = evidence("search", tmp_path)
    (search,) = [one for one in study.experiment("search").searches if one.row.key == "denoising"]
    rates = {0.0003: (5, 1.0), 0.0004: (5, 3.0), 0.003: (15, 2.5), 0.028: (15, 2.0)}
    of_rest = {"visible": "linear", "batch_size": 20}
    tried = [{"learning_rate": rate, **of_rest, "epochs": epochs} for rate, (epochs, _) in rates.items()]
    diverged = {"learning_rate": 0.03, **of_rest, "epochs": 5, "diverged": True}
    search = replace(search, tried=(*tried, diverged, tried[0]))
    for settings, run in search.trials:
        study.store.save(run, {"validation_error": rates[settings["learning_rate"]][1]}, TRIALS)
    study.experiments = (Experiment(searches=(search,)),)
    table = search_table(study)
    assert table["val_error"].tolist() == [2.0, 2.5, 1.0, 3.0]
    assert table["epochs"].tolist() == [15, 15, 5, 5]
    assert table["at_edge"].tolist() == ["learning_rate", "", "learning_rate", "learning_rate"]
    assert json.loads(table["trial"].iloc[1]) == {"learning_rate": 0.003, **of_rest}
