"""The profiles: how much data, how many epochs and seeds; what differs from the paper's settings, by data set."""

from __future__ import annotations

from typing import Any

from replication.data.base import DataConfig
from replication.experiments.base import PlanError, Settings

_DENSE = (0.001, 0.0003, 0.0001, 0.00003, 0.00001)
_NORB = {"train_size": 20_000, "validation_size": 4_300, "test_size": 24_300}
_PART = {"share": 3, "train_size": 2_500, "validation_size": 1_434}
_NORB_QUICK: dict[str, Any] = {
    "train": {"epochs": 10, "units": 4000, "k_start": 400, "learning_rate": 0.0001},
    "baseline": {"epochs": 5, "units": 4000},
    "finetune": {"epochs": 6, "units": 4000, "learning_rate": 0.03, "momentum": 0.9},
    "readout": {"alphas": (1, 2, 3), "l2": (0.01, 0.001)},
    "dense_readout": {"l2": (0.1, 0.01, 0.001)},
}
_NORB_SMOKE: dict[str, Any] = {
    "data": {"train_size": 600, "validation_size": 100, "test_size": 700},
    "train": {"epochs": 3, "units": 800, "k_start": 400, "learning_rate": 0.0001},
    "baseline": {"epochs": 2, "units": 800},
    "finetune": {"epochs": 3, "units": 800, "learning_rate": 0.01, "momentum": 0.9},
    "readout": {"alphas": (1, 3), "l2": (0.001, 0.0001)},
}
_SMOKE_READOUT = {"alphas": (1, 3), "l2": (0.001, 0.0001)}

PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    # Seconds: for tests, its numbers mean nothing.
    "smoke": {
        "mnist": {
            "data": {"train_size": 2000, "validation_size": 500, "test_size": 500}, "train": {"epochs": 6},
            "baseline": {"epochs": 3}, "finetune": {"epochs": 3}, "readout": _SMOKE_READOUT,
        },
        "norb": _NORB_SMOKE,
        "toy_norb": {**_NORB_SMOKE, "data": {**_NORB_SMOKE["data"], "share": 31}},
        "patches": {
            "data": {"source": "samples", "train_size": 2000, "validation_size": 500, "test_size": 500},
            "train": {"epochs": 3, "units": 100}, "readout": _SMOKE_READOUT,
        },
    },
    # Full MNIST on a laptop; patches of the two photographs that come with scikit-learn.
    "quick": {
        "mnist": {
            "train": {"epochs": 40}, "baseline": {"epochs": 15}, "finetune": {"epochs": 20},
            "dense_readout": {"l2": _DENSE},
        },
        "norb": {**_NORB_QUICK, "data": _NORB},
        "toy_norb": {**_NORB_QUICK, "data": {**_PART, "test_size": 8_100}},
        "patches": {
            "data": {"source": "samples", "train_size": 100_000, "validation_size": 10_000, "test_size": 10_000},
            "train": {"epochs": 10},
        },
    },
    # As many of the paper's epochs as an hour of two cores gives; patches of the first 4,000 images of CIFAR-10.
    "paper": {
        "mnist": {
            "train": {"epochs": 100}, "baseline": {"epochs": 20}, "finetune": {"epochs": 30},
            "dense_readout": {"l2": _DENSE},
        },
        "patches": {
            "data": {
                "source": "cifar10_first4000.npz", "train_size": 1_000_000, "validation_size": 10_000,
                "test_size": 10_000,
            },
            "train": {"epochs": 5},
        },
    },
    # The paper's settings: days of two cores.
    "full": {
        "mnist": {
            "train": {"epochs": 5000}, "baseline": {"epochs": 300}, "finetune": {"epochs": 200},
            "dense_readout": {"l2": _DENSE},
        },
        "norb": {
            "data": _NORB, "train": {**_NORB_QUICK["train"], "epochs": 5000},
            "baseline": {"epochs": 300, "units": 4000},
            "finetune": {**_NORB_QUICK["finetune"], "epochs": 200, "learning_rate": 0.01},
            "readout": {"l2": (0.1, 0.01, 0.001, 0.0001)},
        },
        "patches": {
            "data": {"source": "cifar10", "train_size": 1_000_000, "validation_size": 10_000, "test_size": 10_000},
            "train": {"epochs": 100},
        },
    },
    # Settings of every method, chosen on validation, on part of the data.
    "search": {
        "mnist": {
            "data": {"train_size": 20_000, "validation_size": 10_000, "test_size": 500}, "train": {"epochs": 30},
            "baseline": {"epochs": 15}, "finetune": {"epochs": 20},
            "readout": {"alphas": (2, 3), "l2": (0.0001, 0.00003)},
            "dense_readout": {"l2": (0.001, 0.0003, 0.0001, 0.00003)},
        },
        "norb": {**_NORB_QUICK, "data": {**_NORB, "test_size": 500}},
        "toy_norb": {**_NORB_QUICK, "data": {**_PART, "test_size": 500}},
    },
}  # fmt: skip
SEEDS = {"full": 5}


def settings(profile: str, data: str, seeds: int | None = None) -> Settings | None:
    """A profile's settings on a data set; None: it has none.

    Args:
        profile: its name.
        data: name of the data set.
        seeds: per row, 0 … seeds - 1; by default the profile's.

    Raises:
        PlanError: unknown profile, or an impossible number of seeds.
    """
    if profile not in PROFILES:
        raise PlanError(f"There is no profile {profile!r}: choose one of {', '.join(PROFILES)}.")
    seeds = SEEDS.get(profile, 1) if seeds is None else seeds
    if seeds < 1:
        raise PlanError(f"seeds = {seeds} is not possible: at least 1.")
    entry = PROFILES[profile].get(data)
    if entry is None:
        return None
    return Settings(profile=profile, seeds=seeds, **{**entry, "data": DataConfig(name=data, **entry.get("data", {}))})
