"""The family: ways to a sparse code from before and after the k-sparse autoencoder, in one network and one loop.

With x centred and divided by its spread, ``z = E(x − b′) + b``, ``h = f(z)``, ``x̂ = Dᵀh + b′``. Encoder and decoder are
two matrices, atoms have length 1, and Adam learns all. A way is a class: f, and what it adds to the squared error.
Weights of losses are for the mean over inputs of squared errors of such x.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor
from torch.nn.functional import normalize

from ksae_lib.selection import by_batch, supp_k
from replication.judge.logistic import LogisticProblem
from replication.methods.autoencoders import kl_penalty

_IDLE = 100
"""Steps after which a unit that no example kept counts as dead; authors count millions of examples."""
_AUX = 1 / 32
"""Weight of the second loss (Gao et al. 2024)."""
_RISE = 1.01
"""Factor by which the weight of a penalty rises or falls with each step."""
_WIDTH, _LOG_THRESHOLD = 0.5, math.log(0.25)
"""Of JumpReLU's kernel, and where thresholds start: short runs need a wider kernel than the paper's 0.001."""


class TopK:
    """The k largest, those below 0 left out; dead units reconstruct what is left (AuxK; Gao et al. 2024).

    Args:
        x: examples for training (shape: [examples, inputs]).
        units: how many.
        k: units to keep, or a mean number to be reached; top-AFA does not use it.
        rate: of Adam.
        seed: of the start and of the order of examples.
    """

    revives = True
    """Whether units that were idle for more than 100 steps get the second loss."""
    unit_atoms = True
    """Whether atoms have length 1."""

    def __init__(self, x: np.ndarray, units: int, k: int, *, rate: float, seed: int) -> None:
        self.k, self.generator = k, torch.Generator().manual_seed(seed)
        self.mean, self.spread = x.mean(axis=0), np.sqrt(x.var(axis=0).mean())
        self.x, self.penalty_weight = self._scaled(x), 1e-3
        self.decoder = normalize(torch.randn(units, x.shape[1], generator=self.generator))
        self.encoder, self.bias, self.offset = self.decoder.clone(), torch.zeros(units), torch.zeros(x.shape[1])
        self.log_threshold, self.idle = torch.full((units,), _LOG_THRESHOLD), torch.zeros(units)
        learnt = (self.encoder, self.decoder, self.bias, self.offset, self.log_threshold)
        self.optimizer = torch.optim.Adam([one.requires_grad_() for one in learnt], rate, fused=True)

    def _scaled(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray((x - self.mean) / self.spread, np.float32))

    def fit(self, epochs: int, batch: int = 100) -> "TopK":
        """Train on the examples in another order each epoch."""
        for _ in range(epochs):
            for rows in torch.randperm(len(self.x), generator=self.generator).split(batch):
                self.step(self.x[rows])
        return self

    def step(self, x: Tensor) -> None:
        """One update from a batch of scaled examples."""
        x = x - self.offset
        z = x @ self.encoder.T + self.bias
        code = self.training_code(z, x)
        loss = self.error(x, z, code) + self.penalty(x, z, code)
        self.idle = (self.idle + 1) * (code == 0).all(dim=0)
        if self.revives and bool((dead := self.idle > _IDLE).any()):
            loss = loss + _AUX * self.second_loss(z, (x - code @ self.decoder).detach(), dead)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.unit_atoms:
            self.decoder.data = normalize(self.decoder.data)

    def second_loss(self, z: Tensor, rest: Tensor, dead: Tensor) -> Tensor:
        """Share of what the others leave that dead units leave as well, inputs/2 of them at most (scalar)."""
        kept = supp_k(z.masked_fill(~dead, -torch.inf), min(int(dead.sum()), rest.shape[1] // 2))
        return ((z.relu() * kept) @ self.decoder - rest).square().mean() / rest.square().mean()

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        """Codes in training, from pre-activations and x − b′ (shapes: [batch, units], [batch, inputs])."""
        return z.relu() * supp_k(z, self.k)

    def new_code(self, z: Tensor, x: Tensor) -> Tensor:
        """Codes of new examples, each by itself."""
        return self.training_code(z, x)

    def error(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor:
        """Mean squared error (scalar); z and codes as of ``training_code``."""
        return (x - code @ self.decoder).square().mean()

    def penalty(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor | float:
        """What is added to it (scalar)."""
        return 0.0

    @torch.no_grad()
    def pre_activation(self, x: np.ndarray) -> tuple[Tensor, Tensor]:
        """Pre-activations and x − b′ of examples (shapes: [examples, units], [examples, inputs])."""
        inputs = self._scaled(x) - self.offset
        return inputs @ self.encoder.T + self.bias, inputs

    @torch.no_grad()
    def encode(self, x: np.ndarray) -> np.ndarray:
        """Codes of examples (shape: [examples, units])."""
        return self.new_code(*self.pre_activation(x)).numpy()

    @torch.no_grad()
    def decode(self, code: np.ndarray) -> np.ndarray:
        """Examples from codes (shape: [examples, inputs])."""
        return (torch.from_numpy(code) @ self.decoder + self.offset).numpy() * self.spread + self.mean

    @property
    def atoms(self) -> np.ndarray:
        """Shape [units, inputs]."""
        return self.decoder.detach().numpy()

    def _weighted(self, amount: Tensor, code: Tensor) -> Tensor:
        """A penalty whose weight rises while more than k units are on, and else falls."""
        self.penalty_weight *= _RISE if int((code > 0).sum()) > self.k * len(code) else 1 / _RISE
        return self.penalty_weight * amount


class MultiTopK(TopK):
    """Adds 1/8 of the error with 4k units. Codes of other sizes then fit too (Gao et al. 2024)."""

    def error(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor:
        more = z.relu() * supp_k(z, min(4 * self.k, z.shape[1]))
        return super().error(x, z, code) + super().error(x, z, more) / 8


class BatchTopK(TopK):
    """A batch keeps the largest, k an example on average; a threshold codes new examples (Bussmann et al. 2024).

    The threshold follows the least value that each batch keeps.
    """

    threshold = 0.0

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        kept = by_batch(z, self.k) & (z > 0)
        if bool(kept.any()):
            least = float(z.detach()[kept].min())
            self.threshold = 0.99 * self.threshold + 0.01 * least if self.threshold else least
        return z * kept

    def new_code(self, z: Tensor, x: Tensor) -> Tensor:
        return z.relu() * (z >= self.threshold)


class Matryoshka(BatchTopK):
    """The first eighth, quarter and half of the units must reconstruct as well (Bussmann et al. 2025)."""

    def error(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor:
        ends = [len(self.decoder) // part for part in (8, 4, 2, 1)]
        return torch.stack([(x - code[:, :end] @ self.decoder[:end]).square().mean() for end in ends]).mean()


class Groups(TopK):
    """Units in groups of five; the groups with the largest ‖h‖₂ are kept, k/5 of them but at least one."""

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        h = torch.nn.functional.pad(z.relu(), (0, -z.shape[1] % 5)).unflatten(1, (-1, 5))
        kept = supp_k(h.detach().norm(dim=2), max(1, self.k // 5))
        return (h * kept[..., None]).flatten(1)[:, : z.shape[1]]


class TopAFA(TopK):
    """As many of the largest as bring ‖h‖ next to ‖x − b′‖; a weight takes the place of k (Lee et al. 2025)."""

    length_weight = 1 / 16
    """Of the difference of the two lengths, squared: the largest that the authors try."""

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        h, order = z.relu().sort(dim=1, descending=True)
        length = x.norm(dim=1, keepdim=True)
        last = (h.square().cumsum(dim=1).sqrt() - length).abs().argmin(dim=1, keepdim=True)
        return torch.zeros_like(z).scatter(1, order, h * (torch.arange(z.shape[1]) <= last))

    def penalty(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor | float:
        return self.length_weight * (code.norm(dim=1) - x.norm(dim=1)).square().mean()


class ReluL1(TopK):
    """A ReLU and a penalty on its sum, whose weight is set so that k units are on (after Bricken et al. 2023)."""

    revives = False

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        return z.relu()

    def penalty(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor | float:
        return self._weighted(code.sum(dim=1).mean(), code)


class JumpReLU(TopK):
    """Each unit has a threshold that learns from the error and the units that are on (Rajamanoharan et al. 2024)."""

    revives = False

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        return z * (z > self.log_threshold.exp()) + self.log_threshold.detach().exp() * self._ramp(z)

    def penalty(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor | float:
        return self._weighted(((code != 0) + self._ramp(z)).sum(dim=1).mean(), code)

    def _ramp(self, z: Tensor) -> Tensor:
        """0, with the gradient for θ of a step that is as wide as the kernel."""
        ramp = ((z.detach() - self.log_threshold.exp()) / _WIDTH + 0.5).clamp(0, 1)
        return ramp - ramp.detach()


class Lifetime(TopK):
    """Each unit keeps its largest k/units of a batch (Makhzani & Frey 2015). New examples keep all values above 0."""

    revives = False

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        return z.relu() * supp_k(z.T, max(1, round(self.k * len(z) / z.shape[1]))).T

    def new_code(self, z: Tensor, x: Tensor) -> Tensor:
        return z.relu()


class KLSparse(TopK):
    """Sigmoid units drawn to a mean activation of k/units (after Ng 2011, who weighs it more); atoms of any length."""

    revives, unit_atoms = False, False

    def training_code(self, z: Tensor, x: Tensor) -> Tensor:
        return z.sigmoid()

    def penalty(self, x: Tensor, z: Tensor, code: Tensor) -> Tensor | float:
        return 2 * kl_penalty(code.mean(dim=0), self.k / z.shape[1]).mean()


WAYS: dict[str, Callable[..., TopK]] = {
    "TopK + AuxK": TopK, "Multi-TopK": MultiTopK, "BatchTopK": BatchTopK, "Matryoshka": Matryoshka,
    "groups of 5": Groups, "top-AFA": TopAFA, "ReLU + L1": ReluL1, "JumpReLU": JumpReLU, "lifetime": Lifetime,
    "KL-sparse": KLSparse,
}  # fmt: skip


def paired(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each atom of ``one`` (shape: [atoms, inputs]) with an atom of ``other``, so that the sum of |cosine| is largest.

    Returns its place in ``other`` and the |cosine|; −1 and 0 where there are fewer.
    """
    cosines = np.abs(cosine_similarity(one, other))
    rows, columns = linear_sum_assignment(-cosines)
    place, cosine = np.full(len(one), -1), np.zeros(len(one))
    place[rows], cosine[rows] = columns, cosines[rows, columns]
    return place, cosine


