"""A run of the study, its id, and the store: one folder a run, found by its id, whole or absent."""

import ctypes
import errno
import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, ClassVar

import pandas as pd
from torch import float16, nn

from ksae_lib.io import KsaeError, load_tensors, save_tensors, sweep, sync_file, temporary_prefix
from replication.code_digest import closure_digest
from replication.data import DATASETS
from replication.data.base import DataConfig
from replication.judge.finetune import FinetuneConfig
from replication.judge.readout import ReadoutConfig
from replication.methods import method_from_json
from replication.methods.base import Method

_ENGINES = {
    "cpu": ("ksae_lib.engines.cpu", "ksae_lib.engines.kernels"),
    "gpu": ("ksae_lib.engines.gpu", "ksae_lib.engines.triton_select"),
    "reference": ("ksae_lib.engines.reference",),
}
_VERSION = 1
"""Part of every id: raise it when the same config starts to mean other numbers."""
_LATER = dict.fromkeys(("below", "below_alpha", "share", "source")) | {"selection": "sort"}
_LATER |= dict.fromkeys(("dense_relu", "refit", "frozen"), False)
_LATER |= {"shuffle": True, "transform": "raw", "max_norm": None}
"""Settings that came later, left out of ids where they say nothing: earlier ids stay valid."""
_SAID = {"train": {"engine": "cpu", "support_dtype": "float32"}, "finetune": {"engine": "auto"}}
"""What every config says that no longer decides anything: ids stay valid."""
FILES = ("config.json", "metrics.json", "history.csv")
MANIFEST = "runs.sha256"
"""File beside the evidence that has the digest of each of these."""
WEIGHTS = "weights.safetensors"
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


class StoreError(KsaeError):
    """A run is missing, cannot be read, or must not be written."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    step: ClassVar[str]
    _name: ClassVar[Any]
    """The readable part of the id."""
    data: DataConfig = field(default_factory=DataConfig)

    @cached_property
    def run_id(self) -> str:
        """Readable name and digest of the config."""
        text = json.dumps(to_json(self), sort_keys=True, separators=(",", ":"))
        return f"{self.step}-{self._name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def seed(self) -> int | None:
        """Seed of a net or of an encoder, None where chance has no part."""
        if isinstance(self, FinetuneRun):
            return self.finetune.seed
        encoder = self.encoder if isinstance(self, ReadoutRun) else self
        return encoder.method.seed if isinstance(encoder, EncoderRun) and encoder.method.uses_seed else None

    def _named(self, what: str) -> str:
        return what if self.data.name == "mnist" else f"{self.data.name}-{what}"


@dataclass(frozen=True, kw_only=True)
class EncoderRun(_Run):
    """One method fitted without labels, on data or on the codes of an encoder below."""

    step = "train"
    method: Method
    below: "EncoderRun | None" = None
    """The first layer of a deep net (section 4.6)."""
    below_alpha: float | None = None
    """Codes of a k-sparse encoder below keep the αk largest."""

    @property
    def _name(self) -> str:
        upper = "" if self.below is None else "upper-"
        return self._named(f"{upper}{self.method.label}-s{self.method.seed}")


@dataclass(frozen=True, kw_only=True)
class ReadoutRun(_Run):
    """One logistic regression on the frozen codes of an encoder, or on raw pixels."""

    step = "readout"
    encoder: EncoderRun | None = None
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)

    def __post_init__(self) -> None:
        whole = DATASETS[self.data.name].whole
        if whole is not None and self.data.train_size > whole[0]:
            raise ValueError(f"A readout is not fitted to validation images: train_size is at most {whole[0]}.")

    @property
    def _name(self) -> str:
        return self._named("pixels") if self.encoder is None else self.encoder._name


@dataclass(frozen=True, kw_only=True)
class FinetuneRun(_Run):
    """One discriminative net, started from an encoder and those below it or from random weights, and fine-tuned."""

    step = "finetune"
    encoder: EncoderRun | None = None
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    @property
    def _name(self) -> str:
        start = self._named("random-weights") if self.encoder is None else self.encoder._name
        stages = "" if self.finetune.layerwise else "-at-once"
        return f"{start}{stages}-f{self.finetune.epochs}-s{self.finetune.seed}"


Supervised = ReadoutRun | FinetuneRun
Run = EncoderRun | Supervised


def stack(encoder: EncoderRun | None) -> tuple[EncoderRun, ...]:
    """An encoder and those below it, the lowest first."""
    return () if encoder is None else (*stack(encoder.below), encoder)


def requires(run: Run) -> tuple[EncoderRun, ...]:
    """The encoders whose weights a run needs, the lowest first."""
    return stack(run.below if isinstance(run, EncoderRun) else run.encoder)


def twice(run: Supervised) -> Supervised | None:
    """The run with twice the epochs: of the net that is fine-tuned, or of the encoder; None where there are none."""
    if isinstance(run, FinetuneRun):
        return replace(run, finetune=replace(run.finetune, epochs=2 * run.finetune.epochs))
    if run.encoder is None or not run.encoder.method.epochs:
        return None
    method: Any = run.encoder.method
    return replace(run, encoder=replace(run.encoder, method=replace(method, epochs=2 * method.epochs)))


def to_json(run: Run | _Run) -> dict[str, Any]:
    """The run's config as stored in ``config.json``."""
    kind = run.method.kind if isinstance(run, EncoderRun) else run.step
    return {"kind": kind, "version": _VERSION, **_settings(run)}


