"""Table 1: logistic regression on frozen MNIST features (section 4.4)."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import row


@experiment("table1", "smoke", "quick", "paper", "full")
def table1(s: Settings) -> Experiment:
    """The paper's eight rows, settings chosen on validation, and k-sparse ones as printed."""
    ks, name = (40, 25, 10), "k-sparse autoencoder"
    rows = [
        s.readout_row("pixels", 1, "Raw pixels", "", None),
        *(row(s, key) for key in ("rbm", "dropout", "denoising", "both", *(f"k{k}" for k in ks))),
    ]
    # In profile paper the experiment on the gap has them.
    if s.profile != "paper":
        rows += [s.readout_row(f"k{k}_printed", 1, name, f"k={k}, as printed", s.k_sparse(k=k), f"k{k}") for k in ks]
    return Experiment(
        notebook="02_unsupervised_table",
        figures=("error_against_alpha",),
        rows=tuple(rows),
        doubled=s.profile == "paper",
    )
