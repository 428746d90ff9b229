"""Measures reported next to the error: reconstruction, sparsity, dead units, locality, coherence."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ksae_lib.codes import codes
from ksae_lib.model import CodeMode, KSparseAutoencoder

_CHUNK = 5_000
Examples = np.ndarray | Iterable[np.ndarray]


def fraction_of_variance_unexplained(x: np.ndarray, reconstruction: np.ndarray) -> float:
    """FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖² over the whole set, x̄ its per-dimension mean: mean predicted 1, perfect 0.

    Args:
        x, reconstruction: shape [examples, inputs].

    Raises:
        ValueError: the examples do not vary.
    """
    centered = np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
    total = float((centered**2).sum())
    if total == 0:
        raise ValueError("FVU is not defined: all examples are equal.")
    return float(((np.asarray(x, np.float64) - reconstruction) ** 2).sum()) / total


def reconstruction_report(model: KSparseAutoencoder, x: Examples) -> dict[str, float | int]:
    """FVU, mean L0 and live units of the k largest code over one full pass of ``x`` (shape: [examples, inputs])."""
    report = unit_report(model, x)
    return {"fvu": report["fvu"], "l0": report["l0"], "live_units": int(report["live"].sum())}


@torch.no_grad()
def unit_report(model: KSparseAutoencoder, x: Examples) -> dict[str, Any]:
    """What each unit does for the k largest code, over one pass of ``x`` (shape: [examples, inputs]) or its blocks.

    Returns:
        For each unit (shape: [units]) ``frequency``, the share of examples that keep it, ``energy``, its share of
        ``Σ (z_j ‖w_j‖)²`` over all units and examples, and ``live``, whether any keeps it. Of all, ``fvu`` and ``l0``.

    Raises:
        ValueError: there are no examples, or they do not vary.
    """
    uses, energy, error = np.zeros(model.units, np.int64), np.zeros(model.units), 0.0
    examples, first, total, squares = 0, np.zeros(0), np.zeros(model.inputs), 0.0
    for block, code in _codes(model, x):
        # Sums from the first example on, so that a mean far from zero costs no digits.
        first = first if examples else np.asarray(block[:1], np.float64)
        reconstruction, away = model.decode(torch.from_numpy(code.toarray())).numpy(), block - first
        examples, total, squares = examples + len(block), total + away.sum(axis=0), squares + float((away**2).sum())
        error += float(((np.asarray(block, np.float64) - reconstruction) ** 2).sum())
        uses += np.bincount(code.indices, minlength=model.units)
        energy += np.bincount(code.indices, np.square(code.data, dtype=np.float64), model.units)
    if squares == 0:
        raise ValueError("FVU is not defined: there are no examples, or all examples are equal.")
    energy *= model.weight.double().square().sum(dim=1).numpy()
    return {
        "frequency": uses / examples,
        "energy": energy / (energy.sum() or 1.0),
        "live": uses > 0,
        "fvu": error / (squares - float((total**2).sum()) / examples),
        "l0": int(uses.sum()) / examples,
    }


def live_units(model: KSparseAutoencoder, x: np.ndarray) -> np.ndarray:
    """Which units the k largest code of at least one example of ``x`` keeps (shape: [units], bool)."""
    live = np.zeros(model.units, bool)
    for _, code in _codes(model, x):
        live[code.indices] = True
    return live


def _codes(model: KSparseAutoencoder, x: Examples) -> Iterator[tuple[np.ndarray, sparse.csr_array]]:
    for block in np.split(x, range(_CHUNK, len(x), _CHUNK)) if isinstance(x, np.ndarray) else x:
        yield block, sparse.csr_array(codes(model, block, CodeMode.K)[0])


def effective_area(filters: np.ndarray) -> np.ndarray:
    """Share of the input each filter effectively covers: participation ratio (Σw²)² / (n Σw⁴), 1/n … 1.

    One pixel gives 1/n, a flat filter 1, Gaussian noise about 1/3: small is local, large is global.

    Args:
        filters: shape [units, n].
    """
    energy = np.asarray(filters, np.float64) ** 2
    return energy.sum(1) ** 2 / (energy.shape[1] * (energy**2).sum(1))


def neighbour_correlation(filters: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Correlation of each filter with itself moved by one pixel, mean of right and down: strokes near 1, noise near 0.

    Args:
        filters: shape [units, height · width], none constant.
        shape: height and width.
    """
    images = np.asarray(filters, np.float64).reshape(len(filters), *shape)
    images = images - images.mean((1, 2), keepdims=True)
    pairs = ((images[:, :, 1:], images[:, :, :-1]), (images[:, 1:], images[:, :-1]))
    return np.mean([(a * b).mean((1, 2)) for a, b in pairs], axis=0) / (images**2).mean((1, 2))


def mutual_coherence(weight: Tensor) -> tuple[float, float]:
    """Largest and mean |⟨w_i, w_j⟩|, i ≠ j, of the unit-normed atoms (section 3.3; weight shape: [units, inputs])."""
    atoms = torch.nn.functional.normalize(weight.detach().double(), dim=1)
    products = (atoms @ atoms.T).abs()
    products.fill_diagonal_(0)
    n = len(atoms)
    return float(products.max()), float(products.sum() / (n * (n - 1)))


def sparsity_measures(h: np.ndarray) -> dict[str, float]:
    """How sparse hidden activities are, beside Figure 4 (section 4.3).

    Args:
        h: activities (shape: [examples, units]).

    Returns:
        ``l0``: mean number of units that are not zero. ``hoyer``: mean over examples of
        (√n − ‖h‖₁ / ‖h‖₂) / (√n − 1), 0 for equal activities, 1 for a single one (Hoyer 2004); examples without any
        activity are left out. ``kurtosis``: excess kurtosis of all activities together, 0 for a Gaussian.

    Raises:
        ValueError: fewer than two units, or no activity at all.
    """
    h = np.asarray(h, np.float64)
    root = np.sqrt(h.shape[1])
    norms = np.sqrt((h**2).sum(1))
    if root <= 1 or not norms.any():
        raise ValueError("Sparsity is not defined: there are fewer than two units, or none is ever active.")
    active = norms > 0
    square = (h - h.mean()) ** 2
    return {
        "l0": float(np.count_nonzero(h) / len(h)),
        "hoyer": float(np.mean((root - np.abs(h[active]).sum(1) / norms[active]) / (root - 1))),
        "kurtosis": float((square**2).mean() / square.mean() ** 2 - 3),
    }
