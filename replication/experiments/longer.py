"""Longer runs of k = 25: error against the number of epochs, and the best of the sweeps at 100 epochs."""

from typing import Any

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import method


@experiment("epochs", "paper")
def epochs(s: Settings) -> Experiment:
    """As printed, one seed; a centered start and a bfloat16 support beside."""
    changes: list[dict[str, Any]] = [{"epochs": n} for n in (20, 50, 100, 300, 5000)]
    changes += [{"epochs": 50, "bias_init": "centered"}, {"epochs": 50, "support_dtype": "bfloat16"}]
    curve = tuple(s.readout_run(s.k_sparse(k=25, **changed)) for changed in changes)
    return Experiment(notebook="08_longer_runs", figures=("error_against_epochs",), curve=curve)


@experiment("designed", "paper")
def designed(s: Settings) -> Experiment:
    """The settings that ``sweeps`` found best together; and the readout refitted on all 60,000 images."""
    best = method(s, "k25", k_ramp=0.25, batch_size=30, epochs=100)
    name, variant = "k-sparse autoencoder", "k=25, designed search"
    row = s.readout_row("k25_designed", 1, name, variant, best, "k25")
    refitted = s.readout_row("k25_refitted", 1, name, f"{variant}, refitted", best, "k25", refit=True)
    return Experiment(shown_in=("epochs",), rows=(row, refitted))
