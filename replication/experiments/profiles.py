"""The profiles: how much data, how many epochs and seeds; what differs from the paper's settings, by data set."""

from typing import Any

from ksae_lib.io import KsaeError
from replication.data.base import DataConfig
from replication.experiments.base import Settings

_DENSE = {"l2": (0.001, 0.0003, 0.0001, 0.00003, 0.00001)}
_SMOKE_READOUT = {"alphas": (1, 3), "l2": (0.001, 0.0001)}


def _sizes(train: int, validation: int, test: int, **more: Any) -> dict[str, Any]:
    return {"train_size": train, "validation_size": validation, "test_size": test, **more}


def _mnist(encoders: int, baselines: int, nets: int, **more: Any) -> dict[str, Any]:
    """So many epochs of each."""
    lengths = {"train": {"epochs": encoders}, "baseline": {"epochs": baselines}, "finetune": {"epochs": nets}}
    return {**lengths, "dense_readout": _DENSE, **more}


def _norb(encoders: int, baselines: int, nets: int, rate: float, units: int = 4000, **more: Any) -> dict[str, Any]:
    """So many epochs of each, and the first rate of fine-tuning."""
    return {
        "train": {"epochs": encoders, "units": units, "k_start": 400, "learning_rate": 0.0001},
        "baseline": {"epochs": baselines, "units": units},
        "finetune": {"epochs": nets, "units": units, "learning_rate": rate, "momentum": 0.9},
        **more,
    }


def _norb_quick(**data: Any) -> dict[str, Any]:
    grids: dict[str, Any] = {
        "readout": {"alphas": (1, 2, 3), "l2": (0.01, 0.001)},
        "dense_readout": {"l2": (0.1, 0.01, 0.001)},
    }
    return _norb(10, 5, 6, rate=0.03, data=data, **grids)


def _norb_smoke(**more: Any) -> dict[str, Any]:
    return _norb(3, 2, 3, rate=0.01, units=800, data=_sizes(600, 100, 700, **more), readout=_SMOKE_READOUT)


PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    # Seconds: for tests, its numbers mean nothing.
    "smoke": {
        "mnist": _mnist(6, 3, 3, data=_sizes(2000, 500, 500), readout=_SMOKE_READOUT, dense_readout={}),
        "norb": _norb_smoke(),
        "toy_norb": _norb_smoke(share=31),
        "patches": {
            "data": _sizes(2000, 500, 500, source="samples"), "train": {"epochs": 3, "units": 100},
            "readout": _SMOKE_READOUT,
        },
    },
    # Full MNIST on a laptop; patches of the two photographs that come with scikit-learn.
    "quick": {
        "mnist": _mnist(60, 15, 10, upper={"epochs": 10}),
        "norb": _norb_quick(**_sizes(20_000, 4_300, 24_300)),
        "toy_norb": _norb_quick(**_sizes(2_500, 1_434, 8_100, share=3)),
        "patches": {"data": _sizes(100_000, 10_000, 10_000, source="samples"), "train": {"epochs": 10}},
    },
    # What verdicts rest on; patches of the first 4,000 images of CIFAR-10.
    "paper": {
        "mnist": _mnist(
            60, 27, 30, readout={"alphas": (1, 2, 3, 4), "l2": (0.0001, 0.00003, 0.00001, 0.000003)},
            dense_readout={"l2": (0.001, 0.0003, 0.0001, 0.00003, 0.00001, 0.000003, 0.000001, 0.0000001)},
        ),
        "patches": {
            "data": _sizes(1_000_000, 10_000, 10_000, source="cifar10_first4000.npz"), "train": {"epochs": 5},
        },
    },
    # The paper's settings: days of two cores.
    "full": {
        "mnist": _mnist(5000, 300, 200),
        "norb": _norb(
            5000, 300, 200, rate=0.01, data=_sizes(20_000, 4_300, 24_300),
            readout={"l2": (0.1, 0.01, 0.001, 0.0001)},
        ),
        "patches": {"data": _sizes(1_000_000, 10_000, 10_000, source="cifar10"), "train": {"epochs": 100}},
    },
    # Settings of every method, chosen on validation; test images play no part.
    "search": {
        "mnist": _mnist(
            60, 20, 30, data=_sizes(50_000, 10_000, 500), readout={"alphas": (2, 3), "l2": (0.0001, 0.00001)},
            dense_readout={"l2": (0.001, 0.0001, 0.00001, 0.000001, 0.0000001)},
        ),
    },
}  # fmt: skip


def settings(profile: str, data: str, seeds: int | None = None) -> Settings | None:
    """A profile's settings on a data set, with so many seeds a row or the profile's own; None: it has none.

    Raises:
        KsaeError: unknown profile, or an impossible number of seeds.
    """
    if profile not in PROFILES:
        raise KsaeError(f"There is no profile {profile!r}: choose one of {', '.join(PROFILES)}.")
    number = (5 if profile in ("paper", "full") else 1) if seeds is None else seeds
    if number < 1:
        raise KsaeError(f"seeds = {number} is not possible: at least 1.")
    if (entry := PROFILES[profile].get(data)) is None:
        return None
    said = {"profile": profile, "seeds": number, "of_all": seeds is not None}
    return Settings(**{**said, **entry, "data": DataConfig(name=data, **entry.get("data", {}))})
