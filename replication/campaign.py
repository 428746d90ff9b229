"""Carrying out a whole profile on one device: runs that are alike at once, in slices of time, packed to take home."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.torch import load_file, save
from tqdm import tqdm

from ksae_lib.engines.gpu import Precision
from ksae_lib.io import write_text
from ksae_lib.many import ALIKE, OutOfTimeError, train_many
from ksae_lib.training import DivergenceError, gpu_missing
from replication.execute import assess, describe, execute, initial_net, inputs_of, keep, load_data
from replication.judge.finetune_many import ALIKE_TUNINGS, finetune_many, kind_of
from replication.plan import BaselineRun, Experiment, FinetuneRun, Run, TrainRun, requires
from replication.runs import RunStore, StoreError

_TEXTS = ("config.json", "metrics.json", "history.csv")
_WEIGHTS = "weights.safetensors"
_MOST_AT_ONCE = 64
Item = TypeVar("Item")


def carry_out(
    experiments: Sequence[Experiment],
    store: RunStore,
    *,
    device: str,
    until: float,
    precision: Precision = "float32",
    report: Callable[[str], None] = tqdm.write,
) -> list[Run]:
    """Carry out what the store lacks: encoders, encoders on those, then everything that is fitted on their codes.

    A run that diverges is remembered in the store and not tried again; what needs it is passed over.

    Args:
        experiments: of a plan.
        store: where runs are kept.
        device: ``cpu`` or ``cuda``, for all work but the description of results.
        until: ``time.monotonic()`` after which no epoch of a k-sparse autoencoder and no other run is begun.
        precision: of the products that train k-sparse autoencoders.
        report: told of every run that is done or has diverged.

    Returns:
        The runs still to do, without those that diverged or need one that did.

    Raises:
        ValueError: there is no such device, or Triton is missing.
    """
    if device != "cpu" and (missing := gpu_missing()) is not None:
        raise ValueError(f"device = {device!r} is not possible: {missing}.")
    campaign = _Campaign(store, device, precision, until, report)
    runs = list({run.run_id: run for experiment in experiments for run in experiment.runs()}.values())
    try:
        for stage in _stages(runs):
            todo = {run.run_id for run in campaign.open(runs)}
            at_once = [run for run in stage if isinstance(run, TrainRun) and run.train.support_dtype == "float32"]
            for batch in _alike(at_once, lambda run: (run.data, *(getattr(run.train, name) for name in ALIKE))):
                if any(run.run_id in todo for run in batch):
                    campaign.train(batch, todo)
            rest = [run for run in stage if run.run_id in todo and run not in at_once]
            tuned = [run for run in rest if isinstance(run, FinetuneRun)]
            for same in _alike(tuned, lambda run: (run.data, *(getattr(run.finetune, name) for name in ALIKE_TUNINGS))):
                campaign.finetune(same)
            for run in rest:
                if not isinstance(run, FinetuneRun):
                    campaign.execute(run)
    except OutOfTimeError as error:
        report(f"Time is over: {error}")
    return campaign.open(runs)


class _Campaign:
    """The store that is filled, and by what means."""

    def __init__(
        self, store: RunStore, device: str, precision: Precision, until: float, report: Callable[[str], None]
    ) -> None:
        self.store = store
        self.device = device
        self.precision: Precision = precision
        self.until = until
        self.report = report

    def open(self, runs: Sequence[Run]) -> list[Run]:
        """Runs that the store lacks and that can be carried out, and encoders whose weights those need."""
        hopeless = {run.run_id for run in runs if self._diverged(run).exists()}
        wanted = [
            run
            for run in runs
            if not self.store.has(run) and not hopeless & {run.run_id, *(one.run_id for one in requires(run))}
        ]
        needed = [one for run in wanted for one in requires(run) if not self.store.has(one, weights=True)]
        ids = {run.run_id for run in (*wanted, *needed)}
        return [run for run in runs if run.run_id in ids]

    def train(self, batch: Sequence[TrainRun], todo: Container[str]) -> None:
        """Train a batch of k-sparse autoencoders at once, all that are alike and can be, and keep those to do."""
        runs = [run for run in batch if all(self.store.has(one, weights=True) for one in requires(run))]
        if not runs:
            return
        data = load_data(runs[0].data)
        pairs = [inputs_of(run, data, self.store) for run in runs]
        x = pairs[0][0] if all(run.below is None for run in runs) else np.stack([train_x for train_x, _ in pairs])
        names = " ".join([*(run.run_id for run in runs), self.precision])
        checkpoint = self.store.root / ".checkpoints" / f"at-once-{hashlib.sha256(names.encode()).hexdigest()[:16]}"
        configs = [run.train for run in runs]
        outcomes = train_many(
            x, configs, device=self.device, precision=self.precision, checkpoint=checkpoint, until=self.until
        )
        for run, outcome, (train_x, held_out) in zip(runs, outcomes, pairs, strict=True):
            if isinstance(outcome, DivergenceError):
                self._remember(run, outcome)
            elif run.run_id in todo:
                model, history = outcome
                seconds, results = describe(model, train_x, held_out, history, data)
                results |= {"engine": "batched", "precision": self.precision, **self._how(len(runs))}
                keep(run, self.store, data, seconds, results, history, model)
                self.report(f"{run.run_id}: loss {results['loss']:.4g}")
        checkpoint.unlink(missing_ok=True)

    def finetune(self, runs: Sequence[FinetuneRun]) -> None:
        """Fine-tune nets, those that are alike at once."""
        data = load_data(runs[0].data)
        held = data.validation_x, data.validation_y
        nets = [initial_net(run, data, self.store) for run in runs]
        for batch in _alike(zip(runs, nets, strict=True), lambda pair: kind_of(pair[1])):
            self._check_time()
            configs = [run.finetune for run, _ in batch]
            alike = [net for _, net in batch]
            outcomes = finetune_many(alike, data.train_x, data.train_y, configs, held, self.device)
            for (run, net), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, DivergenceError):
                    self._remember(run, outcome)
                    continue
                seconds, results = assess(run, net, outcome, data)
                results |= {"engine": "batched", **self._how(len(batch))}
                keep(run, self.store, data, seconds, results, outcome, None)
                self.report(f"{run.run_id}: test error {results['test_error']:.2f}%")

    def execute(self, run: Run) -> None:
        """Carry out a run by itself."""
        if any(not self.store.has(one, weights=True) for one in requires(run)):
            return
        self._check_time()
        try:
            execute(run, self.store, device=self.device)
            self.report(f"{run.run_id}: done")
        except DivergenceError as error:
            self._remember(run, error)

    def _how(self, at_once: int) -> dict[str, Any]:
        return {"device": self.device, "trained_at_once": at_once}

    def _check_time(self) -> None:
        if time.monotonic() > self.until:
            raise OutOfTimeError("the next run was not begun.")

    def _diverged(self, run: Run) -> Path:
        return self.store.root / ".diverged" / f"{run.run_id}.txt"

    def _remember(self, run: Run, error: DivergenceError) -> None:
        path = self._diverged(run)
        write_text(path, f"{error}\nDelete this file to have the run tried again.\n")
        self.report(f"{run.run_id}: {error}")


def _stages(runs: Sequence[Run]) -> tuple[list[Run], ...]:
    encoders = [run for run in runs if isinstance(run, TrainRun | BaselineRun)]
    return (
        [run for run in encoders if run.below is None],
        [run for run in encoders if run.below is not None],
        [run for run in runs if not isinstance(run, TrainRun | BaselineRun)],
    )


def _alike(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items of one key together, in batches that are not too large."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [same[i : i + _MOST_AT_ONCE] for same in groups.values() for i in range(0, len(same), _MOST_AT_ONCE)]


def pack(experiments: Sequence[Experiment], store: RunStore, folder: Path, most_bytes: int) -> list[Path]:
    """Write the finished runs into archives, with float16 weights of the models that figures show.

    Metrics then say ``"weights": "float16"``.

    Args:
        experiments: whose runs are packed.
        store: where they are.
        folder: gets ``runs-0.tar.gz`` and so on, in place of those there.
        most_bytes: size of an archive before compression.

    Returns:
        The archives.

    Raises:
        StoreError: a run alone is larger than an archive may be; earlier archives are kept.
    """
    shown = {run.run_id for e in experiments for run in (*e.filters, *(m for _, m in (*e.models, *e.compared)))}
    runs = {run.run_id: run for experiment in experiments for run in experiment.runs() if store.has(run)}
    parts: list[list[tuple[str, bytes]]] = [[]]
    filled = 0
    for name, run in runs.items():
        files = _packed(store, run, with_weights=name in shown and store.has(run, weights=True))
        size = sum(len(content) for _, content in files)
        if size > most_bytes:
            raise StoreError(f"{name} has {size} bytes, more than an archive of {most_bytes}: allow larger ones.")
        if filled + size > most_bytes:
            parts.append([])
            filled = 0
        parts[-1] += files
        filled += size
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("runs-*.tar.gz"):
        earlier.unlink()
    return [_archive(folder / f"runs-{number}.tar.gz", files) for number, files in enumerate(parts) if files]


def _packed(store: RunStore, run: Run, with_weights: bool) -> list[tuple[str, bytes]]:
    folder, name = store.folder(run), run.run_id
    content = {file: (folder / file).read_bytes() for file in _TEXTS}
    if with_weights:
        weights = load_file(folder / _WEIGHTS)
        half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
        content[_WEIGHTS] = save(half)
        metrics = json.loads(content["metrics.json"]) | {"weights": "float16"}
        content["metrics.json"] = (json.dumps(metrics, indent=1) + "\n").encode()
    return [(f"{name}/{file}", made) for file, made in content.items()]


def _archive(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def import_runs(archive: Path, store: RunStore, replace: bool = False) -> list[str]:
    """Add the runs of an archive to the store, each whole or not at all.

    Args:
        archive: from ``pack``.
        store: gets them.
        replace: put them in place of runs that are there already; otherwise those are passed over.

    Returns:
        Ids of the runs that were added.

    Raises:
        StoreError: the archive cannot be read or holds something else; nothing is added then.
    """
    store.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".import-") as temporary:
        try:
            _unpack(archive, Path(temporary))
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise StoreError(f"{archive} cannot be read as an archive of runs: {error}.") from error
        found = RunStore(Path(temporary))
        stored = [found.read(folder.name) for folder in sorted(Path(temporary).iterdir())]
        added = []
        for one in stored:
            if replace or not store.has(one.run):
                store.adopt(found.folder(one.run), one.run)
                added.append(one.run.run_id)
    return added


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of runs; anything else in an archive is refused."""
    with tarfile.open(archive) as file:
        for member in file:
            parts = Path(member.name).parts
            if not member.isreg() or len(parts) != 2 or ".." in parts or parts[1] not in (*_TEXTS, _WEIGHTS):
                raise StoreError(f"{archive} holds {member.name!r}, which is no file of a run: nothing was added.")
            content = file.extractfile(member)
            assert content is not None
            target = folder.joinpath(*parts)
            target.parent.mkdir(exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(content, out)
