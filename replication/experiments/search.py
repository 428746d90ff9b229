"""The search for the settings of MNIST's rows: what may vary. Optuna proposes (``replication.search``)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from replication.experiments.base import Between, Experiment, Search, Settings, Space, experiment
from replication.experiments.chosen import net_row, row

TRIALS = Path(__file__).with_name("trials.json")
"""What was tried: of each row the settings of its runs, in their order."""
_BATCH = (20, 100)
_ENERGY: Space = {"learning_rate": Between(0.003, 0.3), "cd_steps": (1, 5), "batch_size": _BATCH}
_AUTOENCODER: Space = {
    "learning_rate": Between(0.0003, 0.03), "visible": ("linear", "sigmoid"), "batch_size": _BATCH,
}  # fmt: skip
_KL: Space = {"learning_rate": Between(0.01, 1.0), "beta": Between(0.03, 3.0), "batch_size": _BATCH}
_K_SPARSE: Space = {
    "learning_rate": Between(0.001, 0.02), "batch_size": _BATCH, "k_start": (None, 100),
    "bias_init": ("zeros", "centered"),
}  # fmt: skip
_NET: Space = {"learning_rate": Between(0.01, 3.0)}
_K_NET: Space = {**_NET, "alpha": (1.0, 2.0, 3.0, 4.0, 6.0, 12.0)}


_FEATURES: dict[str, Space] = {
    **dict.fromkeys(("dropout", "denoising", "both", "relu"), _AUTOENCODER), **dict.fromkeys(("rbm", "dbn"), _ENERGY),
    "k25": _K_SPARSE, "kl_sparse": _KL,
}  # fmt: skip
_NETS: dict[str, Space] = {
    **dict.fromkeys(("none", "rbm", "dropout", "denoising", "deep_dropout", "dbn"), _NET),
    **dict.fromkeys(("k_sparse", "deep_k_sparse", "at_once"), _K_NET),
}


def _searches(rungs: tuple[int, ...], rows: Mapping[Any, Space]) -> tuple[Search, ...]:
    """Of every row, given by what builds it with changed settings."""
    tried = json.loads(TRIALS.read_text(encoding="utf-8")) if TRIALS.exists() else {}
    made = (Search(build, space, rungs) for build, space in rows.items())
    return tuple(replace(one, tried=tuple(tried.get(one.name, ()))) for one in made)


@experiment("search", "search")
def search(s: Settings) -> Experiment:
    """Table 1's methods; encoders of 3, 9 and 27 epochs."""
    rows = {partial(row, s, key): space for key, space in _FEATURES.items()}
    return Experiment(notebook="06_settings_search", searches=_searches((3, 9, 27), rows))


@experiment("rates", "search")
def rates(s: Settings) -> Experiment:
    """Table 3's nets; fine-tuning of 30 epochs: short ones favour rates at which the last stage then jumps."""
    rows = {partial(net_row, s, key): space for key, space in _NETS.items()}
    return Experiment(shown_in=("search",), searches=_searches((30,), rows))
