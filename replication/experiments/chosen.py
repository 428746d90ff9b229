"""The settings that validation chose for every method on MNIST and on NORB's stand-in; ``search.py`` has the trials."""

from __future__ import annotations

from typing import Any, NamedTuple

from replication.experiments.base import Row, Settings
from replication.methods.base import Method


class Chosen(NamedTuple):
    """A method as a table names it, and its settings beside the profile's."""

    title: str
    variant: str
    method: str
    """Key of ``methods.METHODS``."""
    settings: dict[str, Any]


_DROPOUT, _DENOISING, _BOTH = "50% hidden", "20% input dropout", "20% input and 50% hidden"
_NET = {"visible": "sigmoid"}
K_SPARSE: dict[str, Any] = {"bias_init": "centered", "activation": "linear"}
MNIST = {
    "rbm": Chosen("RBM", "", "rbm", {"learning_rate": 0.05, "persistent": False, "cd_steps": 5}),
    "dropout": Chosen(
        "Dropout autoencoder", _DROPOUT, "autoencoder", {**_NET, "hidden_dropout": 0.5, "learning_rate": 0.001}
    ),
    "denoising": Chosen(
        "Denoising autoencoder", _DENOISING, "autoencoder", {**_NET, "input_dropout": 0.2, "learning_rate": 0.01}
    ),
    "both": Chosen(
        "Dropout + denoising autoencoder", _BOTH, "autoencoder",
        {"input_dropout": 0.2, "hidden_dropout": 0.5, "visible": "linear", "learning_rate": 0.003},
    ),
    "k40": Chosen("k-sparse autoencoder", "k=40", "k_sparse", {**K_SPARSE, "k": 40}),
    "k25": Chosen("k-sparse autoencoder", "k=25", "k_sparse", {**K_SPARSE, "k": 25}),
    "k10": Chosen("k-sparse autoencoder", "k=10", "k_sparse", {**K_SPARSE, "k": 10}),
    "relu": Chosen("ReLU autoencoder", "", "autoencoder", {**_NET, "learning_rate": 0.001}),
    "kl_sparse": Chosen("KL-sparse autoencoder", "ρ=0.05", "kl_sparse", {"learning_rate": 0.1, "beta": 0.1}),
    "dbn": Chosen("DBN", "two layers", "dbn", {"learning_rate": 0.02, "persistent": False, "cd_steps": 1}),
}  # fmt: skip
NORB = {
    "rbm": Chosen("RBM", "weight decay", "gaussian_rbm", {"learning_rate": 0.002}),
    "dropout": Chosen("Dropout autoencoder", "", "autoencoder", {"hidden_dropout": 0.5, "learning_rate": 0.0001}),
    "denoising": Chosen(
        "Denoising autoencoder", _DENOISING, "autoencoder", {"input_dropout": 0.2, "learning_rate": 0.00003}
    ),
    "k150": Chosen("k-sparse autoencoder", "k=150", "k_sparse", {"k": 150}),
}


def method(s: Settings, key: str, **changes: Any) -> Method:
    """The chosen method of that key for the data of ``s``, with further changes."""
    chosen = (MNIST if s.data.name == "mnist" else NORB)[key]
    return s.method(chosen.method, **{**chosen.settings, **changes})


def row(s: Settings, key: str, **changes: Any) -> Row:
    """The row of Table 1 or 2 of that key, with further changes."""
    on_mnist = s.data.name == "mnist"
    chosen = (MNIST if on_mnist else NORB)[key]
    return s.readout_row(key, 1 if on_mnist else 2, chosen.title, chosen.variant, method(s, key, **changes))


def fixed_k(s: Settings, k: int) -> Method:
    """Constant k, the rate of the loss with a half, batches of 20: no schedule is needed where nothing dies."""
    epochs = s.train["epochs"] if s.profile == "smoke" else 60
    return s.k_sparse(**K_SPARSE, k=k, k_start=None, learning_rate=0.005, batch_size=20, epochs=epochs)
