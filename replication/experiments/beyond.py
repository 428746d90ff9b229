"""Rows of Tables 1 and 3 that the paper does not have, and the classic sparse autoencoder beside the k-sparse one."""

from __future__ import annotations

from replication.experiments import table3
from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import method, row


@experiment("beyond", "quick", "paper", "full")
def beyond(s: Settings) -> Experiment:
    """Large k, other sparse codes, and two rows that learn nothing or nothing but variance."""
    k100 = method(s, "k25", k=100, k_start=200)
    random_k, pca = s.method("random_k"), s.method("pca")
    return Experiment(
        shown_in=("table1", "table3", "figure4"),
        rows=(
            s.readout_row("k100", 1, "k-sparse autoencoder", "k=100", k100, None),
            *(row(s, key) for key in ("relu", "kl_sparse", "dbn")),
            s.readout_row("random_k", 1, "Random weights", "k=25", random_k, None),
            s.readout_row("pca", 1, "PCA", "100 components", pca, None),
            *(table3.row(s, key) for key in ("at_once", "dbn")),
        ),
        models={
            "KL-sparse, ρ = 0.05": s.encoder(method(s, "kl_sparse")),
            "k-sparse, k = 25": s.encoder(method(s, "k25")),
        },
    )
