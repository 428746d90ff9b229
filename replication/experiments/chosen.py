"""What every row is: settings that validation chose on MNIST and on NORB's stand-in; ``search.py`` has the trials."""

from dataclasses import replace
from typing import Any, NamedTuple

from replication.experiments.base import Row, Settings
from replication.methods.base import Method


class Chosen(NamedTuple):
    """A method or a net as a table names it, and its settings beside the profile's."""

    title: str
    variant: str
    of: str
    """Key of ``methods.METHODS``; of a net the keys of its layers, the lowest first."""
    settings: dict[str, Any]


_DENOISING, _STAGES = "20% input dropout", "layer-wise pre-training"
_NAME, _DROPOUT = "k-sparse autoencoder", "50% hidden"
_DEEP, _K_NET = "Deep dropout AE + F.T.", "Deep k-sparse AE + F.T."
_LINEAR = {"visible": "linear"}
# Constant k and half the printed rate, that of a loss with a half: no schedule is needed where nothing dies.
_K_SPARSE: dict[str, Any] = {
    "bias_init": "centered", "activation": "linear", "k_start": None, "learning_rate": 0.005, "batch_size": 20,
}  # fmt: skip
_MNIST = {
    "rbm": Chosen("RBM", "", "rbm", {"learning_rate": 0.0054, "persistent": False, "cd_steps": 1, "batch_size": 20}),
    "dropout": Chosen(
        "Dropout autoencoder", _DROPOUT, "autoencoder", {**_LINEAR, "hidden_dropout": 0.5, "learning_rate": 0.0079}
    ),
    "upper": Chosen("", "", "autoencoder", {**_LINEAR, "hidden_dropout": 0.5, "learning_rate": 0.001}),
    "denoising": Chosen(
        "Denoising autoencoder", _DENOISING, "autoencoder",
        {**_LINEAR, "input_dropout": 0.2, "learning_rate": 0.0038, "batch_size": 20},
    ),
    "both": Chosen(
        "Dropout + denoising autoencoder", "20% input and 50% hidden", "autoencoder",
        {**_LINEAR, "input_dropout": 0.2, "hidden_dropout": 0.5, "learning_rate": 0.00054, "batch_size": 20},
    ),
    **{f"k{k}": Chosen(_NAME, f"k={k}", "k_sparse", {**_K_SPARSE, "k": k}) for k in (100, 70, 40, 25, 10)},
    "relu": Chosen("ReLU autoencoder", "", "autoencoder", {"visible": "sigmoid", "learning_rate": 0.001}),
    "kl_sparse": Chosen("KL-sparse autoencoder", "ρ=0.05", "kl_sparse", {"learning_rate": 0.1, "beta": 0.1}),
    "dbn": Chosen("DBN", "two layers", "dbn", {"learning_rate": 0.02, "persistent": False, "cd_steps": 1}),
    "random_k": Chosen("Random weights", "k=25", "random_k", {}),
    "pca": Chosen("PCA", "100 components", "pca", {}),
}  # fmt: skip
_NORB = {
    "rbm": Chosen("RBM", "weight decay", "gaussian_rbm", {"learning_rate": 0.002}),
    "upper": Chosen("", "", "rbm", {"learning_rate": 0.002}),
    "dropout": Chosen("Dropout autoencoder", "", "autoencoder", {"hidden_dropout": 0.5, "learning_rate": 0.0001}),
    "denoising": Chosen(
        "Denoising autoencoder", _DENOISING, "autoencoder", {"input_dropout": 0.2, "learning_rate": 0.00003}
    ),
    **{f"k{k}": Chosen(_NAME, f"k={k}", "k_sparse", {"k": k}) for k in (200, 150, 75)},
}
# Profile paper: rows with more seeds than the other rows have, and the row that learns on for longer.
_SEEDS = {"k40": 10, "k25": 20, "k10": 10, "both": 10, "rbm": 10}
_EPOCHS = {"rbm": {"epochs": 108}}
# Stage by stage, the printed rate of 1 diverges in deep nets.
_MNIST_NETS = {
    "none": Chosen("Without pre-training", "", "", {}),
    "rbm": Chosen("RBM + F.T.", "", "rbm", {}),
    "dropout": Chosen("Shallow dropout AE + F.T.", _DROPOUT, "dropout", {}),
    "denoising": Chosen("Denoising AE + F.T.", _DENOISING, "denoising", {}),
    "deep_dropout": Chosen(_DEEP, f"{_STAGES}, {_DROPOUT}", "dropout upper", {"learning_rate": 0.22}),
    "k_sparse": Chosen("k-sparse AE + F.T.", "k=25", "k25", {"alpha": 6.0}),
    "deep_k_sparse": Chosen(_K_NET, f"k=25, {_STAGES}", "k25 k25", {"learning_rate": 0.3, "alpha": 6.0}),
    "at_once": Chosen(_K_NET, "k=25, all layers at once", "k25 k25", {"layerwise": False, "alpha": 6.0}),
    "dbn": Chosen("DBN + F.T.", "layer-wise fine-tuning", "dbn", {}),
}
_NORB_NETS = {
    "none": Chosen("Without pre-training", "", "", {}),
    "dbn": Chosen("DBN", "", "rbm upper", {}),
    "dropout": Chosen("Shallow dropout AE + F.T.", _DROPOUT, "dropout", {}),
    "denoising": Chosen("Shallow denoising AE + F.T.", _DENOISING, "denoising", {}),
    "deep_dropout": Chosen(_DEEP, f"{_STAGES}, {_DROPOUT}", "dropout dropout", {"learning_rate": 0.01}),
    "k_sparse": Chosen("Shallow k-sparse AE + F.T.", "k=150", "k150", {"alpha": 2.0}),
    "deep_k_sparse": Chosen(_K_NET, f"k=150, {_STAGES}", "k150 k150", {"alpha": 2.0}),
}


def method(s: Settings, key: str, **changes: Any) -> Method:
    """The chosen method of that key for the data of ``s``, with further changes."""
    chosen = (_MNIST if s.data.name == "mnist" else _NORB)[key]
    return s.method(chosen.of, **{**chosen.settings, **changes})


def row(s: Settings, key: str, **changes: Any) -> Row:
    """The row of Table 1 or 2 of that key, with further changes."""
    table, rows = (1, _MNIST) if s.data.name == "mnist" else (2, _NORB)
    own = _EPOCHS.get(key, {}) if s.profile == "paper" else {}
    net = method(s, key, **{**own, **changes})
    made = s.readout_row(key, table, rows[key].title, rows[key].variant, net, **readout_settings(s, key))
    return replace(made, seeds=_SEEDS.get(key, made.seeds)) if s.profile == "paper" and not s.of_all else made


def readout_settings(s: Settings, key: str) -> dict[str, Any]:
    """At k = 10 validation prefers the largest α of the usual grid."""
    return {"alphas": (1, 2, 3, 4, 6)} if s.profile == "paper" and key == "k10" else {}


def net_row(s: Settings, key: str, **changes: Any) -> Row:
    """The row of Table 3 or 4 of that key, with further changes of its fine-tuning."""
    table, rows = (3, _MNIST_NETS) if s.data.name == "mnist" else (4, _NORB_NETS)
    title, variant, layers, settings = rows[key]
    methods = [method(s, one, **(s.upper if place else {})) for place, one in enumerate(layers.split())]
    return s.tuned_row(key, table, title, variant, methods, **{**settings, **changes})
