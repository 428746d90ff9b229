"""Notebooks that train what they show, or load it: no runs are stored for them."""

from functools import partial

from replication.experiments.base import Experiment, experiment

_ALONE = {
    "one_digit": Experiment(notebook="00_one_digit"),
    "inside": Experiment(notebook="08_inside_a_network"),
    "theory": Experiment(notebook="09_theory", figures=("planted_codes", "learnt_dictionaries")),
    "alpha": Experiment(notebook="10_alpha", figures=("kept_units",), all_cores=True),
    "dead_units": Experiment(
        notebook="11_dead_units", figures=("live_units", "live_grid", "live_and_error"), all_cores=True
    ),
    "ground_truth": Experiment(notebook="12_ground_truth", figures=("atoms_found", "found_against_k"), all_cores=True),
    "family": Experiment(notebook="13_family", figures=("family",), all_cores=True),
}


for _name, _made in _ALONE.items():
    experiment(_name, "smoke", "quick")(partial(lambda made, _: made, _made))
