"""Figure 4: hidden activities of four models (section 4.3)."""

from replication.experiments.base import Experiment, Settings, experiment
from replication.experiments.chosen import method


@experiment("figure4", "smoke", "quick", "paper", "full")
def figure4(s: Settings) -> Experiment:
    """ReLU and dropout autoencoders beside k-sparse ones as printed."""
    models = {
        "ReLU autoencoder": s.encoder(method(s, "relu")),
        "dropout, 50% hidden, 20% input": s.encoder(method(s, "both")),
        **{f"k-sparse, k = {k}": s.encoder(s.method("k_sparse", k=k)) for k in (70, 15)},
    }
    return Experiment(notebook="04_activity_histograms", figures=("fig4", "kl_sparse"), models=models)
