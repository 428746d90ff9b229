"""Table 1: logistic regression on frozen MNIST features (section 4.4)."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import fixed_row, row


@experiment("table1", "smoke", "quick", "paper", "full")
def table1(s: Settings) -> Experiment:
    """The paper's eight rows, settings chosen on validation; k-sparse ones also with k fixed and as printed."""
    ks, name = (40, 25, 10), "k-sparse autoencoder"
    rows = (
        s.readout_row("pixels", 1, "Raw pixels", "", None),
        *(row(s, key) for key in ("rbm", "dropout", "denoising", "both")),
        *(fixed_row(s, k) for k in ks),
        *(row(s, f"k{k}") for k in ks),
        *(s.readout_row(f"k{k}_printed", 1, name, f"k={k}, as printed", s.k_sparse(k=k), f"k{k}") for k in ks),
    )
    return Experiment(
        notebook="02_unsupervised_table", figures=("error_against_alpha",), rows=rows, doubled=s.profile == "paper"
    )
