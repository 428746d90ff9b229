"""Atoms of a known dictionary that are found again wherever the mean is: ``KSparseCoder`` and two peers, on one core.

An example is 10 of 1024 random atoms of 512 inputs with coefficients |N(0, 1)|, noise, and a mean of some spreads.
Recovery is the mean over the true atoms of the best |cosine|. ``KSparseCoder`` knows units and k. The peers get the CPU
time of its fit and the same: a TopK autoencoder with AuxK, Adam and the data's mean as its first b_dec, as by Gao et
al. (2024), and scikit-learn's dictionary learning.
"""

import time
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning
from torch.nn.functional import mse_loss, normalize

from benchmarks import common
from ksae_lib import KSparseCoder
from replication.methods.base import few_threads

OPTIONS = {"examples": (50_000, "examples"), "epochs": (40, "of KSparseCoder")}
INPUTS, ATOMS, ACTIVE, SPREADS = 512, 1024, 10, (0, 1, 3, 30)
_BATCH, _NOISE, _RATE, _AUX, _DEAD_AFTER = 100, 0.01, 1e-3, 1 / 32, 500


def measure(options: Any) -> dict[str, Any]:
    """Recovery ``by_spreads`` of the mean, KSparseCoder's score, share of live units and CPU seconds."""
    rng = np.random.default_rng(0)
    atoms = normalize(torch.from_numpy(rng.normal(size=(ATOMS, INPUTS)))).numpy()
    kept = rng.random((options.examples, ATOMS)).argpartition(ACTIVE, axis=1)[:, :ACTIVE]
    codes = np.zeros((options.examples, ATOMS))
    np.put_along_axis(codes, kept, np.abs(rng.normal(size=kept.shape)), axis=1)
    centred = codes @ atoms + _NOISE * rng.normal(size=(options.examples, INPUTS))
    where, rows = rng.choice([-1, 1], INPUTS), {}
    for spreads in SPREADS:
        x = (centred + spreads * centred.std() * where).astype(np.float32)
        with few_threads(1), warnings.catch_warnings():
            # Coordinate descent says so where it has not converged; what it finds is kept.
            warnings.simplefilter("ignore")
            started = time.process_time()
            ours = KSparseCoder(ATOMS, k=ACTIVE, epochs=options.epochs, random_state=0).fit(x)
            seconds = time.process_time() - started
            found = {"ours": ours.components_, "topk_auxk_adam": _topk(x, seconds), "scikit_learn": _learn(x, seconds)}
            row = {"score": ours.score(x), "live": ours.report(x)["live"].mean(), "cpu_s": seconds}
        best = {name: _cosines(atoms, one).max(axis=1).mean() for name, one in found.items()}
        rows[str(spreads)] = {name: common.rounded(value) for name, value in (best | row).items()}
    task = {"examples": options.examples, "inputs": INPUTS, "atoms": ATOMS, "active": ACTIVE, "epochs": options.epochs}
    return {"by_spreads": rows, "task": task, "hardware": common.hardware() | {"threads": 1}}


def _cosines(atoms: np.ndarray, found: np.ndarray) -> np.ndarray:
    return np.abs(atoms @ normalize(torch.from_numpy(found).double()).numpy().T)


def _topk(x: np.ndarray, seconds: float) -> np.ndarray:
    data, idle, order = torch.from_numpy(x), torch.zeros(ATOMS), np.random.default_rng(0)
    weight = normalize(torch.randn(ATOMS, INPUTS, generator=torch.Generator().manual_seed(0)))
    encoder, decoder, bias = weight.clone(), weight.clone(), torch.zeros(ATOMS)
    mean = torch.from_numpy(x.mean(axis=0, dtype=np.float64)).float()
    optimizer = torch.optim.Adam([p.requires_grad_() for p in (encoder, decoder, bias, mean)], _RATE)
    started = time.process_time()
    while time.process_time() - started < seconds:
        batch = data[order.integers(len(x), size=_BATCH)]
        z = (batch - mean) @ encoder.T + bias
        top = z.topk(ACTIVE)
        code = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
        rest = batch - code @ decoder - mean
        loss = rest.square().mean()
        idle = (idle + 1) * (code == 0).all(dim=0)
        if dead := int((idle > _DEAD_AFTER).sum()):
            top = z.masked_fill(idle <= _DEAD_AFTER, -torch.inf).topk(min(dead, INPUTS // 2))
            aux = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
            loss = loss + _AUX * mse_loss(aux @ decoder, rest.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decoder.data = normalize(decoder.data)
    return decoder.detach().numpy()


def _learn(x: np.ndarray, seconds: float) -> np.ndarray:
    learner = MiniBatchDictionaryLearning(ATOMS, batch_size=_BATCH, fit_algorithm="cd", random_state=0)
    started, order = time.process_time(), np.random.default_rng(0)
    learner.partial_fit(x[:ATOMS])
    while time.process_time() - started < seconds:
        learner.partial_fit(x[order.integers(len(x), size=_BATCH)])
    return learner.components_
