"""Figure 2: NORB filters at k = 200, 150 and 50 (section 4.3)."""

from replication.experiments.base import Experiment, Settings, experiment


@experiment("figure2", "smoke", "quick", "full", data=("norb", "toy_norb"))
def figure2(s: Settings) -> Experiment:
    """Filters of both cameras."""
    filters = tuple(s.encoder(s.method("k_sparse", k=k)) for k in (200, 150, 50))
    return Experiment(notebook="01_sparsity_sweep_filters", figures=("fig2",), filters=filters)
