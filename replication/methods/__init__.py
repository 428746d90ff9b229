"""The feature learners the paper compares with, all fitted and used in one way."""

from replication.methods.autoencoder import AutoencoderConfig
from replication.methods.base import Baseline, BaselineConfig
from replication.methods.dbn import DBNConfig
from replication.methods.kl_sparse import KLSparseConfig
from replication.methods.rbm import GaussianRBMConfig, RBMConfig
from replication.methods.sanity import PCAConfig, RandomKConfig

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
