from pathlib import Path

import numpy as np
import pytest

from ksae_lib import estimator, load_pretrained


def test_a_pretrained_coder_codes_as_its_model_does() -> None:
    coder = load_pretrained("mnist-k25")
    x = np.random.default_rng(0).random((50, 784), np.float32)
    assert coder.n_features_in_ == 784
    assert (coder.k, coder.n_iter_, coder.model_.weight.dtype.itemsize) == (25, 60, 4)
    codes = coder.transform(x)
    assert ((codes != 0).sum(axis=1) == 25).all()
    pre = x @ coder.components_.T + coder.model_.bias.detach().numpy()
    kept = np.argsort(-pre, axis=1)[:, :25]
    np.testing.assert_allclose(np.take_along_axis(codes, kept, 1), np.take_along_axis(pre, kept, 1), rtol=1e-5)
    np.testing.assert_allclose(
        coder.inverse_transform(codes),
        codes @ coder.components_ + coder.model_.visible_bias.detach().numpy(),
        atol=1e-5,
    )


def test_an_unknown_name_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="no pretrained coder 'mnist-k26': choose one of mnist-k10, mnist-k25"):
        load_pretrained("mnist-k26")


def test_a_changed_byte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((estimator.PRETRAINED / "mnist-k25.safetensors").read_bytes())
    content[-1000] ^= 1
    (tmp_path / "mnist-k25.safetensors").write_bytes(content)
    monkeypatch.setattr(estimator, "PRETRAINED", tmp_path)
    with pytest.raises(ValueError, match="mnist-k25.safetensors is damaged"):
        load_pretrained("mnist-k25")
