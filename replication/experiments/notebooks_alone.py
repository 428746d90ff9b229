"""Notebooks that train what they show, or load it: no runs are stored for them."""

from functools import partial

from replication.experiments.base import Experiment, Settings, experiment

_ALONE = {
    "one_digit": ("00_one_digit",),
    "inside": ("08_inside_a_network",),
    "theory": ("09_theory", "planted_codes", "learnt_dictionaries"),
    "alpha": ("10_alpha", "kept_units"),
    "dead_units": ("11_dead_units", "live_units"),
}
"""Notebook of each experiment, and the figures it writes."""


def _alone(notebook: str, figures: tuple[str, ...], _: Settings) -> Experiment:
    return Experiment(notebook=notebook, figures=figures)


for _name, (_notebook, *_figures) in _ALONE.items():
    experiment(_name, "smoke", "quick")(partial(_alone, _notebook, tuple(_figures)))
