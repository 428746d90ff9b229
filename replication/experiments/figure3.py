"""Figure 3: filters of natural image patches at k = 50 (section 4.3)."""

from replication.experiments.base import Experiment, Settings, experiment


@experiment("figure3", "smoke", "quick", "paper", "full", data=("patches",))
def figure3(s: Settings) -> Experiment:
    """One autoencoder; its filters and their Gabor fits."""
    filters = (s.encoder(s.method("k_sparse", k=50)),)
    return Experiment(notebook="05_natural_patch_filters", figures=("fig3", "gabor"), filters=filters)
