"""The plan: experiments × profiles → run configs, each with an id that its content decides.

``experiments.yaml`` says which runs each notebook needs; nothing else in the project lists runs.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from ksae_lib.training import TrainConfig
from replication.data.norb import RECIPES, SPLITS, Recipe, Split
from replication.judge.finetune import FinetuneConfig
from replication.judge.readout import ReadoutConfig
from replication.methods import METHODS, BaselineConfig, RandomKConfig

_VERSION = 1
"""Part of every id: raise it when the same config starts to mean other numbers."""
_LATER = ("below", "below_alpha", "dense_relu", "refit", "recipe", "split", "share", "source")
NORB = ("toy_norb", "norb")
"""small NORB's stand-in, and itself."""


class PlanError(ValueError):
    """experiments.yaml or a request asks for something that does not exist."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, how much of it, and its split.

    Raises:
        ValueError: there is no such data set, or it has no such recipe or split.
    """

    name: str = "mnist"
    """``mnist``, ``norb`` or its stand-in ``toy_norb``, ``patches``."""
    split_seed: int = 0
    train_size: int = 50_000
    validation_size: int = 10_000
    test_size: int = 10_000
    recipe: Recipe | None = None
    """How NORB's pairs are prepared, see ``load_norb``; None: as printed."""
    split: Split | None = None
    """How NORB's pairs are separated, see ``load_norb``; None: at random."""
    share: int | None = None
    """toy NORB of every share-th pair alone, for tests."""
    source: str | None = None
    """The images that patches are of, see ``load_patches``."""

    def __post_init__(self) -> None:
        if self.name not in _WHOLE:
            raise ValueError(f"There is no data set {self.name!r}: choose one of {', '.join(_WHOLE)}.")
        for name, choices in (("recipe", RECIPES), ("split", SPLITS)):
            value = getattr(self, name)
            if value is not None and (self.name not in NORB or value not in choices):
                raise ValueError(f"{name} = {value!r} is not possible: NORB has {', '.join(choices)}.")
        if (self.source is None) == (self.name == "patches"):
            raise ValueError(f"source = {self.source!r} is not possible: patches have one, {self.name} data none.")
        if self.share is not None and (not self.is_stand_in or self.share < 1):
            raise ValueError(f"share = {self.share} is not possible: a whole number from 1, of toy NORB alone.")

    @property
    def is_whole(self) -> bool:
        """Whether every example of the data set is used; of patches there is no end."""
        return _WHOLE[self.name] in (None, (self.train_size, self.validation_size, self.test_size))

    @property
    def is_stand_in(self) -> bool:
        """Whether the data only stand in for those of the paper."""
        return self.name == "toy_norb"

    @property
    def title(self) -> str:
        """What tables call it."""
        return {"mnist": "MNIST", "norb": "NORB", "toy_norb": "toy NORB (stand-in)", "patches": "natural patches"}[
            self.name
        ]


_WHOLE = {
    "mnist": (50_000, 10_000, 10_000),
    "norb": (20_000, 4_300, 24_300),
    "toy_norb": (20_000, 4_300, 24_300),
    "patches": None,
}
"""Examples for training, validation and test, where their number is given."""


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """One k-sparse autoencoder trained without labels."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    below: TrainRun | BaselineRun | None = None
    """Trained on the codes of this encoder instead of the data: the second layer of section 4.6."""
    below_alpha: float | None = None
    """Codes of a k-sparse encoder below keep the αk largest."""

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        t = self.train
        return f"train-{_on(self)}k{t.k}-{t.bias_init}-e{t.epochs}-s{t.seed}-{_digest(self)}"


@dataclass(frozen=True, kw_only=True)
class BaselineRun:
    """One baseline trained without labels."""

    baseline: BaselineConfig
    data: DataConfig = field(default_factory=DataConfig)
    below: TrainRun | BaselineRun | None = None
    """Trained on the codes of this encoder instead of the data: the second layer of section 4.6."""
    below_alpha: float | None = None
    """Codes of a k-sparse encoder below keep the αk largest."""

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        return f"train-{_on(self)}{self.baseline.label}-s{self.baseline.seed}-{_digest(self)}"


Encoder = TrainRun | BaselineRun


@dataclass(frozen=True, kw_only=True)
class ReadoutRun:
    """One logistic regression on the frozen codes of an encoder, or on raw pixels."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: Encoder | None = None
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        if self.encoder is None:
            return f"readout-{_data_name(self.data)}pixels-{_digest(self)}"
        return f"readout-{_name(self.encoder)}-{_digest(self)}"


@dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """One discriminative net, started from an encoder and those below it or from random weights, and fine-tuned."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: Encoder | None = None
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        name = f"{_data_name(self.data)}random-weights" if self.encoder is None else _name(self.encoder)
        stages = "" if self.finetune.layerwise else "-at-once"
        return f"finetune-{name}{stages}-f{self.finetune.epochs}-s{self.finetune.seed}-{_digest(self)}"


Supervised = ReadoutRun | FinetuneRun
Run = Encoder | Supervised
_KINDS: dict[type[Run], str] = {
    TrainRun: "train",
    BaselineRun: "baseline",
    ReadoutRun: "readout",
    FinetuneRun: "finetune",
}


def stack(encoder: Encoder | None) -> tuple[Encoder, ...]:
    """An encoder and those below it, the lowest first."""
    return () if encoder is None else (*stack(encoder.below), encoder)


def requires(run: Run) -> tuple[Encoder, ...]:
    """The encoders whose weights a run needs, the lowest first."""
    return stack(run.below if isinstance(run, TrainRun | BaselineRun) else run.encoder)


def to_json(run: Run) -> dict[str, Any]:
    """The run's config as stored in ``config.json``."""
    return {"kind": _KINDS[type(run)], "version": _VERSION, **_without_unset(asdict(run))}


def _without_unset(config: dict[str, Any]) -> dict[str, Any]:
    """Without the fields in ``_LATER`` where they say nothing: ids from before they existed stay valid."""
    made = {k: _without_unset(v) if isinstance(v, dict) else v for k, v in config.items()}
    return {k: v for k, v in made.items() if v or k not in _LATER}


def _data_name(data: DataConfig) -> str:
    """Begins the readable part of ids but those of MNIST."""
    return "" if data.name == "mnist" else f"{data.name}-"


def _on(run: Encoder) -> str:
    """What an encoder is trained on, for its id."""
    return _data_name(run.data) + ("" if run.below is None else "upper-")


def _name(encoder: Encoder) -> str:
    """The readable part of an encoder's id."""
    return encoder.run_id.removeprefix("train-").rpartition("-")[0]


def from_json(config: dict[str, Any]) -> Run:
    """The run that ``config.json`` describes.

    Raises:
        PlanError: unknown fields or another version.
    """
    config = dict(config)
    kind, version = config.pop("kind", None), config.pop("version", None)
    if version != _VERSION or kind not in _KINDS.values():
        raise PlanError(
            f"A run config of version {version} and kind {kind!r} cannot be read: this code writes version {_VERSION}."
        )
    if kind in ("train", "baseline"):
        return _encoder(config)
    data = _make(DataConfig, config["data"])
    encoder = None if config["encoder"] is None else _encoder(config["encoder"])
    if kind == "finetune":
        return FinetuneRun(data=data, encoder=encoder, finetune=_make(FinetuneConfig, config["finetune"]))
    return ReadoutRun(data=data, encoder=encoder, readout=_make(ReadoutConfig, config["readout"]))


def _encoder(config: dict[str, Any]) -> Encoder:
    data = _make(DataConfig, config["data"])
    below = None if config.get("below") is None else _encoder(config["below"])
    alpha = config.get("below_alpha")
    if "train" in config:
        return TrainRun(data=data, train=_make(TrainConfig, config["train"]), below=below, below_alpha=alpha)
    return BaselineRun(data=data, baseline=_baseline(config["baseline"]), below=below, below_alpha=alpha)


def _baseline(values: dict[str, Any], defaults: dict[str, Any] | None = None) -> BaselineConfig:
    """Config of the method that ``values`` name; of the ``defaults``, what the method knows is applied before."""
    method = values.get("method")
    if method not in METHODS:
        raise PlanError(f"There is no baseline method {method!r}: choose one of {', '.join(METHODS)}.")
    kind = METHODS[method]
    known = {f.name for f in fields(kind)}
    made: BaselineConfig = _make(kind, {k: v for k, v in (defaults or {}).items() if k in known} | values)
    return made


