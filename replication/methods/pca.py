"""Principal components: nothing is learnt but variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from replication.methods.base import AT_LEAST_ONE, Baseline, Fitted, How, check_examples, setting


@dataclass(frozen=True, kw_only=True)
class PCA(Baseline):
    """The first ``units`` principal components."""

    uses_seed: ClassVar[bool] = False

    method: str = "pca"
    units: int = setting(100, AT_LEAST_ONE)

    def build(self, inputs: int) -> nn.ParameterDict:
        """Components still to be found."""
        shapes = {"mean": (inputs,), "components": (self.units, inputs)}
        return nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})

    def fit(self, x: np.ndarray, held_out: np.ndarray | None = None, **how: Unpack[How]) -> Fitted:
        """Find the components by scikit-learn; the history has the share of variance each explains.

        Raises:
            ValueError: more components than inputs or examples.
        """
        from sklearn import decomposition

        check_examples(x)
        if self.units > min(x.shape):
            raise ValueError(f"units = {self.units} is more than the {min(x.shape)} components there are.")
        found = decomposition.PCA(self.units, svd_solver="covariance_eigh").fit(np.asarray(x, np.float64))
        pca = self.build(x.shape[1])
        pca.load_state_dict({name: torch.from_numpy(getattr(found, f"{name}_")) for name in pca})
        return pca, pd.DataFrame({"explained_variance": found.explained_variance_ratio_})

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """Coordinates (shape: [batch, units])."""
        return (x - model["mean"]) @ model["components"].T
