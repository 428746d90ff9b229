"""What an experiment of the study is: rows, searches and sweeps of runs, written with a profile's settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, cast

from replication.data.base import DataConfig
from replication.judge.finetune import FinetuneConfig
from replication.judge.readout import ReadoutConfig
from replication.methods import METHODS
from replication.methods.base import Method
from replication.methods.k_sparse import KSparse
from replication.runs import EncoderRun, FinetuneRun, ReadoutRun, Run, Supervised, requires, twice


@dataclass(frozen=True)
class Row:
    """One row of a table: what the paper calls it, and the run of each seed that replicates it."""

    key: str
    """Names the row among those of its table and data set."""
    table: int
    method: str
    variant: str
    at: Callable[[int], Supervised]
    """The run of a seed."""
    seeds: int
    """How many the profile plans; one where chance has no part."""
    paper: str
    """Key of the paper's figure in ``data/paper/reported.csv``, if it has one."""

    @property
    def runs(self) -> list[Supervised]:
        """The planned runs, one a seed."""
        return [self.at(seed) for seed in range(self.seeds)]

    @property
    def data(self) -> DataConfig:
        """What the row is on."""
        return self.at(0).data

    @property
    def label(self) -> str:
        """Method and variant as figures and texts name them."""
        return f"{self.method}, {self.variant}" if self.variant else self.method


class Between(NamedTuple):
    """Numbers from the lowest to the highest, to choose from on a logarithmic scale."""

    low: float
    high: float


Space = dict[str, "Between | tuple[Any, ...]"]
"""What each setting of a search may be."""


@dataclass(frozen=True)
class Search:
    """The settings of one row that are searched for; validation chooses."""

    build: Callable[..., Row]
    """The row with changed settings."""
    space: Space
    rungs: tuple[int, ...]
    """Epochs of a trial's runs; only the best third of the trials goes on to the next."""
    tried: tuple[dict[str, Any], ...] = ()
    """Settings of each run, in their order."""

    @property
    def row(self) -> Row:
        """The row as it was chosen."""
        return self.build()

    @property
    def name(self) -> str:
        """Its table and key."""
        return f"table{self.row.table} {self.row.key}"

    @property
    def trials(self) -> list[tuple[dict[str, Any], Supervised]]:
        """What was tried and its run of seed 0, without those that diverged."""
        return [(settings, self.build(**settings).at(0)) for settings in self.tried if "diverged" not in settings]


