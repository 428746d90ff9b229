"""What Table 3's nets need: the paper's 200 epochs, its α of deep nets, and what dropout nets of 2012 used."""

from dataclasses import replace
from typing import Any

from replication.experiments.base import Experiment, Row, Settings, experiment
from replication.experiments.chosen import net_row

_LONG = {"200 epochs": {"epochs": 200}}
# Section 4.6 for α. Hinton et al. (2012): squared length of incoming weights ≤ 15, rising momentum.
_ALPHA = {"α = 3": {"alpha": 3.0}}
_DROPOUT = {"largest norm 3.9": {"max_norm": 15**0.5}, "momentum to 0.9": {"momentum_end": 0.9}}
_K_NETS = ("k_sparse", "deep_k_sparse")


@experiment("longer_nets", "paper")
def longer_nets(s: Settings) -> Experiment:
    """The best nets for 200 epochs, and dropout nets with changes; three seeds each."""
    rows = *_changed(s, _LONG, "dropout", *_K_NETS), *_changed(s, _DROPOUT, "dropout", "deep_dropout")
    return Experiment(shown_in=("table3",), rows=tuple(replace(row, seeds=s.seeds if s.of_all else 3) for row in rows))


@experiment("alpha_nets", "paper")
def alpha_nets(s: Settings) -> Experiment:
    """K-sparse nets with the paper's α of deep nets, with the seeds of Table 3."""
    return Experiment(shown_in=("table3",), rows=_changed(s, _ALPHA, *_K_NETS), doubled=True)


def _changed(s: Settings, changes: dict[str, Any], *keys: str) -> tuple[Row, ...]:
    rows = ((net_row(s, key, **own), name) for key in keys for name, own in changes.items())
    return tuple(replace(row, key=f"{row.key}, {name}", variant=f"{row.variant}, {name}") for row, name in rows)
