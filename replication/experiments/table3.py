"""Table 3: MNIST nets pre-trained and fine-tuned (sections 4.5 and 4.6)."""

from __future__ import annotations

from typing import Any

from replication.experiments.base import Experiment, Row, Settings, experiment
from replication.experiments.chosen import method
from replication.methods.base import Method

DEEP = "k=25, layer-wise pre-training"
_AT_ONCE = "k=25, all layers at once"


def row(s: Settings, key: str, **changes: Any) -> Row:
    """The row of that key, with further changes of its fine-tuning."""
    name, variant, layers, own = _row(s, key)
    return s.tuned_row(key, 3, name, variant, layers, **{**own, **changes})


def _row(s: Settings, key: str) -> tuple[str, str, tuple[Method, ...], dict[str, Any]]:
    k_sparse = method(s, "k25")
    # Activities below are not confined to [0, 1], so the visible layer is linear whatever was chosen for images.
    upper = method(s, "dropout", visible="linear")
    # Stage by stage, the printed rate of 1 diverges in deep nets.
    staged = {"learning_rate": 0.3}
    return {
        "none": ("Without pre-training", "", (), {}),
        "rbm": ("RBM + F.T.", "", (method(s, "rbm"),), {}),
        "dropout": ("Shallow dropout AE + F.T.", "50% hidden", (method(s, "dropout"),), {}),
        "denoising": ("Denoising AE + F.T.", "20% input dropout", (method(s, "denoising"),), {}),
        "deep_dropout": (
            "Deep dropout AE + F.T.", "layer-wise pre-training, 50% hidden", (method(s, "dropout"), upper), staged,
        ),
        "k_sparse": ("k-sparse AE + F.T.", "k=25", (k_sparse,), {"alpha": 6.0}),
        "deep_k_sparse": ("Deep k-sparse AE + F.T.", DEEP, (k_sparse, k_sparse), {**staged, "alpha": 6.0}),
        "at_once": ("Deep k-sparse AE + F.T.", _AT_ONCE, (k_sparse, k_sparse), {"layerwise": False, "alpha": 6.0}),
        "dbn": ("DBN + F.T.", "layer-wise fine-tuning", (method(s, "dbn"),), {}),
    }[key]  # fmt: skip


@experiment("table3", "smoke", "quick", "paper", "full")
def table3(s: Settings) -> Experiment:
    """The paper's seven rows."""
    keys = ("none", "rbm", "dropout", "denoising", "deep_dropout", "k_sparse", "deep_k_sparse")
    return Experiment(
        notebook="03_mnist_finetuning_table", figures=("finetuning_error_against_epochs",),
        rows=tuple(row(s, key) for key in keys),
    )  # fmt: skip