@dataclass(frozen=True)
class Sweep:
    """One factor changed at one k, all else equal."""

    factor: str
    k: int
    points: tuple[tuple[str, Callable[[int], Supervised]], ...]
    """Each value, that of the base first, and how to get the run of a seed."""
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A part of the study: the runs it needs and the notebook that shows them."""

    name: str = ""
    data: str = "mnist"
    notebook: str | None = None
    """Name in ``notebooks/``; None: another experiment's notebook shows the runs."""
    shown_in: tuple[str, ...] = ()
    """Experiments whose notebooks show these runs as well, where they are stored."""
    figures: tuple[str, ...] = ()
    """Names of the figures the notebook writes."""
    all_cores: bool = False
    """Whether the notebook has processes of its own on all cores."""
    filters: tuple[EncoderRun, ...] = ()
    """Encoders of a figure of filters."""
    compared: tuple[EncoderRun, ...] = ()
    """Encoders of other experiments that are shown beside those, from committed weights where nobody trained them."""
    models: dict[str, EncoderRun] = field(default_factory=dict)
    """Encoders by the name a figure gives them."""
    rows: tuple[Row, ...] = ()
    doubled: bool = False
    """Rows are also carried out with twice the epochs, to show that they are trained for long enough."""
    quoted: tuple[str, ...] = ()
    """Keys of the paper's rows that are quoted, not replicated."""
    searches: tuple[Search, ...] = ()
    sweeps: tuple[Sweep, ...] = ()

    @property
    def executed(self) -> str | None:
        """Name of the executed notebook: its own, and the data's if it is not executed on MNIST alone."""
        return self.notebook and self.notebook + ("" if self.data in ("mnist", "patches") else f"_{self.data}")

    def runs(self) -> list[Run]:
        """Every run the experiment needs, encoders before what is fitted on them, without repetition."""
        wanted: list[Run] = [*self.filters, *self.models.values()]
        wanted += [run for row in self.rows for run in row.runs]
        wanted += [run for row in self.rows if self.doubled for one in row.runs if (run := twice(one))]
        wanted += [run for search in self.searches for _, run in search.trials]
        wanted += [at(seed) for sweep in self.sweeps for _, at in sweep.points for seed in range(sweep.seeds)]
        return list({run.run_id: run for last in wanted for run in (*requires(last), last)}.values())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A profile's settings on one data set; the entries of ``profiles.PROFILES``.

    Experiments ask it for encoders and rows, which get the profile's lengths and sizes with their own changes on top.
    """

    profile: str
    seeds: int
    of_all: bool = False
    """Whether rows with a number of seeds of their own have so many as well."""
    data: DataConfig
    train: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    upper: dict[str, Any] = field(default_factory=dict)
    """Of a second encoder, in place of its method's; a DBN is one encoder."""
    finetune: dict[str, Any] = field(default_factory=dict)
    readout: dict[str, Any] = field(default_factory=dict)
    dense_readout: dict[str, Any] = field(default_factory=dict)
    """Of features that are not k-sparse codes, on top of ``readout``."""

    def method(self, name: str, **changes: Any) -> Method:
        """A method of ``methods.METHODS``; it takes from the profile the settings it knows."""
        kind = METHODS[name]
        profile = self.train if kind is KSparse else self.baseline
        return kind(**{**known_to(kind, profile), **changes})

    def encoder(self, method: Method, seed: int = 0, **below: Any) -> EncoderRun:
        """The run of an encoder, on the data or on codes of another ``below``."""
        return EncoderRun(method=replace(cast("Any", method), seed=seed), data=self.data, **below)

    def readout_row(
        self, key: str, table: int, name: str, variant: str, method: Method | None, paper: str = "", **changes: Any
    ) -> Row:
        """A row of Table 1 or 2, on raw pixels without a method; ``paper`` is the paper's key if it is another."""
        dense = self.dense_readout if method and not method.has_alpha else {}
        readout = ReadoutConfig(**{**self.readout, **dense, **changes})

        def at(seed: int) -> Supervised:
            return ReadoutRun(data=self.data, encoder=self.encoder(method, seed) if method else None, readout=readout)

        return Row(key, table, name, variant, at, self.seeds if method and method.uses_seed else 1, paper or key)

    def tuned_row(self, key: str, table: int, name: str, variant: str, layers: Sequence[Method], **changes: Any) -> Row:
        """A row of Table 3 or 4; without layers the net starts from random weights."""

        def at(seed: int) -> Supervised:
            tuned = FinetuneConfig(**{**self.finetune, **changes, "seed": seed})
            encoder: EncoderRun | None = None
            for method in layers:
                below = {"below": encoder, "below_alpha": tuned.alpha} if encoder else {}
                encoder = self.encoder(method, seed, **below)
            return FinetuneRun(data=self.data, encoder=encoder, finetune=tuned)

        return Row(key, table, name, variant, at, self.seeds, key)


Build = Callable[[Settings], Experiment]
REGISTRY: list[tuple[str, Build, Sequence[str], Sequence[str]]] = []
"""Name, function, data sets and profiles of every experiment."""


def experiment(name: str, *profiles: str, data: Sequence[str] = ("mnist",)) -> Callable[[Build], Build]:
    """Make known a function that builds an experiment in some profiles; on all but its first data set ``data_name``."""

    def register(build: Build) -> Build:
        REGISTRY.append((name, build, data, profiles))
        return build

    return register


def known_to(kind: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a kind of config has."""
    return {f.name: settings[f.name] for f in fields(kind) if f.name in settings}
