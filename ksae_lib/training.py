"""Training of one or many k-sparse autoencoders: schedules, engines, checkpoints, divergence (section 4.2)."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ksae_lib import schedule
from ksae_lib.blocks import Blocks
from ksae_lib.engines.base import Engine, EpochResult
from ksae_lib.engines.cpu import CpuEngine
from ksae_lib.engines.gpu import GpuEngine
from ksae_lib.engines.reference import ReferenceEngine
from ksae_lib.loop import Checkpoint, DivergenceError, History, Row, data_digest, run_epochs
from ksae_lib.model import Activation, BiasInit, KSparseAutoencoder
from ksae_lib.selection import check_k, rule_of

Trained = tuple[KSparseAutoencoder, History]
_Part = tuple[np.ndarray, np.ndarray]
ENGINES: dict[str, type[Engine]] = {"gpu": GpuEngine, "cpu": CpuEngine, "reference": ReferenceEngine}
ENGINE_NAMES = ("auto", *ENGINES)
_ALIKE = ("units", "epochs", "batch_size", "activation", "momentum", "momentum_end", "selection")
# Measured on MNIST with 1000 units: from this share of kept units the reference engine is as fast as the cpu engine.
_DENSE_FROM = 0.5
_CHECKED_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run; the defaults are the paper's for MNIST (section 4.2).

    Raises:
        ValueError: an impossible value, in one sentence.
    """

    units: int = 1000
    """Hidden units."""
    k: int = 25
    """Units kept per example at the end of the schedule."""
    k_start: int | None = 100
    """Units kept in the first epoch; None, or not above k: constant k."""
    k_ramp: float = 0.5
    """Part of the epochs during which k falls."""
    epochs: int = 5000
    batch_size: int = 100
    """Not stated in the paper; 100 fits its learning rates."""
    learning_rate: float = 0.01
    learning_rate_end: float | None = None
    """Reached linearly in the last epoch; None: constant."""
    momentum: float = 0.9
    momentum_end: float | None = None
    weight_std: float = 0.01
    """The paper's σ."""
    bias_init: BiasInit = "zeros"
    """``zeros`` as printed, ``gaussian`` like the weights, or ``centered``: start from centred data."""
    activation: Activation = "linear"
    seed: int = 0
    selection: str = "sort"
    """Rule that decides which units are kept, a key of ``selection.RULES``."""
    shuffle: bool = True
    """Take the examples of an epoch in a random order, not as they come."""

    def __post_init__(self) -> None:
        for name in ("units", "epochs", "batch_size"):
            self._check(name, 1, math.inf, "it must be at least 1 and a whole number", whole=True)
        check_k(self.k, self.units)
        if self.k_start is not None:
            check_k(self.k_start, self.units, "k_start")
        for name in ("learning_rate", "learning_rate_end", "weight_std"):
            self._check(name, math.ulp(0), math.inf, "it must be a positive number")
        for name in ("momentum", "momentum_end"):
            self._check(name, 0, 1, "choose a number from 0 to below 1")
        self._check("k_ramp", 0, math.nextafter(1, 2), "choose a part of the run, from 0 to 1")
        self._check("seed", 0, math.inf, "choose a whole number from 0", whole=True)
        rule_of(self.selection)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown: choose one of {', '.join(choices)}.")

    def _check(self, name: str, low: float, below: float, advice: str, *, whole: bool = False) -> None:
        value: Any = getattr(self, name)
        if value is None and name.endswith("_end"):
            return
        possible = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
        if not (possible and low <= float(value) < below):
            raise ValueError(f"{name} = {value} is not possible: {advice}.")


_CHOICES = {
    "bias_init": get_args(BiasInit),
    "activation": get_args(Activation),
}


