from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replication.data import DataError
from replication.data.norb import (
    TESTING,
    TOYS,
    TRAINING,
    are_official,
    load_norb,
    open_matrix,
    read_part,
    small_images,
    write_matrix,
)
from replication.data.toy_norb import _designs, toy_norb_folder, write_toy_norb
from replication.execute import load_data
from replication.plan import DataConfig


def ten_line_reader(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    magic, dimensions = struct.unpack("<ii", data[:8])
    sizes = struct.unpack(f"<{max(3, dimensions)}i", data[8 : 8 + 4 * max(3, dimensions)])
    kind = {0x1E3D4C55: "u1", 0x1E3D4C54: "<i4"}[magic]
    return np.frombuffer(data[8 + 4 * max(3, dimensions) :], kind).reshape(sizes[:dimensions])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("norb")
    write_toy_norb(folder, share=151)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(("shape", "dtype"), [((5, 2, 4, 3), np.uint8), ((7,), np.int32), ((7, 4), np.int32)])
def test_files_have_the_official_layout(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], dtype: type[np.uint8 | np.int32]
) -> None:
    wanted = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    path = tmp_path / f"m.mat{suffix}"
    write_matrix(path, shape, dtype, [wanted[:3], wanted[3:]])
    assert np.array_equal(ten_line_reader(path), wanted)
    with open_matrix(path) as matrix:
        assert np.array_equal(np.concatenate(list(matrix.blocks(len(wanted)))), wanted)
    raw = gzip.decompress(path.read_bytes()) if suffix else path.read_bytes()
    assert raw[:4] == (b"\x55\x4c\x3d\x1e" if dtype is np.uint8 else b"\x54\x4c\x3d\x1e")
    assert len(raw) - wanted.nbytes == (24 if len(shape) == 4 else 20)
    with pytest.raises(ValueError, match="Blocks hold"):
        write_matrix(path, shape, dtype, [wanted[:3]])
    assert np.array_equal(ten_line_reader(path), wanted), "the earlier file stays"


def test_blocks_are_the_whole(made: Path) -> None:
    path = made / f"{TRAINING}-dat.mat"
    with open_matrix(path) as matrix:
        assert np.array_equal(np.concatenate(list(matrix.blocks(7))), ten_line_reader(path))


@pytest.mark.parametrize(
    ("recipe", "kernel"), [("printed", Image.Resampling.BICUBIC), ("author", Image.Resampling.BILINEAR)]
)
def test_preprocessing_is_the_inner_part_resized_as_pillow_does(made: Path, recipe: str, kernel: int) -> None:
    pairs = ten_line_reader(made / f"{TRAINING}-dat.mat")[:5]
    wanted = [
        np.asarray(Image.fromarray(view[16:80, 16:80].astype(np.float32)).resize((32, 32), kernel))
        for pair in pairs
        for view in pair
    ]
    assert np.abs(small_images(pairs, recipe) - np.array(wanted).reshape(5, 2048)).max() < 1e-3  # type: ignore[arg-type]


def test_dimensions_are_standardized_by_the_training_pairs(made: Path) -> None:
    data = load_norb(made)
    pairs = len(data.train_x) + len(data.validation_x)
    assert len(data.train_x) == pairs * 20_000 // 24_300
    assert np.abs(data.train_x.mean(axis=0)).max() < 1e-4
    assert np.abs(data.train_x.std(axis=0) - 1).max() < 1e-3
    small = small_images(ten_line_reader(made / f"{TESTING}-dat.mat"))
    first = small_images(ten_line_reader(made / f"{TRAINING}-dat.mat"))
    train = first[np.random.default_rng(0).permutation(pairs)[: len(data.train_x)]]
    assert np.allclose(data.test_x, (small - train.mean(0)) / train.std(0), atol=1e-3)
    assert np.array_equal(data.test_y, ten_line_reader(made / f"{TESTING}-cat.mat"))


def test_a_toy_held_out_is_in_one_part_alone(made: Path) -> None:
    part, data = read_part(made, TRAINING), load_norb(made, split="instance", split_seed=1)
    assert len(data.validation_x) == (part.info[:, 0] == 6).sum()
    assert len(data.train_x) + len(data.validation_x) == len(part.x)
    order = np.random.default_rng(1).permutation(len(part.x))
    held_out, rest = (part.x[order[(part.info[order, 0] == 6) == is_six]] for is_six in (True, False))
    assert np.allclose(data.validation_x, (held_out - rest.mean(0)) / rest.std(0), atol=1e-3)


