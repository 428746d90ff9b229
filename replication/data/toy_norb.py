"""toy NORB: a procedural stand-in for small NORB, in its format and of its design. Not NORB, never compared with it.

Ten toys in each of NORB's five categories are put together from ellipsoids and boxes of random proportions and seen by
two cameras from NORB's 9 elevations and 18 azimuths under 6 lightings. As in NORB, five toys of each category make
the training half and the other five the test half.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numba as nb
import numpy as np

from replication.data.mnist import default_root
from replication.data.norb import CATEGORIES, SIDE, TESTING, TOYS, TRAINING, write_matrix

SEED = 0
ELEVATIONS, AZIMUTHS, LIGHTINGS = 9, 18, 6
_ELLIPSOID, _BOX = 0, 1
_DISTANCE, _PIXELS_PER_UNIT = 6.0, 200.0
_HALF_BASELINE = math.radians(3.75)
_NOISE, _BACKGROUND = 3.0, 165.0
_HEADING = math.radians(20)
# Directions to four lights, and how strongly each shines in each of the six lightings.
_LIGHTS = np.array([[1, 1, 2], [-1, 1, 2], [-1, -1, 1], [1, -1, 1]], np.float64)
_LIGHTS /= np.linalg.norm(_LIGHTS, axis=1, keepdims=True)
_STRENGTHS = 120 * np.array(
    [[1, 0, 0, 0], [0, 1, 0, 0], [0.7, 0.7, 0, 0], [0, 0, 0.8, 0.8], [0.5, 0.5, 0.5, 0.5], [1, 0, 1, 0]], np.float64
)
_AMBIENT = 45.0


class Solid(NamedTuple):
    """One part of a toy; the toy stands on z = 0 and looks along x."""

    kind: int
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    """Half the extents along the part's own axes."""
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Rotations about x, y, z in radians, in this order."""
    shade: float = 1.0


def _both(solid: Solid) -> list[Solid]:
    """A part and its mirror image on the other side."""
    (x, y, z), (a, b, c) = solid.centre, solid.turn
    return [solid, solid._replace(centre=(x, -y, z), turn=(-a, b, -c))]


def _animal(r: Callable[[float, float], float]) -> list[Solid]:
    length, height, thick = r(0.55, 0.95), r(0.3, 0.75), r(0.2, 0.38)
    leg = r(0.06, 0.12)
    neck, lift = r(0.15, 0.5), r(0.2, 1.1)
    head_x, head_z = length + neck * math.cos(lift), height + neck * math.sin(lift) + thick / 2
    parts = [
        Solid(_ELLIPSOID, (0, 0, height), (length, thick, thick * r(0.8, 1.2))),
        Solid(_ELLIPSOID, ((length + head_x) / 2 - 0.1, 0, (height + head_z) / 2), (neck, thick / 2, thick / 2),
              (0, -lift, 0)),
        Solid(_ELLIPSOID, (head_x, 0, head_z), (r(0.18, 0.34), r(0.12, 0.2), r(0.12, 0.2)), (0, r(-0.2, 0.5), 0)),
        Solid(_ELLIPSOID, (-length - 0.1, 0, height + r(-0.1, 0.3)), (r(0.1, 0.4), 0.05, 0.05), (0, r(-1, 1), 0)),
        *_both(Solid(_ELLIPSOID, (head_x - 0.08, 0.1, head_z + 0.16), (0.05, 0.04, r(0.05, 0.2)), shade=0.8)),
    ]  # fmt: skip
    for x in (0.65 * length, -0.65 * length):
        parts += _both(Solid(_ELLIPSOID, (x, thick * 0.65, height / 2), (leg, leg, height / 2 + 0.08)))
    return parts


def _human(r: Callable[[float, float], float]) -> list[Solid]:
    legs, torso, wide = r(0.55, 0.8), r(0.35, 0.5), r(0.2, 0.34)
    stride, swing, spread = r(-0.5, 0.5), r(-1.3, 1.3), r(0.05, 1.2)
    limb, top = r(0.07, 0.11), legs + 2 * torso
    parts = [
        Solid(_ELLIPSOID, (0, 0, legs + torso), (r(0.13, 0.2), wide, torso)),
        Solid(_ELLIPSOID, (0.02, 0, top + 0.16), (0.16, 0.14, r(0.15, 0.2)), shade=r(0.8, 1.2)),
    ]
    for side in (-1, 1):
        bend = side * stride
        parts.append(Solid(_ELLIPSOID, (-math.sin(bend) * legs / 2, side * wide * 0.5, legs / 2 + 0.05),
                           (limb, limb, legs / 2 + 0.08), (0, bend, 0)))  # fmt: skip
        parts.append(Solid(_ELLIPSOID, (math.sin(side * swing) * 0.25, side * (wide + 0.25 * math.sin(spread)),
                           top - 0.1 - 0.25 * math.cos(spread)), (limb * 0.8, limb * 0.8, 0.33),
                           (side * spread, -side * swing * 0.7, 0)))  # fmt: skip
    return parts


def _airplane(r: Callable[[float, float], float]) -> list[Solid]:
    length, thick, height = r(0.75, 1.05), r(0.1, 0.2), r(0.3, 0.6)
    span, chord, sweep = r(0.4, 0.6), r(0.12, 0.28), r(-0.1, 0.6)
    wing_x, tail = r(-0.1, 0.25), -length * 0.9
    wing_z = height + r(-0.8, 0.8) * thick
    parts = [
        Solid(_ELLIPSOID, (0, 0, height), (length, thick, thick)),
        *_both(Solid(_ELLIPSOID, (wing_x - sweep * span / 2, span * 0.95, wing_z), (chord, span, 0.035),
                     (0, 0, -sweep))),
        *_both(Solid(_ELLIPSOID, (tail, 0.2, height + 0.03), (0.1, r(0.18, 0.3), 0.025), (0, 0, -sweep))),
        Solid(_ELLIPSOID, (tail, 0, height + 0.2), (0.12, 0.025, r(0.16, 0.3)), (0, -0.4, 0)),
    ]  # fmt: skip
    if r(0, 1) < 0.6:
        parts += _both(Solid(_ELLIPSOID, (wing_x, span * r(0.4, 0.9), wing_z - 0.1), (0.2, 0.07, 0.07), shade=0.8))
    return parts


def _wheels(r: Callable[[float, float], float], places: tuple[float, ...], side: float, size: float) -> list[Solid]:
    return [
        wheel
        for x in places
        for wheel in _both(Solid(_ELLIPSOID, (x, side, size), (size, r(0.05, 0.1), size), shade=0.35))
    ]


def _truck(r: Callable[[float, float], float]) -> list[Solid]:
    length, wide, wheel = r(0.6, 0.85), r(0.28, 0.36), r(0.13, 0.19)
    cab, cab_high, load_high = r(0.2, 0.3), r(0.22, 0.36), r(0.12, 0.42)
    floor = wheel + 0.06
    load = length - cab
    parts = [
        Solid(_BOX, (length - cab, 0, floor + cab_high), (cab, wide, cab_high), shade=r(0.7, 1.2)),
        Solid(_BOX, (-cab - 0.04, 0, floor + load_high), (load, wide * r(0.9, 1.15), load_high), shade=r(0.7, 1.2)),
        Solid(_BOX, (0, 0, floor - 0.03), (length, wide * 0.8, 0.06), shade=0.5),
        *_wheels(r, (0.7 * length, -0.45 * length, -0.75 * length), wide, wheel),
    ]
    if r(0, 1) < 0.5:
        parts.append(Solid(_BOX, (length + r(0.05, 0.2), 0, floor + cab_high / 2), (0.15, wide * 0.9, cab_high / 2)))
    return parts


def _car(r: Callable[[float, float], float]) -> list[Solid]:
    length, wide, wheel = r(0.65, 0.9), r(0.3, 0.4), r(0.12, 0.18)
    body, cabin = r(0.12, 0.2), r(0.14, 0.24)
    floor = wheel + body * 0.9
    boxy = r(0, 1) < 0.4
    return [
        Solid(_BOX if boxy else _ELLIPSOID, (0, 0, floor), (length * (1 if boxy else 1.1), wide, body * 1.1),
              shade=r(0.7, 1.2)),
        Solid(_ELLIPSOID, (r(-0.2, 0.1), 0, floor + body + cabin * 0.4), (length * r(0.4, 0.65), wide * 0.85, cabin),
              shade=r(0.6, 1.1)),
        *_wheels(r, (0.6 * length, -0.6 * length), wide * 0.9, wheel),
    ]  # fmt: skip


_MAKERS = (_animal, _human, _airplane, _truck, _car)


def toy(category: int, instance: int) -> list[Solid]:
    """The parts of a toy about its middle, within a bounding radius of 0.7 to 1.

    Toys differ in size, brightness and, by up to 20°, in where they look at azimuth 0: without that a linear
    classifier of pixels finds the test half far easier than NORB's.

    Args:
        category: 0 … 4, see ``CATEGORIES``.
        instance: 0 … 9.
    """
    rng = np.random.default_rng([SEED, category, instance])
    parts = _MAKERS[category](lambda low, high: float(rng.uniform(low, high)))
    centres = np.array([part.centre for part in parts])
    reach = np.array([max(part.radii) for part in parts])
    low, high = (centres - reach[:, None]).min(axis=0), (centres + reach[:, None]).max(axis=0)
    shade, heading = float(rng.uniform(0.5, 1.15)), float(rng.uniform(-_HEADING, _HEADING))
    middle, scale = (low + high) / 2, float(rng.uniform(0.7, 1)) * 2 / float((high - low).max())
    turned = _rotation((0, 0, heading))
    return [
        part._replace(
            centre=tuple((scale * turned @ (np.array(part.centre) - middle)).tolist()),
            radii=tuple((scale * np.array(part.radii)).tolist()),
            turn=(part.turn[0], part.turn[1], part.turn[2] + heading),
            shade=part.shade * shade,
        )
        for part in parts
    ]


def _rotation(turn: tuple[float, float, float]) -> np.ndarray:
    (a, b, c), eye = turn, np.eye(3)
    made = eye
    for axis, angle in ((0, a), (1, b), (2, c)):
        step, (i, j) = np.eye(3), [k for k in range(3) if k != axis]
        step[i, i] = step[j, j] = math.cos(angle)
        step[i, j], step[j, i] = -math.sin(angle), math.sin(angle)
        made = step @ made
    return made


class _Arrays(NamedTuple):
    """A toy as the renderer takes it."""

    kind: np.ndarray
    centre: np.ndarray
    to_local: np.ndarray
    """Takes a point relative to the centre to where the part is the unit ball or cube (shape: [parts, 3, 3])."""
    reach: np.ndarray
    shade: np.ndarray


def _arrays(parts: list[Solid]) -> _Arrays:
    return _Arrays(
        np.array([part.kind for part in parts]),
        np.array([part.centre for part in parts]),
        np.array([_rotation(part.turn).T / np.array(part.radii)[:, None] for part in parts]),
        np.array([max(part.radii) * (math.sqrt(3) if part.kind == _BOX else 1) for part in parts]),
        np.array([part.shade for part in parts]),
    )


@nb.njit(cache=True)
def _render(
    kind: np.ndarray,
    centre: np.ndarray,
    to_local: np.ndarray,
    reach: np.ndarray,
    shade: np.ndarray,
    eye: np.ndarray,
    axes: np.ndarray,
    lights: np.ndarray,
    strengths: np.ndarray,
    scale: float,
    image: np.ndarray,
) -> None:
    """Draw parts with a depth buffer; ``axes`` are the camera's forward, right and up."""
    side = image.shape[0]
    half = side / 2
    depth = np.full((side, side), np.inf)
    image[:] = _BACKGROUND
    o, forward, right, up, d, n = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    for p in range(kind.size):
        m = to_local[p]
        away = centre[p] - eye
        distance = (axes[0] * away).sum()
        u, v = (axes[1] * away).sum() / distance * scale, (axes[2] * away).sum() / distance * scale
        radius = reach[p] / (distance - reach[p]) * scale * 1.1 + 1
        first_row, last_row = max(0, int(half - v - radius)), min(side, int(half - v + radius) + 1)
        first_column, last_column = max(0, int(half + u - radius)), min(side, int(half + u + radius) + 1)
        for i in range(3):
            o[i], forward[i] = -(m[i] * away).sum(), (m[i] * axes[0]).sum()
            right[i], up[i] = (m[i] * axes[1]).sum() / scale, (m[i] * axes[2]).sum() / scale
        for row in range(first_row, last_row):
            for column in range(first_column, last_column):
                x, y = column + 0.5 - half, half - row - 0.5
                for i in range(3):
                    d[i] = forward[i] + x * right[i] + y * up[i]
                t = np.inf
                if kind[p] == _ELLIPSOID:
                    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
                    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
                    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
                    if b * b > a * c:
                        t = (-b - math.sqrt(b * b - a * c)) / a
                        for i in range(3):
                            n[i] = o[i] + t * d[i]
                else:
                    enter, leave, face = -np.inf, np.inf, 0
                    for i in range(3):
                        one, other = (-1 - o[i]) / d[i], (1 - o[i]) / d[i]
                        if min(one, other) > enter:
                            enter, face = min(one, other), i
                        leave = min(leave, max(one, other))
                    if enter < leave:
                        t = enter
                        for i in range(3):
                            n[i] = 0.0
                        n[face] = -np.sign(d[face])
                if t < depth[row, column]:
                    depth[row, column] = t
                    wx = n[0] * m[0, 0] + n[1] * m[1, 0] + n[2] * m[2, 0]
                    wy = n[0] * m[0, 1] + n[1] * m[1, 1] + n[2] * m[2, 1]
                    wz = n[0] * m[0, 2] + n[1] * m[1, 2] + n[2] * m[2, 2]
                    norm = math.sqrt(wx * wx + wy * wy + wz * wz)
                    light = _AMBIENT
                    for i in range(strengths.size):
                        facing = (lights[i, 0] * wx + lights[i, 1] * wy + lights[i, 2] * wz) / norm
                        light += strengths[i] * max(0.0, facing)
                    image[row, column] = min(light * shade[p], 255.0)


