"""Figure 1: MNIST filters at k = 70, 40, 25 and 10 (section 4.3), and other starts at k = 25."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import method


@experiment("figure1", "smoke", "quick", "paper", "full")
def figure1(s: Settings) -> Experiment:
    """Filters without the schedule; beside them zero biases and a centered start with the schedule."""
    filters = tuple(s.encoder(method(s, f"k{k}")) for k in (70, 40, 25, 10))
    # Other profiles would train them for nothing else.
    starts = ("zeros", "centered") if s.profile in ("smoke", "quick") else ()
    compared = tuple(s.encoder(s.method("k_sparse", k=25, bias_init=start)) for start in starts)
    figures = ("fig1", "fig1_starts", "one_digit")
    return Experiment(notebook="01_sparsity_sweep_filters", figures=figures, filters=filters, compared=compared)
