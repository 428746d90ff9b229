"""Notebooks that train what they show, or load it: no runs are stored for them."""

from typing import Any

from replication.experiments.base import Experiment, experiment


def _alone(name: str, **how: Any) -> None:
    experiment(name, "smoke", "quick")(lambda _: Experiment(**how))


_alone("one_digit", notebook="00_one_digit")
_alone("inside", notebook="08_inside_a_network")
_alone("theory", notebook="09_theory", figures=("planted_codes", "learnt_dictionaries"))
_alone("alpha", notebook="10_alpha", figures=("kept_units",), all_cores=True)
_alone("dead_units", notebook="11_dead_units", figures=("live_units", "live_grid", "live_and_error"), all_cores=True)
_alone("ground_truth", notebook="12_ground_truth", figures=("atoms_found", "found_against_k"), all_cores=True)
_alone("family", notebook="13_family", figures=("family",), all_cores=True)
