"""How well filters are described by Gabor functions: localized, oriented, band-pass (paper, section 4.3, claim C10)."""

import itertools
from typing import Any

import numpy as np
from scipy.optimize import least_squares

_ANGLES, _FREQUENCIES, _WIDTHS = 8, (0.08, 0.15, 0.25, 0.35), (1.0, 2.0)
_KEPT_STARTS, _EXPLAINED, _MOST_FILTERS = 3, 0.5, 300


def gabor(parameters: np.ndarray, side: int) -> np.ndarray:
    """``exp(−u²/2σ² − v²/2τ²) cos(2πfu)`` and the same with sin (shape: [2, side · side]), u along the wave, v across.

    Parameters are x, y of the centre (pixels), the wave's angle (radians), f (cycles per pixel), σ and τ (pixels).
    """
    x0, y0, angle, frequency, along, across = parameters
    y, x = np.mgrid[:side, :side]
    u = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    v = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    envelope = np.exp(-((u / along) ** 2 + (v / across) ** 2) / 2)
    wave = 2 * np.pi * frequency * u
    return np.stack([envelope * np.cos(wave), envelope * np.sin(wave)]).reshape(2, -1)


def fit_gabor(image: np.ndarray) -> tuple[float, np.ndarray]:
    """Least squares over centre, angle, frequency, widths, amplitude and phase, from a grid of starts.

    Args:
        image: a filter (shape: [side, side]).

    Returns:
        Share of the filter's variance that the best Gabor function explains, 0 … 1, and its parameters.

    Raises:
        ValueError: the filter is constant.
    """
    side = len(image)
    target = (image - image.mean()).ravel()
    if not np.abs(target).max() > 0:
        raise ValueError("A constant filter has no Gabor fit.")
    target = target / np.linalg.norm(target)

    def residual(parameters: np.ndarray) -> np.ndarray:
        basis = gabor(parameters, side)
        basis = basis - basis.mean(axis=1, keepdims=True)
        # Amplitude and phase enter linearly: they are solved for, not searched.
        weights = np.linalg.lstsq(basis.T, target, rcond=1e-6)[0]
        return np.asarray(weights @ basis - target)

    energy = (target**2).reshape(side, side)
    y0, x0 = (float((np.arange(side) * energy.sum(axis=axis)).sum()) for axis in (1, 0))
    grid = itertools.product(np.pi * np.arange(_ANGLES) / _ANGLES, _FREQUENCIES, _WIDTHS)
    starts = [np.array([x0, y0, angle, frequency, width, width]) for angle, frequency, width in grid]
    starts = sorted(starts, key=lambda start: float((residual(start) ** 2).sum()))[:_KEPT_STARTS]
    low, high = [-1, -1, -np.inf, 0.02, 0.5, 0.5], [side, side, np.inf, 0.5, side, side]
    fits = [least_squares(residual, start, bounds=(low, high), max_nfev=60) for start in starts]
    best = min(fits, key=lambda fit: fit.cost)
    return 1 - 2 * float(best.cost), best.x


def main_image(filters: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Colour filters as grey ones: each along the direction in colour space in which it varies most; grey as they are.

    Shapes: [units, height · width · 3] → [units, height, width]; ``shape`` is (height, width, 3), or (height, width).
    """
    if len(shape) == 2:
        return filters.reshape(len(filters), *shape)
    colours = filters.reshape(len(filters), -1, shape[2])
    _, _, directions = np.linalg.svd(colours - colours.mean(axis=1, keepdims=True), full_matrices=False)
    return np.einsum("upc,uc->up", colours, directions[:, 0]).reshape(len(filters), *shape[:2])


def gabor_report(filters: np.ndarray, shape: tuple[int, ...]) -> dict[str, Any]:
    """Share of the first 300 filters that are localized and oriented (claim C10), beside that of Gaussian noise.

    A filter counts if its best Gabor function explains at least half of its variance, has an envelope of which the
    smaller standard deviation is below a quarter of the side, and at least one cycle in the side or an
    envelope twice as long as wide: flat and round filters have no orientation.

    Args:
        filters: of units that are in use (shape: [units, height · width · 3], grey [units, height · width]).
        shape: (height, width, 3), grey (height, width).

    Returns:
        ``filters``, their number; ``share`` and ``control_share``; ``explained`` and ``control_explained``, the
        variance that each filter's fit explains.
    """
    filters = filters[:_MOST_FILTERS]
    control = np.random.default_rng(0).normal(size=filters.shape)
    report: dict[str, Any] = {"filters": len(filters)}
    for name, some in (("", filters), ("control_", control)):
        fits = [fit_gabor(image) for image in main_image(some, shape)]
        counted = 0
        for explained, (_, _, _, frequency, *widths) in fits:
            narrow, wide = sorted(widths)
            is_oriented = frequency >= 1 / shape[0] or wide >= 2 * narrow
            counted += explained >= _EXPLAINED and narrow < shape[0] / 4 and is_oriented
        report[f"{name}share"] = int(counted) / len(fits)
        report[f"{name}explained"] = np.round([explained for explained, _ in fits], 3).tolist()
    return report
