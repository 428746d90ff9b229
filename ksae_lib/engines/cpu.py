"""The fast engine for processors: sparse kernels around one dense product."""

from collections.abc import Sequence

import numpy as np
import torch
from llvmlite.binding import get_host_cpu_features
from torch import Tensor

from ksae_lib.engines import kernels
from ksae_lib.engines.base import Engine, EpochResult
from ksae_lib.engines.kernels import BLOCK, GROUP, LANES, padded
from ksae_lib.model import KSparseAutoencoder

# Measured on MNIST-sized batches: below this share of non-zero inputs the sparse product is the faster one.
_SPARSE_BELOW = 0.3
_ALIAS = 256
# Measured: with smaller dictionaries or batches, screening costs more than it saves.
_SCREEN_FROM, _SCREEN_BATCH = 2**19, 64


class CpuEngine(Engine):
    """Same training as the reference engine, with work proportional to the kept units.

    Only the encode product is dense, and for inputs that are mostly zero (MNIST: 81%) not even that; of large
    dictionaries it is in bfloat16 where the processor has it, and what may be kept is computed again in float32. While
    the engine is at work, the models' parameters are parts of larger arrays, filled up to whole vectors and blocks.
    """

    name = "cpu"

    def __init__(self, models: Sequence[KSparseAutoencoder], x: np.ndarray, batch_size: int) -> None:
        super().__init__(models, x, batch_size)
        (model,) = self.models
        self._relu = model.activation == "relu"
        self._units, self._inputs = model.units, model.inputs
        self._width, self._height = padded(model.inputs, BLOCK), padded(model.units, LANES)
        # Rows a power of two apart would share a few places of the cache.
        self._width += BLOCK * (self._width % _ALIAS == 0)
        sizes = {"weight": (self._height, self._width), "bias": (self._height,), "visible_bias": (self._width,)}
        self._whole: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            for key, part in ((name, self.parameters), (f"velocity.{name}", self.velocity)):
                whole = self._whole[key] = torch.zeros(sizes[name], dtype=parameter.dtype)
                part[name] = whole[tuple(map(slice, parameter.shape))].copy_(part[name])
            parameter.data = self.parameters[name]
        self._sparse = sparse_inputs(self.x) if mostly_zero(self.x) else None
        weight = self._whole["weight"]
        pays = self._sparse is None and weight.numel() >= _SCREEN_FROM and batch_size >= _SCREEN_BATCH
        screens = pays and weight.dtype == torch.float32 and has_bfloat16()
        self._rounded = kernels.new_rounded(*weight.shape) if screens else None

    def run_epoch(
        self, orders: np.ndarray, ks: Sequence[int], rates: Sequence[float], momentum: float
    ) -> list[EpochResult]:
        """Train one epoch through the kernels; concurrent callers take turns, the kernels' threads are shared."""
        (order,), (k,), (rate,) = orders, ks, rates
        with kernels.ONE_CALLER:
            loss, uses = self._run_epoch(order, k, rate, momentum)
        return [EpochResult(loss, uses, self._finite())]

    def write_back(self) -> None:
        """Give the models parameters of their own again."""
        for name, parameter in self.models[0].named_parameters():
            parameter.data = self.parameters[name].clone(memory_format=torch.contiguous_format)

    def _run_epoch(self, order: np.ndarray, k: int, rate: float, momentum: float) -> tuple[float, np.ndarray]:
        size, dtype = min(self.batch_size, len(order)), self._whole["weight"].dtype
        nets = [
            kernels.Net(*(self._whole[prefix + name].view(-1).numpy() for name in kernels.Net._fields))
            for prefix in ("", "velocity.")
        ]
        batch = kernels.new_batch(size, k, self._height, self._width, dtype)
        uses, scalar = np.zeros(self._height, np.int64), nets[0].weight.dtype.type
        how = (self._units, self._relu, *nets)
        pace = (batch, scalar(rate), scalar(momentum), uses)
        if self._sparse is not None:
            tiles = kernels.tiles_of(self._whole["weight"].numpy())
            error = kernels.sparse_epoch(*self._sparse, order, size, *how, tiles, *pace)
            return error / len(order), uses[: self._units]
        error, none = 0.0, np.empty(0, dtype=scalar)
        x, z = torch.from_numpy(batch.x).view(size, -1), torch.from_numpy(batch.z).view(size, -1)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            n = len(rows)
            x[:n, : self._inputs] = torch.from_numpy(self.x[rows])
            self._encode(x[:n], k, z[:n])
            error += kernels.step(n, *how, none, *pace)
        return error / len(order), uses[: self._units]

    def _encode(self, x: Tensor, k: int, z: Tensor) -> None:
        """Pre-activations, of which the k largest of each example are exact to float32."""
        weight, bias, rounded = self._whole["weight"], self._whole["bias"], self._rounded
        if rounded is None:
            torch.addmm(bias, x, weight.T, out=z)
            return
        examples = kernels.new_rounded(*x.shape)
        for rows, made in ((x, examples), (weight, rounded)):
            kernels.round_rows(rows.numpy().view(np.uint32), made)
        factors = [torch.from_numpy(made.bits).view(torch.bfloat16) for made in (examples, rounded)]
        products = (factors[0] @ factors[1].T).view(torch.int16).numpy()
        whole = (x.numpy(), weight.numpy(), bias.numpy())
        kernels.screen(products, examples, rounded, k, *whole, self._units, z.numpy())


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    features = get_host_cpu_features()
    return any(features.get(name) for name in ("avx512bf16", "amx-bf16"))


def mostly_zero(x: np.ndarray) -> bool:
    """Whether sparse products pay for these examples (shape: [examples, inputs]), judged by some hundreds of them."""
    sample = x[:: max(1, len(x) // 200)]
    return bool(np.count_nonzero(sample) <= _SPARSE_BELOW * sample.size)


def sparse_inputs(x: np.ndarray) -> kernels.SparseInputs:
    """The non-zero entries of examples (shape: [examples, inputs])."""
    starts = np.zeros(len(x) + 1, np.int64)
    kernels.count_nonzero(x, starts[1:])
    np.cumsum(padded(starts[1:], GROUP), out=starts[1:])
    made = kernels.SparseInputs(starts, np.zeros(starts[-1] + 1, np.uint32), np.zeros(starts[-1] + 1, x.dtype))
    kernels.list_nonzero(x, *made)
    return made
