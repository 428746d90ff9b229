from __future__ import annotations

import gzip
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replication.data import load_data, mnist
from replication.data.base import DataConfig, DataError, Dataset, data_root

SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
ARCHIVES = [
    f"{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
]


def load_mnist(root: Path | None = None, **config: int) -> Dataset:
    return mnist.load(DataConfig(**config), root or data_root())  # type: ignore[arg-type]


def unpacked(name: str) -> bytes:
    return gzip.decompress((data_root() / "MNIST" / "raw" / f"{name}-ubyte.gz").read_bytes())


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
        shutil.copyfile(data_root() / "MNIST" / "raw" / name, raw / name)
    yield tmp_path
    shutil.rmtree(tmp_path)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "altered":
        content[-100] ^= 0xFF
        path.write_bytes(content)
    elif how == "a folder":
        path.mkdir()


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
    raw = unpacked("train-images-idx3")[16:]
    published = {raw[i : i + 784] for i in range(0, len(raw), 784)}
    train, validation = set(images_of(full.train_x)), set(images_of(full.validation_x))
    assert (len(train), len(validation), len(published)) == (50_000, 10_000, 60_000)
    assert train.isdisjoint(validation) and train | validation == published


def test_encoders_can_be_trained_on_all_60_000_images_those_of_the_split_first(full: Dataset) -> None:
    whole = load_mnist(train_size=60_000)
    np.testing.assert_array_equal(whole.train_x, np.concatenate([full.train_x, full.validation_x]))
    np.testing.assert_array_equal(whole.validation_x, full.validation_x)


def test_images_keep_their_labels(full: Dataset) -> None:
    images, labels = unpacked("train-images-idx3")[16:], unpacked("train-labels-idx1")[8:]
    label_of = {images[i * 784 : (i + 1) * 784]: label for i, label in enumerate(labels)}
    assert [label_of[image] for image in images_of(full.validation_x)] == full.validation_y.tolist()
    assert [label_of[image] for image in images_of(full.train_x[:1000])] == full.train_y[:1000].tolist()
    assert b"".join(images_of(full.test_x)) == unpacked("t10k-images-idx3")[16:]
    assert bytes(full.test_y.tolist()) == unpacked("t10k-labels-idx1")[8:]


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
    [("train_size", 60_001, 60_000), ("validation_size", 60_000, 10_000), ("test_size", 10_001, 10_000)],
)
def test_sizes_that_are_not_available_are_refused(name: str, size: int, most: int) -> None:
    with pytest.raises(ValueError, match=f"{name} = {size} is not available: choose a number from 1 to {most}"):
        load_data(DataConfig(**{name: size}))  # type: ignore[arg-type]


def test_archives_alone_are_read_and_nothing_is_written(root: Path, full: Dataset) -> None:
    raw = root / "MNIST" / "raw"
    (raw / ARCHIVES[0].removesuffix(".gz")).write_bytes(b"unpacked by another program, and damaged")
    before = sorted(raw.iterdir())
    data = load_mnist(root, train_size=10)
    assert data.sha256 == SHA256
    np.testing.assert_array_equal(data.train_x, full.train_x[:10])
    assert sorted(raw.iterdir()) == before


def test_torchvision_is_not_imported_to_read_mnist() -> None:
    code = (
        "import sys; from replication.data import load_data; from replication.data.base import DataConfig; "
        "load_data(DataConfig()); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "altered", "a folder"])
@pytest.mark.parametrize("name", [ARCHIVES[0], ARCHIVES[3]])
def test_a_damaged_archive_is_named_with_the_remedy(root: Path, name: str, how: str) -> None:
    damage(root / "MNIST" / "raw" / name, how)
    with pytest.raises(DataError) as caught:
        load_mnist(root)
    assert str(root / "MNIST" / "raw" / name) in str(caught.value)
    assert "git checkout -- data/MNIST" in str(caught.value)
