"""Rows that learn nothing or nothing but variance: random top-k codes and principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ksae_lib.model import KSparseAutoencoder
from ksae_lib.selection import check_k
from replication.methods.base import Baseline, BaselineConfig, Device, check_examples


@dataclass(frozen=True, kw_only=True)
class RandomKConfig(BaselineConfig):
    """A k-sparse autoencoder that was never trained: what the selection alone achieves."""

    method: str = "random_k"
    k: int = 25
    weight_std: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_k(self.k, self.units)

    def build(self, inputs: int) -> KSparseAutoencoder:
        """Untrained model."""
        return KSparseAutoencoder(inputs, self.units, self.k)

    def fit(
        self, x: np.ndarray, held_out: np.ndarray | None = None, progress: bool | None = None, device: Device = "cpu"
    ) -> tuple[KSparseAutoencoder, pd.DataFrame]:
        """Draw the weights and center the biases on the examples; the history is empty."""
        check_examples(x)
        model = self.build(x.shape[1])
        mean = torch.from_numpy(x.mean(0, dtype=np.float64)).float()
        model.initialize(self.weight_std, torch.Generator().manual_seed(self.seed), "centered", mean)
        return model, pd.DataFrame({"seconds": []})


@dataclass(frozen=True, kw_only=True)
class PCAConfig(BaselineConfig):
    """The first ``units`` principal components."""

    uses_seed: ClassVar[bool] = False

    method: str = "pca"
    units: int = 100

    def build(self, inputs: int) -> PCA:
        """Components still to be found."""
        return PCA(inputs, self.units)

    def fit(
        self, x: np.ndarray, held_out: np.ndarray | None = None, progress: bool | None = None, device: Device = "cpu"
    ) -> tuple[PCA, pd.DataFrame]:
        """Find the components by scikit-learn; the history has the share of variance each explains.

        Raises:
            ValueError: more components than inputs or examples.
        """
        from sklearn.decomposition import PCA as ScikitPCA  # noqa: N811 - the module below is PCA

        check_examples(x)
        if self.units > min(x.shape):
            raise ValueError(f"units = {self.units} is more than the {min(x.shape)} components there are.")
        found = ScikitPCA(self.units, svd_solver="covariance_eigh").fit(np.asarray(x, np.float64))
        pca = self.build(x.shape[1])
        pca.mean.copy_(torch.from_numpy(found.mean_))
        pca.components.copy_(torch.from_numpy(found.components_))
        return pca, pd.DataFrame({"explained_variance": found.explained_variance_ratio_})


class PCA(Baseline):
    """Projection on principal components.

    Args:
        inputs: number of input dimensions.
        units: number of components.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.components: Tensor
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("components", torch.zeros(units, inputs))

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates (shape: [batch, units])."""
        return (x - self.mean) @ self.components.T
