from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ksae_lib import load_pretrained
from replication.data import load_data
from replication.data.base import DataConfig
from replication.experiments.gap import BASE
from replication.methods.k_sparse import KSparse
from replication.report.claims import CHECKS, Evidence, _faster, _planted, claims, stated
from replication.report.paired import compare, holm, paired_table
from replication.report.write import report_texts
from replication.runs import EncoderRun, ReadoutRun, StoredRun, twice
from replication.study import Study, project_root

IMAGES = 10_000
RUN = ReadoutRun(encoder=EncoderRun(method=KSparse()))


def stored(share: float, seed: int = 0) -> StoredRun:
    """A run that misclassifies about ``share`` of the test images."""
    wrong = np.flatnonzero(np.random.default_rng(seed).random(IMAGES) < share)
    metrics = {
        "test_error": 100 * len(wrong) / IMAGES, "validation_error": 1.0, "test_images": IMAGES,
        "test_mistakes": wrong.tolist(), "selected": {}, "seed": seed,
    }  # fmt: skip
    return StoredRun(RUN, metrics, pd.DataFrame())


def of_rows(share: float, other: float, seeds: int = 5, shared: float = 0.0) -> tuple[list[StoredRun], list[StoredRun]]:
    """Runs of two rows, whose images are misclassified independently but for a ``shared`` part."""
    common = np.flatnonzero(np.random.default_rng(99).random(IMAGES) < shared)
    made = [[stored(e, 10 * row + seed) for seed in range(seeds)] for row, e in enumerate((share, other))]
    for run in (*made[0], *made[1]):
        wrong = sorted({*run.metrics["test_mistakes"], *common.tolist()})
        run.metrics.update(test_mistakes=wrong, test_error=100 * len(wrong) / IMAGES)
    return made[0], made[1]


def test_the_interval_is_that_of_images_and_seeds_crossed() -> None:
    first, second = of_rows(0.02, 0.03, seeds=8)
    got = compare(first, second)
    wrong = [
        np.array([np.isin(np.arange(IMAGES), run.metrics["test_mistakes"]) for run in row]) for row in (first, second)
    ]
    images = (wrong[0].mean(0) - wrong[1].mean(0)).var(ddof=1) / IMAGES
    seeds = sum(row.mean(1).var(ddof=1) / len(row) for row in wrong)
    half = 1.96 * 100 * np.sqrt(images + seeds)
    # A two-way bootstrap counts the noise of images that is in the spread over seeds once more.
    assert half <= (got.high - got.low) / 2 <= 1.4 * half
    assert got.difference == pytest.approx(100 * (wrong[0].mean() - wrong[1].mean()))
    assert got.seeds == 8 and got.p <= 0.001


def test_images_that_both_rows_miss_make_no_difference_uncertain() -> None:
    alone, common = (compare(*of_rows(0.001, 0.001, shared=shared)) for shared in (0.0, 0.05))
    assert common.high - common.low == pytest.approx(alone.high - alone.low, rel=0.2)


def test_outcomes_tell_equal_from_open() -> None:
    def outcome(share: float, other: float, seeds: int = 5, p: float | None = None) -> str:
        found = compare(*of_rows(share, other, seeds))
        return found.outcome(found.p if p is None else p)

    assert (outcome(0.01, 0.02), outcome(0.02, 0.01)) == ("lower", "higher")
    assert outcome(0.01, 0.02, p=0.05) == "open", "Holm's p counts"
    assert outcome(0.001, 0.001) == "equal"
    assert outcome(0.1, 0.1) == "open", "errors that vary by more than the margin"
    assert outcome(0.01, 0.02, seeds=2) == "open"


def test_a_difference_is_found_about_as_often_by_chance_as_its_level_says() -> None:
    found = 0
    for draw in range(40):
        rows = [[stored(0.02, 1000 * draw + 10 * row + seed) for seed in range(5)] for row in range(2)]
        found += compare(*rows).p < 0.05
    assert found <= 5


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_the_same_mistakes_make_no_difference() -> None:
    same = compare([stored(0.02)] * 3, [stored(0.02)] * 3)
    assert same[:4] == (0, 0, 0, 1) and same.equal


def evidence(folder: Path) -> Study:
    return Study("quick", results=folder, evidence=folder)


