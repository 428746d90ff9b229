"""Many models at once: R runs of one size as one batched problem on one device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ksae_lib.engines.base import Engine, EpochResult
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.selection import by_sorting, check_k

Precision = Literal["float32", "tf32"]
_NAMES = ("weight", "bias", "visible_bias")


class GpuEngine(Engine):
    """Trains R models of one size, each at its own k and rate and on its own order, as the reference engine trains one.

    v ← m v − η ∇E, θ ← θ + v (section 4.2.2). With codes h, residuals r = dE/dx̂ and δ = dE/dz of the kept units, the
    gradient of W is hᵀr + δᵀx. Both products and the momentum are one product, ``V ← m V − [h; ηδ]ᵀ [ηr; x]``, so that
    no gradient is ever written. Nothing in a step waits for the host, and on a CUDA device an epoch is one graph.

    Args:
        models: one or more of the same sizes, activation and dtype; they keep their parameters until ``write_back``.
        x: examples of the models' dtype, the same for all models (shape: [examples, inputs]) or each its own (shape:
            [models, examples, inputs]).
        batch_size: examples per update; a last, smaller batch is averaged over its own size.
        device: where the work is done; the examples stay there.
        precision: ``tf32`` rounds the factors of products to 10 bits of mantissa where the device has such units, and
            adds up in float32.

    Raises:
        ValueError: no models, or models that differ in size or activation.
    """

    name = "gpu"

    def __init__(
        self,
        models: Sequence[KSparseAutoencoder],
        x: np.ndarray,
        batch_size: int,
        device: torch.device | str = "cuda",
        precision: Precision = "float32",
    ) -> None:
        kinds = {(model.inputs, model.units, model.activation, model.weight.dtype) for model in models}
        if len(kinds) != 1:
            raise ValueError(f"Models to be trained at once must be alike, these are of {len(kinds)} kinds: {kinds}.")
        self.models = list(models)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.precision = precision
        self._relu = models[0].activation == "relu"
        self._x = torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
        runs, (units, inputs) = len(models), models[0].weight.shape
        examples = x.shape[-2]
        # Where each model's examples begin when those of all are one list.
        self._first = torch.arange(runs, device=self.device).view(-1, 1) * (examples if x.ndim == 3 else 0)
        self._x = self._x.reshape(-1, inputs)
        stacked = {name: torch.stack([getattr(model, name).detach() for model in models]) for name in _NAMES}
        self.parameters = {name: value.to(self.device) for name, value in stacked.items()}
        self.velocity = {name: torch.zeros_like(value) for name, value in self.parameters.items()}

        def empty(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
            return torch.empty(shape, device=self.device, dtype=dtype or self._x.dtype)

        self._left, self._right = empty(runs, 2 * batch_size, units), empty(runs, 2 * batch_size, inputs)
        self._order = torch.zeros(runs, examples, dtype=torch.int64, device=self.device)
        self._k = torch.ones(runs, 1, 1, dtype=torch.int64, device=self.device)
        self._rate = empty(runs, 1, 1)
        self._total = empty(runs, dtype=torch.float64)
        self._uses = empty(runs, units, dtype=torch.int64)
        self._graph: tuple[float, torch.cuda.CUDAGraph] | None = None
        self._select = choose_largest(self.device, self._x.dtype)

    @torch.no_grad()
    def run_epoch(
        self, orders: np.ndarray, ks: Sequence[int], rates: Sequence[float], momentum: float
    ) -> list[EpochResult]:
        """Train one epoch on the device; the host reads nothing but the results."""
        units = self.parameters["weight"].shape[1]
        self._k.copy_(torch.tensor([check_k(k, units) for k in ks]).view(-1, 1, 1))
        self._rate.copy_(torch.tensor(rates, dtype=self._x.dtype).view(-1, 1, 1))
        torch.add(torch.from_numpy(orders).to(self.device), self._first, out=self._order)
        with _products_in(self.precision):
            if self.device.type != "cuda":
                self._epoch(momentum)
            else:
                if self._graph is None or self._graph[0] != momentum:
                    self._graph = None
                    self._graph = momentum, self._captured(momentum)
                self._graph[1].replay()
        finite = torch.stack([value.isfinite().flatten(1).all(1) for value in self.parameters.values()]).all(0)
        losses, uses = (self._total / orders.shape[1]).tolist(), self._uses.cpu().numpy()
        return [EpochResult(*of_model) for of_model in zip(losses, uses, finite.tolist(), strict=True)]

    def write_back(self) -> None:
        """Copy the parameters to the models."""
        for name, value in self.parameters.items():
            for model, own in zip(self.models, value.cpu(), strict=True):
                getattr(model, name).data.copy_(own)

    def _captured(self, momentum: float) -> torch.cuda.CUDAGraph:
        """An epoch as a graph; the steps that warm it up are undone."""
        state = list(self.state().values())
        before = [value.clone() for value in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Both sizes of batch: kernels for a size cannot be compiled within the capture.
            for start in {0, (self._order.shape[1] - 1) // self.batch_size * self.batch_size}:
                self._step(start, momentum)
        torch.cuda.current_stream().wait_stream(side)
        for value, own in zip(state, before, strict=True):
            value.copy_(own)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._epoch(momentum)
        return graph

    def _epoch(self, momentum: float) -> None:
        self._total.zero_()
        self._uses.zero_()
        for start in range(0, self._order.shape[1], self.batch_size):
            self._step(start, momentum)

    def _step(self, start: int, momentum: float) -> None:
        rows = self._order[:, start : start + self.batch_size]
        n = rows.shape[1]
        weight, bias, visible_bias = (self.parameters[name] for name in _NAMES)
        left, right = self._left[:, : 2 * n], self._right[:, : 2 * n]
        code, code_grad, residual, x = left[:, :n], left[:, n:], right[:, :n], right[:, n:]
        x.copy_(self._x[rows])
        z = torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
        support = self._select(z, self._k)
        torch.mul(z, support, out=code)
        if self._relu:
            code.relu_()
            support = code > 0
        torch.baddbmm(visible_bias.unsqueeze(1), code, weight, out=residual)
        residual.sub_(x)
        self._total.add_(residual.square().sum((1, 2), dtype=torch.float64))
        self._uses.add_((code != 0).sum(1))
        # dE/dx̂ of the batch's mean, times the rate.
        residual.mul_(self._rate * (2 / n))
        torch.bmm(residual, weight.mT, out=code_grad)
        code_grad.mul_(support)
        torch.baddbmm(self.velocity["weight"], left.mT, right, beta=momentum, alpha=-1, out=self.velocity["weight"])
        self.velocity["bias"].mul_(momentum).sub_(code_grad.sum(1))
        self.velocity["visible_bias"].mul_(momentum).sub_(residual.sum(1))
        for name, value in self.parameters.items():
            value.add_(self.velocity[name])


@contextmanager
def _products_in(precision: Precision) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def choose_largest(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """``selection.by_sorting`` with k of each row, of float32 on a CUDA device as one kernel where Triton is there."""
    if device.type != "cuda" or dtype != torch.float32 or find_spec("triton") is None:
        return by_sorting
    from ksae_lib.engines.triton_select import largest_on_device

    return largest_on_device
