"""Table 4: NORB nets pre-trained and fine-tuned (sections 4.5 and 4.6)."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import net_row


@experiment("table4", "smoke", "quick", "full", data=("norb", "toy_norb"))
def table4(s: Settings) -> Experiment:
    """Seven rows replicated, two quoted."""
    keys = ("none", "dbn", "dropout", "denoising", "deep_dropout", "k_sparse", "deep_k_sparse")
    name, rows = "norb_finetuning_error_against_epochs", tuple(net_row(s, key) for key in keys)
    quoted = ("dbm", "third_order_rbm")
    return Experiment(notebook="03_mnist_finetuning_table", figures=(name,), rows=rows, quoted=quoted)