def pair(arrays: _Arrays, elevation: int, azimuth: int, lighting: int, rng: np.random.Generator) -> np.ndarray:
    """Both cameras' views of a toy (shape: [2, 96, 96], uint8).

    Args:
        arrays: the toy.
        elevation: 0 … 8, 30° … 70° by 5°.
        azimuth: 0 … 34, even, times 10°.
        lighting: 0 … 5.
        rng: source of the cameras' noise.
    """
    image = np.empty((SIDE, SIDE))
    views = np.empty((2, SIDE, SIDE), np.uint8)
    up = math.radians(30 + 5 * elevation)
    for camera, offset in enumerate((-_HALF_BASELINE, _HALF_BASELINE)):
        around = math.radians(10 * azimuth) + offset
        forward = -np.array([math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)])
        right = np.array([-math.sin(around), math.cos(around), 0.0])
        axes = np.stack([forward, right, np.cross(right, forward)])
        # The lights stand still while the table under the toy turns.
        turned = _LIGHTS @ np.array(
            [[math.cos(around), math.sin(around), 0], [-math.sin(around), math.cos(around), 0], [0, 0, 1]]
        )
        _render(*arrays, -_DISTANCE * forward, axes, turned, _STRENGTHS[lighting], _PIXELS_PER_UNIT, image)
        noisy = image + _NOISE * rng.standard_normal((SIDE, SIDE), dtype=np.float32)
        views[camera] = np.clip(noisy, 0, 255).round()
    return views