def _digest(run: Run) -> str:
    text = json.dumps(to_json(run), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Row:
    """One row of a table: what the paper calls it and the runs, one a seed, that replicate it."""

    table: int
    method: str
    variant: str
    runs: tuple[Supervised, ...]


@dataclass(frozen=True)
class Quoted:
    """A row of a table that is the paper's alone."""

    table: int
    dataset: str
    method: str
    variant: str


@dataclass(frozen=True)
class Search:
    """The settings tried for one method, and the run of each; validation chooses."""

    method: str
    variant: str
    trials: tuple[tuple[dict[str, Any], Supervised], ...]


@dataclass(frozen=True)
class Sweep:
    """One setting of a base run changed at a time, or several together, and the runs, one a seed, of each value."""

    factor: str
    base: Any
    """The value the base run has; of several settings, that none is changed."""
    points: tuple[tuple[Any, tuple[ReadoutRun, ...]], ...]


@dataclass(frozen=True)
class Experiment:
    """A part of the replication: the runs it needs and, unless None, the notebook that reads them."""

    name: str
    notebook: str | None
    dataset: str = "mnist"
    """What the plan calls the data: ``norb`` also where its stand-in is used."""
    filters: tuple[TrainRun, ...] = ()
    models: tuple[tuple[str, Encoder], ...] = ()
    """Encoders by the name a figure gives them."""
    compared: tuple[tuple[str, Encoder], ...] = ()
    """Encoders whose filters are shown beside each other, by name."""
    rows: tuple[Row, ...] = ()
    quoted: tuple[Quoted, ...] = ()
    curve: tuple[ReadoutRun, ...] = ()
    """Runs that differ in length: error against epochs."""
    searches: tuple[Search, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    figures: tuple[str, ...] = ()
    """Names of the figures the notebook writes."""
    shows: tuple[str, ...] = ()
    """Names of experiments whose runs the notebook shows as well, where the store has them."""

    @property
    def executed(self) -> str | None:
        """Name of the executed notebook: its own, and ``norb`` if it is executed on that as well as on MNIST."""
        return self.notebook and self.notebook + ("_norb" if self.dataset == "norb" else "")

    def runs(self) -> Iterator[Run]:
        """Every run the experiment needs, encoders before their readouts, without repetition."""
        seen: set[str] = set()
        tried = (run for search in self.searches for _, run in search.trials)
        swept = (run for sweep in self.sweeps for _, runs in sweep.points for run in runs)
        supervised = itertools.chain((run for row in self.rows for run in row.runs), self.curve, tried, swept)
        named = (encoder for _, encoder in (*self.models, *self.compared))
        for wanted in itertools.chain(self.filters, named, supervised):
            for run in (*requires(wanted), wanted):
                if run.run_id not in seen:
                    seen.add(run.run_id)
                    yield run


def shown(experiment: Experiment, among: Iterable[Experiment]) -> list[Run]:
    """Every run that an experiment's notebook shows: its own, and those of the experiments ``among`` it ``shows``."""
    others = (run for other in among if other.name in experiment.shows for run in other.runs())
    return list({run.run_id: run for run in itertools.chain(experiment.runs(), others)}.values())


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and the rule by which stored runs decide on it, see ``report/claims.py``."""

    id: str
    claim: str
    section: str
    rule: str
    evidence: dict[str, dict[str, Any]]
    """What is looked at, by kind: all of it must come out as claimed."""
    notebook: str
    deviations: tuple[str, ...] = ()
    norb: str | None = None
    """``norb`` or ``toy_norb`` if the claim is on one of them."""


@dataclass(frozen=True)
class Plan:
    """A profile of the plan: its experiments with all runs spelled out."""

    profile: str
    seeds: int
    experiments: tuple[Experiment, ...]
    claims: tuple[Claim, ...] = ()
    elsewhere: tuple[str, ...] = ()
    """Names of experiments that other profiles have and this one has not."""

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name, or that a notebook of that name is executed for.

        Raises:
            PlanError: there is none; the message lists those there are.
        """
        for experiment in self.experiments:
            if name in (experiment.name, experiment.executed):
                return experiment
        names = ", ".join(e.name for e in self.experiments)
        raise PlanError(f"There is no experiment {name!r} in profile {self.profile}: choose one of {names}.")

    def shown_by(self, notebook: str, dataset: str) -> Experiment:
        """The experiment on a data set, of NORB also by the name of its stand-in, that a notebook shows.

        Raises:
            PlanError: there is none.
        """
        wanted = "norb" if dataset in NORB else dataset
        for experiment in self.experiments:
            if (experiment.notebook, experiment.dataset) == (notebook, wanted):
                return experiment
        raise PlanError(f"Profile {self.profile} has no experiment on {dataset!r} for notebook {notebook}.")

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


def load_plan(profile: str, seeds: int | None = None, path: Path | None = None, norb: str = "toy_norb") -> Plan:
    """Spell out a profile of ``experiments.yaml``.

    Args:
        profile: its name.
        seeds: seeds per row, 0 … seeds - 1; by default the profile's.
        path: another plan file.
        norb: what experiments on NORB run on: ``norb`` itself or its stand-in ``toy_norb``.

    Raises:
        PlanError: unknown profile, unknown field, or an impossible value.
    """
    path = path or default_path()
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    profiles = document["profiles"]
    if profile not in profiles:
        raise PlanError(f"There is no profile {profile!r} in {path.name}: choose one of {', '.join(profiles)}.")
    if norb not in NORB:
        raise PlanError(f"{norb!r} is not a form of NORB: choose one of {', '.join(NORB)}.")
    settings = profiles[profile]
    seeds = int(settings["seeds"] if seeds is None else seeds)
    if seeds < 1:
        raise PlanError(f"seeds = {seeds} is not possible: at least 1.")
    experiments = tuple(
        _Profile(settings, spec.get("data", "mnist"), seeds, norb).experiment(name, spec)
        for name, spec in document["experiments"].items()
        if profile in spec["profiles"]
    )
    elsewhere = tuple(name for name, spec in document["experiments"].items() if profile not in spec["profiles"])
    return Plan(
        profile, seeds, experiments, tuple(_make(Claim, claim) for claim in document.get("claims", [])), elsewhere
    )


class _Profile:
    """A profile's settings for one data set, and the runs that entries of the plan mean with them."""

    def __init__(self, settings: dict[str, Any], data: str, seeds: int, norb: str) -> None:
        part = {**settings, **settings.get(data, {})}
        name = norb if data == "norb" else data
        self.seeds = seeds
        size = part.get("stand_in", {}) if name == "toy_norb" else {}
        self.data = _make(DataConfig, {**part.get("data", {}), **size, "name": name})
        self.train = _make(TrainConfig, part["train"])
        self.baseline = part.get("baseline", {})
        self.finetune = _make(FinetuneConfig, part.get("finetune", {}))
        self.readout = _make(ReadoutConfig, part.get("readout", {}))
        self.dense_readout = _make(ReadoutConfig, {**part.get("readout", {}), **part.get("dense_readout", {})})

    def experiment(self, name: str, spec: dict[str, Any]) -> Experiment:
        """The experiment with all its runs."""
        return Experiment(
            name=name,
            notebook=spec.get("notebook"),
            dataset=spec.get("data", "mnist"),
            filters=tuple(self._trained(changes) for changes in spec.get("filters", [])),
            models=self._labelled(spec.get("models", [])),
            compared=self._labelled(spec.get("compared", [])),
            rows=tuple(self._row(row) for row in spec.get("rows", [])),
            quoted=tuple(
                Quoted(row["table"], row["dataset"], row["method"], row.get("variant", ""))
                for row in spec.get("quoted", [])
            ),
            curve=tuple(
                ReadoutRun(data=self.data, encoder=self._trained(changes), readout=self.readout)
                for changes in spec.get("curve", [])
            ),
            searches=tuple(
                Search(
                    row["method"],
                    row.get("variant", ""),
                    tuple((settings, self._trial(row, settings)) for settings in _combinations(row["grids"])),
                )
                for row in spec.get("search", [])
            ),
            sweeps=tuple(self._sweep(spec["base"], *item) for item in spec.get("factors", {}).items()),
            figures=tuple(spec.get("figures", [])),
            shows=tuple(spec.get("shows", [])),
        )

    def _trained(self, changes: dict[str, Any], **on: Any) -> TrainRun:
        return TrainRun(data=self.data, train=_change(self.train, changes), **on)

    def _encoder(self, spec: dict[str, Any], seed: int = 0) -> Encoder | None:
        """The encoder an entry's ``train`` or ``baseline`` names, with that of ``upper`` on top."""
        bottom = self._layer(spec, seed)
        if "upper" not in spec:
            return bottom
        if "upper" in spec["upper"]:
            raise PlanError("An encoder has two layers at most: 'upper' cannot have one of its own.")
        alpha = spec.get("finetune", {}).get("alpha", self.finetune.alpha)
        return self._layer(spec["upper"], seed, below=bottom, below_alpha=alpha)

    def _layer(self, spec: dict[str, Any], seed: int, **on: Any) -> Encoder | None:
        if "train" in spec:
            return self._trained({**spec["train"], "seed": seed}, **on)
        if "baseline" in spec:
            settings = _baseline({**spec["baseline"], "seed": seed}, self.baseline)
            return BaselineRun(data=self.data, baseline=settings, **on)
        return None

    def _labelled(self, specs: list[dict[str, Any]]) -> tuple[tuple[str, Encoder], ...]:
        return tuple((spec["label"], made) for spec in specs if (made := self._encoder(spec)))

    def _row(self, row: dict[str, Any]) -> Row:
        runs = tuple(self._row_run(row, seed) for seed in range(self.seeds))
        runs = runs if depends_on_seed(runs[0]) else runs[:1]
        return Row(row["table"], row["method"], row.get("variant", ""), runs)

    def _row_run(self, row: dict[str, Any], seed: int = 0) -> Supervised:
        made = self._encoder(row, seed)
        if "finetune" in row:
            tuned = _change(self.finetune, {**row["finetune"], "seed": seed})
            return FinetuneRun(data=self.data, encoder=made, finetune=tuned)
        k_sparse = isinstance(made, TrainRun) or isinstance(getattr(made, "baseline", None), RandomKConfig)
        settings = self.readout if k_sparse or made is None else self.dense_readout
        return ReadoutRun(data=self.data, encoder=made, readout=_change(settings, row.get("readout", {})))

    def _trial(self, row: dict[str, Any], settings: dict[str, Any]) -> Supervised:
        part = next(name for name in ("finetune", "train", "baseline") if name in row)
        return self._row_run({**row, part: {**row[part], **settings}})

    def _sweep(self, base: dict[str, Any], factor: str, values: list[Any]) -> Sweep:
        of_readout = factor in {f.name for f in fields(ReadoutConfig)}
        together = isinstance(values[0], dict)

        def run(change: dict[str, Any], seed: int = 0) -> ReadoutRun:
            trained, read = ({}, change) if of_readout else (change, {})
            made = self._trained({**base, **trained, "seed": seed})
            return ReadoutRun(data=self.data, encoder=made, readout=_change(self.readout, read))

        def setting(run: ReadoutRun) -> Any:
            assert isinstance(run.encoder, TrainRun)
            return getattr(run.readout if of_readout else run.encoder.train, factor)

        changes = values if together else [{factor: value} for value in values]
        runs = [tuple(run(change, seed) for seed in range(self.seeds)) for change in changes]
        if together:
            return Sweep(factor, {}, tuple(zip(values, runs, strict=True)))
        return Sweep(factor, setting(run({})), tuple((setting(of_value[0]), of_value) for of_value in runs))


def depends_on_seed(run: Supervised) -> bool:
    """Whether another seed gives another run."""
    if isinstance(run, FinetuneRun):
        return True
    if isinstance(run.encoder, BaselineRun):
        return run.encoder.baseline.uses_seed
    return run.encoder is not None


def _combinations(grids: list[dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """Every combination of the values of each grid."""
    return [dict(zip(grid, values, strict=True)) for grid in grids for values in itertools.product(*grid.values())]


def _make(kind: type, values: dict[str, Any]) -> Any:
    _refuse_unknown(kind, values)
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise PlanError(str(error)) from error


def _change(config: Any, changes: dict[str, Any]) -> Any:
    _refuse_unknown(type(config), changes)
    try:
        return replace(config, **changes)
    except (TypeError, ValueError) as error:
        raise PlanError(str(error)) from error


def _refuse_unknown(kind: type, values: dict[str, Any]) -> None:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise PlanError(f"{kind.__name__} has no field {unknown[0]!r}: its fields are {', '.join(sorted(known))}.")
