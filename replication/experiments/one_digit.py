"""One digit through the method: a trained coder that comes with the library, no runs."""

from replication.experiments.base import Experiment, Settings, experiment


@experiment("one_digit", "smoke", "quick")
def one_digit(s: Settings) -> Experiment:
    """The notebook alone."""
    return Experiment(notebook="00_one_digit")
