from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from replication.plan import FinetuneRun, ReadoutRun, Row, load_plan
from replication.report.claims import _KINDS, _Evidence, claims, compare, paired_table
from replication.report.texts import report_texts
from replication.runs import StoredRun
from replication.study import Study

IMAGES = 10_000
RUN = ReadoutRun()


def stored(share: float, seed: int = 0) -> StoredRun:
    """A run that misclassifies about ``share`` of the test images."""
    wrong = np.flatnonzero(np.random.default_rng(seed).random(IMAGES) < share)
    metrics = {
        "test_error": 100 * len(wrong) / IMAGES, "validation_error": 1.0, "test_images": IMAGES,
        "test_mistakes": wrong.tolist(), "selected": {}, "seed": seed,
    }  # fmt: skip
    return StoredRun(RUN, metrics, pd.DataFrame())


def test_one_run_each_is_compared_by_the_paired_t_test() -> None:
    first, second = stored(0.02, 1), stored(0.025, 2)
    wrong = [np.isin(np.arange(IMAGES), run.metrics["test_mistakes"]) * 100.0 for run in (first, second)]
    wanted = stats.ttest_rel(*wrong)
    got = compare([first], [second])
    assert got.p == pytest.approx(wanted.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(wanted.confidence_interval()))
    assert got.difference == pytest.approx(first.metrics["test_error"] - second.metrics["test_error"])


def test_the_spread_over_seeds_widens_the_interval() -> None:
    def width(errors: tuple[float, float, float]) -> float:
        c = compare([stored(e, i) for i, e in enumerate(errors)], [stored(0.02, i + 9) for i in range(3)])
        return c.high - c.low

    assert width((0.02, 0.04, 0.06)) > 2 * width((0.04, 0.04, 0.04))


def test_the_same_mistakes_make_no_difference() -> None:
    assert compare([stored(0.02)], [stored(0.02)]) == (0, 0, 0, 1)


def put(
    study: Study, name: str, errors: list[float], by_alpha: dict[float, float] | None = None, dataset: str = "mnist"
) -> None:
    """Store made-up runs, one a seed, for the row of that name."""
    experiments = [e for e in load_plan(study.plan.profile, len(errors)).experiments if e.dataset == dataset]
    (row,) = [row for e in experiments for row in e.rows if " | ".join(filter(None, (row.method, row.variant))) == name]
    history = pd.DataFrame({"alpha": list(by_alpha or {1.0: 1.0}), "validation_error": (by_alpha or {1: 1}).values()})
    for seed, (run, error) in enumerate(zip(row.runs, errors, strict=False)):
        jitter = np.random.default_rng(seed).normal(0, 0.01, len(history))
        shifted = history.assign(validation_error=history["validation_error"] + jitter)
        study.store.save(
            run, stored(error / 100, seed * 100 + len(name)).metrics | {"seed": seed}, shifted, replace=True
        )


def test_claims_on_the_stand_in_say_so(tmp_path: Path) -> None:
    records = [record for record in claims(Study("quick", tmp_path)) if "toy" in record["id"]]
    assert [record["id"].split()[0] for record in records] == ["C3", "C5", "C8"]
    for record in records:
        assert record["id"].endswith("on toy NORB (stand-in)") and record["claim"].startswith("Toy NORB (stand-in): ")


def verdicts(study: Study) -> dict[str, str]:
    return {record["id"]: record["verdict"] for record in claims(study)}


def rows(study: Study, *tables: int) -> list[Row]:
    return [row for e in study.plan.experiments for row in e.rows if row.table in tables]


def test_verdicts_follow_from_the_runs(tmp_path: Path) -> None:
    study = Study("quick", tmp_path)
    without_runs = {name: said for name, said in verdicts(study).items() if name != "C13"}
    assert set(without_runs.values()) == {"not tested"}
    for row in rows(study, 2, 4):
        best = "k-sparse autoencoder | k=150", "Deep k-sparse AE + F.T. | k=150, layer-wise pre-training"
        name = " | ".join(filter(None, (row.method, row.variant)))
        put(study, name, [1.5 if name in best else 3.0] * 3, dataset="norb")
    got = verdicts(study)
    assert (got["C3"], got["C8 on NORB"], got["C5 on NORB"]) == ("not tested",) * 3, "the stand-in is not NORB"
    assert (got["C3 on toy NORB (stand-in)"], got["C8 on toy NORB (stand-in)"]) == ("validated", "validated")
    curve = {1.0: 2.0, 2.0: 1.8, 3.0: 1.5, 4.0: 1.7}
    for row in rows(study, 1, 3):
        name = " | ".join(filter(None, (row.method, row.variant)))
        put(study, name, [3.0] * 3)
    put(study, "k-sparse autoencoder | k=25", [1.5] * 3, curve)
    put(study, "k-sparse AE + F.T. | k=25", [1.5] * 3)
    put(study, "Deep k-sparse AE + F.T. | k=25, layer-wise pre-training", [1.5] * 3)
    got = verdicts(study)
    assert (got["C1"], got["C2"], got["C4"], got["C14"], got["C9"]) == ("validated",) * 5
    assert got["C7"] == "partially supported"
    assert got["C8"] == "inconclusive"
    assert got["C5"] == got["C11"] == "not tested"
    put(study, "k-sparse autoencoder | k=25", [1.5] * 3, {1.0: 2.0, 2.0: 1.4, 3.0: 1.5, 4.0: 1.7})
    put(study, "k-sparse autoencoder | k=100", [0.5] * 3)
    put(study, "k-sparse autoencoder | k=10", [1.5] * 3)
    for name in ("RBM", "Dropout autoencoder | 50% hidden", "Denoising autoencoder | 20% input dropout"):
        put(study, name, [0.5] * 3)
    got = verdicts(study)
    assert (got["C4"], got["C14"], got["C2"]) == ("partially supported", "contradicted", "partially supported")
    assert got["C1"] == "contradicted", "three parts the opposite, two as claimed"
    (c1,) = [record for record in claims(study) if record["id"] == "C1"]
    assert c1["confidence"] == "medium"
    assert c1["deviations"][0].startswith("trained for fewer epochs")
    assert len(c1["evidence"]["findings"]) == 5
    assert len(c1["evidence"]["run_ids"]) == 3 * 5 + 1


