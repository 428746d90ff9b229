"""How many units a code should keep when it is used, for dictionaries of 2013 and later, no runs."""

from replication.experiments.base import Experiment, Settings, experiment


@experiment("alpha", "smoke", "quick")
def alpha(s: Settings) -> Experiment:
    """The notebook alone."""
    return Experiment(notebook="10_alpha", figures=("kept_units",))
