"""Table 2: logistic regression on frozen NORB features (section 4.4)."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import row


@experiment("table2", "smoke", "quick", "full", data=("norb", "toy_norb"))
def table2(s: Settings) -> Experiment:
    """The paper's seven rows; learning rates chosen on validation pairs of the stand-in."""
    chosen = (row(s, key) for key in ("rbm", "dropout", "denoising", "k200", "k150", "k75"))
    rows = (s.readout_row("pixels", 2, "Raw pixels", "", None), *chosen)
    return Experiment(notebook="02_unsupervised_table", figures=("norb_error_against_alpha",), rows=rows)
