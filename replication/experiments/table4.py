"""Table 4: NORB nets pre-trained and fine-tuned (sections 4.5 and 4.6)."""

from __future__ import annotations

from typing import Any

from replication.experiments.base import Experiment, Row, Settings, experiment
from replication.experiments.chosen import method
from replication.methods.base import Method


def row(s: Settings, key: str, **changes: Any) -> Row:
    """The row of that key, with further changes of its fine-tuning."""
    name, variant, layers, own = _row(s, key)
    return s.tuned_row(key, 4, name, variant, layers, **{**own, **changes})


def _row(s: Settings, key: str) -> tuple[str, str, tuple[Method, ...], dict[str, Any]]:
    dropout, k_sparse = method(s, "dropout"), method(s, "k150")
    deep = "layer-wise pre-training"
    return {
        "none": ("Without pre-training", "", (), {}),
        "dbn": ("DBN", "", (method(s, "rbm"), s.method("rbm", learning_rate=0.002)), {}),
        "dropout": ("Shallow dropout AE + F.T.", "50% hidden", (dropout,), {}),
        "denoising": ("Shallow denoising AE + F.T.", "20% input dropout", (method(s, "denoising"),), {}),
        "deep_dropout": ("Deep dropout AE + F.T.", f"{deep}, 50% hidden", (dropout, dropout), {"learning_rate": 0.01}),
        "k_sparse": ("Shallow k-sparse AE + F.T.", "k=150", (k_sparse,), {"alpha": 2.0}),
        "deep_k_sparse": ("Deep k-sparse AE + F.T.", f"k=150, {deep}", (k_sparse, k_sparse), {"alpha": 2.0}),
    }[key]


KEYS = ("none", "dbn", "dropout", "denoising", "deep_dropout", "k_sparse", "deep_k_sparse")


@experiment("table4", "smoke", "quick", "full", data=("norb", "toy_norb"))
def table4(s: Settings) -> Experiment:
    """Seven rows replicated, two quoted."""
    return Experiment(
        notebook="03_mnist_finetuning_table", figures=("norb_finetuning_error_against_epochs",),
        rows=tuple(row(s, key) for key in KEYS), quoted=("dbm", "third_order_rbm"),
    )  # fmt: skip