def new_model(config: TrainConfig, x: np.ndarray | Blocks) -> KSparseAutoencoder:
    """Untrained model for examples ``x`` (shape: [examples, inputs]), initialized from the config's seed."""
    if isinstance(x, Blocks):
        x = x.prepare(x.mean[np.newaxis].copy())
    _check_examples(x)
    model = KSparseAutoencoder(x.shape[1], config.units, config.k, config.activation, config.selection)
    rng = torch.Generator().manual_seed(config.seed)
    mean = torch.from_numpy(x.mean(axis=0, dtype=np.float64)).float() if config.bias_init == "centered" else None
    model.initialize(config.weight_std, rng, config.bias_init, mean)
    return model


def choose_engine(config: TrainConfig, engine: str = "auto") -> tuple[str, str]:
    """The engine for a run, and why: the one asked for, or for ``auto`` the fastest that this machine has.

    Raises:
        ValueError: an unknown engine, a GPU is asked for and there is none, or the engine cannot do what the config
            wants.
    """
    if engine not in ENGINE_NAMES:
        raise ValueError(f"engine = {engine!r} is unknown: choose one of {', '.join(ENGINE_NAMES)}.")
    name, why = _fastest(config) if engine == "auto" else (engine, "asked for")
    if name == "gpu" and (missing := gpu_missing()) is not None:
        raise ValueError(f"engine = 'gpu' is not possible: {missing}. Choose auto or cpu.")
    if config.selection not in ENGINES[name].rules:
        raise ValueError(f"The {name} engine does not know selection = {config.selection!r}: choose reference.")
    return name, why


def _fastest(config: TrainConfig) -> tuple[str, str]:
    if config.selection not in GpuEngine.rules:
        return "reference", f"no other knows selection = {config.selection!r}"
    if (missing := gpu_missing()) is None:
        return "gpu", f"this machine has a {torch.cuda.get_device_name()}"
    if config.k > _DENSE_FROM * config.units:
        return "reference", f"{missing}, and sparse kernels do not pay with k = {config.k} of {config.units} units"
    return "cpu", missing