def put(
    study: Study,
    table: int,
    key: str,
    errors: list[float],
    by_alpha: dict[float, float] | None = None,
    data: str = "mnist",
) -> None:
    """Store made-up runs, one a seed, for the row of that key."""
    (row,) = [shown.row for shown in study.rows(table, data) if shown.row.key == key]
    history = pd.DataFrame({"alpha": list(by_alpha or {1.0: 1.0}), "validation_error": (by_alpha or {1: 1}).values()})
    for seed, error in enumerate(errors):
        jitter = np.random.default_rng(seed).normal(0, 0.01, len(history))
        shifted = history.assign(validation_error=history["validation_error"] + jitter)
        name = len(row.label)
        study.store.save(row.at(seed), stored(error / 100, seed * 100 + name).metrics | {"seed": seed}, shifted)


def verdicts(study: Study) -> dict[str, str]:
    return {record["id"]: record["verdict"] for record in claims(study)}


def test_the_stand_in_is_no_evidence(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    for table, best in ((2, "k150"), (4, "deep_k_sparse")):
        for shown in study.rows(table, "toy_norb"):
            put(study, table, shown.row.key, [1.5 if shown.row.key == best else 3.0] * 3, data="toy_norb")
    assert "toy" not in json.dumps(claims(study))
    got = verdicts(study)
    assert (got["C3"], got["C8 on NORB"], got["C5 on NORB"]) == ("not tested",) * 3
    for shown in study.rows(4, "norb"):
        put(study, 4, shown.row.key, [1.5 if shown.row.key == "deep_k_sparse" else 3.0] * 3, data="norb")
    assert verdicts(study)["C8 on NORB"] == "validated"


def test_verdicts_follow_from_the_runs(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    without_runs = {name: said for name, said in verdicts(study).items() if name not in ("C12", "C13")}
    assert set(without_runs.values()) == {"not tested"}
    curve = {1.0: 2.0, 2.0: 1.8, 3.0: 1.5, 4.0: 1.7}
    for table in (1, 3):
        for shown in study.rows(table):
            put(study, table, shown.row.key, [3.0] * 3)
    put(study, 1, "k25", [1.5] * 3, curve)
    put(study, 3, "k_sparse", [1.5] * 3)
    put(study, 3, "deep_k_sparse", [1.5] * 3)
    got = verdicts(study)
    assert (got["C1"], got["C2"], got["C4"], got["C4, best α"], got["C14"], got["C9"]) == ("validated",) * 6
    assert got["C7"] == "partially supported"
    assert got["C8"] == "inconclusive"
    assert got["C5"] == got["C11"] == got["C6"] == "not tested"
    put(study, 1, "k25", [1.5] * 3, {1.0: 2.0, 2.0: 1.4, 3.0: 1.5, 4.0: 1.7})
    put(study, 1, "k100", [0.5] * 3)
    put(study, 1, "k10", [1.5] * 3)
    for key in ("rbm", "dropout", "denoising", "both"):
        put(study, 1, key, [0.5] * 3)
    got = verdicts(study)
    assert (got["C4"], got["C4, best α"], got["C14"]) == ("validated", "contradicted", "contradicted")
    assert got["C2"] == "partially supported", "k = 10 is as good, and not better"
    assert got["C1"] == "contradicted", "only raw pixels, which support nothing, as claimed"
    put(study, 1, "both", [3.0] * 3)
    assert verdicts(study)["C1"] == "partially supported"
    (c1,) = [record for record in claims(study) if record["id"] == "C1"]
    assert c1["confidence"] == "low", "nothing shows that the rows were trained for long enough"
    assert "Dropout autoencoder" in c1["deviations"][0] and "Raw pixels" not in c1["deviations"][0]
    assert len(c1["evidence"]["findings"]) == 5
    assert len(c1["evidence"]["run_ids"]) == 3 * 5 + 1, "three seeds a row, and the pixels"


def test_a_readers_own_runs_decide_nothing(tmp_path: Path) -> None:
    study = Study("quick", results=tmp_path / "own", evidence=tmp_path / "evidence")
    for shown in study.rows(1):
        put(study, 1, shown.row.key, [1.5 if shown.row.key == "k25" else 3.0] * 3)
    assert {verdicts(study)[name] for name in ("C1", "C2", "C14")} == {"not tested"}


def test_paired_table_has_every_other_row(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    keys = [shown.row.key for shown in study.rows(1)]
    for key in keys:
        put(study, 1, key, [3.0] * 3)
    assert paired_table(study, 1)["key"].tolist() == [key for key in keys if key != "k25"]
    assert len(paired_table(study, 3)) == 0
    text = report_texts(study)[study.folder / "claims.json"]
    assert {"id", "claim", "section", "rule", "verdict", "confidence", "evidence", "notebook", "deviations"} == set(
        json.loads(text)[0]
    )


def test_every_claim_names_rows_and_notebooks_that_exist(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    ids = [claim["id"] for claim in stated()]
    assert len(set(ids)) == len(ids) == 17
    assert set(ids) == set(CHECKS)
    assert {f"C{number}" for number in range(1, 15)} <= set(ids), "every claim of the paper is listed"
    notebooks = {claim["id"]: claim["notebook"] for claim in stated()}
    assert notebooks.pop("C13") is None, "docs/speed.md shows it"
    assert set(notebooks.values()) <= {p.stem for p in (project_root() / "notebooks").glob("*.ipynb")}
    named = {
        (table, data, key)
        for checks in CHECKS.values()
        for check, *asked in checks
        if check.__name__ == "_lower"
        for data, table, *pairs in [asked]
        for pair in pairs
        for key in pair.split("<")
    }
    assert len(named) > 20 and named <= set(Evidence(study).rows)
    assert all(CHECKS.values())


def test_fewer_than_three_seeds_of_a_row_decide_nothing(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    put(study, 1, "k25", [1.5] * 5)
    for seeds, said in ((2, "inconclusive"), (3, "validated")):
        put(study, 1, "k100", [3.0] * seeds)
        (c14,) = [record for record in claims(study) if record["id"] == "C14"]
        assert (c14["verdict"], c14["confidence"]) == (said, "low")


def put_longer(study: Study, key: str, errors: list[float]) -> None:
    """Store the runs of a row of Table 1 with twice the epochs."""
    (row,) = [shown.row for shown in study.rows(1) if shown.row.key == key]
    for seed, error in enumerate(errors):
        longer = twice(row.at(seed))
        assert longer is not None
        study.store.save(longer, stored(0.02, seed).metrics | {"test_error": error}, pd.DataFrame({"alpha": []}))


def test_rows_shown_to_be_trained_for_long_enough_give_confidence(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    for key, error in (("k25", 1.5), ("k100", 3.0)):
        put(study, 1, key, [error] * 5)
        (row,) = [shown.row for shown in study.rows(1) if shown.row.key == key]
        put_longer(study, key, [study.evidence.read(row.at(s).run_id).metrics["test_error"] for s in range(5)])
    (c14,) = [record for record in claims(study) if record["id"] == "C14"]
    assert c14["verdict"] == "validated"
    assert c14["confidence"] == "high" and not any(said.startswith("nothing") for said in c14["deviations"])


def test_the_schedule_is_judged_by_live_units_at_the_lowest_k_and_two_lengths(tmp_path: Path) -> None:
    study = Study("paper", results=tmp_path, evidence=tmp_path)
    said = {}
    points = {
        (sweep.factor, name): at
        for sweep in study.experiment("gap").sweeps
        if sweep.k == 10
        for name, at in sweep.points
    }
    wanted = [points["schedule", BASE], points["epochs", "120"], points["schedule", "from 100"]]
    assert verdicts(study)["C6"] == "not tested"
    for live in ((800, 820, 995), (800, 980, 995), (800, 820, 900), (990, 990, 900), (948, 949, 995)):
        for units, at in zip(live, wanted, strict=True):
            for seed in range(3):
                study.store.save(at(seed), stored(0.02, seed).metrics, pd.DataFrame({"test_error": [2.0]}))
                net = {"live_units": units + seed, "noise_tiles": 0, "effective_area_median": 0.1, "weight_skew": 1.0}
                encoder = at(seed).encoder
                assert encoder is not None
                study.store.save(encoder, net | {"validation": {"fvu": 0.1}}, pd.DataFrame({"epoch": []}))
        said[live] = verdicts(study)["C6"]
    assert list(said.values()) == ["validated", *["contradicted"] * 3, "partially supported"]


def put_areas(study: Study, areas: dict[int, float], seed: int = 0) -> None:
    """Store nets of Figure 1 with these median areas by k."""
    for run in study.experiment("figure1").filters:
        if run.method.k in areas:
            seeded = replace(run, method=replace(run.method, seed=seed))
            metrics = {"effective_area_median": areas[run.method.k], "live_units": 990, "seed": seed}
            study.store.save(seeded, metrics, pd.DataFrame({"epoch": []}))


@pytest.mark.parametrize(
    ("recovered", "verdict"),
    [((0.96, 0.99, 0.95, 1.0), "validated"), ((0.96, 0.94, 0.95, 1.0), "partially supported"),
     ((0.94, 0.94, 0.94, 0.49), "contradicted"), ((0.94, 0.94, 0.94, 0.94), "inconclusive")],
)  # fmt: skip
def test_the_theory_is_judged_by_supports_found_in_trained_dictionaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovered: tuple[float, ...], verdict: str
) -> None:
    shares = dict(zip((10, 25, 40, 70), recovered, strict=True))
    planted = {f"mnist-k{k}": {"recovered": share, "found": 0.9} for k, share in shares.items()}
    monkeypatch.setattr("replication.report.claims._planted", planted.__getitem__)
    assert verdicts(evidence(tmp_path))["C12"] == verdict


def test_supports_are_found_again_by_the_models_own_step() -> None:
    shares = _planted("mnist-k25")
    model = load_pretrained("mnist-k25").model_
    code = model.encode(torch.from_numpy(load_data(DataConfig()).test_x[:2_000]))
    both = (one.detach().numpy() for one in (code, model.encode(model.decode(code))))
    found = [len({*a.nonzero()[0]} & {*b.nonzero()[0]}) / 25 for a, b in zip(*both, strict=True)]
    assert shares["found"] == pytest.approx(np.mean(found))
    assert shares["recovered"] == pytest.approx(np.mean([share == 1 for share in found]))


def test_filters_and_codes_are_compared_by_their_measures(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    put_areas(study, {70: 0.1, 40: 0.2, 25: 0.3, 10: 0.4})
    for label, encoder in study.experiment("figure4").models.items():
        metrics = {"sparsity": {"hoyer": 0.9 if label.endswith("15") else 0.5}, "seed": 0}
        study.store.save(encoder, metrics, pd.DataFrame({"epoch": []}))
    got = verdicts(study)
    assert (got["C5"], got["C11"], got["C5 on NORB"]) == ("validated", "validated", "not tested")
    (c5,) = [record for record in claims(study) if record["id"] == "C5"]
    net = "k = 10, constant: centered biases, rate 0.005 on E (0.01 on ½E), seed 0, 990 of 1000 live"
    assert net in c5["evidence"]["findings"][0]
    put_areas(study, {10: 0.01})
    assert verdicts(study)["C5"] == "partially supported"


def test_filters_that_have_not_left_their_start_decide_nothing(tmp_path: Path) -> None:
    study = evidence(tmp_path)
    put_areas(study, {70: 0.318, 40: 0.315, 25: 0.320, 10: 0.331})
    assert verdicts(study)["C5"] == "inconclusive"
    put_areas(study, {70: 0.10, 40: 0.12, 25: 0.14, 10: 0.16})
    assert verdicts(study)["C5"] == "validated"
    put_areas(study, {40: 0.22, 25: 0.04, 10: 0.36}, seed=1)
    assert verdicts(study)["C5"] == "inconclusive", "seeds differ by more than k does"


@pytest.mark.parametrize(
    ("share", "control", "said"),
    [
        (0.8, 0.1, "validated"),
        (0.4, 0.1, "partially supported"),
        (0.6, 0.6, "partially supported"),
        (0.1, 0.6, "contradicted"),
    ],
)
def test_filters_of_patches_must_be_like_gabor_functions_and_more_so_than_noise(
    tmp_path: Path, share: float, control: float, said: str
) -> None:
    study = evidence(tmp_path)
    (run,) = study.experiment("figure3").filters
    gabor = {"filters": 300, "share": share, "control_share": control}
    study.store.save(run, {"gabor": gabor, "seed": 0}, pd.DataFrame({"epoch": []}))
    assert verdicts(study)["C10"] == said


def test_encoding_is_fast_if_it_is_so_next_to_every_method_of_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replication.report.claims.project_root", lambda: tmp_path)
    store = Evidence(evidence(tmp_path))
    asked = 50, "OMP", "LARS-lasso", "slow"
    assert [finding.outcome for finding in _faster(store, *asked)] == ["missing"]
    file = tmp_path / "benchmarks" / "results" / "encoding.json"
    file.parent.mkdir(parents=True)
    ratios = {"OMP": 900.0, "LARS-lasso": 49.0, "slow": 0.9}
    methods = {name: {"encoder_over_this": ratio} for name, ratio in ratios.items()}
    file.write_text(json.dumps({"methods": methods}))
    fast, less, slow = _faster(store, *asked)
    assert (fast.outcome, less.outcome, slow.outcome) == ("as claimed", "open", "opposite")
    assert fast.said == "900 times as many images a second as OMP, wanted are 50"
