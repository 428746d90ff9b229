from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from ksae_lib import TrainConfig
from replication.plan import DataConfig, ReadoutRun, TrainRun
from replication.report import error_table, save_figure, stale, write_texts
from replication.report.figures import example_panel, filter_mosaic, sweep_figure
from replication.report.readme import blocks, filled
from replication.report.tables import COLUMNS, interval, readable, search_table, sweep_table, table_texts, verdict
from replication.study import Study

TRIALS = pd.DataFrame({"alpha": [1.0], "l2": [0.1]})


def store_errors(study: Study, errors: dict[str, list[float]]) -> None:
    """Put readouts with made-up errors in the store, one a seed, for the rows of the given variants or methods."""
    wide = Study(study.plan.profile, study.folder.parent, seeds=5)
    for row in (row for name in ("features", "beyond") for row in wide.plan.experiment(name).rows):
        for run, error in zip(row.runs, errors.get(row.variant or row.method, []), strict=False):
            metrics = {
                "test_error": error, "validation_error": error + 0.1, "test_images": 10_000,
                "selected": {"alpha": 3.0, "l2": 3e-05} if run.encoder else {"l2": 1e-4},
            }  # fmt: skip
            study.store.save(run, metrics, TRIALS)


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


def readouts(seeds: int, epochs: int = 5000, **data: int) -> list[ReadoutRun]:
    part = DataConfig(**data)
    return [
        ReadoutRun(data=part, encoder=TrainRun(data=part, train=TrainConfig(epochs=epochs, seed=seed)))
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("paper", "low", "high", "runs", "said"),
    [
        (1.35, 1.2, 1.5, readouts(3), "validated"),
        (1.35, 1.4, 1.5, readouts(3), "contradicted"),
        (1.35, 1.2, 1.3, readouts(5), "contradicted"),
        (1.35, 1.2, 1.5, readouts(2), "inconclusive"),
        (1.35, 1.4, 1.5, readouts(3, epochs=40), "inconclusive"),
        (1.35, 1.2, 1.5, readouts(3, train_size=2000), "not tested"),
        (7.2, 7.0, 7.4, [ReadoutRun()], "validated"),
        (7.2, 7.3, 7.4, [ReadoutRun()], "contradicted"),
        (None, 1.2, 1.5, readouts(5), "not tested"),
        (1.35, math.nan, math.nan, [], "not tested"),
    ],
)
def test_verdict_follows_the_rule(
    paper: float | None, low: float, high: float, runs: list[ReadoutRun], said: str
) -> None:
    assert verdict(paper, low, high, runs) == said


def test_table_1_keeps_its_contract_and_counts_the_stored_seeds(tmp_path: Path) -> None:
    study = Study("quick", tmp_path)
    store_errors(study, {"k=25, as printed": [1.8, 1.9, 1.7], "k=25": [1.4], "Raw pixels": [7.5]})
    table = error_table(study, 1)
    assert table.columns.tolist() == COLUMNS
    table = table[table["method"] != "Random weights"]
    table = table.set_index(table["variant"].where(table["variant"] != "", table["method"]))
    three, one, none, pixels = (table.loc[v] for v in ("k=25, as printed", "k=25", "k=10", "Raw pixels"))
    assert (three["error_mean"], three["n_seeds"], three["paper_error"]) == (1.8, 3, 1.35)
    assert (three["val_error_mean"], json.loads(three["selected"])["alpha"]) == (1.9, 3)
    assert len(three["run_ids"].split()) == 3
    assert (one["n_seeds"], one["verdict"]) == (1, "inconclusive")
    assert (none["n_seeds"], none["verdict"], none["paper_error"]) == (0, "not tested", 2.1)
    assert (pixels["paper_error"], pixels["verdict"]) == (7.2, "validated")
    assert set(table["source"]) == {"replicated"}
    table3 = error_table(study, 3)
    figures = dict(zip(table3["method"] + " | " + table3["variant"], table3["paper_error"], strict=True))
    assert figures["Without pre-training | "] == 1.6
    assert figures["k-sparse AE + F.T. | k=25"] == 1.08
    assert figures["Deep k-sparse AE + F.T. | k=25, layer-wise pre-training"] == 0.97
    assert figures["Deep dropout AE + F.T. | layer-wise pre-training, 50% hidden"] == 0.85
    assert table3["paper_error"].notna().sum() == 7
    assert readable(error_table(study, 1))["Ours"].tolist().count("–") == len(table) - 3


