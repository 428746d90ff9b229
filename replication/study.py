"""A profile of the study with its runs: the committed evidence, read-only, and the reader's own store beside it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import nn

from ksae_lib.io import KsaeError
from replication.execute import carry_out
from replication.experiments import experiments
from replication.experiments.base import Experiment, Row, Search, Sweep
from replication.methods.base import Device
from replication.runs import EncoderRun, Run, RunStore, StoredRun

T = TypeVar("T")


def project_root() -> Path:
    """The checkout the study runs from."""
    return Path(__file__).resolve().parents[1]


class Shown(NamedTuple):
    """A row of a table with its finished runs, one a seed."""

    row: Row
    committed: list[StoredRun]
    own: list[StoredRun]
    """The reader's; empty where the evidence itself is written."""


class Study:
    """One profile: its experiments, its stores and the folders its tables, figures and notebooks go to.

    Args:
        profile: ``smoke``, ``quick``, ``paper``, ``full`` or ``search``.
        seeds: seeds per table row; by default the profile's.
        results: where the reader's runs go: $KSAE_RESULTS, or ``results/local`` of this checkout.
        evidence: where the committed runs are: $KSAE_EVIDENCE, or ``results`` of this checkout. Runs are written there
            only if ``results`` is the same folder.

    Raises:
        KsaeError: unknown profile or an impossible number of seeds.
    """

    def __init__(
        self, profile: str, seeds: int | None = None, results: Path | None = None, evidence: Path | None = None
    ) -> None:
        self.profile, self.seeds = profile, seeds
        self.experiments = experiments(profile, seeds)
        self.evidence_root = (evidence or _folder("KSAE_EVIDENCE", "results")).resolve()
        self.root = (results or _folder("KSAE_RESULTS", "results/local")).resolve()
        self.updates_evidence = self.root == self.evidence_root
        self.evidence = RunStore(self.evidence_root / profile / "runs", read_only=not self.updates_evidence)
        self.store = self.evidence if self.updates_evidence else RunStore(self.root / profile / "runs")
        self.folder = self.root / profile
        self.figures, self.tables, self.notebooks = (self.folder / part for part in ("figures", "tables", "notebooks"))

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a started process work on the same folders."""
        return {"KSAE_RESULTS": str(self.root), "KSAE_EVIDENCE": str(self.evidence_root)}

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name, or that a notebook of that name is executed for; else a ``KsaeError``."""
        found = [one for one in self.experiments if name in (one.name, one.executed)]
        names = ", ".join(one.name for one in self.experiments)
        return _first(found, f"There is no experiment {name!r} in profile {self.profile}: choose one of {names}.")

    def shown_by(self, notebook: str, data: str) -> Experiment:
        """The experiment on a data set that a notebook shows; a ``KsaeError`` if there is none."""
        found = [one for one in self.experiments if (one.notebook, one.data) == (notebook, data)]
        return _first(found, f"Profile {self.profile} has no experiment on {data!r} for notebook {notebook}.")

    def shown(self, experiment: Experiment) -> list[Run]:
        """The runs that an experiment's notebook shows: its own, and those of others that name it."""
        others = (one for one in self.experiments if experiment.name in one.shown_in and experiment.data == one.data)
        return [run for one in (experiment, *others) for run in one.runs()]

    def run(self, run_id: str) -> Run:
        """The planned run with that id; a ``KsaeError`` if there is none."""
        found = [run for one in self.experiments for run in one.runs() if run.run_id == run_id]
        advice = f"'ksae run --profile {self.profile} --list' lists those there are"
        return _first(found, f"There is no run {run_id!r} in profile {self.profile} with these seeds: {advice}.")

    def is_due(self, run: Run, stale: bool = True) -> bool:
        """Whether the study's own store lacks the run, or, if ``stale`` counts, has one of other code."""
        stored = self.store.find(run)
        return stored is None or (stale and not stored.is_current)

    def find(self, run: Run) -> StoredRun | None:
        """The reader's run, else the committed one, else None."""
        return self.store.find(run) or self.evidence.find(run)

    def obtain(self, run: Run) -> StoredRun:
        """The reader's run, else the committed one, else carried out now."""
        return self.find(run) or carry_out([run], self)[0]

    def model(self, run: EncoderRun, exact: bool = False, device: Device = "auto") -> nn.Module:
        """The trained model of a run, from the reader's or the committed weights, else trained now.

        ``exact`` takes no rounded weights and none of other code, since other runs are to be carried out on the model.
        """
        for store in (self.store, self.evidence):
            if store.is_ready(run) if exact else store.has(run, weights=True):
                return store.load_model(run)
        if self.updates_evidence and (found := self.evidence.find(run)) and found.is_current:
            # The committed run stays: weights that were not kept are made beside it.
            beside = Study(self.profile, self.seeds, self.evidence_root / "local", self.evidence_root)
            return beside.model(run, exact, device)
        carry_out([run], self, device=device)
        return self.store.load_model(run)

    @property
    def table_numbers(self) -> list[int]:
        """Numbers of the paper's tables that the profile has rows of."""
        return sorted({row.table for one in self.experiments for row in one.rows})

    def rows(self, table: int, data: str | None = None) -> list[Shown]:
        """The rows of the paper's table of that number, on one data set or any, with every finished run of any seed."""
        return [
            Shown(row, self._all(self.evidence, row.at), [] if self.updates_evidence else self._all(self.store, row.at))
            for one in self.experiments
            for row in one.rows
            if row.table == table and data in (None, row.data.name)
        ]

    @staticmethod
    def _all(store: RunStore, at: Callable[[int], Run]) -> list[StoredRun]:
        runs = {run.run_id: run for run in map(at, store.seeds())}
        return [stored for run in runs.values() if (stored := store.find(run)) is not None]

    def sweeps(self) -> list[tuple[Sweep, list[tuple[str, list[StoredRun]]]]]:
        """Every factor that was changed alone, and of each of its values the committed or own runs."""
        return [
            (sweep, [(value, self._all(self.evidence, at) or self._all(self.store, at)) for value, at in sweep.points])
            for one in self.experiments
            for sweep in one.sweeps
        ]

    def searches(self) -> list[tuple[Search, list[StoredRun | None]]]:
        """Every search of settings with the run of each trial, None where it is missing."""
        return [(s, [self.find(run) for _, run in s.trials]) for one in self.experiments for s in one.searches]


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or project_root() / default)


def _first(found: list[T], otherwise: str) -> T:
    if not found:
        raise KsaeError(otherwise)
    return found[0]
