"""The k-sparse autoencoder: the paper's algorithm box (section 2.1) as a torch module.

z = Wᵀx + b          Γ = supp_k(z),  z_Γᶜ = 0          x̂ = Wz + b′          E = ‖x − x̂‖²
"""

from enum import StrEnum
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ksae_lib.selection import check_k, rule_of, supp_k

Activation = Literal["linear", "relu"]
BiasInit = Literal["zeros", "gaussian", "centered"]


class CodeMode(StrEnum):
    """Which pre-activations ``encode`` keeps; recorded in every result that used them.

    ``k``: the k largest. ``alpha_k``: the αk largest, as the paper encodes for a later task (section
    2.2). ``dense``: all. ``dense_relu``: the positive ones. ``threshold``: those above the fixed threshold
    ``calibrate_threshold`` found.
    """

    K = "k"
    ALPHA_K = "alpha_k"
    DENSE = "dense"
    DENSE_RELU = "dense_relu"
    THRESHOLD = "threshold"


class KSparseAutoencoder(nn.Module):
    """k-sparse autoencoder with tied weights (section 2.1).

    One parameter serves encoder and decoder, stored by unit so that a unit's filter is one contiguous
    row; ``W`` is the paper's (inputs x units) view of it, and autograd sums the gradients of both uses.

    Args:
        inputs: number of input dimensions.
        units: number of hidden units.
        k: units kept per example.
        activation: ``linear`` as in the paper, or ``relu`` applied to the kept values.
        selection: the rule that decides what is kept, a key of ``selection.RULES``.

    Raises:
        ValueError: a size below 1, k > units, or an unknown activation or selection.
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        k: int,
        activation: Activation = "linear",
        selection: str = "sort",
    ) -> None:
        super().__init__()
        if inputs < 1 or units < 1:
            raise ValueError(f"inputs = {inputs} and units = {units}: both must be at least 1.")
        if activation not in ("linear", "relu"):
            raise ValueError(f"activation = {activation!r} is unknown: choose 'linear' or 'relu'.")
        self.k = check_k(k, units)
        self.activation = activation
        rule_of(selection)
        self.selection = selection
        self.weight = nn.Parameter(torch.empty(units, inputs))
        self.bias = nn.Parameter(torch.zeros(units))
        self.visible_bias = nn.Parameter(torch.zeros(inputs))
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.initialize()

    @property
    def W(self) -> Tensor:  # noqa: N802 - the paper's name
        """The dictionary, one atom a column (shape: [inputs, units])."""
        return self.weight.T

    @property
    def inputs(self) -> int:
        """Number of input dimensions."""
        return self.weight.shape[1]

    @property
    def units(self) -> int:
        """Number of hidden units."""
        return self.weight.shape[0]

    @torch.no_grad()
    def initialize(
        self,
        std: float = 0.01,
        generator: torch.Generator | None = None,
        bias_init: BiasInit = "zeros",
        mean: Tensor | None = None,
    ) -> None:
        """Draw Gaussian weights (section 4.2.2) and set the biases.

        Args:
            std: the paper's σ.
            generator: source of the weights; torch's global one by default.
            bias_init: ``zeros``; ``gaussian``: drawn like the weights; or ``centered``: b′ = mean of the training
                examples and b = −Wᵀb′, so that units see centred data at the start.
            mean: mean of the training examples (shape: [inputs]), needed by ``centered``.

        Raises:
            ValueError: unknown ``bias_init``, or ``centered`` without a mean.
        """
        if bias_init not in get_args(BiasInit):
            raise ValueError(f"bias_init = {bias_init!r} is unknown: choose one of {', '.join(get_args(BiasInit))}.")
        if bias_init == "centered" and mean is None:
            raise ValueError("bias_init = 'centered' needs the mean of the training examples.")
        self.weight.normal_(0.0, std, generator=generator)
        for bias in (self.bias, self.visible_bias):
            bias.normal_(0.0, std if bias_init == "gaussian" else 0.0, generator=generator)
        if mean is not None and bias_init == "centered":
            self.visible_bias.copy_(mean)
            self.bias.copy_(-(self.W.T @ self.visible_bias))

    def pre_activation(self, x: Tensor) -> Tensor:
        """``z = Wᵀx + b`` (shape: [batch, units])."""
        return x @ self.W + self.bias

    def keep(self, z: Tensor, k: int | None = None) -> Tensor:
        """The entries of z that the selection rule keeps, all others zero (shape: [batch, units])."""
        support = supp_k(z.detach(), self.k if k is None else k, self.selection)
        return self._activate(z * support)

    def code(self, x: Tensor, k: int | None = None) -> Tensor:
        """The k largest entries of z for examples x (shape: [batch, units])."""
        return self.keep(self.pre_activation(x), k)

    def decode(self, code: Tensor) -> Tensor:
        """``x̂ = Wz + b′`` (shape: [batch, inputs])."""
        return code @ self.W.T + self.visible_bias

    def forward(self, x: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
        """Reconstruction and code of a batch: one pass of the algorithm box.

        Args:
            x: examples (shape: [batch, inputs]).
            k: units kept, by default the model's.

        Returns:
            x̂ (shape: [batch, inputs]) and z_Γ (shape: [batch, units]).
        """
        code = self.code(x, k)
        return self.decode(code), code

    def loss(self, x: Tensor, k: int | None = None) -> Tensor:
        """``E = ‖x − x̂‖²``, summed over dimensions and averaged over the batch (scalar)."""
        reconstruction, _ = self(x, k)
        return ((x - reconstruction) ** 2).sum(-1).mean()

    @torch.no_grad()
    def encode(self, x: Tensor, mode: CodeMode | str = CodeMode.ALPHA_K, alpha: float = 1.0) -> Tensor:
        """Codes for a later task (section 2.2), all but the kept entries zero.

        Args:
            x: examples (shape: [batch, inputs]), finite, of the model's dtype.
            mode: which entries are kept, see ``CodeMode``.
            alpha: the paper's α, used by ``alpha_k`` only; αk is rounded to a whole number.

        Returns:
            Codes (shape: [batch, units]).

        Raises:
            ValueError: wrong shape, non-finite values, αk > units, unknown mode, or ``threshold``
                before ``calibrate_threshold``.
            TypeError: wrong dtype.
        """
        self.check_input(x)
        mode = CodeMode(mode)
        if mode is CodeMode.K:
            return self.code(x)
        if mode is CodeMode.ALPHA_K:
            return self.code(x, self.alpha_k(alpha))
        z = self.pre_activation(x)
        if mode is CodeMode.DENSE:
            return self._activate(z)
        if mode is CodeMode.DENSE_RELU:
            return torch.relu(z)
        if bool(torch.isnan(self.threshold)):
            raise ValueError("The threshold is not set: call calibrate_threshold with training examples first.")
        return self._activate(z * (z > self.threshold))

    def alpha_k(self, alpha: float) -> int:
        """αk as a whole number.

        Raises:
            ValueError: α < 1 or αk > units.
        """
        if not (isinstance(alpha, Real) and 1 <= alpha < float("inf")):
            raise ValueError(f"alpha = {alpha} is not possible: the paper's α is a number, at least 1.")
        return check_k(round(alpha * self.k), self.units, f"alpha·k (alpha = {alpha:g}, k = {self.k})")

    @torch.no_grad()
    def calibrate_threshold(self, x: Tensor, alpha: float = 1.0) -> float:
        """Set the threshold of mode ``threshold``: the mean over examples of their αk-th largest pre-activation.

        It keeps about αk units on average while each unit decides for itself, the ReLU reading of
        the selection in section 2.2.
        """
        self.check_input(x)
        kth = torch.topk(self.pre_activation(x), self.alpha_k(alpha), dim=-1).values[:, -1]
        self.threshold.fill_(kth.mean())
        return float(self.threshold)

    def check_input(self, x: Tensor) -> None:
        """Refuse examples the model cannot take.

        Raises:
            ValueError: wrong shape or non-finite values.
            TypeError: wrong dtype.
        """
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise ValueError(f"Examples have shape {tuple(x.shape)}, but the model takes [examples, {self.inputs}].")
        if x.dtype != self.weight.dtype:
            raise TypeError(f"Examples are {x.dtype}, but the model is {self.weight.dtype}: convert one of them.")
        # One pass; NaN is both the smallest and the largest.
        if x.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(x))).all()):
            raise ValueError("Examples hold NaN or infinite values: remove or replace them first.")

    def _activate(self, z: Tensor) -> Tensor:
        return torch.relu(z) if self.activation == "relu" else z
