"""What Table 3's nets need: the paper's 200 epochs, its α of deep nets, and what dropout nets of 2012 used."""

from dataclasses import replace
from typing import Any

from replication.experiments.base import Experiment, Row, Settings, experiment
from replication.experiments.chosen import net_row

# α of deep nets is 3 in section 4.6. Hinton et al. (2012): squared length of incoming weights ≤ 15, rising momentum.
_CHANGES: dict[str, dict[str, Any]] = {
    "200 epochs": {"epochs": 200}, "α = 3": {"alpha": 3.0},
    "largest norm 3.9": {"max_norm": 15**0.5}, "momentum to 0.9": {"momentum_end": 0.9},
}  # fmt: skip
_LONG = ("dropout", "k_sparse", "deep_k_sparse")


@experiment("longer_nets", "paper")
def longer_nets(s: Settings) -> Experiment:
    """The best nets for 200 epochs, k-sparse ones with α = 3, three seeds each; dropout nets with changes."""
    asked = [*((key, "200 epochs") for key in _LONG), *((key, "α = 3") for key in _LONG[1:])]
    rows = [replace(_changed(s, key, name), seeds=s.seeds if s.of_all else 3) for key, name in asked]
    rows += [_changed(s, key, name) for key in ("dropout", "deep_dropout") for name in list(_CHANGES)[2:]]
    return Experiment(shown_in=("table3",), rows=tuple(rows))


def _changed(s: Settings, key: str, name: str) -> Row:
    row = net_row(s, key, **_CHANGES[name])
    return replace(row, key=f"{key}, {name}", variant=f"{row.variant}, {name}")
