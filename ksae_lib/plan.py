"""The plan: experiments × profiles → run configs, each with an id that its content decides.

``experiments.yaml`` says which runs each notebook needs; nothing else in the project lists runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ksae_lib.engines.training import TrainConfig
from ksae_lib.readout import ReadoutConfig

_VERSION = 1
"""Part of every id: raise it when the same config starts to mean other numbers."""


class PlanError(ValueError):
    """experiments.yaml or a request asks for something that does not exist."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, how much of it, and its split."""

    name: str = "mnist"
    split_seed: int = 0
    train_size: int = 50_000
    validation_size: int = 10_000
    test_size: int = 10_000


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """One autoencoder trained without labels."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        t = self.train
        return f"train-k{t.k}-{t.bias_init}-e{t.epochs}-s{t.seed}-{_digest(self)}"


@dataclass(frozen=True, kw_only=True)
class ReadoutRun:
    """One logistic regression on the frozen codes of an encoder, or on raw pixels."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: TrainRun | None = None
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)

    @property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        if self.encoder is None:
            return f"readout-pixels-{_digest(self)}"
        t = self.encoder.train
        return f"readout-k{t.k}-{t.bias_init}-e{t.epochs}-s{t.seed}-{_digest(self)}"


Run = TrainRun | ReadoutRun


def to_json(run: Run) -> dict[str, Any]:
    """The run's config as stored in ``config.json``."""
    return {"kind": "train" if isinstance(run, TrainRun) else "readout", "version": _VERSION, **asdict(run)}


def from_json(config: dict[str, Any]) -> Run:
    """The run that ``config.json`` describes.

    Raises:
        PlanError: unknown fields or another version.
    """
    config = dict(config)
    kind, version = config.pop("kind", None), config.pop("version", None)
    if version != _VERSION or kind not in ("train", "readout"):
        raise PlanError(
            f"A run config of version {version} and kind {kind!r} cannot be read: this code writes version {_VERSION}."
        )
    if kind == "train":
        return _train_run(config)
    encoder = config["encoder"]
    return ReadoutRun(
        data=_make(DataConfig, config["data"]),
        encoder=None if encoder is None else _train_run(encoder),
        readout=_make(ReadoutConfig, config["readout"]),
    )


def _train_run(config: dict[str, Any]) -> TrainRun:
    return TrainRun(data=_make(DataConfig, config["data"]), train=_make(TrainConfig, config["train"]))


def _digest(run: Run) -> str:
    text = json.dumps(to_json(run), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Row:
    """One row of a table: what the paper calls it and the runs, one a seed, that replicate it."""

    table: int
    method: str
    variant: str
    runs: tuple[ReadoutRun, ...]


@dataclass(frozen=True)
class Experiment:
    """A part of the replication: the runs it needs and, unless None, the notebook that reads them."""

    name: str
    notebook: str | None
    filters: tuple[TrainRun, ...] = ()
    rows: tuple[Row, ...] = ()
    curve: tuple[ReadoutRun, ...] = ()
    """Runs that differ in length: error against epochs."""
    figures: tuple[str, ...] = ()
    """Names of the figures the notebook writes."""

    def runs(self) -> Iterator[Run]:
        """Every run the experiment needs, encoders before their readouts, without repetition."""
        seen: set[str] = set()
        readouts = itertools.chain((run for row in self.rows for run in row.runs), self.curve)
        encoders_first = itertools.chain.from_iterable((r.encoder, r) for r in readouts)
        for run in itertools.chain(self.filters, encoders_first):
            if run is not None and run.run_id not in seen:
                seen.add(run.run_id)
                yield run


@dataclass(frozen=True)
class Plan:
    """A profile of the plan: its experiments with all runs spelled out."""

    profile: str
    seeds: int
    experiments: tuple[Experiment, ...]

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name, or with that notebook.

        Raises:
            PlanError: there is none; the message lists those there are.
        """
        for experiment in self.experiments:
            if name in (experiment.name, experiment.notebook):
                return experiment
        names = ", ".join(e.name for e in self.experiments)
        raise PlanError(f"There is no experiment {name!r} in profile {self.profile}: choose one of {names}.")

    def run(self, run_id: str) -> Run:
        """The planned run with that id.

        Raises:
            PlanError: there is none.
        """
        for experiment in self.experiments:
            for run in experiment.runs():
                if run.run_id == run_id:
                    return run
        raise PlanError(
            f"There is no run {run_id!r} in profile {self.profile} with {self.seeds} seeds: "
            f"'ksae run --profile {self.profile} --list' lists those there are."
        )


def default_path() -> Path:
    """The plan of this checkout."""
    return Path(__file__).resolve().parents[1] / "experiments.yaml"


def load_plan(profile: str, seeds: int | None = None, path: Path | None = None) -> Plan:
    """Spell out a profile of ``experiments.yaml``.

    Args:
        profile: its name.
        seeds: seeds per row, 0 … seeds - 1; by default the profile's.
        path: another plan file.

    Raises:
        PlanError: unknown profile, unknown field, or an impossible value.
    """
    path = path or default_path()
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    profiles = document["profiles"]
    if profile not in profiles:
        raise PlanError(f"There is no profile {profile!r} in {path.name}: choose one of {', '.join(profiles)}.")
    settings = profiles[profile]
    seeds = int(settings["seeds"] if seeds is None else seeds)
    if seeds < 1:
        raise PlanError(f"seeds = {seeds} is not possible: at least 1.")
    data = _make(DataConfig, settings.get("data", {}))
    train = _make(TrainConfig, settings["train"])
    readout = _make(ReadoutConfig, settings.get("readout", {}))
    experiments = []
    for name, spec in document["experiments"].items():
        if profile not in spec["profiles"]:
            continue

        def encoder(changes: dict[str, Any], seed: int = 0) -> TrainRun:
            return TrainRun(data=data, train=_change(train, {**changes, "seed": seed}))

        def readout_run(changes: dict[str, Any] | None, seed: int = 0) -> ReadoutRun:
            return ReadoutRun(data=data, encoder=None if changes is None else encoder(changes, seed), readout=readout)

        rows = []
        for row in spec.get("rows", []):
            changes = row.get("train")
            many = range(1 if changes is None else seeds)
            runs = tuple(readout_run(changes, seed) for seed in many)
            rows.append(Row(row["table"], row["method"], row.get("variant", ""), runs))
        experiments.append(
            Experiment(
                name=name,
                notebook=spec.get("notebook"),
                filters=tuple(encoder(changes) for changes in spec.get("filters", [])),
                rows=tuple(rows),
                curve=tuple(readout_run(changes) for changes in spec.get("curve", [])),
                figures=tuple(spec.get("figures", [])),
            )
        )
    return Plan(profile, seeds, tuple(experiments))


def _make(kind: type, values: dict[str, Any]) -> Any:
    _refuse_unknown(kind, values)
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise PlanError(str(error)) from error


def _change(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    _refuse_unknown(TrainConfig, changes)
    try:
        return replace(config, **changes)
    except (TypeError, ValueError) as error:
        raise PlanError(str(error)) from error


def _refuse_unknown(kind: type, values: dict[str, Any]) -> None:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise PlanError(f"{kind.__name__} has no field {unknown[0]!r}: its fields are {', '.join(sorted(known))}.")
