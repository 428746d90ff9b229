"""Notebooks that train what they show, or load it: no runs are stored for them."""

from replication.experiments.base import Experiment, Settings, experiment


@experiment("one_digit", "smoke", "quick")
def one_digit(s: Settings) -> Experiment:
    """One digit through the method, by the coders that come with the library."""
    return Experiment(notebook="00_one_digit")


@experiment("inside", "smoke", "quick")
def inside(s: Settings) -> Experiment:
    """Codes of hidden activations, of a trained net, of its random twin and of pixels."""
    return Experiment(notebook="08_inside_a_network")


@experiment("theory", "smoke", "quick")
def theory(s: Settings) -> Experiment:
    """Section 3: sparse recovery in known and in learnt dictionaries."""
    return Experiment(notebook="09_theory", figures=("planted_codes", "learnt_dictionaries"))


@experiment("alpha", "smoke", "quick")
def alpha(s: Settings) -> Experiment:
    """How many units a code should keep when it is used."""
    return Experiment(notebook="10_alpha", figures=("kept_units",))