def test_tables_are_stale_until_written_and_after_a_new_run(tmp_path: Path) -> None:
    study = Study("quick", tmp_path)
    store_errors(study, {"k=25, as printed": [1.8]})
    assert any("table1.csv" in line for line in stale(study))
    files = write_texts(study)
    assert {path.suffix for path in files} == {".csv", ".md", ".tex", ".json"}
    assert not any("table1" in line for line in stale(study))
    store_errors(study, {"k=10": [2.5]})
    assert sum("table1" in line for line in stale(study)) == 3


def test_notebooks_executed_from_another_version_are_stale(tmp_path: Path) -> None:
    study = Study("smoke", tmp_path)
    source = Path("notebooks/01_sparsity_sweep_filters.ipynb")
    notebook = json.loads((Path(__file__).parents[2] / source).read_text(encoding="utf-8"))
    output = {"output_type": "stream", "name": "stdout", "text": ["notebook complete\n"]}
    notebook["cells"][-1]["outputs"] = [output]
    executed = study.notebooks / source.name
    executed.parent.mkdir(parents=True)

    def faults() -> list[str]:
        executed.write_text(json.dumps(notebook), encoding="utf-8")
        return [line for line in stale(study) if "01_" in line]

    assert faults() == []
    notebook["cells"][-1]["outputs"] = []
    assert "did not run to its end" in faults()[0]
    notebook["cells"][-1]["outputs"] = [output, {"output_type": "error"}]
    assert "holds an error" in faults()[0]
    told = {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": ['dataset = "toy_norb"\n']}
    notebook["cells"][-1]["outputs"] = [output]
    place = 1 + next(i for i, cell in enumerate(notebook["cells"]) if "parameters" in cell["metadata"].get("tags", []))
    notebook["cells"].insert(place, told)
    assert "was executed on toy_norb, not on mnist" in faults()[0]
    del notebook["cells"][place]
    notebook["cells"][0]["source"] = ["something else"]
    assert "another version" in faults()[0]


def test_readme_blocks_are_replaced_between_their_markers_only() -> None:
    text = "a\n<!-- t:begin -->\nold\n<!-- t:end -->\nb\n"
    assert filled(text, {"t": "new\n"}) == "a\n<!-- t:begin -->\nnew\n<!-- t:end -->\nb\n"
    with pytest.raises(ValueError, match="no markers"):
        filled("no markers", {"t": "new"})


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
    for norb, title, source in (("toy_norb", "toy NORB (stand-in)", "stand-in"), ("norb", "NORB", "replicated")):
        study = Study("quick", tmp_path / norb, norb=norb)
        for run in (row.runs[0] for row in study.plan.experiment("norb_finetuning").rows):
            metrics = {"test_error": 8.0, "validation_error": 2.0, "test_images": 24_300, "selected": {}}
            study.store.save(run, metrics, TRIALS)
        table = error_table(study, 4).set_index("method")
        shallow, quoted = table.loc["Shallow k-sparse AE + F.T."], table.loc["DBM"]
        assert (shallow["dataset"], shallow["source"]) == (title, source)
        assert shallow["paper_error"] == 7.8 if norb == "norb" else math.isnan(shallow["paper_error"])
        assert shallow["verdict"] == ("inconclusive" if norb == "norb" else "not tested")
        assert (quoted["dataset"], quoted["source"], quoted["paper_error"], quoted["n_seeds"]) == (
            "NORB",
            "quoted",
            7.2,
            0,
        )
        assert Study("quick", tmp_path / norb).norb == norb, "runs on NORB are shown once there are some"
        shown = readable(table.reset_index()).set_index("Method")["Source"]
        assert (shown["Shallow k-sparse AE + F.T."], shown["DBM"]) == (
            title if norb == "toy_norb" else "replicated, NORB",
            "quoted, NORB",
        )
        assert table_texts(study)[study.tables / "table4.md"].startswith(f"Table 4, {title}, profile quick.")
    assert "Source" not in readable(error_table(Study("quick", tmp_path), 3)), "all rows are replicated"


def test_the_readme_names_the_data_its_numbers_are_of(tmp_path: Path) -> None:
    text = blocks(tmp_path)
    assert text["table2"].startswith("Table 2, toy NORB (stand-in):") and "On toy NORB (stand-in)" in text["fig2"]
    study = Study("quick", tmp_path, norb="norb")
    run = study.plan.experiment("norb_features").rows[0].runs[0]
    metrics = {"test_error": 23.0, "validation_error": 2.0, "test_images": 24_300, "selected": {"l2": 0.1}}
    study.store.save(run, metrics, TRIALS)
    text = blocks(tmp_path)
    assert text["table2"].startswith("Table 2, NORB:") and "| replicated, NORB |" in text["table2"]
    assert "On NORB, both" in text["fig2"]


def test_the_readme_shows_the_gabor_fits_of_every_profile_that_has_them(tmp_path: Path) -> None:
    assert "samples" not in blocks(tmp_path)["gabor"]
    study = Study("quick", tmp_path)
    (run,) = study.plan.experiment("patches").filters
    found = {"filters": 4, "share": 0.75, "control_share": 0.0, "explained": [0.9] * 4, "control_explained": [0.2] * 4}
    study.store.save(run, {"gabor": found}, TRIALS)
    assert f"| quick | samples | {run.train.epochs} | 4 | 75 | 0 | 0.90 | 0.20 |" in blocks(tmp_path)["gabor"]


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


def test_sweep_table_pairs_every_value_with_the_base_over_the_seeds(tmp_path: Path) -> None:
    study = Study("search", tmp_path, seeds=2)
    assert len(sweep_table(study)) == 0
    (k,) = [sweep for e in study.plan.experiments for sweep in e.sweeps if sweep.factor == "k"]
    trials = pd.DataFrame({"alpha": [2.0, 3.0], "fvu": [0.1, 0.2]})
    for value, runs in k.points:
        for seed, run in enumerate(runs):
            assert isinstance(run.encoder, TrainRun)
            assert (run.encoder.train.k, run.encoder.train.seed) == (value, seed)
            # Seeds differ by 5 in all runs; away from the base, seed 0 loses 1 and seed 1 loses 2.
            error = 2.0 + 5 * seed + (0 if value == 25 else 1 + seed)
            study.store.save(
                run, {"validation_error": error, "seed": seed, "selected": {"alpha": 3.0, "l2": 1e-4}}, trials
            )
    table = sweep_table(study)
    part = table[table["factor"] == "k"]
    assert part["value"].tolist() == [str(value) for value, _ in k.points]
    assert part.loc[part["is_base"], "value"].tolist() == ["25"]
    others = part[~part["is_base"]]
    assert (part["val_error_mean"] == 4.5 + 1.5 * ~part["is_base"]).all()
    assert (others["effect"] == 1.5).all()
    assert others["effect_ci_half"].tolist() == pytest.approx([12.706 * 0.5] * len(others), abs=1e-3)
    assert set(part["fvu_mean"]) == {0.2}
    # Another seed of the base alone moves the level all values are drawn at, and not one of the effects.
    third = Study("search", tmp_path, seeds=3).plan.experiment("sparsity").sweeps[0]
    (extra,) = [runs[2] for value, runs in third.points if value == 25]
    study.store.save(extra, {"validation_error": 0.0, "seed": 2, "selected": {"alpha": 3.0, "l2": 1e-4}}, trials)
    later = sweep_table(study)
    part = later[later["factor"] == "k"]
    others = part[~part["is_base"]]
    assert (others["effect"] == 1.5).all() and set(others["n_seeds"]) == {2}
    assert (others["val_error_mean"] == 4.5).all()
    alone = part[part["is_base"]].assign(factor="epochs")
    figure = sweep_figure(pd.concat([part, alone]))
    assert len(figure.axes) == 1, "a setting that nothing was compared with is left out"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == part["value"].tolist()
    plt.close(figure)


def test_a_winner_at_the_edge_of_what_was_tried_is_marked(tmp_path: Path) -> None:
    study = Study("search", tmp_path)
    (search,) = [s for s in study.plan.experiment("search").searches if s.method == "Denoising autoencoder"]
    for settings, run in search.trials:
        study.store.save(run, {"validation_error": 1.0, "settings": settings}, TRIALS)
    edges = {tuple(json.loads(row.trial).values()): row.at_edge for row in search_table(study).itertuples()}
    assert {rate for (rate, visible), edge in edges.items() if edge and visible == "linear"} == {0.0003, 0.01}
    assert {rate for (rate, visible), edge in edges.items() if edge and visible == "sigmoid"} == {0.001, 0.03}
    assert set(edges.values()) == {"", "learning_rate"}


def test_search_table_lists_trials_of_a_method_from_the_best(tmp_path: Path) -> None:
    study = Study("search", tmp_path)
    searches = study.plan.experiment("search").searches[:2]
    for search in searches:
        for error, (_, run) in zip((3.0, 1.0, 2.0), search.trials, strict=False):
            study.store.save(run, {"validation_error": error}, TRIALS)
    table = search_table(study)
    assert table["method"].tolist() == [s.method for s in searches for _ in range(3)]
    assert table["val_error"].tolist() == [1.0, 2.0, 3.0] * 2
    assert json.loads(table["trial"].iloc[0]) == searches[0].trials[1][0]
