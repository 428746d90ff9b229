"""The feature learners the paper compares with, all fitted and used in one way."""

from ksae_lib.baselines.autoencoder import AutoencoderConfig
from ksae_lib.baselines.base import Baseline, BaselineConfig
from ksae_lib.baselines.dbn import DBNConfig
from ksae_lib.baselines.kl_sparse import KLSparseConfig
from ksae_lib.baselines.rbm import GaussianRBMConfig, RBMConfig
from ksae_lib.baselines.sanity import PCAConfig, RandomKConfig

METHODS: dict[str, type[BaselineConfig]] = {
    "autoencoder": AutoencoderConfig,
    "dbn": DBNConfig,
    "gaussian_rbm": GaussianRBMConfig,
    "kl_sparse": KLSparseConfig,
    "pca": PCAConfig,
    "random_k": RandomKConfig,
    "rbm": RBMConfig,
}
"""Config class of each method by its name."""

__all__ = [
    "METHODS",
    "AutoencoderConfig",
    "Baseline",
    "BaselineConfig",
    "DBNConfig",
    "GaussianRBMConfig",
    "KLSparseConfig",
    "PCAConfig",
    "RBMConfig",
    "RandomKConfig",
]
