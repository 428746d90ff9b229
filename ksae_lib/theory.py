"""Section 3 of the paper: sparse recovery in a known dictionary."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ksae_lib.metrics import mutual_coherence
from ksae_lib.model import KSparseAutoencoder
from ksae_lib.selection import by_sorting, supp_k

_BLOCK = 500


def babel(atoms: Tensor) -> Tensor:
    """Largest sum of |⟨w_i, w_j⟩| over so many j ≠ i (Tropp 2004), for 1, 2, … of them; the first is μ of equation 8.

    Args:
        atoms: of unit length, one a row (shape: [units, inputs]).

    Returns:
        Shape [units − 1].
    """
    products = (atoms @ atoms.T).abs()
    products.fill_diagonal_(0)
    return products.sort(dim=1, descending=True).values.cumsum(dim=1).amax(dim=0)[:-1]


def meets_condition(z: Tensor, coherence: float | Tensor) -> Tensor:
    """Which codes meet the condition of Theorem 3.1, ``kμ ≤ z_k / (2 z_1)``.

    Args:
        z: codes without negative values (shape: [examples, units]); k is the number of those above zero.
        coherence: μ of equation 8, of one dictionary or of one for each code (shape: [examples]).

    Returns:
        Shape [examples], bool.

    Raises:
        ValueError: a code without a value above zero.
    """
    kept = z > 0
    if not bool(kept.any(dim=1).all()):
        raise ValueError("A code has no value above zero, so it has no support: leave it out.")
    smallest = z.where(kept, torch.inf).amin(dim=1)
    return kept.sum(dim=1) * coherence <= smallest / (2 * z.amax(dim=1))


def least_squares(x: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    """Equation 3: the codes with these supports that reconstruct best, ``z_Γ = W_Γ† x``.

    Args:
        x: examples (shape: [examples, inputs]).
        atoms: one a row (shape: [units, inputs]).
        support: as many units of each example (shape: [examples, units], bool).

    Returns:
        Shape [examples, units].

    Raises:
        ValueError: supports of different sizes.
    """
    if len(support.sum(dim=1).unique()) > 1:
        raise ValueError("The supports differ in size: solve for those of each size alone.")
    kept = support.nonzero()[:, 1].view(len(x), -1)
    # Atoms of a support can be the same: of all solutions, this driver takes the shortest, as the pseudo-inverse does.
    values = [
        torch.linalg.lstsq(atoms[units].mT, block[:, :, None], driver="gelsd").solution[:, :, 0]
        for block, units in zip(x.split(_BLOCK), kept.split(_BLOCK), strict=True)
    ]
    return torch.zeros(support.shape, dtype=x.dtype).scatter(1, kept, torch.cat(values))


def iterative_thresholding(x: Tensor, atoms: Tensor, k: int, steps: int = 1) -> Tensor:
    """Codes by iterative thresholding with inversion (ITI, section 3.1), from z = 0.

    A step takes the support from ``zⁿ + Wᵀ(x − Wzⁿ)`` (equation 2) and the values from least squares (equation 3). The
    support of the first step is that of a k-sparse autoencoder without hidden biases.

    Args:
        x: examples (shape: [examples, inputs]).
        atoms: one a row (shape: [units, inputs]).
        k: units a code keeps.
        steps: how often.

    Returns:
        Shape [examples, units].

    Raises:
        ValueError: an impossible k.
    """
    z = x.new_zeros(len(x), len(atoms))
    for _ in range(steps):
        z = z + (x - z @ atoms) @ atoms.T
        z = least_squares(x, atoms, supp_k(z, k))
    return z


@torch.no_grad()
def planted_codes(model: KSparseAutoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """A model's atoms scaled to unit length, and its positive codes of some examples in them; biases are left out.

    Args:
        model: any.
        x: shape [examples, inputs].

    Returns:
        Float64: atoms (shape: [units, inputs]) and codes (shape: [examples, units]).
    """
    length = model.weight.double().norm(dim=1)
    return normalize(model.weight.double(), dim=1), model.encode(x).double().clamp(min=0) * length


def first_step(atoms: Tensor, z: Tensor) -> dict[str, float]:
    """What Theorem 3.1 promises and what ``supp_k(Wᵀx)`` finds for ``x = Wz``, k the number of values of z above zero.

    Args:
        atoms: of unit length, one a row (shape: [units, inputs]).
        z: codes without negative values (shape: [examples, units]).

    Returns:
        Shares 0 … 1: ``condition`` of codes that meet the theorem's, ``recovered`` of supports found exactly, ``found``
        of a support's units that are in what is found, on average.

    Raises:
        ValueError: a code without a value above zero.
    """
    promised = meets_condition(z, mutual_coherence(atoms)[0])
    kept = z > 0
    both = by_sorting(z @ atoms @ atoms.T, kept.sum(dim=1, keepdim=True)) & kept
    found = both.sum(dim=1) / kept.sum(dim=1)
    shares = {"condition": promised, "recovered": found == 1, "found": found}
    return {name: float(each.double().mean()) for name, each in shares.items()}
