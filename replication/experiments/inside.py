"""Inside a network: codes of hidden activations, of a trained net and of its random twin, no runs."""

from replication.experiments.base import Experiment, Settings, experiment


@experiment("inside", "smoke", "quick")
def inside(s: Settings) -> Experiment:
    """The notebook alone."""
    return Experiment(notebook="08_inside_a_network")
