"""Table 3: MNIST nets pre-trained and fine-tuned (sections 4.5 and 4.6)."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import net_row


@experiment("table3", "smoke", "quick", "paper", "full")
def table3(s: Settings) -> Experiment:
    """The paper's seven rows."""
    keys = ("none", "rbm", "dropout", "denoising", "deep_dropout", "k_sparse", "deep_k_sparse")
    return Experiment(
        notebook="03_mnist_finetuning_table",
        figures=("finetuning_error_against_epochs",),
        rows=tuple(net_row(s, key) for key in keys),
        doubled=s.profile == "paper",
    )


@experiment("all_at_once", "quick", "paper", "full")
def all_at_once(s: Settings) -> Experiment:
    """The deep k-sparse net with all layers fine-tuned at once, to which section 4.6 compares stages (C9)."""
    return Experiment(shown_in=("table3",), rows=(net_row(s, "at_once"),), doubled=s.profile == "paper")
