from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from replication.data import load_data
from replication.data.base import DataConfig, DataError, Dataset
from replication.data.patches import normalize_contrast, random_patches, zca
from replication.judge.gabor import fit_gabor, gabor, gabor_report, main_image


def patches(source: str | Path, train: int = 10, validation: int = 9, test: int = 8, seed: int = 0) -> Dataset:
    sizes = {"train_size": train, "validation_size": validation, "test_size": test}
    load_data.cache_clear()
    return load_data(DataConfig(name="patches", source=str(source), split_seed=seed, **sizes))


def natural(count: int = 6, size: int = 40) -> np.ndarray:
    """Images with the 1/f spectrum of natural ones."""
    rng = np.random.default_rng(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    f[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(count, 3, size, size))) / f).real
    return np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def test_patches_are_parts_of_the_images() -> None:
    images = natural()
    patches = random_patches(images, 20, np.random.default_rng(0)).reshape(20, 8, 8, 3)
    windows = [np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3)).reshape(-1, 8, 8, 3) for image in images]
    for patch in patches:
        assert any((window == patch).all(axis=(1, 2, 3)).any() for window in windows)
    with pytest.raises(DataError, match="smaller than a patch"):
        random_patches(images[:, :7], 1, np.random.default_rng(0))


def test_contrast_and_whitening_are_those_of_the_published_code() -> None:
    x = random_patches(natural(), 5000, np.random.default_rng(0))
    one = x[0].astype(float)
    normal = normalize_contrast(x)
    assert normal[0] == pytest.approx((one - one.mean()) / np.sqrt(one.var(ddof=1) + 10), rel=1e-4, abs=1e-5)
    mean, matrix = zca(normal)
    values, vectors = np.linalg.eigh(np.cov(normal.astype(float).T))
    assert np.allclose(matrix, vectors @ np.diag((values + 0.1) ** -0.5) @ vectors.T, atol=1e-3)
    white = np.cov(((normal - mean) @ matrix).T)
    assert np.linalg.eigvalsh(white).max() < 1.01
    large = values > 1
    assert large.any() and np.allclose(
        np.diag(vectors.T @ white @ vectors)[large], (values / (values + 0.1))[large], atol=1e-2
    )


def test_a_file_gives_patches(tmp_path: Path) -> None:
    images = natural()
    np.savez(tmp_path / "a.npz", images=images)
    data = patches(tmp_path / "a.npz", 300, 40, 20)
    assert (data.train_x.shape, data.validation_x.shape, data.image_shape) == ((300, 192), (40, 192), (8, 8, 3))
    assert data.sha256 == hashlib.sha256(images.tobytes()).hexdigest()
    assert not np.array_equal(data.train_x, patches(tmp_path / "a.npz", 300, 40, 20, seed=1).train_x)
    assert patches("samples").test_x.shape == (8, 192)
    assert data.preprocessing == {
        "source": "a.npz", "contrast": 10.0, "zca_epsilon": 0.1, "side": 8, "split_seed": 0
    }  # fmt: skip


def test_grey_images_give_grey_patches_and_filters(tmp_path: Path) -> None:
    images = natural()[..., 0]
    np.savez(tmp_path / "a.npz", images=images)
    data = patches(tmp_path / "a.npz", 300, 40, 20)
    assert (data.train_x.shape, data.image_shape) == ((300, 64), (8, 8))
    found = random_patches(images, 20, np.random.default_rng(0)).reshape(20, 8, 8)
    windows = np.lib.stride_tricks.sliding_window_view(images, (8, 8), axis=(1, 2)).reshape(-1, 8, 8)
    assert all((windows == patch).all(axis=(1, 2)).any() for patch in found)
    waves = np.array([0.6, -0.8]) @ gabor(np.array([3.2, 4.1, 1.2, 0.2, 1.6, 2.0]), 8)
    report = gabor_report(np.tile(waves, (5, 1)), data.image_shape)
    assert report["share"] == 1 and min(report["explained"]) > 0.99


@pytest.mark.parametrize("colours", [3, 1])
def test_new_patches_are_whitened_as_those_of_the_data(tmp_path: Path, colours: int) -> None:
    images = natural()[..., :colours].squeeze()
    np.savez(tmp_path / "a.npz", images=images)
    data = patches(tmp_path / "a.npz", 300, 40, 20)
    mean, matrix = data.whitening
    again = random_patches(images, 360, np.random.default_rng(0))
    white = (normalize_contrast(again) - mean) @ matrix
    assert np.allclose(white, np.concatenate([data.train_x, data.validation_x, data.test_x]), atol=1e-5)
    assert white[:300].mean(axis=0) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros(3)}, "cannot be read"),
        ({"images": np.zeros((2, 9, 9, 3))}, "float64 .2, 9, 9, 3., not uint8"),
        ({"images": np.zeros((2, 9, 9, 4), np.uint8)}, "its images are uint8 .2, 9, 9, 4."),
        ({"images": np.zeros((9, 9), np.uint8)}, "its images are uint8 .9, 9."),
        ({"images": np.zeros((0, 9, 9, 3), np.uint8)}, "its images are uint8 .0, 9, 9, 3."),
        (None, "No such file.*name an .npz file"),
        ("folder", "Is a directory.*name an .npz file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, arrays: dict[str, np.ndarray] | str | None, message: str) -> None:
    if arrays == "folder":
        (tmp_path / "a.npz").mkdir()
    elif isinstance(arrays, dict):
        np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        patches(tmp_path / "a.npz")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.array(natural()))
    whole = path.read_bytes()
    np.save(tmp_path / "b.npy", np.zeros(3))
    for content in (whole[: len(whole) // 2], whole[:-30], b"", (tmp_path / "b.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz is missing in .* or cannot be read"):
            patches(path)


def test_missing_cifar10_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSAE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="cifar10 is missing .* how to get CIFAR-10"):
        patches("cifar10")


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.5])
def test_a_gabor_function_is_found_again(angle: float) -> None:
    wave = np.array([0.6, -0.8]) @ gabor(np.array([3.2, 4.1, angle, 0.2, 1.6, 2.0]), 8)
    explained, (_, _, found, frequency, _, _) = fit_gabor(wave.reshape(8, 8))
    assert explained > 0.999
    assert (frequency, found % np.pi) == pytest.approx((0.2, angle), abs=0.01)


def test_noise_is_explained_worse_than_an_edge() -> None:
    rng = np.random.default_rng(0)
    noise = [fit_gabor(rng.normal(size=(8, 8)))[0] for _ in range(10)]
    y, x = np.mgrid[:8, :8]
    edge = np.tanh(x + 0.5 * y - 5) * np.exp(-((x - 3.5) ** 2 + (y - 3.5) ** 2) / 8)
    assert max(noise) < 0.75 < 0.95 < fit_gabor(edge)[0]
    with pytest.raises(ValueError, match="constant filter"):
        fit_gabor(np.ones((8, 8)))


def test_the_main_image_keeps_a_filter_of_one_colour() -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.normal(size=(8, 8)), np.array([0.6, 0.0, -0.8])
    (found,) = main_image((grey[..., None] * colour).reshape(1, -1), (8, 8, 3))
    assert np.allclose(np.abs(found), np.abs(grey))
