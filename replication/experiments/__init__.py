"""The experiments of the study, one short file each: a new figure or table is a new file here, found by itself."""

import importlib
import pkgutil
from dataclasses import replace
from functools import lru_cache

from replication.experiments.base import REGISTRY, Experiment
from replication.experiments.profiles import settings


@lru_cache
def experiments(profile: str, seeds: int | None = None) -> tuple[Experiment, ...]:
    """Every experiment of a profile of ``profiles.PROFILES``, those with a notebook first; arguments as there."""
    settings(profile, "mnist", seeds)
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    made = [
        replace(build(chosen), name=name if data == possible[0] else f"{data}_{name}", data=data)
        for name, build, possible, profiles in REGISTRY
        for data in possible
        if profile in profiles and (chosen := settings(profile, data, seeds)) is not None
    ]
    return tuple(sorted(made, key=lambda one: (one.executed or "~", one.name)))