def test_paired_table_has_every_other_row(tmp_path: Path) -> None:
    study = Study("quick", tmp_path)
    for row in rows(study, 1):
        put(study, " | ".join(filter(None, (row.method, row.variant))), [3.0] * 3)
    assert len(paired_table(study, 1)) == len(rows(study, 1)) - 1
    assert len(paired_table(study, 3)) == 0
    text = report_texts(study)[study.folder / "claims.json"]
    assert {"id", "claim", "section", "rule", "verdict", "confidence", "evidence", "notebook", "deviations"} == set(
        json.loads(text)[0]
    )


def test_every_claim_names_rows_and_notebooks_that_exist() -> None:
    plan = load_plan("quick")
    assert len({claim.id for claim in plan.claims}) == len(plan.claims) == 17
    notebooks = {e.notebook for e in plan.experiments}
    assert {claim.notebook for claim in plan.claims} <= notebooks
    known = {" | ".join(filter(None, (row.method, row.variant))) for e in plan.experiments for row in e.rows}
    named = {
        name
        for claim in plan.claims
        for kind, want in claim.evidence.items()
        if kind != "encoding"
        for name in [want.get("row"), *want.get("than", [])]
        if name is not None
    }
    assert len(named) > 10 and named <= known
    assert all(isinstance(run, FinetuneRun) for row in rows(Study("quick"), 3) for run in row.runs)


def test_fewer_than_three_seeds_of_a_row_decide_nothing(tmp_path: Path) -> None:
    study = Study("quick", tmp_path)
    put(study, "k-sparse autoencoder | k=25", [1.5] * 5)
    put(study, "k-sparse autoencoder | k=100", [3.0] * 2)
    (c14,) = [record for record in claims(study) if record["id"] == "C14"]
    assert (c14["verdict"], c14["confidence"]) == ("inconclusive", "low")
    put(study, "k-sparse autoencoder | k=100", [3.0] * 3)
    (c14,) = [record for record in claims(study) if record["id"] == "C14"]
    assert (c14["verdict"], c14["confidence"]) == ("validated", "medium")


def test_filters_and_codes_are_compared_by_their_measures(tmp_path: Path) -> None:
    study = Study("quick", tmp_path)
    areas = {70: 0.1, 40: 0.2, 25: 0.3, 10: 0.4}
    for run in study.plan.experiment("filters").filters:
        study.store.save(run, {"effective_area_median": areas[run.train.k], "seed": 0}, pd.DataFrame({"epoch": []}))
    for label, encoder in study.plan.experiment("activities").models:
        metrics = {"sparsity": {"hoyer": 0.9 if label.endswith("15") else 0.5}, "effective_area_median": 0.1, "seed": 0}
        study.store.save(encoder, metrics, pd.DataFrame({"epoch": []}), replace=True)
    got = verdicts(study)
    assert (got["C5"], got["C11"], got["C5 on toy NORB (stand-in)"]) == ("validated", "validated", "not tested")
    for run in study.plan.experiment("norb_filters").filters:
        area = {"effective_area_median": run.train.k / 1000, "seed": 0}
        study.store.save(run, area, pd.DataFrame({"epoch": []}))
    got = verdicts(study)
    assert (got["C5"], got["C5 on toy NORB (stand-in)"], got["C5 on NORB"]) == (
        "validated",
        "contradicted",
        "not tested",
    )
    first = study.plan.experiment("filters").filters[-1]
    study.store.save(first, {"effective_area_median": 0.01, "seed": 0}, pd.DataFrame({"epoch": []}), replace=True)
    assert verdicts(study)["C5"] == "partially supported"


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
    study = Study("quick", tmp_path)
    (run,) = study.plan.experiment("patches").filters
    gabor = {"filters": 300, "share": share, "control_share": control}
    study.store.save(run, {"gabor": gabor, "seed": 0}, pd.DataFrame({"epoch": []}))
    assert verdicts(study)["C10"] == said


def test_encoding_is_fast_if_it_is_so_next_to_every_method_of_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replication.report.claims.project_root", lambda: tmp_path)
    decide = _KINDS["encoding"]
    store = _Evidence(Study("smoke", tmp_path))
    want = {"times": 50, "than": ["OMP", "LARS-lasso", "slow"]}
    assert [finding.sign for finding in decide(store, want)] == [None]
    file = tmp_path / "benchmarks" / "results" / "encoding.json"
    file.parent.mkdir(parents=True)
    ratios = {"OMP": 900.0, "LARS-lasso": 49.0, "slow": 0.9}
    methods = {name: {"encoder_over_this": ratio} for name, ratio in ratios.items()}
    file.write_text(json.dumps({"methods": methods}))
    fast, less, slow = decide(store, want)
    assert (fast.sign, less.sign, slow.sign) == (1, 0, -1)
    assert fast.said == "900 times as many images a second as OMP, wanted are 50"
