"""What every method is: settings that fit a module without labels, and the codes a later task reads from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict, Unpack

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from ksae_lib.loop import DivergenceError
from ksae_lib.model import CodeMode
from replication.methods.layer import Layer

Device = Literal["auto", "cpu", "cuda"]
Codes = tuple[sparse.csr_array | np.ndarray, ...]
Fitted = tuple[nn.Module, pd.DataFrame]
_BLOCK = 5_000


class How(TypedDict, total=False):
    """How a method is fitted; it is no part of a run's id."""

    checkpoint: Path | None
    """File a k-sparse autoencoder resumes from if it exists; it stays, so that the result can be stored first."""
    progress: bool | None
    """Show a bar; None: only on a terminal."""
    device: Device
    """``auto``: a GPU where torch sees one. The random numbers of training are the device's."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A feature learner. Its fields decide its run and are its JSON.

    Raises:
        ValueError: an impossible value, in one sentence.
    """

    kind: ClassVar[Literal["train", "baseline"]] = "baseline"
    """Key of its settings in a run's JSON."""
    uses_seed: ClassVar[bool] = True
    """Whether another seed gives another result."""
    has_alpha: ClassVar[bool] = False
    """Whether its codes depend on the paper's α."""
    # Fields of the methods that have them.
    method = ""
    units = 0
    seed = 0
    epochs = 0

    @property
    def label(self) -> str:
        """Readable part of run ids: the name, and the length of training."""
        return self.method.replace("_", "-") + (f"-e{self.epochs}" if self.epochs else "")

    @abstractmethod
    def build(self, inputs: int) -> Any:
        """The module before training, or to load weights into."""

    @abstractmethod
    def fit(self, x: np.ndarray, held_out: np.ndarray | None = None, **how: Unpack[How]) -> Fitted:
        """Train on examples, without labels.

        Args:
            x: float32, finite (shape: [examples, inputs]).
            held_out: examples to watch, never trained on.
            **how: see ``How``.

        Returns:
            The trained module, on the processor, and its history, one row an epoch.

        Raises:
            DivergenceError: the loss or a weight stopped being finite.
            ValueError: examples, a checkpoint or a device that cannot be used.
        """

    @classmethod
    def fit_many(
        cls,
        methods: Sequence[Any],
        xs: Sequence[np.ndarray],
        held_out: Sequence[np.ndarray | None] | None = None,
        checkpoints: Sequence[Path] | None = None,
        **how: Unpack[How],
    ) -> list[Fitted | DivergenceError]:
        """Fit methods of one ``batch_key``, each on its own examples; the error of one leaves the others alone."""
        made: list[Fitted | DivergenceError] = []
        for number, (method, x) in enumerate(zip(methods, xs, strict=True)):
            how["checkpoint"] = checkpoints[number] if checkpoints else None
            try:
                made.append(method.fit(x, held_out and held_out[number], **how))
            except DivergenceError as error:
                made.append(error)
        return made

    def batch_key(self) -> tuple[Any, ...]:
        """What methods have in common that are fitted together: here everything but the seed."""
        return tuple(value for name, value in asdict(self).items() if name != "seed")

    def used_engine(self, device: Device) -> str:
        """What trains it on a device, for the record."""
        return "torch"

    def code_mode(self, dense_relu: bool = False) -> CodeMode:
        """What its codes are; ``dense_relu`` asks for all positive entries where there is a choice."""
        return CodeMode.DENSE

    @abstractmethod
    def codes(self, model: Any, x: np.ndarray, mode: CodeMode, alphas: Sequence[float] = (1.0,)) -> Codes:
        """Codes of clean examples at test time, for each α (shape: [examples, units])."""

    def hidden_layers(self, model: Any, alpha: float = 1.0) -> list[Layer]:
        """What fine-tuning starts from, the lowest layer first.

        Raises:
            ValueError: there is nothing, or αk > units.
        """
        raise ValueError(f"{type(self).__name__} has no units to fine-tune: choose another encoder.")


Rule = tuple[Callable[[Any], bool], str]
AT_LEAST_ONE: Rule = (lambda value: isinstance(value, int) and value >= 1, "it must be at least 1 and a whole number")
WHOLE: Rule = (lambda value: isinstance(value, int) and value >= 0, "choose a whole number from 0")
POSITIVE: Rule = (lambda value: value is None or 0 < value < float("inf"), "it must be a positive number")
NOT_NEGATIVE: Rule = (lambda value: 0 <= value < float("inf"), "it must not be negative")
SHARE: Rule = (lambda value: 0 <= value < 1, "choose a number from 0 to below 1")
INSIDE: Rule = (lambda value: 0 < value < 1, "choose a number between 0 and 1")


def setting(default: Any, rule: Rule) -> Any:
    """A field whose values keep to a rule."""
    return field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, kw_only=True)
class Baseline(Method):
    """A method the paper compares with. Its module only holds parameters; what they mean is written here."""

    method: str = ""
    units: int = setting(1000, AT_LEAST_ONE)
    seed: int = setting(0, WHOLE)

    def __post_init__(self) -> None:
        for f in fields(self):
            possible, advice = f.metadata.get("rule", (lambda value: True, ""))
            if not possible(getattr(self, f.name)):
                raise ValueError(f"{f.name} = {getattr(self, f.name)!r} is not possible: {advice}.")

    def encode(self, model: Any, x: Tensor) -> Tensor:
        """Codes of clean examples at test time (shapes: [batch, inputs] → [batch, units])."""
        raise NotImplementedError

    def codes(self, model: Any, x: np.ndarray, mode: CodeMode, alphas: Sequence[float] = (1.0,)) -> Codes:
        """See ``Method.codes``: the same for every α."""
        return (self.dense_codes(model, x),) * len(alphas)

    @torch.no_grad()
    def dense_codes(self, model: Any, x: np.ndarray) -> np.ndarray:
        """Codes of many examples, block by block (shape: [examples, units], float32)."""
        blocks = (torch.from_numpy(np.array(x[i : i + _BLOCK], np.float32)) for i in range(0, len(x), _BLOCK))
        return np.concatenate([self.encode(model, block).numpy() for block in blocks])


def torch_device(device: Device) -> torch.device:
    """The device that is meant.

    Raises:
        ValueError: it is not here.
    """
    here = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not here):
        raise ValueError(f"device = {device!r} is not possible here: choose auto or cpu.")
    return torch.device("cuda" if here and device != "cpu" else "cpu")


def check_examples(x: np.ndarray) -> None:
    """Refuse examples that cannot be trained on.

    Raises:
        ValueError: no examples, not one row for each, or NaN.
    """
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"Examples have shape {x.shape}: there are no examples, or not one row for each.")
    if not np.isfinite(x).all():
        raise ValueError("Examples hold NaN or infinite values: remove or replace them first.")
