"""The command ``python -m explorer.build``: one self-contained HTML page from trained coders, without any training.

Atoms and classifiers become int8, one scale a unit. Each array goes into the page deflated and in base64.
"""

import argparse
import base64
import json
import re
import sys
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ksae_lib import KSparseAutoencoder, load_pretrained
from ksae_lib.io import KsaeError, load_tensors, save_tensors, write_text
from ksae_lib.model import CodeMode
from replication.data import load_data
from replication.data.base import DataConfig, Dataset
from replication.judge.logistic import LogisticProblem
from replication.methods.base import few_threads
from replication.runs import EncoderRun
from replication.study import Study

FOLDER = Path(__file__).parent
READOUTS = FOLDER / "readouts.safetensors"
_EACH = 20
"""Digits of each class in the page: the first of the test set."""


def quantized(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers and a scale a row with ``matrix ≈ whole * scale[:, None]``: int8, and float32 (shape: [rows])."""
    scale = (np.abs(matrix).max(axis=1) / 127).astype(np.float32)
    return np.rint(matrix / np.where(scale, scale, 1)[:, None]).astype(np.int8), scale


@cache
def encoders() -> dict[str, EncoderRun]:
    """The runs of Figure 1 by the name of their model, k10 … k70."""
    runs = Study("quick").experiment("figure1").filters
    return {f"k{cast('Any', run.method).k}": run for run in reversed(runs)}


def shown(name: str) -> tuple[KSparseAutoencoder, np.ndarray, np.ndarray]:
    """The model as the page has it, and its atoms as ``quantized`` gives them."""
    model = load_pretrained(f"mnist-{name}").model_
    whole, scale = quantized(model.weight.detach().numpy())
    model.weight.data = torch.from_numpy(whole * scale[:, None])
    return model, whole, scale


def included(data: Dataset) -> np.ndarray:
    """Indices of the test digits in the page, class by class (shape: [digits])."""
    return np.concatenate([np.flatnonzero(data.test_y == label)[:_EACH] for label in range(data.classes)])


def fit_readouts(path: Path = READOUTS) -> None:
    """Fit a classifier on the αk codes of each model, with the stored readouts' α and l2, and write them as float16."""
    study, data = Study("quick"), load_data(DataConfig())
    tensors: dict[str, torch.Tensor] = {}
    chosen: dict[str, dict[str, float]] = {}
    for name, encoder in encoders().items():
        run = next(row.at(0) for one in study.experiments for row in one.rows if row.key == name)
        settings = chosen[name] = study.evidence.read(run.run_id).metrics["selected"]
        with few_threads(len(data.train_x)):
            (codes,) = encoder.method.codes(
                load_pretrained(f"mnist-{name}").model_, data.train_x, CodeMode.ALPHA_K, (settings["alpha"],)
            )
            solution = LogisticProblem(codes, data.train_y, data.classes).solve(settings["l2"], 1e-5, 500)
        if not solution.converged:
            raise KsaeError(f"The readout of {name} has not converged: raise the number of iterations.")
        tensors |= {f"{name}.{part}": torch.from_numpy(getattr(solution, part)).half() for part in ("weight", "bias")}
    save_tensors(tensors, path, chosen)


def packed(array: np.ndarray) -> dict[str, str]:
    """An array for the page: its type and its entries, deflated, in base64."""
    deflate = zlib.compressobj(9, memLevel=9, strategy=zlib.Z_FILTERED)
    content = deflate.compress(array.tobytes()) + deflate.flush()
    return {"type": array.dtype.name, "data": base64.b64encode(content).decode()}


def model_data(name: str, data: Dataset) -> dict[str, Any]:
    """What the page knows of a model: parameters, classifier, and how test digits use its units at its own k."""
    (model, atoms, scale), (tensors, chosen) = shown(name), load_tensors(READOUTS)
    weight, bias = (tensors[f"{name}.{part}"].float().numpy() for part in ("weight", "bias"))
    (classifier, classifier_scale), alpha = quantized(weight), chosen[name]["alpha"]
    own, codes = encoders()[name].method.codes(model, data.test_x, CodeMode.ALPHA_K, (1.0, alpha))
    wrong = (codes @ (classifier * classifier_scale[:, None]) + bias).argmax(axis=1) != data.test_y
    uses = np.stack([np.bincount(own[data.test_y == c].indices, minlength=model.units) for c in range(data.classes)], 1)
    arrays = {
        "atoms": atoms,
        "scale": scale,
        "bias": model.bias.detach().numpy(),
        "visibleBias": model.visible_bias.detach().numpy(),
        "classifier": classifier,
        "classifierScale": classifier_scale,
        "classifierBias": bias,
        "uses": uses.astype(np.uint16),
        "activation": (own.sum(axis=0) / np.maximum(uses.sum(axis=1), 1)).astype(np.float32),
    }
    error, packs = round(100 * float(wrong.mean()), 2), {key: packed(array) for key, array in arrays.items()}
    return {"k": model.k, "alpha": alpha, "testError": error, "arrays": packs}


def page() -> str:
    """The whole page as text, with its styles, scripts and data in it."""
    data = load_data(DataConfig())
    digits = included(data)
    content = {
        "models": {name: model_data(name, data) for name in encoders()},
        "testDigits": len(data.test_x),
        "images": packed(np.rint(data.test_x[digits] * 255).astype(np.uint8)),
        "labels": data.test_y[digits].tolist(),
    }
    parts = {path.name: path.read_text(encoding="utf-8") for path in [*FOLDER.glob("*.js"), *FOLDER.glob("*.css")]}
    parts["content"] = json.dumps(content, separators=(",", ":"))
    template = (FOLDER / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(.+?)\}\}", lambda found: parts[found[1]], template)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the page, or fit the classifiers it has."""
    parser = argparse.ArgumentParser(prog="python -m explorer.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=Study("quick").root / "explorer.html", help="default: %(default)s")
    parser.add_argument("--fit-readouts", action="store_true", help=f"write {READOUTS.name} anew instead of the page")
    options = parser.parse_args(arguments)
    try:
        if options.fit_readouts:
            fit_readouts()
        else:
            write_text(options.out, page())
            print(f"{options.out} ({options.out.stat().st_size / 1e6:.2f} MB): open it in a browser.")
    except (KsaeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
