from __future__ import annotations

import gzip
import hashlib
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from replication.data import load_data
from replication.data.base import DataConfig, DataError, Dataset
from replication.data.norb import (
    OFFICIAL,
    TESTING,
    TOYS,
    TRAINING,
    load_norb,
    read_half,
    read_matrix,
    small_images,
    take,
    write_matrix,
)
from replication.data.toy_norb import VERSION, toy_norb_folder

WHOLE = {"train_size": 132, "validation_size": 29, "test_size": 161}
"""What there is of toy NORB's every 151st pair."""


def load(folder: Path, **config: Any) -> Dataset:
    return load_norb(folder, DataConfig(name="norb", **{**WHOLE, **config}))


def ten_line_reader(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    magic, dimensions = struct.unpack("<ii", data[:8])
    sizes = struct.unpack(f"<{max(3, dimensions)}i", data[8 : 8 + 4 * max(3, dimensions)])
    kind = {0x1E3D4C55: "u1", 0x1E3D4C54: "<i4"}[magic]
    return np.frombuffer(data[8 + 4 * max(3, dimensions) :], kind).reshape(sizes[:dimensions])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_norb_folder(tmp_path_factory.mktemp("norb"), share=151)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    for path in made.glob("*.mat"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def compress(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace a file by its archive, which passes for the official one."""
    archive = path.with_suffix(".mat.gz")
    archive.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    monkeypatch.setitem(OFFICIAL, archive.name, hashlib.sha256(archive.read_bytes()).hexdigest())
    return archive


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("shape", "dtype"), [((5, 2, 4, 3), "u1"), ((7,), "<i4"), ((7, 4), "<i4")])
def test_files_have_the_official_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, shape: tuple[int, ...], dtype: str
) -> None:
    wanted = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    path = tmp_path / "m.mat"
    write_matrix(path, wanted)
    raw = path.read_bytes()
    assert np.array_equal(ten_line_reader(compress(path, monkeypatch) if suffix else path), wanted)
    found, sha256 = read_matrix(path, dtype, shape[1:])
    assert np.array_equal(found, wanted) and found.dtype == dtype
    assert sha256 == hashlib.sha256(raw).hexdigest()
    assert raw[:4] == (b"\x55\x4c\x3d\x1e" if dtype == "u1" else b"\x54\x4c\x3d\x1e")
    assert len(raw) - wanted.nbytes == (24 if len(shape) == 4 else 20)


def test_preprocessing_is_the_inner_part_resized_as_pillow_does(made: Path) -> None:
    pairs = ten_line_reader(made / f"{TRAINING}-dat.mat")[:5]
    wanted = [
        np.asarray(Image.fromarray(view[16:80, 16:80].astype(np.float32)).resize((32, 32), Image.Resampling.BICUBIC))
        for pair in pairs
        for view in pair
    ]
    assert np.abs(small_images(pairs) - np.array(wanted).reshape(5, 2048)).max() < 1e-3


def test_images_are_made_small_block_by_block(made: Path) -> None:
    pairs = np.tile(ten_line_reader(made / f"{TRAINING}-dat.mat"), (2, 1, 1, 1))
    small = small_images(pairs)
    assert len(small) == 322 and np.array_equal(small[161:], small[:161])


def test_dimensions_are_standardized_by_the_training_pairs(made: Path) -> None:
    data = load(made)
    pairs = len(data.train_x) + len(data.validation_x)
    assert len(data.train_x) == pairs * 20_000 // 24_300
    assert np.abs(data.train_x.mean(axis=0)).max() < 1e-4
    assert np.abs(data.train_x.std(axis=0) - 1).max() < 1e-3
    small = small_images(ten_line_reader(made / f"{TESTING}-dat.mat"))
    first = small_images(ten_line_reader(made / f"{TRAINING}-dat.mat"))
    train = first[np.random.default_rng(0).permutation(pairs)[: len(data.train_x)]]
    assert np.allclose(data.test_x, (small - train.mean(0)) / train.std(0), atol=1e-3)
    assert np.array_equal(data.test_y, ten_line_reader(made / f"{TESTING}-cat.mat"))


def test_compressed_files_give_the_same_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, sha256 = read_half(folder, TESTING)
    for path in list(folder.glob("*.mat")):
        compress(path, monkeypatch)
    again = read_half(folder, TESTING)
    assert np.array_equal(x, again[0]) and np.array_equal(y, again[1]) and sha256 == again[2]
    assert load(folder).preprocessing["files"] == "official archives"


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "truncated":
        path.write_bytes(data[:-100])
    elif how == "longer":
        path.write_bytes(data + b"0")
    elif how == "header only":
        path.write_bytes(data[:6])
    elif how == "no pairs":
        path.write_bytes(data[:8] + bytes(4) + data[12:24])
    elif how == "magic":
        path.write_bytes(b"\x00" * 4 + data[4:])
    elif how == "swapped":
        path.write_bytes((path.parent / f"{TRAINING}-info.mat").read_bytes())
    elif how == "huge":
        path.write_bytes(data[:8] + struct.pack("<i", 2**31 - 1) + data[12:])
    elif how == "other half":
        path.write_bytes((path.parent / path.name.replace(TRAINING, TESTING)).read_bytes())
    elif how == "shorter":
        (pairs,) = struct.unpack("<i", data[8:12])
        path.write_bytes(data[:8] + struct.pack("<i", pairs - 1) + data[12 : -len(data[20:]) // pairs])
    elif how == "images":
        path.write_bytes((path.parent / f"{TRAINING}-dat.mat").read_bytes())
    elif how == "category":
        path.write_bytes(data[:-4] + struct.pack("<i", 7))
    else:
        path.unlink()
        path.with_suffix(".mat.gz").write_bytes(gzip.compress(data))


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [
        ("dat", "missing", "is missing .*: run 'ksae data get norb'"),
        ("dat", "a folder", "cannot be read .Is a directory"),
        ("dat", "truncated", "damaged or not NORB's matrix"),
        ("dat", "longer", "damaged or not NORB's matrix"),
        ("dat", "header only", "damaged or not NORB's matrix"),
        ("dat", "no pairs", "damaged or not NORB's matrix"),
        ("dat", "magic", "damaged or not NORB's matrix"),
        ("dat", "swapped", "damaged or not NORB's matrix"),
        ("cat", "swapped", "damaged or not NORB's matrix"),
        ("cat", "images", "damaged or not NORB's matrix"),
        ("cat", "shorter", "not of these images"),
        ("info", "shorter", "not of these images"),
        ("info", "other half", "not of these images"),
        ("dat", "huge", "damaged or not NORB's matrix"),
        ("cat", "huge", "damaged or not NORB's matrix"),
        ("cat", "category", "not of these images"),
        ("dat", "other archive", "is not the official file .*: delete it and run 'ksae data get norb'"),
    ],
)
def test_a_bad_file_is_named(folder: Path, kind: str, how: str, message: str) -> None:
    damage(folder / f"{TRAINING}-{kind}.mat", how)
    with pytest.raises(DataError, match=message) as raised:
        load(folder)
    assert f"{TRAINING}-{kind}.mat" in str(raised.value)


def test_norb_itself_is_verified_where_its_archives_are_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KSAE_DATA", str(tmp_path))
    (tmp_path / "NORB").mkdir()
    for path in list(folder.glob("*.mat")):
        path.rename(tmp_path / "NORB" / path.name)
    small = DataConfig(name="norb", train_size=100, validation_size=10, test_size=10)
    load_data.cache_clear()
    assert load_data(small).preprocessing["files"] == "unpacked, not verified"
    archive = tmp_path / "NORB" / f"{TESTING}-cat.mat.gz"
    archive.write_bytes(gzip.compress((tmp_path / "NORB" / f"{TESTING}-cat.mat").read_bytes()))
    with pytest.raises(DataError, match=r"testing-cat\.mat\.gz is not the official file"):
        load(tmp_path / "NORB")


@pytest.mark.parametrize(("part", "most"), [("train", 132), ("validation", 29), ("test", 161)])
def test_sizes_that_are_not_there_are_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch, part: str, most: int
) -> None:
    monkeypatch.setenv("KSAE_DATA", str(made.parents[1]))
    load_data.cache_clear()
    with pytest.raises(ValueError, match=f"{part}_size = {most + 1} is not available: .* from 1 to {most}"):
        load_data(DataConfig(name="toy_norb", share=151, **{**WHOLE, f"{part}_size": most + 1}))  # type: ignore[arg-type]


MATLAB_SIZES = {"train_size": 40, "validation_size": 10, "test_size": 40}


def matlab(path: Path, side: int, how: str = "columns", **changed: Any) -> dict[str, np.ndarray]:
    """A file of the MATLAB form; returns its images by camera and half (shape: [pairs, side, side])."""
    rng = np.random.default_rng(0)
    images, held = {}, {}
    for half, pairs in (("train", 60), ("test", 40)):
        held[f"{half}_cat_s"] = np.arange(pairs)[None] % 5 + (how == "rows")
        for camera in ("left", "right"):
            image = rng.integers(0, 256, (pairs, side, side)).astype(np.uint8)
            images[f"{half}_{camera}"] = image
            columns = image.transpose(2, 1, 0).reshape(side * side, pairs)
            held[f"{half}_{camera}_s"] = {"columns": columns, "rows": columns.T, "of 0 … 1": columns / 255}[how]
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {**held, **changed}, do_compression=True)
    return images


@pytest.mark.parametrize(("side", "how"), [(24, "columns"), (24, "rows"), (24, "of 0 … 1"), (16, "columns")])
def test_the_matlab_form_is_taken_and_read(tmp_path: Path, side: int, how: str) -> None:
    images = matlab(tmp_path / "source" / "norb_5class.mat", side, how)
    for source in (tmp_path / "source", tmp_path / "source" / "norb_5class.mat"):
        take(tmp_path / "NORB", source)
        data = load(tmp_path / "NORB", **MATLAB_SIZES)
        assert data.image_shape == (2, side, side) and data.train_x.shape == (40, 2 * side * side)
        assert data.preprocessing["files"] == "matlab form, as circulated, not verified"
        assert data.preprocessing["pixels"] == f"{side} × {side}, standardized by the training pairs"
        order = np.random.default_rng(0).permutation(60)
        train, test = (
            np.stack([images[f"{half}_left"], images[f"{half}_right"]], axis=1).astype(float)
            for half in ("train", "test")
        )
        chosen = train[order[:40]]
        wanted = (test - chosen.mean(axis=0)) / chosen.std(axis=0)
        assert np.allclose(data.test_x.reshape(40, 2, side, side), wanted, atol=1e-4)
        assert data.test_y.tolist() == [i % 5 for i in range(40)]
        assert data.train_y.tolist() == (order[:40] % 5).tolist()
        assert np.abs(data.train_x.mean(axis=0)).max() < 1e-5 and np.abs(data.train_x.std(axis=0) - 1).max() < 1e-4


def test_large_images_of_the_matlab_form_are_made_small_like_the_official_ones(tmp_path: Path) -> None:
    images = matlab(tmp_path / "smallnorb-matlab.mat", 96)
    data = load(tmp_path, **MATLAB_SIZES)
    assert data.image_shape == (2, 32, 32)
    first, second = (
        small_images(np.stack([images[f"{half}_left"], images[f"{half}_right"]], axis=1)) for half in ("train", "test")
    )
    train = first[np.random.default_rng(0).permutation(60)[:40]]
    assert np.allclose(data.test_x, (second - train.mean(axis=0)) / train.std(axis=0), atol=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_left_s": np.zeros((7, 60))}, "cannot reshape"),
        ({"test_cat_s": np.full((1, 40), 9)}, "other categories"),
        ({"test_right_s": np.zeros((24 * 24, 39))}, "cannot reshape"),
        (None, "'train_cat_s'"),
        (b"", "not NORB's MATLAB form"),
        (b"MATLAB 5.0 MAT-file" + bytes(200), "not NORB's MATLAB form"),
    ],
)
def test_what_is_not_the_matlab_form_is_not_taken(
    tmp_path: Path, changed: dict[str, np.ndarray] | bytes | None, message: str
) -> None:
    path = tmp_path / "source" / "a.mat"
    matlab(path, 24, **(changed if isinstance(changed, dict) else {}))
    if changed is None:
        savemat(path, {"other": np.zeros(3)})
    elif isinstance(changed, bytes):
        path.write_bytes(changed)
    with pytest.raises(DataError, match=rf"a\.mat is not NORB's MATLAB form .*{message}|{message}") as raised:
        take(tmp_path / "NORB", path.parent)
    assert "train_left_s" in str(raised.value) and not (tmp_path / "NORB").exists()


def test_the_stand_in_has_norb_s_design(made: Path, tmp_path: Path) -> None:
    again = toy_norb_folder(tmp_path, share=151)
    for path in made.glob("*.mat"):
        assert path.read_bytes() == (again / path.name).read_bytes(), "always the same bytes"
    for name, toys in TOYS.items():
        grid = list(itertools.product(toys, range(9), range(0, 36, 2), range(6), range(5)))
        assert len(grid) == 24_300
        info, category = (ten_line_reader(made / f"{name}-{kind}.mat") for kind in ("info", "cat"))
        assert [(*row, kind) for row, kind in zip(info.tolist(), category.tolist(), strict=True)] == [
            (*design[:4], design[4]) for design in grid[::151]
        ]
        assert set(info[:, 0]) == set(toys) and set(category) == set(range(5))
    images = ten_line_reader(made / f"{TRAINING}-dat.mat")
    assert images.shape == (161, 2, 96, 96)
    left, right = images[:, 0].astype(int), images[:, 1].astype(int)
    assert 2 < np.abs(left - right).mean() < 30, "two cameras see different pictures of one toy"


def test_changed_drawings_get_another_version(made: Path) -> None:
    """Trucks are left out: two of their faces lie in one plane, and rounding decides which of them is seen."""
    digest = hashlib.sha256()
    for name in TOYS:
        category = ten_line_reader(made / f"{name}-cat.mat")
        digest.update(ten_line_reader(made / f"{name}-dat.mat")[category != 3].tobytes())
    assert (VERSION, digest.hexdigest()[:16]) == (1, "876128f6b663a8b4")


def test_shapes_tell_more_than_pixels(made: Path) -> None:
    """Toys of one category differ as pixels do in NORB, yet the categories' silhouettes can be told apart."""
    images, y = ten_line_reader(made / f"{TRAINING}-dat.mat"), ten_line_reader(made / f"{TRAINING}-cat.mat")
    shape = np.abs(images[:, 0].astype(float) - 165) > 20
    across, along = shape.any(axis=1).sum(axis=1), shape.any(axis=2).sum(axis=1)
    of_kind = [np.median((across / along)[y == kind]) for kind in range(5)]
    assert min(of_kind[2:]) > 1 > of_kind[1], "people stand; airplanes, trucks and cars lie"


def test_the_stand_in_is_written_once_and_again_where_a_file_is_missing(tmp_path: Path) -> None:
    folder = toy_norb_folder(tmp_path, share=601)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mat")}
    assert len(times) == 6
    assert toy_norb_folder(tmp_path, share=601) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mat")} == times
    (folder / f"{TESTING}-info.mat").unlink()
    toy_norb_folder(tmp_path, share=601)
    assert {path.name for path in folder.glob("*.mat")} == set(times)
    assert toy_norb_folder(tmp_path, share=701) != folder


def test_the_stand_in_is_loaded_by_its_config(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSAE_DATA", str(tmp_path))
    load_data.cache_clear()
    data = load_data(DataConfig(name="toy_norb", share=151, **WHOLE))  # type: ignore[arg-type]
    assert np.array_equal(data.train_x, load(made).train_x)