def test_compressed_files_give_the_same_data(folder: Path) -> None:
    before = load_norb(folder)
    for path in list(folder.glob("*.mat")):
        path.with_suffix(".mat.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    after = load_norb(folder)
    assert before.sha256 == after.sha256
    assert np.array_equal(before.train_x, after.train_x)


def test_the_author_s_recipe_divides_grey_levels(made: Path) -> None:
    data = load_norb(made, recipe="author", test_size=10)
    assert data.test_x.shape == (10, 2048)
    assert data.test_x.min() >= 0 and data.test_x.max() <= 1


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-100])
    elif how == "longer":
        path.write_bytes(data + b"0")
    elif how == "header only":
        path.write_bytes(data[:6])
    elif how == "magic":
        path.write_bytes(b"\x00" * 4 + data[4:])
    elif how == "swapped":
        path.write_bytes((path.parent / f"{TRAINING}-info.mat").read_bytes())
    elif how == "huge":
        path.write_bytes(data[:8] + struct.pack("<i", 2**31 - 1) + data[12:])
    elif how == "other half":
        path.write_bytes((path.parent / path.name.replace(TRAINING, TESTING)).read_bytes())
    elif how == "images":
        path.write_bytes((path.parent / f"{TRAINING}-dat.mat").read_bytes())
    elif how == "category":
        path.write_bytes(data[:-4] + struct.pack("<i", 7))
    elif how == "broken gz":
        path.unlink()
        path.with_suffix(".mat.gz").write_bytes(gzip.compress(data)[:-20])
    else:
        path.unlink()
        path.with_suffix(".mat.gz").write_bytes(data)


@pytest.mark.parametrize(
    ("kind", "how", "message"),
    [
        ("dat", "missing", "is missing: 'ksae data get norb'"),
        ("dat", "truncated", "is truncated"),
        ("dat", "longer", "longer than its header"),
        ("dat", "header only", "is truncated"),
        ("dat", "magic", "not a NORB matrix"),
        ("dat", "swapped", "not NORB's images"),
        ("cat", "swapped", "not one entry for each"),
        ("cat", "images", "not one entry for each"),
        ("info", "other half", "names other toys"),
        ("dat", "huge", "its sizes are"),
        ("cat", "huge", "its sizes are"),
        ("cat", "category", "categories beyond"),
        ("dat", "broken gz", "truncated or damaged"),
        ("dat", "not gz", "truncated or damaged"),
    ],
)
def test_a_bad_file_is_named(folder: Path, kind: str, how: str, message: str) -> None:
    damage(folder / f"{TRAINING}-{kind}.mat", how)
    with pytest.raises(DataError, match=message) as raised:
        load_norb(folder)
    assert f"{TRAINING}-{kind}.mat" in str(raised.value)


def test_norb_itself_is_verified_where_its_archives_are_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KSAE_DATA", str(tmp_path))
    (tmp_path / "NORB").mkdir()
    for path in list(folder.glob("*.mat")):
        path.rename(tmp_path / "NORB" / path.name)
    small = DataConfig(name="norb", train_size=100, validation_size=10, test_size=10)
    assert load_data(small).preprocessing["files"] == "unpacked, not verified"
    archive = tmp_path / "NORB" / f"{TESTING}-cat.mat.gz"
    archive.write_bytes(gzip.compress((tmp_path / "NORB" / f"{TESTING}-cat.mat").read_bytes()))
    with pytest.raises(DataError, match=r"testing-cat\.mat\.gz is not the official file"):
        are_official(tmp_path / "NORB")


@pytest.mark.parametrize("size", [0, 10**6])
def test_sizes_that_are_not_there_are_refused(made: Path, size: int) -> None:
    with pytest.raises(ValueError, match="train_size .* is not available"):
        load_norb(made, train_size=size)


def test_the_stand_in_has_norb_s_design(made: Path, tmp_path: Path) -> None:
    write_toy_norb(tmp_path, share=151)
    for path in made.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), "always the same bytes"
    info, test_info = read_part(made, TRAINING).info, read_part(made, TESTING).info
    assert set(info[:, 0]) == {4, 6, 7, 8, 9} and set(test_info[:, 0]) == {0, 1, 2, 3, 5}
    for toys in TOYS.values():
        designs = _designs(toys)
        assert designs.shape == (24_300, 5) == np.unique(designs, axis=0).shape
        for column, values in enumerate((range(5), toys, range(9), range(0, 36, 2), range(6))):
            assert set(designs[:, column]) == set(values)
    images = ten_line_reader(made / f"{TRAINING}-dat.mat")
    assert images.shape[1:] == (2, 96, 96)
    left, right = images[:, 0].astype(int), images[:, 1].astype(int)
    assert 2 < np.abs(left - right).mean() < 30, "two cameras see different pictures of one toy"


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
