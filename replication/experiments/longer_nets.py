"""What Table 3's nets need: the paper's 200 epochs, and what dropout nets of 2012 used."""

from dataclasses import replace
from typing import Any

from replication.experiments.base import Experiment, Row, Settings, experiment
from replication.experiments.chosen import net_row

# Of Hinton et al. (2012): the squared length of a unit's incoming weights is at most 15, and momentum rises.
_CHANGES: dict[str, dict[str, Any]] = {
    "200 epochs": {"epochs": 200}, "largest norm 3.9": {"max_norm": 15**0.5}, "momentum to 0.9": {"momentum_end": 0.9},
}  # fmt: skip
_LONG = ("dropout", "k_sparse", "deep_k_sparse")


@experiment("longer_nets", "paper")
def longer_nets(s: Settings) -> Experiment:
    """The paper's three best nets for 200 epochs, three seeds each; dropout nets with each change."""
    seeds = s.seeds if s.of_all else 3
    rows = [replace(_changed(s, key, "200 epochs", **_CHANGES["200 epochs"]), seeds=seeds) for key in _LONG]
    for key in ("dropout", "deep_dropout"):
        rows += [_changed(s, key, name, **_CHANGES[name]) for name in list(_CHANGES)[1:]]
    return Experiment(shown_in=("table3",), rows=tuple(rows))


def _changed(s: Settings, key: str, name: str, **changes: Any) -> Row:
    row = net_row(s, key, **changes)
    variant = f"{row.variant}, {name}" if row.variant else name
    return replace(row, key=f"{key}, {name}", variant=variant)