def _settings(part: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for f in fields(part):
        value = getattr(part, f.name)
        name = value.kind if isinstance(value, Method) else f.name
        if name not in _LATER or value != _LATER[name]:
            made[name] = _settings(value) | _SAID.get(name, {}) if is_dataclass(value) else value
    return made


def from_json(config: dict[str, Any]) -> Run:
    """The run that ``config.json`` describes.

    Raises:
        StoreError, TypeError, ValueError, KeyError: another version, an unknown kind, impossible settings.
    """
    kind, version = config.get("kind"), config.get("version")
    if version != _VERSION or kind not in ("train", "baseline", "readout", "finetune"):
        raise StoreError(f"a config of version {version} and kind {kind!r} is not of this code")
    if kind in ("train", "baseline"):
        return _encoder(config)
    encoder = None if config["encoder"] is None else _encoder(config["encoder"])
    data, settings = DataConfig(**config["data"]), _unsaid(config[kind])
    if kind == "finetune":
        return FinetuneRun(data=data, encoder=encoder, finetune=FinetuneConfig(**settings))
    return ReadoutRun(data=data, encoder=encoder, readout=ReadoutConfig(**settings))


def _encoder(config: dict[str, Any]) -> EncoderRun:
    method = method_from_json({kind: _unsaid(config[kind]) for kind in ("train", "baseline") if kind in config})
    below = None if config.get("below") is None else _encoder(config["below"])
    alpha = config.get("below_alpha")
    return EncoderRun(method=method, data=DataConfig(**config["data"]), below=below, below_alpha=alpha)


def _unsaid(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("engine", "support_dtype")}


def digest_of(run: Run, engine: str | None = None) -> str:
    """Digest of the code whose change could change this run: of the readout's solver, readouts and not encoders.

    The ``engine`` is the one that trained an encoder: the code of the others does not count.
    """
    encoders = [*requires(run), *([run] if isinstance(run, EncoderRun) else [])]
    roots = {type(one.method).__module__ for one in encoders} | {DATASETS[run.data.name].load.__module__}
    if isinstance(run, EncoderRun):
        roots |= {"ksae_lib.metrics", *(["replication.judge.gabor"] if run.data.name == "patches" else [])}
    else:
        roots.add(f"replication.judge.{run.step}")
    # Codes are those of the processor's kernels, whatever trained the encoder.
    engine = engine if isinstance(run, EncoderRun) else "cpu"
    others = [name for key, names in _ENGINES.items() if engine in _ENGINES and key != engine for name in names]
    return closure_digest(tuple(sorted(roots)), tuple(others))


@dataclass(frozen=True)
class StoredRun:
    """What one finished run left."""

    run: Run
    metrics: dict[str, Any]
    history: pd.DataFrame

    @property
    def is_current(self) -> bool:
        """Whether the run is of the code that is here."""
        return self.metrics.get("code_digest") == digest_of(self.run, self.metrics.get("engine"))


class RunStore:
    """``<root>/<run_id>/{config.json, metrics.json, history.csv}`` and, where kept, ``weights.safetensors``.

    A folder appears, and is replaced, by one rename. Reading writes nothing and sees one version of a run.
    """

    def __init__(self, root: Path, read_only: bool = False) -> None:
        self.root, self.read_only = root, read_only

    def folder(self, run: Run) -> Path:
        """Where the run is, or will be."""
        return self.root / run.run_id

    def checkpoint(self, runs: Sequence[Run]) -> Path:
        """Where runs under way, of the code that is here, keep their checkpoint."""
        whole = hashlib.sha256(" ".join(f"{run.run_id} {digest_of(run)}" for run in runs).encode()).hexdigest()[:16]
        return self.root / ".checkpoints" / f"{runs[0].run_id}-{whole}.safetensors"

    def names(self) -> list[str]:
        """Ids of the runs that have a folder, in order."""
        return sorted(p.name for p in self.root.glob("[!.]*") if p.is_dir())

    def manifest(self) -> str:
        """Digest of every file of every whole run but the weights, as ``sha256sum`` writes it beside the store."""
        folders = [[self.root / name / file for file in FILES] for name in self.names()]
        paths = [path for files in folders if all(file.exists() for file in files) for path in files]
        digests = ((hashlib.sha256(path.read_bytes()).hexdigest(), path) for path in paths)
        return "".join(f"{digest}  {path.relative_to(self.root.parent).as_posix()}\n" for digest, path in digests)

    def seeds(self) -> list[int]:
        """Seeds that occur among the runs."""
        return sorted({int(seed) for name in self.names() for seed in re.findall(r"-s(\d+)-", name)} | {0})

    def has(self, run: Run, weights: bool = False) -> bool:
        """Whether the run is here and can be read; with its ``weights``."""
        return self.find(run) is not None and (not weights or (self.folder(run) / WEIGHTS).exists())

    def is_ready(self, run: Run) -> bool:
        """Whether other runs can be carried out on this one: of the code that is here, with weights not rounded."""
        stored, path = self.find(run), self.folder(run) / WEIGHTS
        if stored is None or not stored.is_current or not path.exists():
            return False
        with suppress(ValueError, OSError):
            return all(tensor.dtype != float16 for tensor in load_tensors(path)[0].values())
        return False

    def find(self, run: Run) -> StoredRun | None:
        """The run, or None where it is missing or cannot be read."""
        with suppress(StoreError):
            return self.read(run.run_id)
        return None

    def read(self, run_id: str) -> StoredRun:
        """Read a finished run; a ``StoreError`` if it is missing, cannot be read or is not the run of that name."""
        folder = self.root / run_id
        if not folder.is_dir():
            raise StoreError(
                f"{folder} is missing: 'ksae run {run_id} --profile {self.root.parent.name}' carries it out."
            )
        try:
            config, said, history = _read_together(folder)
            (run, table), metrics = _parsed(config, history), json.loads(said)
        except (OSError, ValueError, TypeError, KeyError, StoreError) as error:
            raise StoreError(f"{folder} cannot be read ({error}): delete it to have it carried out again.") from error
        if not isinstance(metrics, dict) or run.run_id != run_id or metrics.get("run_id") != run_id:
            raise StoreError(f"{folder} holds another run than its name says: delete it to have it carried out again.")
        return StoredRun(run, metrics, table.copy())

    def load_model(self, run: EncoderRun) -> nn.Module:
        """The trained model of a run; a ``StoreError`` if its weights are not here or cannot be read."""
        path = self.folder(run) / WEIGHTS
        if not path.exists():
            raise StoreError(
                f"{path} is missing: 'ksae run --force {run.run_id} --profile {self.root.parent.name}' makes it."
            )
        try:
            weights = {name: t.float() if t.is_floating_point() else t for name, t in load_tensors(path)[0].items()}
            known = "weight" in weights
            model = run.method.build(weights["weight"].shape[1] if known else self.read(run.run_id).metrics["inputs"])
            model.load_state_dict(weights)
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            advice = "delete its folder to have the run carried out again"
            raise StoreError(f"{path} is damaged ({error}): {advice}.") from error
        return model

    def save(
        self, run: Run, metrics: dict[str, Any], history: pd.DataFrame, model: nn.Module | None = None
    ) -> StoredRun:
        """Store a finished run in place of one that is there; a ``StoreError`` if the store is read-only.

        Args:
            run, metrics: its config; JSON-serializable results and provenance, to which ``run_id`` is added.
            history, model: one row an epoch or a trial; where weights are kept.
        """
        if self.read_only:
            raise StoreError(f"{self.root} is committed evidence: only --update-evidence writes there.")
        self.root.mkdir(parents=True, exist_ok=True)
        sweep(self.root)
        metrics = {"run_id": run.run_id, **metrics}
        prefix = temporary_prefix(self.folder(run))
        with TemporaryDirectory(dir=self.root, prefix=prefix, suffix=".tmp", ignore_cleanup_errors=True) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            for name, value in (("config", to_json(run)), ("metrics", metrics)):
                text = json.dumps(value, indent=1, allow_nan=False) + "\n"
                (new / f"{name}.json").write_text(text, encoding="utf-8")
            history.to_csv(new / "history.csv", index=False, lineterminator="\n", float_format="%.6g")
            if model is not None:
                save_tensors(model.state_dict(), new / WEIGHTS, {})
            for path in new.iterdir():
                sync_file(path)
            _put(new, self.folder(run))
        return StoredRun(run, metrics, history)


# Reports ask for the same run many times.
@cache
def _parsed(config: str, history: str) -> tuple[Run, pd.DataFrame]:
    return from_json(json.loads(config)), pd.read_csv(StringIO(history))


def _read_together(folder: Path) -> list[str]:
    """The files of one version of a run: a folder that is replaced meanwhile is read again."""
    here = os.open(folder, os.O_RDONLY)
    try:
        with ExitStack() as stack:
            opened = (os.fdopen(os.open(name, os.O_RDONLY, dir_fd=here), encoding="utf-8") for name in FILES)
            return [stack.enter_context(file).read() for file in opened]
    except FileNotFoundError:
        if folder.stat().st_ino == os.fstat(here).st_ino:
            raise
        return _read_together(folder)
    finally:
        os.close(here)


def _put(new: Path, folder: Path) -> None:
    """Give a folder its name, where the system can in one step; beside ``new`` or in it is then what was there."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None)
    while True:
        try:
            new.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if exchange and exchange(_AT_FDCWD, bytes(new), _AT_FDCWD, bytes(folder), _RENAME_EXCHANGE) == 0:
            return
        with suppress(FileNotFoundError):
            folder.rename(mkdtemp(dir=new.parent))