def _designs(instances: tuple[int, ...]) -> np.ndarray:
    """Category, instance, elevation, azimuth, lighting of every pair of a half, categories in turn as in NORB."""
    grid = np.stack(
        np.meshgrid(
            instances, range(ELEVATIONS), range(0, 2 * AZIMUTHS, 2), range(LIGHTINGS), range(len(CATEGORIES)),
            indexing="ij",
        ), axis=-1,
    ).reshape(-1, 5)  # fmt: skip
    return grid[:, [4, 0, 1, 2, 3]].astype(np.int32)


def toy_norb_folder(root: Path | None = None, share: int = 1) -> Path:
    """The folder with toy NORB's files, which are written first if they are not there (half a minute, 900 MB).

    Its name tells the version of this generator, so that files of another are never taken for its own. Processes that
    want it at the same time wait for the first.

    Args:
        root: folder of data sets, see ``default_root``.
        share: every share-th pair alone, see ``write_toy_norb``.
    """
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    folder = (root or default_root()) / "toy_norb" / (version if share == 1 else f"{version}-{share}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        names = [f"{half}-{kind}.mat" for half in (TRAINING, TESTING) for kind in ("dat", "cat", "info")]
        if not all((folder / name).exists() for name in names):
            write_toy_norb(folder, share)
    return folder


def write_toy_norb(folder: Path, share: int = 1) -> None:
    """Write both halves as files in NORB's format and under its names; always the same bytes.

    Args:
        folder: made if it is not there.
        share: write every share-th pair alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for half, (name, instances) in enumerate(TOYS.items()):
        designs = _designs(instances)[::share]
        toys = {(c, i): _arrays(toy(c, i)) for c in range(len(CATEGORIES)) for i in instances}
        rng = np.random.default_rng([SEED, half])

        def images(
            designs: np.ndarray = designs, toys: dict[tuple[int, int], _Arrays] = toys, rng: np.random.Generator = rng
        ) -> Iterator[np.ndarray]:
            for category, instance, elevation, azimuth, lighting in designs.tolist():
                yield pair(toys[category, instance], elevation, azimuth, lighting, rng)

        pairs = len(designs)
        write_matrix(folder / f"{name}-dat.mat", (pairs, 2, SIDE, SIDE), np.uint8, images())
        write_matrix(folder / f"{name}-cat.mat", (pairs,), np.int32, [designs[:, 0]])
        write_matrix(folder / f"{name}-info.mat", (pairs, 4), np.int32, [designs[:, 1:]])
