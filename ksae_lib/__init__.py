"""k-sparse autoencoders (Makhzani & Frey, ICLR 2014), replicated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.selection import supp_k
from ksae_lib.training import DivergenceError, TrainConfig, train

if TYPE_CHECKING:
    from ksae_lib.estimator import KSparseCoder

__all__ = ["CodeMode", "DivergenceError", "KSparseAutoencoder", "KSparseCoder", "TrainConfig", "supp_k", "train"]


def __getattr__(name: str) -> Any:
    # scikit-learn takes a third of the start-up time, and no run of the plan needs the estimator.
    if name == "KSparseCoder":
        from ksae_lib.estimator import KSparseCoder

        return KSparseCoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
