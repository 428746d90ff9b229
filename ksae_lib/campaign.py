"""Carrying out a whole profile on one device: runs that are alike at once, in slices of time, packed to take home."""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.torch import load_file, save
from tqdm import tqdm

from ksae_lib.engines.batched import Precision
from ksae_lib.engines.many import ALIKE, OutOfTimeError, train_many
from ksae_lib.engines.training import DivergenceError
from ksae_lib.execute import assess, describe, execute, initial_net, inputs_of, keep, load_data
from ksae_lib.finetune_many import ALIKE_TUNINGS, finetune_many, kind_of
from ksae_lib.plan import BaselineRun, Experiment, FinetuneRun, Run, TrainRun
from ksae_lib.runs import RunStore, StoreError

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

    Args:
        experiments: of a plan.
        store: where runs are kept.
        device: that all work but the description of results is done on.
        until: ``time.monotonic()`` after which nothing is begun.
        precision: of the products that train k-sparse autoencoders.
        report: told of every run that is done or has diverged.

    Returns:
        The runs still to do, among them those that diverged.
    """
    runs = list({run.run_id: run for experiment in experiments for run in experiment.runs()}.values())
    try:
        for part in _stages(runs):
            missing = [run for run in part if not store.has(run, weights=isinstance(run, TrainRun | BaselineRun))]
            trained = [run for run in missing if isinstance(run, TrainRun)]
            tuned = [run for run in missing if isinstance(run, FinetuneRun)]
            for batch in _alike(trained, lambda run: (run.data, *(getattr(run.train, name) for name in ALIKE))):
                _train(batch, store, device, precision, until, report)
            for same in _alike(tuned, lambda run: (run.data, *(getattr(run.finetune, name) for name in ALIKE_TUNINGS))):
                _finetune(same, store, device, until, report)
            for run in missing:
                if not isinstance(run, TrainRun | FinetuneRun):
                    _check_time(until)
                    try:
                        execute(run, store, engine=None if device == "cpu" else "gpu")
                        report(f"{run.run_id}: done")
                    except DivergenceError as error:
                        report(f"{run.run_id}: {error}")
    except OutOfTimeError as error:
        report(f"Time is over: {error}")
    return [run for run in runs if not store.has(run)]


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


def _check_time(until: float) -> None:
    if time.monotonic() > until:
        raise OutOfTimeError("the next run was not begun.")


def _train(
    runs: list[TrainRun],
    store: RunStore,
    device: str,
    precision: Precision,
    until: float,
    report: Callable[[str], None],
) -> None:
    data = load_data(runs[0].data)
    pairs = [inputs_of(run, data, store) for run in runs]
    x = pairs[0][0] if all(run.below is None for run in runs) else np.stack([train_x for train_x, _ in pairs])
    # Of the first run of the batch: no other batch has it.
    checkpoint = store.checkpoint(runs[0])
    configs = [run.train for run in runs]
    outcomes = train_many(x, configs, device=device, precision=precision, checkpoint=checkpoint, until=until)
    for run, outcome, (train_x, held_out) in zip(runs, outcomes, pairs, strict=True):
        if isinstance(outcome, DivergenceError):
            report(f"{run.run_id}: {outcome}")
            continue
        model, history = outcome
        seconds, results = describe(model, train_x, held_out, history, data)
        results |= {"engine": "batched", "device": device, "precision": precision, "trained_at_once": len(runs)}
        keep(run, store, data, seconds, results, history, model)
        report(f"{run.run_id}: loss {results['loss']:.4g}")
    checkpoint.unlink(missing_ok=True)


def _finetune(
    runs: list[FinetuneRun], store: RunStore, device: str, until: float, report: Callable[[str], None]
) -> None:
    data = load_data(runs[0].data)
    held = data.validation_x, data.validation_y
    nets = [initial_net(run, data, store) for run in runs]
    for batch in _alike(zip(runs, nets, strict=True), lambda pair: kind_of(pair[1])):
        _check_time(until)
        configs = [run.finetune for run, _ in batch]
        alike = [net for _, net in batch]
        outcomes = finetune_many(alike, data.train_x, data.train_y, configs, held, device)
        for (run, net), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, DivergenceError):
                report(f"{run.run_id}: {outcome}")
                continue
            seconds, results = assess(run, net, outcome, data)
            results |= {"engine": "batched", "device": device, "trained_at_once": len(batch)}
            keep(run, store, data, seconds, results, outcome, None)
            report(f"{run.run_id}: test error {results['test_error']:.2f}%")


def pack(experiments: Sequence[Experiment], store: RunStore, folder: Path, most_bytes: int) -> list[Path]:
    """Write the finished runs into archives, with float16 weights of the models that figures show.

    Args:
        experiments: whose runs are packed.
        store: where they are.
        folder: gets ``runs-0.tar.gz`` and so on; those there are replaced.
        most_bytes: size of an archive before compression.

    Returns:
        The archives.

    Raises:
        StoreError: a run alone is larger than an archive may be.
    """
    shown = {run.run_id for e in experiments for run in (*e.filters, *(m for _, m in (*e.models, *e.compared)))}
    runs = {run.run_id: run for experiment in experiments for run in experiment.runs() if store.has(run)}
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("runs-*.tar.gz"):
        earlier.unlink()
    parts: list[list[tuple[str, bytes]]] = [[]]
    filled = 0
    for name, run in runs.items():
        files = [(f"{name}/{path.name}", path.read_bytes()) for path in _texts(store.folder(run))]
        if name in shown and store.has(run, weights=True):
            weights = load_file(store.folder(run) / _WEIGHTS)
            half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
            files.append((f"{name}/{_WEIGHTS}", save(half)))
        size = sum(len(content) for _, content in files)
        if size > most_bytes:
            raise StoreError(f"{name} has {size} bytes, more than an archive of {most_bytes}: allow larger ones.")
        if filled + size > most_bytes:
            parts.append([])
            filled = 0
        parts[-1] += files
        filled += size
    return [_archive(folder / f"runs-{number}.tar.gz", files) for number, files in enumerate(parts) if files]


def _texts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != _WEIGHTS)


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
            with tarfile.open(archive) as file:
                file.extractall(temporary, filter="data")
        except (OSError, EOFError, tarfile.TarError) as error:
            raise StoreError(f"{archive} cannot be read as an archive of runs: {error}.") from error
        found = RunStore(Path(temporary))
        stored = [found.read(folder.name) for folder in sorted(Path(temporary).iterdir())]
        added = []
        for one in stored:
            if replace or not store.has(one.run):
                store.adopt(found.folder(one.run), one.run)
                added.append(one.run.run_id)
    return added
