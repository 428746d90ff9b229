"""A profile's plan together with its folder of results: what notebooks, report and command line work on."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from replication.plan import NORB, Experiment, Plan, Quoted, ReadoutRun, Row, Sweep, load_plan
from replication.runs import RunStore, StoredRun

_MOST_SEEDS = 100


def project_root() -> Path:
    """The checkout this library runs from."""
    return Path(__file__).resolve().parents[1]


def default_results() -> Path:
    """Where results go: $KSAE_RESULTS, or ``results/`` of this checkout."""
    return Path(os.environ.get("KSAE_RESULTS") or project_root() / "results")


class Study:
    """One profile: its plan, its run store and the folders its tables, figures and notebooks go to.

    Args:
        profile: a profile of the plan: ``smoke``, ``quick``, ``paper``, ``full`` or ``search``.
        results: the folder that holds ``<profile>/``; see ``default_results``.
        seeds: seeds per table row; by default the profile's.
        norb: what experiments on NORB run on, ``norb`` itself or its stand-in ``toy_norb``; by default NORB if the
            store has runs on it.

    Raises:
        PlanError: unknown profile or an impossible number of seeds.
    """

    def __init__(
        self, profile: str, results: Path | None = None, seeds: int | None = None, norb: str | None = None
    ) -> None:
        self.folder = (results or default_results()) / profile
        self.store = RunStore(self.folder / "runs")
        self.norb = norb or ("norb" if any(self.store.root.glob("*-norb-*")) else "toy_norb")
        self.plan: Plan = load_plan(profile, seeds, norb=self.norb)

    def on(self, dataset: str | None) -> Study:
        """The same profile with experiments on NORB on ``norb`` or ``toy_norb``; other data, or None: as it is."""
        if dataset not in NORB or dataset == self.norb:
            return self
        return Study(self.plan.profile, self.folder.parent, self.plan.seeds, dataset)

    def data_name(self, experiment: Experiment) -> str:
        """What a notebook is told to show the experiment on: ``mnist``, ``norb``, ``toy_norb``, ``patches``."""
        return self.norb if experiment.dataset == "norb" else experiment.dataset

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.folder / "figures"

    @property
    def tables(self) -> Path:
        """Folder of the tables."""
        return self.folder / "tables"

    @property
    def notebooks(self) -> Path:
        """Folder of the executed notebooks."""
        return self.folder / "notebooks"

    @cached_property
    def _wide(self) -> Plan:
        """The plan with more seeds than anyone has trained."""
        return load_plan(self.plan.profile, _MOST_SEEDS, norb=self.norb)

    def rows(self, table: int) -> list[tuple[Row, list[StoredRun]]]:
        """The rows of a table with every finished run in the store, of whatever seed."""
        return [
            (row, [self.store.load(run) for run in row.runs if self.store.has(run)])
            for experiment in self._wide.experiments
            for row in experiment.rows
            if row.table == table
        ]

    def quoted(self, table: int) -> list[Quoted]:
        """The rows of a table that are the paper's alone."""
        return [row for experiment in self.plan.experiments for row in experiment.quoted if row.table == table]

    def sweeps(self) -> list[tuple[str, Sweep, Any, list[StoredRun]]]:
        """Experiment and value of each setting that was changed alone, with every finished run in the store."""
        return [
            (experiment.name, sweep, value, [self.store.load(run) for run in runs if self.store.has(run)])
            for experiment in self._wide.experiments
            for sweep in experiment.sweeps
            for value, runs in sweep.points
        ]

    def curve(self) -> list[tuple[ReadoutRun, StoredRun]]:
        """The finished runs of the error-against-epochs curve."""
        return [
            (run, self.store.load(run))
            for experiment in self.plan.experiments
            for run in experiment.curve
            if self.store.has(run)
        ]
