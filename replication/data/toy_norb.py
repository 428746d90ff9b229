"""toy NORB: a procedural stand-in for small NORB, in its format and of its design. Not NORB, never compared with it.

Ten toys in each of NORB's five categories are put together from ellipsoids and boxes of random proportions and seen by
two cameras from NORB's 9 elevations and 18 azimuths under 6 lightings; other toys in the training and the test half.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import cos, radians, sin
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from replication.data.base import DataConfig, Dataset, Source
from replication.data.norb import SIDE, TOYS, WHOLE, load_norb, write_matrix

VERSION = 1
"""Names the folder of the files: raise it when they change."""
_DISTANCE, _PIXELS_PER_UNIT, _CAMERAS = 6.0, 200.0, (radians(-3.75), radians(3.75))
_NOISE, _BACKGROUND, _AMBIENT = 3.0, 165.0, 45.0
# Directions to four lights, and how strongly each shines in each of the six lightings.
_LIGHTS = np.array([[1, 1, 2], [-1, 1, 2], [-1, -1, 1], [1, -1, 1]]) / np.sqrt([[6], [6], [3], [3]])
_STRENGTHS = 12 * np.array([[10, 0, 0, 0], [0, 10, 0, 0], [7, 7, 0, 0], [0, 0, 8, 8], [5, 5, 5, 5], [10, 0, 10, 0]])
# How far each pixel is right of the middle and above it (shape: [96, 96, 1]).
_ABOVE, _ACROSS = np.mgrid[SIDE / 2 - 0.5 : -SIDE / 2 : -1, 0.5 - SIDE / 2 : SIDE / 2][..., None]
Draw = Callable[[float, float], float]
Vector = tuple[float, float, float]


class Part(NamedTuple):
    """An ellipsoid or a box, turned about x, y, z in this order (radians); a toy stands on z = 0 and looks along x."""

    centre: Vector
    radii: Vector
    turn: Vector = (0, 0, 0)
    shade: float = 1
    is_box: bool = False


def _both(part: Part) -> tuple[Part, Part]:
    """A part and its mirror image on the other side."""
    (x, y, z), (a, b, c) = part.centre, part.turn
    return part, part._replace(centre=(x, -y, z), turn=(-a, b, -c))


def _animal(r: Draw) -> Iterator[Part]:
    length, height, thick = r(0.55, 0.95), r(0.3, 0.75), r(0.2, 0.38)
    leg, neck, lift = r(0.06, 0.12), r(0.15, 0.5), r(0.2, 1.1)
    x, z = length + neck * cos(lift), height + neck * sin(lift) + thick / 2
    yield Part((0, 0, height), (length, thick, thick * r(0.8, 1.2)))
    yield Part(((length + x) / 2 - 0.1, 0, (height + z) / 2), (neck, thick / 2, thick / 2), (0, -lift, 0))
    yield Part((x, 0, z), (r(0.18, 0.34), r(0.12, 0.2), r(0.12, 0.2)), (0, r(-0.2, 0.5), 0))
    yield Part((-length - 0.1, 0, height + r(-0.1, 0.3)), (r(0.1, 0.4), 0.05, 0.05), (0, r(-1, 1), 0))
    yield from _both(Part((x - 0.08, 0.1, z + 0.16), (0.05, 0.04, r(0.05, 0.2)), shade=0.8))
    for foot in (0.65 * length, -0.65 * length):
        yield from _both(Part((foot, thick * 0.65, height / 2), (leg, leg, height / 2 + 0.08)))


def _human(r: Draw) -> Iterator[Part]:
    legs, torso, wide = r(0.55, 0.8), r(0.35, 0.5), r(0.2, 0.34)
    stride, swing, spread = r(-0.5, 0.5), r(-1.3, 1.3), r(0.05, 1.2)
    limb, top = r(0.07, 0.11), legs + 2 * torso
    yield Part((0, 0, legs + torso), (r(0.13, 0.2), wide, torso))
    yield Part((0.02, 0, top + 0.16), (0.16, 0.14, r(0.15, 0.2)), shade=r(0.8, 1.2))
    for side in (-1, 1):
        foot = -sin(side * stride) * legs / 2, side * wide * 0.5, legs / 2 + 0.05
        yield Part(foot, (limb, limb, legs / 2 + 0.08), (0, side * stride, 0))
        hand = sin(side * swing) * 0.25, side * (wide + 0.25 * sin(spread)), top - 0.1 - 0.25 * cos(spread)
        yield Part(hand, (limb * 0.8, limb * 0.8, 0.33), (side * spread, -side * swing * 0.7, 0))


def _airplane(r: Draw) -> Iterator[Part]:
    length, thick, height = r(0.75, 1.05), r(0.1, 0.2), r(0.3, 0.6)
    span, chord, sweep = r(0.4, 0.6), r(0.12, 0.28), r(-0.1, 0.6)
    x, tail, z = r(-0.1, 0.25), -length * 0.9, height + r(-0.8, 0.8) * thick
    yield Part((0, 0, height), (length, thick, thick))
    yield from _both(Part((x - sweep * span / 2, span * 0.95, z), (chord, span, 0.035), (0, 0, -sweep)))
    yield from _both(Part((tail, 0.2, height + 0.03), (0.1, r(0.18, 0.3), 0.025), (0, 0, -sweep)))
    yield Part((tail, 0, height + 0.2), (0.12, 0.025, r(0.16, 0.3)), (0, -0.4, 0))
    if r(0, 1) < 0.6:
        yield from _both(Part((x, span * r(0.4, 0.9), z - 0.1), (0.2, 0.07, 0.07), shade=0.8))


def _truck(r: Draw) -> Iterator[Part]:
    length, wide, wheel = r(0.6, 0.85), r(0.28, 0.36), r(0.13, 0.19)
    cab, cab_high, load_high, floor = r(0.2, 0.3), r(0.22, 0.36), r(0.12, 0.42), wheel + 0.06
    yield Part((length - cab, 0, floor + cab_high), (cab, wide, cab_high), shade=r(0.7, 1.2), is_box=True)
    load = length - cab, wide * r(0.9, 1.15), load_high
    yield Part((-cab - 0.04, 0, floor + load_high), load, shade=r(0.7, 1.2), is_box=True)
    yield Part((0, 0, floor - 0.03), (length, wide * 0.8, 0.06), shade=0.5, is_box=True)
    for x in (0.7 * length, -0.45 * length, -0.75 * length):
        yield from _both(Part((x, wide, wheel), (wheel, r(0.05, 0.1), wheel), shade=0.35))
    if r(0, 1) < 0.5:
        front = length + r(0.05, 0.2), 0, floor + cab_high / 2
        yield Part(front, (0.15, wide * 0.9, cab_high / 2), is_box=True)


def _car(r: Draw) -> Iterator[Part]:
    length, wide, wheel = r(0.65, 0.9), r(0.3, 0.4), r(0.12, 0.18)
    body, cabin, boxy = r(0.12, 0.2), r(0.14, 0.24), r(0, 1) < 0.4
    floor = wheel + body * 0.9
    yield Part((0, 0, floor), (length * (1 if boxy else 1.1), wide, body * 1.1), shade=r(0.7, 1.2), is_box=boxy)
    seats = r(-0.2, 0.1), 0, floor + body + cabin * 0.4
    yield Part(seats, (length * r(0.4, 0.65), wide * 0.85, cabin), shade=r(0.6, 1.1))
    for x in (0.6 * length, -0.6 * length):
        yield from _both(Part((x, wide * 0.9, wheel), (wheel, r(0.05, 0.1), wheel), shade=0.35))


def _rotation(turn: Vector) -> np.ndarray:
    (a, b, c), (s, t, u) = map(cos, turn), map(sin, turn)
    about_x = np.array([[1, 0, 0], [0, a, -s], [0, s, a]])
    about_y = np.array([[b, 0, -t], [0, 1, 0], [t, 0, b]])
    return np.array([[c, -u, 0], [u, c, 0], [0, 0, 1]]) @ (about_y @ about_x)


@lru_cache
def _toy(category: int, instance: int) -> list[tuple[Any, ...]]:
    """Of each part of a toy: is it a box, its centre, the matrix that makes it the unit ball or cube, reach, shade."""
    rng = np.random.default_rng([0, category, instance])
    parts = list((_animal, _human, _airplane, _truck, _car)[category](rng.uniform))
    centres, reach = np.array([part.centre for part in parts]), np.array([[max(part.radii)] for part in parts])
    low, high = (centres - reach).min(axis=0), (centres + reach).max(axis=0)
    # Without toys of different size, brightness and direction, pixels tell the test half's categories far too easily.
    shade, heading = rng.uniform(0.5, 1.15), rng.uniform(-radians(20), radians(20))
    scale, toy = rng.uniform(0.7, 1) * 2 / (high - low).max(), []
    for (x, y, z), radii, (a, b, c), part_shade, is_box in parts:
        centre = scale * _rotation((0, 0, heading)) @ (np.array([x, y, z]) - (low + high) / 2)
        local = _rotation((a, b, c + heading)).T / (scale * np.array(radii))[:, None]
        toy.append((is_box, centre, local, scale * max(radii) * (3**0.5 if is_box else 1), part_shade * shade))
    return toy


def _view(design: list[int], offset: float, rng: np.random.Generator) -> np.ndarray:
    """Grey levels that a camera at an angle from the middle sees (shape: [96, 96]); a design is NORB's five numbers."""
    category, instance, elevation, azimuth, lighting = design
    up, around = radians(30 + 5 * elevation), radians(10 * azimuth) + offset
    forward = -np.array([cos(up) * cos(around), cos(up) * sin(around), sin(up)])
    right = np.array([-sin(around), cos(around), 0])
    axes = np.array([right, np.cross(right, forward), forward])
    # The lights stand still while the table under the toy turns.
    lights = _STRENGTHS[lighting][:, None] * (_LIGHTS @ _rotation((0, 0, around)).T)
    depth, image = np.full((SIDE, SIDE), np.inf), np.full((SIDE, SIDE), _BACKGROUND)
    for is_box, centre, local, reach, shade in _toy(category, instance):
        away = centre + _DISTANCE * forward
        x, y, distance = axes @ away
        radius = reach / (distance - reach) * _PIXELS_PER_UNIT * 1.1 + 1
        middle = SIDE / 2 + np.array([-y, x]) / distance * _PIXELS_PER_UNIT
        window = tuple(slice(max(0, int(at - radius)), max(0, int(at + radius) + 1)) for at in middle)
        # The ray o + t d of each pixel, where the part is the unit ball or cube, and the t at which it enters.
        o, (r, u, f) = -(local * away).sum(axis=1), ((local * axis).sum(axis=1) for axis in axes)
        d = f + _ACROSS[window] * (r / _PIXELS_PER_UNIT) + _ABOVE[window] * (u / _PIXELS_PER_UNIT)
        if is_box:
            enter, leave = np.sort([(-1 - o) / d, (1 - o) / d], axis=0)
            t = enter.max(axis=-1)
            seen = (t < leave.min(axis=-1)) & (t < depth[window])
            normal = -np.sign(d[seen]) * (enter[seen] == t[seen, None])
        else:
            a, b, c = (d * d).sum(axis=-1), d @ o, o @ o - 1
            t = (-b - np.sqrt(np.maximum(b * b - a * c, 0))) / a
            seen = (b * b > a * c) & (t < depth[window])
            normal = o + t[seen, None] * d[seen]
        normal = normal @ local
        light = np.maximum(normal @ lights.T, 0).sum(axis=-1) / np.linalg.norm(normal, axis=-1)
        depth[window][seen], image[window][seen] = t[seen], np.minimum(shade * (_AMBIENT + light), 255)
    image += _NOISE * rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    return np.clip(image, 0, 255).round().astype(np.uint8)


