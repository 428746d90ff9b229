"""k-sparse autoencoders (Makhzani & Frey, ICLR 2014), as a small library."""

import os
from typing import TYPE_CHECKING, Any

# Read when torch is loaded. Threads that wait spin by default, and on a busy machine hold up what they wait for.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from ksae_lib.loop import DivergenceError
from ksae_lib.model import CodeMode, KSparseAutoencoder
from ksae_lib.selection import supp_k
from ksae_lib.training import TrainConfig, train

if TYPE_CHECKING:
    from ksae_lib.estimator import KSparseCoder, load_pretrained

__all__ = [
    "CodeMode", "DivergenceError", "KSparseAutoencoder", "KSparseCoder", "TrainConfig", "load_pretrained", "supp_k",
    "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # scikit-learn takes a third of the start-up time, and training alone does not need the estimator.
    if name in ("KSparseCoder", "load_pretrained"):
        from ksae_lib import estimator

        return getattr(estimator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
