"""Section 3 made executable: sparse recovery in known and in learnt dictionaries, no runs."""

from replication.experiments.base import Experiment, Settings, experiment


@experiment("theory", "smoke", "quick")
def theory(s: Settings) -> Experiment:
    """The notebook alone."""
    return Experiment(notebook="09_theory", figures=("planted_codes", "learnt_dictionaries"))
