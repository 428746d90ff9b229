"""Rows that learn nothing, or nothing but variance: raw pixels and principal components."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from ksae_lib.model import CodeMode
from replication.methods import base
from replication.methods.base import Device, Fitted


@dataclass(frozen=True, kw_only=True)
class Pixels(base.Method):
    """The examples themselves."""

    uses_seed: ClassVar[bool] = False
    method = "pixels"

    def build(self, inputs: int) -> nn.Identity:
        """There is nothing to train."""
        return nn.Identity()

    def fit(self, x: np.ndarray, device: Device = "auto", progress: bool | None = None) -> Fitted:
        """There is nothing to train; the history is empty."""
        base.check_examples(x)
        return nn.Identity(), pd.DataFrame({"seconds": []})

    def codes(self, model: Any, x: np.ndarray, mode: CodeMode, alphas: Sequence[float] = (1.0,)) -> base.Codes:
        """The examples as CSR (shape: [examples, inputs])."""
        return (sparse.csr_array(x),) * len(alphas)


@dataclass(frozen=True, kw_only=True)
class PCA(base.Baseline):
    """The first ``units`` principal components."""

    uses_seed: ClassVar[bool] = False
    method: str = "pca"
    units: int = base.setting(100, base.AT_LEAST_ONE)

    def build(self, inputs: int) -> nn.ParameterDict:
        """Components still to be found."""
        return nn.ParameterDict({"mean": torch.zeros(inputs), "components": torch.zeros(self.units, inputs)})

    def fit(self, x: np.ndarray, device: Device = "auto", progress: bool | None = None) -> Fitted:
        """Find the components by scikit-learn; the history has the share of variance each explains."""
        from sklearn import decomposition

        base.check_examples(x)
        if self.units > min(x.shape):
            raise ValueError(f"units = {self.units} is more than the {min(x.shape)} components there are.")
        found = decomposition.PCA(self.units, svd_solver="covariance_eigh").fit(np.asarray(x, np.float64))
        pca = self.build(x.shape[1])
        pca.load_state_dict({name: torch.from_numpy(getattr(found, f"{name}_")) for name in pca})
        return pca, pd.DataFrame({"explained_variance": found.explained_variance_ratio_})

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """Coordinates (shape: [batch, units])."""
        return (x - model["mean"]) @ model["components"].T
