"""Training engines: one semantics, several implementations."""

from ksae_lib.engines.training import (
    DivergenceError,
    EngineName,
    TrainConfig,
    choose_engine,
    make_engine,
    new_model,
    train,
)

__all__ = [
    "DivergenceError",
    "EngineName",
    "TrainConfig",
    "choose_engine",
    "make_engine",
    "new_model",
    "train",
]