def gpu_missing() -> str | None:
    """Why the gpu engine cannot be used here; None: it can."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None if find_spec("triton") else "Triton is not installed"


def make_engine(
    models: Sequence[KSparseAutoencoder], x: np.ndarray, config: TrainConfig, engine: str = "auto"
) -> Engine:
    """The engine that ``choose_engine`` names, set up for the models and ``x``.

    Raises:
        ValueError: as ``choose_engine``, or the engine trains one model at a time and there are several.
    """
    name, _ = choose_engine(config, engine)
    return ENGINES[name](models, x, config.batch_size)


def train(
    x: np.ndarray | Blocks,
    config: TrainConfig,
    *,
    engine: str = "auto",
    checkpoint: Path | None = None,
    progress: bool | None = None,
    model: KSparseAutoencoder | None = None,
    first: int = 0,
    velocity: dict[str, Tensor] | None = None,
) -> Trained:
    """Train a k-sparse autoencoder (sections 2.1 and 4.2).

    The order of the examples in an epoch depends on seed and epoch alone, so that a resumed run ends
    bit-equal to one that was never stopped, on the same machine. ``Blocks`` of an array are taken in random order,
    batches as they come, and the examples of each block in random order.

    Args:
        x: examples (shape: [examples, inputs]), float32, finite; or ``Blocks`` of more than fits in memory, whose
            ``sample`` alone tells a checkpoint of other data.
        config: the run.
        engine: ``auto``, ``gpu``, ``cpu`` or ``reference``; see ``choose_engine``.
        checkpoint: file to resume from if it exists, and to save to every half minute and after the last epoch;
            it stays after success so that the caller can store the result first.
        progress: show a bar; None: only on a terminal.
        model: start from this model, of the config's units, k and activation, instead of a fresh one.
        first: epoch to begin with.
        velocity: of the parameters by name, to begin with, where it is given; afterwards it holds that of the end.

    Returns:
        The trained model and its history, one row an epoch: epoch, k, learning_rate, momentum, loss,
        live_units (units kept at least once in the epoch), seconds.

    Raises:
        DivergenceError: the loss became NaN or infinite; the last good checkpoint is kept.
        ValueError: wrong shape, NaN, a checkpoint of another run, a model that is not the config's, or an engine that
            cannot train it.
        TypeError: not float32.
    """
    model = new_model(config, x) if model is None else model
    for name in ("units", "k", "activation", "selection"):
        has, wanted = getattr(model, name), getattr(config, name)
        if has != wanted:
            raise ValueError(f"The model has {name} = {has}, the config {wanted}: they must be the same.")
    (outcome,) = _train([model], x, [config], engine, checkpoint, progress, first, velocity)
    if isinstance(outcome, DivergenceError):
        raise outcome
    return outcome


def train_many(
    x: np.ndarray,
    configs: Sequence[TrainConfig],
    *,
    engine: str = "auto",
    checkpoint: Sequence[Path] | None = None,
    progress: bool | None = None,
) -> list[Trained | DivergenceError]:
    """Train many runs, each as ``train`` trains it alone: on a GPU as one batched problem, else one after the other.

    Args:
        x: examples, float32 and finite, the same for all runs (shape: [examples, inputs]) or each its own (shape:
            [runs, examples, inputs]).
        configs: the runs, of one ``batch_key``. They may differ in k, its schedule, rate, start and seed.
        engine: as of ``train``.
        checkpoint: a file for each run as of ``train``; on a GPU the first serves all.
        progress: show a bar; None: only on a terminal.

    Returns:
        For each run its model and history as ``train`` returns them, or the error it diverged with, which leaves the
        other runs alone. Seconds on a GPU are an epoch's divided by the number of runs.

    Raises:
        ValueError: runs that differ in more than they may, or as of ``train``.
        TypeError: not float32.
    """
    kinds = {batch_key(config) for config in configs}
    if len(kinds) != 1:
        raise ValueError(f"{len(configs)} runs of {len(kinds)} kinds: they must have the same {', '.join(_ALIKE)}.")
    own = list(x) if x.ndim == 3 else [x] * len(configs)
    if len(own) != len(configs):
        raise ValueError(f"There are examples for {len(own)} runs, but {len(configs)} runs.")
    files = list(checkpoint) if checkpoint is not None else [None] * len(configs)
    models = [new_model(config, of_run) for config, of_run in zip(configs, own, strict=True)]
    if all(choose_engine(config, engine)[0] == "gpu" for config in configs):
        return _train(models, x, configs, "gpu", files[0], progress)
    return [
        _train([model], of_run, [config], engine, file, progress)[0]
        for model, of_run, config, file in zip(models, own, configs, files, strict=True)
    ]


def batch_key(config: TrainConfig) -> tuple[Any, ...]:
    """What runs must have in common to be trained at once."""
    return tuple(getattr(config, name) for name in _ALIKE)


def _train(
    models: Sequence[KSparseAutoencoder],
    x: np.ndarray | Blocks,
    configs: Sequence[TrainConfig],
    engine: str,
    checkpoint: Path | None,
    progress: bool | None,
    first: int = 0,
    velocity: dict[str, Tensor] | None = None,
) -> list[Trained | DivergenceError]:
    """Train models in place and at once from the epoch ``first`` on; ``velocity`` is that of one, before and after."""
    # Blocks are trained on by engines of their own; the one of the sample holds the state in between.
    blocks, held = (x, x.prepare(x.sample.copy())) if isinstance(x, Blocks) else (None, x)
    for model, of_model in zip(models, held, strict=True) if held.ndim == 3 else ((models[0], held),):
        _check_examples(of_model)
        for start in range(0, len(of_model), _CHECKED_AT_ONCE):
            model.check_input(torch.from_numpy(np.array(of_model[start : start + _CHECKED_AT_ONCE])))
    shared = configs[0]
    made = make_engine(models, held, shared, engine)
    for name, value in (velocity or {}).items():
        made.velocity[name].copy_(value)
    saver = None
    if checkpoint is not None:
        data = data_digest(held) + (f" of {blocks.shape}, {blocks.size} a block" if blocks else "")
        run = {"configs": [asdict(config) for config in configs], "engine": made.name, "data": data}
        saver = Checkpoint(checkpoint, run, made.state())
    finite = [True] * len(models)
    stream: Iterator[_Part] | None = None
    count = blocks.count if blocks else 1
    hidden = True if count == 1 else None if progress is None else not progress

    def parts(number: int) -> Iterator[_Part]:
        """The examples of every block and their orders, from this epoch on."""
        for epoch in range(number, shared.epochs):
            read = blocks.read(schedule.order_of(shared.seed, epoch, count, count)) if blocks else ((0, held),)
            for block, of_block in read:
                examples = of_block.shape[-2]
                orders = [
                    schedule.order_of(c.seed, epoch, examples, block) if c.shuffle else np.arange(examples)
                    for c in configs
                ]
                yield of_block, np.stack(orders)

    def train_on(of_block: np.ndarray, order: np.ndarray, *how: Any) -> list[EpochResult]:
        used = made if of_block is held else make_engine(models, of_block, shared, made.name)
        _copy_state(made, used)
        results = used.run_epoch(order, *how)
        _copy_state(used, made)
        share = order.shape[1] / x.shape[-2]
        return [result._replace(loss=result.loss * share) for result in results]

    def epoch(number: int) -> list[Row]:
        nonlocal stream
        number += first
        stream = stream or _in_advance(parts(number), ahead)
        ks = [schedule.sparsity(number, c.epochs, c.k, c.k_start, c.k_ramp) for c in configs]
        rates = [schedule.linear_by_epoch(number, c.epochs, c.learning_rate, c.learning_rate_end) for c in configs]
        momentum = schedule.linear_by_epoch(number, shared.epochs, shared.momentum, shared.momentum_end)
        bar = tqdm(islice(stream, count), total=count, unit="block", leave=False, disable=hidden)
        of_blocks = [train_on(*part, ks, rates, momentum) for part in bar]
        if number == shared.epochs - 1:
            # The end of the examples tells whether they were as many as before.
            deque(stream, maxlen=0)
        finite[:] = (result.finite for result in of_blocks[-1])
        return [
            {
                "epoch": number, "k": k, "learning_rate": rate, "momentum": momentum,
                "loss": sum(result.loss for result in of_model),
                "live_units": int(np.count_nonzero(sum(result.uses for result in of_model))),
            }
            for k, rate, of_model in zip(ks, rates, zip(*of_blocks, strict=True), strict=True)
        ]  # fmt: skip

    left, is_finite = shared.epochs - first, finite.__getitem__
    try:
        with ThreadPoolExecutor(1) as ahead:
            outcomes = run_epochs("Training", left, epoch, is_finite=is_finite, checkpoint=saver, progress=progress)
    finally:
        made.write_back()
    if velocity is not None:
        shapes = {name: value.shape for name, value in models[0].named_parameters()}
        velocity.update((name, value.cpu().clone().reshape(shapes[name])) for name, value in made.velocity.items())
    return [
        outcome if isinstance(outcome, DivergenceError) else (model, outcome)
        for model, outcome in zip(models, outcomes, strict=True)
    ]


def _copy_state(source: Engine, target: Engine) -> None:
    if source is not target:
        for name, value in target.state().items():
            value.copy_(source.state()[name])


def _in_advance(parts: Iterator[_Part], pool: Executor) -> Iterator[_Part]:
    """The parts, each made in the pool while the one before is in use."""
    following = pool.submit(next, parts, None)
    while (part := following.result()) is not None:
        following = pool.submit(next, parts, None)
        yield part


def _check_examples(x: np.ndarray) -> None:
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"Examples have shape {x.shape}: there are no examples, or not one row for each.")
