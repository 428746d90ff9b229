"""What every method is: settings that fit a module without labels, and the codes a later task reads from it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from ksae_lib.loop import DivergenceError
from ksae_lib.model import CodeMode
from replication.methods.layer import Layer

Device = Literal["auto", "cpu", "cuda"]
"""``auto``: a GPU where torch sees one. The random numbers of training are the device's."""
Codes = tuple[sparse.csr_array | np.ndarray, ...]
Fitted = tuple[nn.Module, pd.DataFrame]
_BLOCK = _FEW_EXAMPLES = 5_000

Rule = tuple[Callable[[Any], bool], str]
AT_LEAST_ONE: Rule = (lambda value: isinstance(value, int) and value >= 1, "it must be at least 1 and a whole number")
WHOLE: Rule = (lambda value: isinstance(value, int) and value >= 0, "choose a whole number from 0")
POSITIVE: Rule = (lambda value: 0 < value < float("inf"), "it must be a positive number")
NOT_NEGATIVE: Rule = (lambda value: 0 <= value < float("inf"), "it must not be negative")
SHARE: Rule = (lambda value: 0 <= value < 1, "choose a number from 0 to below 1")
INSIDE: Rule = (lambda value: 0 < value < 1, "choose a number between 0 and 1")
ALPHA: Rule = (lambda value: 1 <= value < float("inf"), "the paper's α is a number, at least 1")


def each(rule: Rule) -> Rule:
    """The rule of a grid whose values keep to a rule."""
    return lambda values: len(values) > 0 and all(map(rule[0], values)), f"name at least one, and of each: {rule[1]}"


def setting(default: Any, rule: Rule) -> Any:
    """A field whose values keep to a rule; None is possible where its type says so."""
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Settings that keep to their rules; a ``ValueError`` tells of an impossible value in one sentence."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if "rule" in f.metadata and not (value is None and NoneType in get_args(f.type)):
                is_possible, advice = f.metadata["rule"]
                if not is_possible(value):
                    raise ValueError(f"{f.name} = {value!r} is not possible: {advice}.")


@dataclass(frozen=True, kw_only=True)
class Method(Checked, ABC):
    """A feature learner. Its fields decide its run and are its JSON."""

    kind: ClassVar[Literal["train", "baseline"]] = "baseline"
    """Key of its settings in a run's JSON."""
    uses_seed: ClassVar[bool] = True
    """Whether another seed gives another result."""
    has_alpha: ClassVar[bool] = False
    """Whether its codes depend on the paper's α."""
    # Fields of the methods that have them.
    method = ""
    units = seed = epochs = 0

    @property
    def label(self) -> str:
        """Readable part of run ids: the name, and the length of training."""
        return self.method.replace("_", "-") + (f"-e{self.epochs}" if self.epochs else "")

    @abstractmethod
    def build(self, inputs: int) -> Any:
        """The module before training, or to load weights into."""

    @abstractmethod
    def fit(self, x: np.ndarray, device: Device = "auto", progress: bool | None = None) -> Fitted:
        """Train on examples, without labels (shape: [examples, inputs], float32, finite).

        The module, on the processor, and its history, one row an epoch. ``progress`` shows a bar; None: on a terminal.

        Raises:
            DivergenceError: the loss or a weight stopped being finite.
            ValueError: examples or a device that cannot be used.
        """

    @classmethod
    def fit_many(
        cls, methods: list[Any], xs: list[np.ndarray], checkpoints: list[Path], device: Device, progress: bool | None
    ) -> list[Fitted | DivergenceError]:
        """Fit methods of one ``batch_key`` as ``fit`` does, each on its own examples.

        A divergence takes the place of its result and leaves the others alone. Where a method resumes from checkpoints,
        there is one for each; they stay, so that the results can be stored first.
        """
        made: list[Fitted | DivergenceError] = []
        for method, x in zip(methods, xs, strict=True):
            try:
                made.append(method.fit(x, device, progress))
            except DivergenceError as error:
                made.append(error)
        return made

    def batch_key(self) -> tuple[Any, ...]:
        """What methods have in common that are fitted together: here everything but the seed."""
        return tuple(value for name, value in asdict(self).items() if name != "seed")

    def used_engine(self, device: Device) -> str:
        """What trains it on a device, for the record: here a GPU works for what is trained in epochs."""
        return "gpu" if self.epochs and torch_device(device).type == "cuda" else "torch"

    def code_mode(self, dense_relu: bool = False) -> CodeMode:
        """What its codes are: where there is an α, supp_αk (section 2.2) or, if asked for, all positive entries."""
        if not self.has_alpha:
            return CodeMode.DENSE
        return CodeMode.DENSE_RELU if dense_relu else CodeMode.ALPHA_K

    @torch.no_grad()
    def codes(self, model: Any, x: np.ndarray, mode: CodeMode, alphas: Sequence[float] = (1.0,)) -> Codes:
        """Codes of clean examples at test time, for each α (shape: [examples, units]); computed block by block."""
        blocks = (torch.from_numpy(np.array(x[i : i + _BLOCK], np.float32)) for i in range(0, len(x), _BLOCK))
        return (np.concatenate([self.encode(model, block).numpy() for block in blocks]),) * len(alphas)

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """Codes of one block, the same for every α (shapes: [batch, inputs] → [batch, units])."""
        raise NotImplementedError

    def hidden_layers(self, model: Any, alpha: float = 1.0) -> list[Layer]:
        """What fine-tuning starts from, the lowest layer first; a ``ValueError`` of no units, or of αk > units."""
        raise ValueError(f"{type(self).__name__} has no units to fine-tune: choose another encoder.")


@dataclass(frozen=True, kw_only=True)
class Baseline(Method):
    """A method the paper compares with."""

    method: str = ""
    units: int = setting(1000, AT_LEAST_ONE)
    seed: int = setting(0, WHOLE)


def torch_device(device: Device) -> torch.device:
    """The device that is meant; a ``ValueError`` if it is not here."""
    here = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not here):
        raise ValueError(f"device = {device!r} is not possible here: choose auto or cpu.")
    return torch.device("cuda" if here and device != "cpu" else "cpu")


def few_threads(examples: int) -> threadpool_limits:
    """A block with one thread for at most 5,000 examples: on a busy machine, threads that wait cost minutes."""
    return threadpool_limits(1 if examples <= _FEW_EXAMPLES else None)


def check_classes(y: np.ndarray, examples: int, classes: int) -> None:
    """Raise a ``ValueError`` if there is not one class for each example, a whole number from 0 to classes - 1."""
    are_numbers = y.shape == (examples,) and examples > 0 and np.issubdtype(y.dtype, np.integer)
    if not are_numbers or y.min() < 0 or y.max() >= classes:
        raise ValueError(f"Classes must be whole numbers from 0 to {classes - 1}, one for each of {examples} examples.")


def check_examples(x: np.ndarray) -> None:
    """Raise a ``ValueError`` if there are no examples, not one row for each, or NaN."""
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"Examples have shape {x.shape}: there are no examples, or not one row for each.")
    if not np.isfinite(x).all():
        raise ValueError("Examples hold NaN or infinite values: remove or replace them first.")
