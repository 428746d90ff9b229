"""Table 1: logistic regression on frozen MNIST features (section 4.4)."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import row

_KS = (40, 25, 10)


@experiment("table1", "smoke", "quick", "paper", "full")
def table1(s: Settings) -> Experiment:
    """The paper's eight rows, settings chosen on validation."""
    keys = ("rbm", "dropout", "denoising", "both", *(f"k{k}" for k in _KS))
    return Experiment(
        notebook="02_unsupervised_table",
        figures=("error_against_alpha",),
        rows=(s.readout_row("pixels", 1, "Raw pixels", "", None), *(row(s, key) for key in keys)),
        doubled=s.profile == "paper",
    )


# In profile paper the experiment on the gap has them.
@experiment("as_printed", "quick", "full")
def as_printed(s: Settings) -> Experiment:
    """The k-sparse rows with the paper's settings."""
    name = "k-sparse autoencoder"
    nets = {k: s.method("k_sparse", k=k) for k in _KS}
    rows = [s.readout_row(f"k{k}_printed", 1, name, f"k={k}, as printed", net, f"k{k}") for k, net in nets.items()]
    return Experiment(shown_in=("table1",), rows=tuple(rows))
