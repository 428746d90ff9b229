"""Numbers in the README: generated from stored runs between markers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ksae_lib.io import write_text
from replication.report.claims import claims
from replication.report.tables import INTERVAL_NOTE, epoch_table, error_table, markdown, readable, table_title
from replication.study import Study, project_root


def blocks(results: Path) -> dict[str, str]:
    """The generated parts of the README by name, from the runs under ``results``."""
    quick, paper = Study("quick", results), Study("paper", results)
    benchmarks = project_root() / "benchmarks" / "results"
    curve = epoch_table(paper).drop(columns=["val_error", "run_id"], errors="ignore")
    verdicts = pd.DataFrame(claims(quick))[["id", "claim", "verdict", "confidence"]]
    return {
        "table1": markdown(readable(error_table(quick, 1))) + "\n" + INTERVAL_NOTE + "\n",
        "table3": markdown(readable(error_table(quick, 3))),
        **{f"table{number}": _on_norb(quick, number) for number in (2, 4)},
        "fig2": _figure2(quick),
        "gabor": _gabor(quick, paper),
        "designed": _every_k25(quick, paper),
        "longer": _longer(quick, paper),
        "claims": markdown(verdicts),
        "epochs": markdown(curve),
        **{
            name: write(json.loads(file.read_text(encoding="utf-8"))) if (file := benchmarks / source).exists() else ""
            for name, source, write in (
                ("speed", "engines.json", _speed),
                ("norb_speed", "engines_norb.json", _speed),
                ("tuning_speed", "finetuning.json", _tuning_speed),
                ("readout_speed", "readout.json", _readout_speed),
                ("peers_speed", "peers.json", _peers_speed),
                ("encoding_speed", "encoding.json", _encoding_speed),
            )
        },
    }


def _on_norb(study: Study, number: int) -> str:
    """Table 2 or 4 under its title, which names the data."""
    return f"{table_title(study, number)}:\n\n{markdown(readable(error_table(study, number)))}"


def _figure2(study: Study) -> str:
    title = study.plan.experiment("norb_filters").filters[0].data.title
    return f"On {title}, both cameras side by side:\n\n![Figure 2, {title}](results/quick/figures/fig2.png)\n"


def _gabor(*studies: Study) -> str:
    """What the Gabor fits of Figure 3's filters come to, for every profile that has its run."""
    runs = [(study, run) for study in studies for run in study.plan.experiment("patches").filters]
    found = [(study, run, study.store.load(run).metrics) for study, run in runs if study.store.has(run)]
    return markdown(
        pd.DataFrame(
            {
                "Profile": study.plan.profile,
                "Patches of": run.data.source,
                "Epochs": run.train.epochs,
                "Filters fitted": metrics["gabor"]["filters"],
                "Localized and oriented (%)": f"{100 * metrics['gabor']['share']:.0f}",
                "Noise (%)": f"{100 * metrics['gabor']['control_share']:.0f}",
                "Variance explained, median": f"{np.median(metrics['gabor']['explained']):.2f}",
                "Noise, median": f"{np.median(metrics['gabor']['control_explained']):.2f}",
            }
            for study, run, metrics in found
        )
    )


def _every_k25(*studies: Study) -> str:
    """Every row of Table 1 at k = 25, of several profiles."""
    tables = [error_table(study, 1).assign(profile=study.plan.profile) for study in studies]
    table = pd.concat(tables, ignore_index=True)
    ours = table["method"].str.startswith("k-sparse") & (table["variant"].str.partition(",")[0] == "k=25")
    table = table[ours & (table["n_seeds"] > 0)]
    shown = readable(table).drop(columns=["Method", "Verdict"])
    shown.insert(1, "Profile", table["profile"])
    shown.insert(4, "Validation", table["val_error_mean"].map("{:.2f}".format))
    return markdown(shown)


def _longer(quick: Study, paper: Study) -> str:
    """Errors of the two profiles beside each other, for the rows that both have."""
    first, second = (_by_profile(study) for study in (quick, paper))
    return markdown(first.merge(second, on=["Table", "Method", "Variant", "Paper"], sort=False))


def _by_profile(study: Study) -> pd.DataFrame:
    """The rows of Tables 1 and 3 that have runs, error, interval and seeds in one column named after the profile."""
    table = pd.concat([error_table(study, number) for number in (1, 3)], ignore_index=True)
    table = table[table["n_seeds"] > 0]
    shown = readable(table).assign(Table=table["table"]).astype(str)
    name = f"Profile `{study.plan.profile}`"
    shown[name] = shown["Ours"] + " (" + shown["95% interval"] + "; " + shown["Seeds"] + ")"
    return shown[["Table", "Method", "Variant", "Paper", name]]


def _speed(measured: dict[str, Any]) -> str:
    seconds = ["reference_s_per_epoch", "cpu_s_per_epoch", "cpu_bfloat16_s_per_epoch", "floor_s_per_epoch"]
    rows = pd.DataFrame(
        {"k": k, **{name: f"{values[name]:.2f}" for name in seconds}, "ratio": f"{values['ratio']:.1f}"}
        for k, values in measured.items()
        if k.isdigit()
    )
    names = dict(zip(seconds, ["reference", "cpu", "cpu, bfloat16 support", "floor, dense product"], strict=True))
    hardware, task = measured["hardware"], measured["task"]
    return (
        f"Seconds per epoch ({task['data']}: {task['examples']:,} × {task['inputs']}, {task['units']} units, "
        f"batch {task['batch_size']}) on {hardware['cpu']}, {hardware['cores']} cores:\n\n"
        + markdown(rows.rename(columns={**names, "ratio": "reference / cpu"}))
    )