def between_seeds(trained: Sequence[Sequence[np.ndarray]], least: float = 0) -> np.ndarray:
    """How alike two trainings are (%): the mean |cosine| of their paired atoms, or the share of at least ``least``.

    ``trained`` has the atoms of each seed, for each set of examples. Returns one value a seed, by the jackknife: a pair
    has two seeds. Of two seeds it is one value. The mean of the values is that over sets and pairs of seeds.
    """
    n = len(trained[0])
    alike = np.zeros((n, n))
    for one, other in combinations(range(n), 2):
        cosines = [paired(seeds[one], seeds[other])[1] for seeds in trained]
        alike[one, other] = alike[other, one] = np.mean([np.mean(c >= least if least else c) for c in cosines])
    of_seed = 100 * alike.sum(axis=1) / (n - 1)
    return of_seed.mean() + 2 * (n - 1) / (n - 2) * (of_seed - of_seed.mean()) if n > 2 else of_seed[:1]


def errors_by_codes(codes: Sequence[np.ndarray], classes: Sequence[np.ndarray], n_classes: int) -> tuple[float, float]:
    """Errors (%) on the second and the third set of codes and classes, of logistic regression on the first.

    Of three weights of its penalty, the second set chooses the one with the smallest error.
    """
    features = [sparse.csr_array(np.asarray(one)) for one in codes]
    problem, fitted, errors = LogisticProblem(features[0], classes[0], n_classes), None, list[tuple[float, float]]()
    for l2 in (0.01, 0.001, 0.0001):
        fitted = problem.solve(l2, 1e-4, 200, start=fitted)
        wrong = [np.mean(fitted.predict(x) != y) for x, y in zip(features[1:], classes[1:], strict=True)]
        errors.append((100 * float(wrong[0]), 100 * float(wrong[1])))
    return min(errors, key=lambda pair: pair[0])
