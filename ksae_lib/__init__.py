"""k-sparse autoencoders (Makhzani & Frey, ICLR 2014), replicated."""

from ksae_lib.engines import DivergenceError, TrainConfig, train
from ksae_lib.estimator import KSparseCoder
from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.selection import supp_k

__all__ = ["CodeMode", "DivergenceError", "KSparseAutoencoder", "KSparseCoder", "TrainConfig", "supp_k", "train"]
