"""The search for every method's settings: eight trials each, and four of each net's fine-tuning; validation chooses."""

from collections.abc import Callable
from typing import Any

from replication.experiments.base import Experiment, Row, Search, Settings, combinations, experiment
from replication.experiments.chosen import net_row, row
from replication.experiments.table4 import KEYS

Trials = list[dict[str, Any]]
_ENERGY: Trials = [
    *combinations(learning_rate=(0.005, 0.02, 0.05, 0.1, 0.2), persistent=(False,), cd_steps=(1,)),
    *combinations(learning_rate=(0.05,), persistent=(False,), cd_steps=(5,)),
    *combinations(learning_rate=(0.0005, 0.002), persistent=(True,), cd_steps=(1,)),
]
_AUTOENCODER: Trials = [
    *combinations(visible=("linear",), learning_rate=(0.0003, 0.001, 0.003, 0.01)),
    *combinations(visible=("sigmoid",), learning_rate=(0.001, 0.003, 0.01, 0.03)),
]
_KL: Trials = combinations(learning_rate=(0.03, 0.1, 0.3), beta=(0.1, 0.3, 1.0))[1:]
_K_SPARSE: Trials = [
    *combinations(bias_init=("zeros", "centered"), activation=("linear", "relu")),
    *combinations(bias_init=("centered",), activation=("linear",), learning_rate=(0.003, 0.02)),
    *combinations(bias_init=("centered",), activation=("linear",), learning_rate_end=(0.001, 0.0001)),
]


def _search(s: Settings, build: Callable[..., Row], trials: dict[str, Trials]) -> tuple[Search, ...]:
    tried = {key: [(trial, build(s, key, **trial).at(0)) for trial in of_row] for key, of_row in trials.items()}
    return tuple(Search(build(s, key), tuple(of_row)) for key, of_row in tried.items())


@experiment("search", "search")
def search(s: Settings) -> Experiment:
    """Table 1's methods on 20,000 images."""
    nets = ("dropout", "denoising", "both", "relu")
    trials = {"rbm": _ENERGY, **dict.fromkeys(nets, _AUTOENCODER), "kl_sparse": _KL, "dbn": _ENERGY, "k25": _K_SPARSE}
    return Experiment(notebook="06_settings_search", searches=_search(s, row, trials))


@experiment("rates", "search")
def rates(s: Settings) -> Experiment:
    """Table 3's first learning rate, and α of k-sparse nets; in stages, deep nets diverge at rate 1."""
    every = combinations(learning_rate=(1.0, 0.3, 0.1, 0.03))
    alphas = combinations(learning_rate=(1.0,), alpha=(2.0, 3.0, 6.0, 12.0))
    trials = {
        **dict.fromkeys(("none", "rbm", "dropout", "denoising"), every),
        "deep_dropout": combinations(learning_rate=(0.3, 0.1, 0.03, 0.01)),
        "k_sparse": alphas, "deep_k_sparse": combinations(learning_rate=(0.3, 0.1), alpha=(3.0, 6.0)),
        "at_once": alphas, "dbn": every,
    }  # fmt: skip
    return Experiment(shown_in=("search",), searches=_search(s, net_row, trials))


@experiment("norb_search", "search", data=("norb", "toy_norb"))
def norb_search(s: Settings) -> Experiment:
    """Table 2's learning rates, four a method."""
    nets = combinations(learning_rate=(0.00001, 0.00003, 0.0001, 0.0002))
    trials = {
        "rbm": combinations(learning_rate=(0.0001, 0.0003, 0.001, 0.002)), "dropout": nets, "denoising": nets,
        "k150": combinations(learning_rate=(0.00003, 0.0001, 0.0002, 0.0004)),
    }  # fmt: skip
    return Experiment(shown_in=("search",), searches=_search(s, row, trials))


@experiment("norb_rates", "search", data=("norb", "toy_norb"))
def norb_rates(s: Settings) -> Experiment:
    """Table 4's learning rates, four a net."""
    trials = dict.fromkeys(KEYS, combinations(learning_rate=(0.1, 0.03, 0.01, 0.003)))
    return Experiment(shown_in=("search",), searches=_search(s, net_row, trials))
