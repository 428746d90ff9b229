"""Rows of Tables 1 and 3 that the paper does not have, and the classic sparse autoencoder beside the k-sparse one."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import method, net_row, row


@experiment("beyond", "quick", "paper", "full")
def beyond(s: Settings) -> Experiment:
    """Large k, other sparse codes, and two rows that learn nothing or nothing but variance."""
    rows = *(row(s, key) for key in ("k100", "k70", "relu", "kl_sparse", "dbn", "random_k", "pca")), net_row(s, "dbn")
    shown = {"KL-sparse, ρ = 0.05": "kl_sparse", "k-sparse, k = 25": "k25"}
    models = {name: s.encoder(method(s, key)) for name, key in shown.items()}
    return Experiment(shown_in=("table1", "table3", "figure4"), rows=rows, models=models)
