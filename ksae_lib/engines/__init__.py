"""Training engines: one semantics, several implementations."""

from ksae_lib.engines.training import DivergenceError, TrainConfig, make_engine, new_model, train

__all__ = ["DivergenceError", "TrainConfig", "make_engine", "new_model", "train"]
