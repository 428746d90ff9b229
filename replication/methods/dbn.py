"""Deep belief network: restricted Boltzmann machines stacked greedily (Hinton, Osindero & Teh 2006)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from torch import Tensor, nn

from replication.methods.base import Baseline, Device, check_examples, encode_all
from replication.methods.rbm import RBM, RBMConfig


@dataclass(frozen=True, kw_only=True)
class DBNConfig(RBMConfig):
    """``layers`` machines of ``units`` hidden units, each trained on the probabilities of the one below."""

    method: str = "dbn"
    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise ValueError(f"layers = {self.layers} is not possible: it must be at least 1.")

    def layer(self, number: int) -> RBMConfig:
        """Config of one machine, counted from 0; each has a seed of its own."""
        shared = {name: getattr(self, name) for name in (f.name for f in fields(RBMConfig)) if name != "method"}
        return replace(RBMConfig(**shared), seed=self.seed + 1_000 * number)

    def build(self, inputs: int) -> DBN:  # type: ignore[override]
        """Untrained network."""
        return DBN(inputs, self)

    def fit(  # type: ignore[override]
        self, x: np.ndarray, held_out: np.ndarray | None = None, progress: bool | None = None, device: Device = "cpu"
    ) -> tuple[DBN, pd.DataFrame]:
        """Train one machine after the other; the history has a column ``layer``."""
        check_examples(x)
        dbn = self.build(x.shape[1])
        histories = []
        for number in range(self.layers):
            rbm, history = self.layer(number).fit(x, held_out, progress, device)
            dbn.machines[number] = rbm
            histories.append(history.assign(layer=number))
            x = encode_all(rbm, x)
            held_out = None if held_out is None else encode_all(rbm, held_out)
        return dbn, pd.concat(histories, ignore_index=True)


class DBN(Baseline):
    """A stack of restricted Boltzmann machines, used upwards only.

    Args:
        inputs: number of visible units of the lowest machine.
        config: sizes.
    """

    def __init__(self, inputs: int, config: DBNConfig) -> None:
        super().__init__()
        sizes = [inputs] + [config.units] * config.layers
        self.machines = nn.ModuleList(RBM(sizes[i], config.layer(i)) for i in range(config.layers))

    def encode(self, x: Tensor) -> Tensor:
        """Probabilities of the top layer (shape: [batch, units])."""
        for machine in self.machines:
            assert isinstance(machine, RBM)
            x = machine.encode(x)
        return x
