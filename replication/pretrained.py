"""The trained coders that come with the library, from committed runs: ``python -m replication.pretrained``."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open

from ksae_lib import KSparseAutoencoder, KSparseCoder
from ksae_lib.estimator import PRETRAINED
from ksae_lib.io import save_model, write_text
from ksae_lib.metrics import reconstruction_report
from replication.data import load_data
from replication.study import Study


def write(folder: Path) -> Iterator[str]:
    """Write file and card of every coder, the nets of Figures 1 and 3 with weights rounded to float16; their names."""
    study = Study("quick")
    known = KSparseCoder().get_params()
    readouts = [row.at(0) for one in study.experiments for row in one.rows if row.table == 1]
    for run in (*study.experiment("figure1").filters, *study.experiment("figure3").filters):
        net: Any = run.method
        name, data = f"{run.data.name}-k{net.k}", load_data(run.data)
        stored, model = study.evidence.read(run.run_id), cast(KSparseAutoencoder, study.evidence.load_model(run))
        parameters = {key: value for key, value in asdict(net).items() if key in known}
        history = {key: column.to_numpy() for key, column in stored.history.items()}
        fitted = {"scale_": 1.0, "_seed": run.seed, "n_iter_": net.epochs, "n_features_in_": model.inputs}
        path = folder / f"{name}.safetensors"
        save_model(model.half(), path, parameters=parameters, fitted={**fitted, "history_": history})
        coder = KSparseCoder.load(path)
        on_test = reconstruction_report(coder.model_, data.test_x)
        with safe_open(path, framework="pt") as file:
            digest = file.metadata()["sha256"]
        card = {
            "k": net.k, "units": net.units, "trained_on": f"{len(data.train_x):,} examples of {run.data.title}",
            "data_sha256": data.sha256, "settings": asdict(net), "live_units": coder.live_units_,
            "test_fvu": round(on_test["fvu"], 5), "run": run.run_id, "code_digest": stored.metrics["code_digest"],
            "sha256": digest,
        }  # fmt: skip
        for readout in filter(None, (study.evidence.find(one) for one in readouts if one.encoder == run)):
            found = readout.metrics
            card["readout"] = {"run": found["run_id"], **found["selected"], "test_error": found["test_error"]}
        write_text(folder / f"{name}.json", json.dumps(card, indent=1) + "\n")
        yield name


if __name__ == "__main__":
    print(*write(PRETRAINED))
