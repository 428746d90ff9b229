"""What the paper's errors need: one factor at a time around constant k. The plan is docs/what_it_takes.md."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from replication.data.base import DataConfig
from replication.experiments.base import Experiment, Settings, Sweep, experiment, known_to
from replication.experiments.chosen import method, readout_settings
from replication.judge.finetune import FinetuneConfig
from replication.judge.readout import ReadoutConfig
from replication.methods.k_sparse import KSparse
from replication.runs import FinetuneRun, ReadoutRun, Supervised

BASE = "as chosen"
"""What a factor is at where it is not changed."""
_SEEDS = 5
# Other batches and presets are trained until rate times updates is that of the base.
_PRINTED = {"bias_init": "zeros", "batch_size": 100, "k_start": 100, "learning_rate": 0.01, "epochs": 150}
_HALF = {"learning_rate": 0.005, "epochs": 300}
# The first author's notebook of 2014 has ½ in the loss: the rate is half of its own.
_AUTHORS = {
    "activation": "relu", "bias_init": "gaussian", "batch_size": 128, "shuffle": False, "train_size": 60_000,
    "epochs": 320, "alphas": (1.0,),
}  # fmt: skip
FACTORS: tuple[tuple[str, tuple[int, ...], dict[str, dict[str, Any]]], ...] = (
    ("k", (10, 25, 40, 70, 100), {}),
    ("schedule", (10, 25, 40, 70), {"from 100": {"k_start": 100}}),
    ("schedule", (25, 100), {"from 200": {"k_start": 200}}),
    ("biases", (10, 25, 40), {"zeros": {"bias_init": "zeros"}}),
    ("biases", (25,), {"Gaussian": {"bias_init": "gaussian"}}),
    ("loss", (10, 25, 40), {"no ½": {"learning_rate": 0.01}}),
    ("loss", (25,), {"no ½, zero biases": {"learning_rate": 0.01, "bias_init": "zeros"}}),
    ("epochs", (10, 25, 40), {str(n): {"epochs": n} for n in (30, 120, 240)}),
    ("epochs", (25,), {"5000": {"epochs": 5000}}),
    (
        "batch, with its rate", (25,),
        {
            "10, 0.0025": {"batch_size": 10, "learning_rate": 0.0025},
            "100, 0.005": {"batch_size": 100, "epochs": 300},
            "1000, 0.02": {"batch_size": 1000, "learning_rate": 0.02, "epochs": 750},
        },
    ),
    ("order", (25,), {"as they come": {"shuffle": False}}),
    ("60,000 images", (25, 40), {"encoder": {"train_size": 60_000}, "readout": {"refit": True}}),
    ("60,000 images", (25,), {"readout, zero biases": {"refit": True, "bias_init": "zeros"}}),
    (
        "codes", (25,),
        {
            "ReLU": {"transform": "relu"}, "all positive": {"dense_relu": True},
            "standardized": {"transform": "standardized", "l2": (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)},
        },
    ),
    ("readout", (25, 40), {"SGD, α = 2": {"sgd_epochs": 200}}),
    ("split", (25,), {f"seed {n}": {"split_seed": n} for n in (1, 2)}),
    ("preset", (10, 25, 40), {"as printed": _PRINTED, "authors' code": _AUTHORS}),
    (
        "preset", (25,),
        {
            "as printed, with ½": _PRINTED | _HALF,
            "as printed, with ½ and constant k": _PRINTED | _HALF | {"k_start": None},
        },
    ),
)  # fmt: skip
"""Name of each factor, the k at which it is changed, and the changed settings of each of its values."""


def _at(s: Settings, k: int, changes: dict[str, Any]) -> Callable[[int], Supervised]:
    """The run of a seed with some settings changed, each where it belongs."""
    changes = readout_settings(s, f"k{k}") | changes
    net, readout, data = (known_to(kind, changes) for kind in (KSparse, ReadoutConfig, DataConfig))

    def at(seed: int) -> Supervised:
        encoder = s.encoder(replace(cast("KSparse", method(s, f"k{k}")), **net), seed)
        encoder = replace(encoder, data=replace(s.data, **data))
        # Another split is one for all; more images for training are for the encoder alone.
        labelled = replace(s.data, split_seed=encoder.data.split_seed)
        if "sgd_epochs" in changes:
            tuned = FinetuneConfig(frozen=True, alpha=2.0, epochs=changes["sgd_epochs"], seed=seed)
            return FinetuneRun(data=labelled, encoder=encoder, finetune=tuned)
        return ReadoutRun(data=labelled, encoder=encoder, readout=ReadoutConfig(**{**s.readout, **readout}))

    return at


@experiment("gap", "smoke", "paper")
def gap(s: Settings) -> Experiment:
    """Every factor in turn, five seeds each; at smoke size two factors with one."""
    factors, seeds = (FACTORS[1:4:2], 1) if s.profile == "smoke" else (FACTORS, _SEEDS)
    points: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for factor, ks, values in factors:
        for k in ks if s.profile == "paper" else ks[1:2]:
            points.setdefault((factor, k), {BASE: {}}).update(values)
    sweeps = tuple(
        Sweep(factor, k, tuple((name, _at(s, k, changes)) for name, changes in values.items()), seeds)
        for (factor, k), values in points.items()
    )
    return Experiment(notebook="07_what_it_takes", figures=("what_it_takes", "error_against_k"), sweeps=sweeps)