def toy_norb_folder(root: Path, share: int = 1) -> Path:
    """The folder of toy NORB's files, of every share-th pair alone; drawn on first use (minutes, 900 MB)."""
    folder = root / "toy_norb" / (f"v{VERSION}" if share == 1 else f"v{VERSION}-{share}")
    for half, (name, instances) in enumerate(TOYS.items()):
        paths = [folder / f"{name}-{kind}.mat" for kind in ("dat", "cat", "info")]
        if all(path.exists() for path in paths):
            continue
        every = itertools.product(instances, range(9), range(0, 36, 2), range(6), range(5))
        designs, rng = np.array(list(every), "<i4")[::share, [4, 0, 1, 2, 3]], np.random.default_rng([0, half])
        images = np.array([[_view(design, side, rng) for side in _CAMERAS] for design in designs.tolist()])
        for path, matrix in zip(paths, (images, designs[:, 0], designs[:, 1:]), strict=True):
            write_matrix(path, matrix)
    return folder


def load(config: DataConfig, root: Path) -> Dataset:
    """As ``load_norb``, of the stand-in."""
    return load_norb(toy_norb_folder(root, config.share or 1), config)


SOURCE = Source(title="toy NORB (stand-in)", load=load, whole=WHOLE, is_stand_in=True)