def _readout_speed(measured: dict[str, Any]) -> str:
    penalties = len(measured["l2"])
    rows = pd.DataFrame(
        {
            "codes": name,
            "non-zero": f"{100 * row['share_nonzero']:.0f}%",
            "scikit-learn": f"{row['scikit_learn_s']:.1f}",
            "converged": f"{row['scikit_learn_converged']} of {penalties}",
            "ours": f"{row['ours_s']:.1f}",
            "converged ": f"{row['ours_converged']} of {penalties}",
            "scikit-learn / ours": f"{row['ratio']:.1f}",
            "test errors": f"{row['scikit_learn_test_error']:.2f}, {row['ours_test_error']:.2f}",
        }
        for name, row in measured["codes"].items()
    )
    hardware = measured["hardware"]
    return (
        f"Seconds to fit {measured['examples']:,} codes at {penalties} penalties on {hardware['cpu']}, "
        f"{hardware['cores']} cores:\n\n" + markdown(rows)
    )


def _tuning_speed(measured: dict[str, Any]) -> str:
    rows = [
        {
            "layers": layers,
            "dense": f"{measured[dense + '_s_per_epoch']:.2f}",
            "k-sparse": f"{measured[k_sparse + '_s_per_epoch']:.2f}",
            "dense / k-sparse": f"{measured[name]:.1f}",
        }
        for layers, dense, k_sparse, name in (
            (1, "dense", "k_sparse", "dense_over_k_sparse"),
            (2, "deep_dense", "deep_k_sparse", "deep_dense_over_deep_k_sparse"),
        )
    ]
    return "Seconds per epoch of fine-tuning, every layer trained, αk = 75:\n\n" + markdown(pd.DataFrame(rows))


def _peers_speed(measured: dict[str, Any]) -> str:
    rows = pd.DataFrame(
        {
            "": f"{name} {row['version']}" if row["version"] else name,
            "weights": row["model"],
            "optimizer": row["optimizer"],
            "seconds per epoch": f"{row['s_per_epoch']:.2f}",
            "quartiles": "{:.2f} – {:.2f}".format(*row["quartiles"]),
            "fastest peer / this": f"{ratio:.1f}" if (ratio := row["fastest_peer_over_this"]) else "–",
        }
        for name, row in measured["peers"].items()
    )
    task, hardware = measured["task"], measured["hardware"]
    return (
        f"MNIST, {task['images']:,} × {task['inputs']}, {task['units']} units, k = {task['k']}, batch "
        f"{task['batch_size']}, float32, on {hardware.get('gpu') or hardware['cpu']}, {hardware['cores']} cores; "
        f"median of {measured['rounds']} rounds:\n\n" + markdown(rows)
    )


def _encoding_speed(measured: dict[str, Any]) -> str:
    rows = [
        {
            "": name,
            "images per second": f"{row['images_per_s']:,.0f}",
            "encoder / this": f"{row['encoder_over_this']:,.0f}",
            "atoms of a code": f"{row['l0']:.1f}",
            "FVU": f"{row['fvu']:.3f}",
        }
        for name, row in measured["methods"].items()
    ]
    floor = {
        "": "floor: the product of all pixels with the dictionary",
        "images per second": f"{measured['floor_images_per_s']:,.0f}",
    }
    task, hardware = measured["task"], measured["hardware"]
    return (
        f"MNIST test images, {task['units']} atoms, k = {task['k']}, one core of {hardware['cpu']}; FVU of the first "
        f"{task['sparse_coded']}:\n\n" + markdown(pd.DataFrame([*rows, floor]).fillna("–")) + "\nThe encoder's support "
        f"with least-squares values has FVU {measured['support_with_least_squares_fvu']:.3f}; the dictionary of the "
        f"last method was learned from {measured['dictionary_learned_from']:,} images.\n"
    )


def filled(text: str, generated: dict[str, str]) -> str:
    """``text`` with each part between ``<!-- name:begin -->`` and ``<!-- name:end -->`` replaced.

    Raises:
        ValueError: a marker is missing.
    """
    for name, block in generated.items():
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        match = pattern.search(text)
        if match is None:
            raise ValueError(
                f"README.md has no markers '<!-- {name}:begin -->' and '<!-- {name}:end -->': restore them."
            )
        begin, end = match.span()
        text = text[:begin] + match.group(1) + block + match.group(2) + text[end:]
    return text


def readme_text(results: Path) -> tuple[Path, str]:
    """The checkout's README and what it should say given the stored runs."""
    path = project_root() / "README.md"
    return path, filled(path.read_text(encoding="utf-8"), blocks(results))


def update_readme(results: Path) -> None:
    """Rewrite the generated parts of the checkout's README."""
    write_text(*readme_text(results))
