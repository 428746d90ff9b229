from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replication.data import DataError, Dataset, load_mnist
from replication.data.mnist import SHA256, default_root

ARCHIVES = [
    f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
]
UNPACKED = [name.removesuffix(".gz") for name in ARCHIVES]


@pytest.fixture(scope="module")
def full() -> Dataset:
    return load_mnist()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    attempts: list[Any] = []

    def refuse(*address: Any) -> None:
        attempts.append(address)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not attempts


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ARCHIVES:
        shutil.copyfile(default_root() / "MNIST" / "raw" / name, raw / name)
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def unpacked_root(root: Path, full: Dataset) -> Path:
    for name in UNPACKED:
        shutil.copyfile(default_root() / "MNIST" / "raw" / name, root / "MNIST" / "raw" / name)
    return root


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[{"type altered": 2, "header altered": 3, "altered": -100}[how]] ^= 0xFF
        path.write_bytes(content)


def images_of(x: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in np.rint(x * 255).astype(np.uint8)]


def test_sizes_types_and_the_range_of_pixels(full: Dataset) -> None:
    for x, y, n in (
        (full.train_x, full.train_y, 50_000),
        (full.validation_x, full.validation_y, 10_000),
        (full.test_x, full.test_y, 10_000),
    ):
        assert x.shape == (n, 784) and x.dtype == np.float32
        assert x.min() == 0 and x.max() == 1
        assert y.shape == (n,) and y.dtype == np.int64
        assert set(y.tolist()) == set(range(10))
    assert full.image_shape == (28, 28)
    assert full.preprocessing == {"pixels": "uint8 / 255", "split_seed": 0}
    assert full.sha256 == SHA256


def test_the_split_separates_all_60_000_training_images(full: Dataset) -> None:
    raw = (default_root() / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    published = {raw[i : i + 784] for i in range(0, len(raw), 784)}
    train, validation = set(images_of(full.train_x)), set(images_of(full.validation_x))
    assert (len(train), len(validation), len(published)) == (50_000, 10_000, 60_000)
    assert train.isdisjoint(validation) and train | validation == published


def test_images_keep_their_labels(full: Dataset) -> None:
    raw = default_root() / "MNIST" / "raw"
    images = (raw / "train-images-idx3-ubyte").read_bytes()[16:]
    labels = (raw / "train-labels-idx1-ubyte").read_bytes()[8:]
    label_of = {images[i * 784 : (i + 1) * 784]: label for i, label in enumerate(labels)}
    assert [label_of[image] for image in images_of(full.validation_x)] == full.validation_y.tolist()
    assert [label_of[image] for image in images_of(full.train_x[:1000])] == full.train_y[:1000].tolist()
    test_images = (raw / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert b"".join(images_of(full.test_x)) == test_images
    assert bytes(full.test_y.tolist()) == (raw / "t10k-labels-idx1-ubyte").read_bytes()[8:]


def test_the_split_depends_on_its_seed_alone(full: Dataset) -> None:
    sizes = {"train_size": 300, "validation_size": 200, "test_size": 100}
    same, other = load_mnist(split_seed=0, **sizes), load_mnist(split_seed=1, **sizes)
    for part, n in (("train", 300), ("validation", 200), ("test", 100)):
        for axis in ("x", "y"):
            name = f"{part}_{axis}"
            np.testing.assert_array_equal(getattr(same, name), getattr(full, name)[:n])
            assert np.array_equal(getattr(other, name), getattr(full, name)[:n]) == (part == "test")
    assert other.preprocessing["split_seed"] == 1
    assert other.sha256 == SHA256


@pytest.mark.parametrize(
    ("name", "size", "most"),
    [("train_size", 50_001, 50_000), ("validation_size", 0, 10_000), ("test_size", -1, 10_000)],
)
def test_sizes_that_are_not_available_are_refused(name: str, size: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"{name} = {size} is not available: choose a number from 1 to {most}"):
        load_mnist(**{name: size})  # type: ignore[arg-type]


def test_archives_alone_are_unpacked(root: Path, full: Dataset) -> None:
    data = load_mnist(root, train_size=10)
    assert data.sha256 == SHA256
    np.testing.assert_array_equal(data.train_x, full.train_x[:10])


def test_loaders_at_work_at_once_do_not_read_what_another_is_unpacking(root: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda size: load_mnist(root, train_size=size).sha256, range(1, 5)))
    assert loaded == [SHA256] * 4


def test_the_environment_names_the_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSAE_DATA", str(root / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        load_mnist()


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "altered"])
@pytest.mark.parametrize("name", [ARCHIVES[0], ARCHIVES[3]])
def test_a_damaged_archive_is_named_with_the_remedy(root: Path, name: str, how: str) -> None:
    damage(root / "MNIST" / "raw" / name, how)
    with pytest.raises(DataError) as caught:
        load_mnist(root)
    assert str(root / "MNIST" / "raw" / name) in str(caught.value)
    assert "git checkout -- data/MNIST" in str(caught.value)


@pytest.mark.parametrize("how", ["empty", "truncated", "altered", "header altered", "type altered"])
@pytest.mark.parametrize("name", [UNPACKED[2], UNPACKED[1]])
def test_a_damaged_unpacked_file_is_noticed_and_its_folder_named(unpacked_root: Path, name: str, how: str) -> None:
    damage(unpacked_root / "MNIST" / "raw" / name, how)
    with pytest.raises(DataError, match="delete the files there that do not end in .gz") as caught:
        load_mnist(unpacked_root)
    assert str(unpacked_root / "MNIST" / "raw") in str(caught.value)


def test_a_missing_unpacked_file_is_unpacked_again(unpacked_root: Path) -> None:
    damage(unpacked_root / "MNIST" / "raw" / UNPACKED[2], "missing")
    assert load_mnist(unpacked_root, train_size=10).sha256 == SHA256
