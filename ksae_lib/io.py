"""Files that are whole or absent, and models in them: safetensors with a JSON header, nothing that runs code."""

import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ksae_lib.model import KSparseAutoencoder

Tensors = Mapping[str, Tensor]
_VERSION = 1
# How others name encoder and bias; they name W_dec and b_dec alike.
_TOPK = {"sae_lens": ("W_enc", "b_enc"), "sparsify": ("encoder.weight", "encoder.bias")}
_HOST = re.sub(r"\W", "_", socket.gethostname())
_TEMPORARY = re.compile(r"\..*\.(?P<host>\w*)-(?P<process>\d+)\.\w*\.tmp")


class KsaeError(RuntimeError):
    """Something a user can mend; its text is one sentence that says how."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends well and vanishes when not.

    The data is on the disk before the rename, so a killed process or a full disk leaves the old file as it was. What
    killed processes left in the folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=temporary_prefix(path), suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        sync_file(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_prefix(path: Path) -> str:
    """How the name of a temporary file or folder for ``path`` begins; with the end ``.tmp``, ``sweep`` knows it."""
    return f".{path.name[:100]}.{_HOST}-{os.getpid()}."


def sweep(folder: Path) -> None:
    """Remove temporary files and folders of dead processes: of this machine's, and of others' after a day."""
    for path in folder.glob(".*.tmp"):
        if not (match := _TEMPORARY.fullmatch(path.name)):
            continue
        try:
            old = time.time() - path.stat().st_mtime > 86_400
        except FileNotFoundError:
            continue
        if old or (match["host"] == _HOST and not _is_running(int(match["process"]))):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":
        # Elsewhere the question itself would end the process.
        return True
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


def sync_file(path: Path) -> None:
    """Return when the file's contents are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write tensors and metadata, JSON-ready but for NumPy's arrays and numbers, as safetensors with a SHA-256 of both.

    Raises:
        OSError: the file could not be written; the old one, if any, is as it was.
    """
    header = {name: json.dumps(value, default=lambda array: array.tolist()) for name, value in metadata.items()}
    content = save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, header | {"sha256": _digest(tensors, header)}
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged or of another kind.
    """
    path.open("rb").close()
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if header.pop("sha256", None) != _digest(tensors, header):
            raise ValueError("its SHA-256 is not that of its contents")
        return tensors, {name: json.loads(value) for name, value in header.items()}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged or of another kind ({error}).") from error


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_model(model: KSparseAutoencoder, path: Path, **metadata: Any) -> None:
    """Write a model: its parameters and threshold, its sizes, k, activation and selection rule.

    Args:
        model: to be written.
        path: by convention ends in ``.safetensors``.
        metadata: for ``read_model`` to give back.

    Raises:
        OSError: the file could not be written; the old one, if any, is as it was.
    """
    built = {name: getattr(model, name) for name in ("inputs", "units", "k", "activation", "selection")}
    save_tensors(model.state_dict(), path, {"version": _VERSION, "model": built, **metadata})


def load_model(path: Path) -> KSparseAutoencoder:
    """Read a model that ``save_model`` wrote.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, holds no such model, or is of a later version of this library.
    """
    return read_model(path)[0]


def read_model(path: Path) -> tuple[KSparseAutoencoder, dict[str, Any]]:
    """``load_model`` with the metadata that were saved."""
    tensors, metadata = load_tensors(path)
    if metadata.get("version", 0) > _VERSION:
        raise ValueError(f"{path} was written by a later version of ksae_lib: install that.")
    if "model" not in metadata:
        raise ValueError(f"{path} holds no model that save_model wrote.")
    model = KSparseAutoencoder(**metadata["model"]).to(tensors["weight"].dtype)
    model.load_state_dict(tensors)
    return model, metadata


@torch.no_grad()
def topk_state(model: KSparseAutoencoder, mean: Any = 0.0, scale: float = 1.0, layout: str = "sae_lens") -> Tensors:
    """Parameters of a TopK autoencoder that does what a model, of activation ``relu``, does on ``(x − mean) · scale``.

    It computes ``z = relu(topk(W_enc (x − b_dec) + b_enc))`` and ``x̂ = W_dec z + b_dec``. The ``layout`` is that of
    SAELens' TopKSAE, or ``sparsify``, that of EleutherAI's SparseCoder.

    Raises:
        ValueError: an unknown layout, or units that are not ReLUs.
    """
    if layout not in _TOPK or model.activation != "relu":
        raise ValueError(
            f"Train with activation='relu' and choose one of {', '.join(_TOPK)}: others have no such form."
        )
    weight, away = model.weight.double(), model.visible_bias.double()
    encoder, bias = _TOPK[layout]
    state = {
        encoder: scale * (weight if layout == "sparsify" else weight.T),
        bias: model.bias + weight @ away,
        "W_dec": weight / scale,
        "b_dec": away / scale + torch.as_tensor(mean),
    }
    return {name: tensor.float().contiguous() for name, tensor in state.items()}


@torch.no_grad()
def model_of_topk(state: Tensors, k: int) -> tuple[KSparseAutoencoder, np.ndarray, float]:
    """Model, mean and scale from the parameters that ``topk_state`` makes.

    Raises:
        ValueError: some are missing, or the encoder is not the decoder but for a factor, as ours is.
    """
    layout = "sae_lens" if "W_enc" in state else "sparsify"
    if missing := {*_TOPK[layout], "W_dec", "b_dec"} - set(state):
        raise ValueError(f"These are not a TopK autoencoder's parameters: {', '.join(sorted(missing))} missing.")
    (encoder, bias), decoder = (state[name] for name in _TOPK[layout]), state["W_dec"]
    scale = float((encoder.norm() / decoder.norm()).sqrt())
    weight = (encoder if layout == "sparsify" else encoder.T) / scale
    if not (weight - decoder * scale).norm() <= 1e-4 * weight.norm():
        raise ValueError("Encoder and decoder of this TopK autoencoder differ by more than a factor: ours are tied.")
    model = KSparseAutoencoder(weight.shape[1], weight.shape[0], k, "relu")
    model.weight.copy_(weight)
    model.bias.copy_(bias)
    return model, state["b_dec"].double().numpy(), scale
