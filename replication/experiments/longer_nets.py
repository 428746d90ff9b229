"""What Table 3's nets need: the paper's 200 epochs, its α of deep nets, and what dropout nets of 2012 used."""

from dataclasses import replace
from typing import Any

from replication.experiments.base import Experiment, Row, Settings, experiment
from replication.experiments.chosen import net_row

# α of deep nets is 3 in section 4.6. Hinton et al. (2012): squared length of incoming weights ≤ 15, rising momentum.
_LONG: dict[str, Any] = {"200 epochs": {"epochs": 200}}
_ALPHA: dict[str, Any] = {"α = 3": {"alpha": 3.0}}
_DROPOUT: dict[str, Any] = {"largest norm 3.9": {"max_norm": 15**0.5}, "momentum to 0.9": {"momentum_end": 0.9}}
_K_NETS = ("k_sparse", "deep_k_sparse")


@experiment("longer_nets", "paper")
def longer_nets(s: Settings) -> Experiment:
    """The best nets for 200 epochs, three seeds each; dropout nets with changes."""
    rows = _few(s, _changed(s, _LONG, "dropout", *_K_NETS)) + _changed(s, _DROPOUT, "dropout", "deep_dropout")
    return Experiment(shown_in=("table3",), rows=tuple(rows))


@experiment("alpha_nets", "paper")
def alpha_nets(s: Settings) -> Experiment:
    """K-sparse nets with the paper's α of deep nets, three seeds each."""
    return Experiment(shown_in=("table3",), rows=tuple(_few(s, _changed(s, _ALPHA, *_K_NETS))), doubled=True)


def _few(s: Settings, rows: list[Row]) -> list[Row]:
    return rows if s.of_all else [replace(row, seeds=3) for row in rows]


def _changed(s: Settings, changes: dict[str, Any], *keys: str) -> list[Row]:
    rows = ((net_row(s, key, **own), name) for key in keys for name, own in changes.items())
    return [replace(row, key=f"{row.key}, {name}", variant=f"{row.variant}, {name}") for row, name in rows]
