"""Atoms of known dictionaries that are found again: ``KSparseCoder`` and others in the same time, at several sizes.

An example is a sum of random atoms of 512 inputs with coefficients |N(0, 1)|, noise of 5% of the spread, and a mean of
some spreads. A true atom is found if its unit has a |cosine| of at least 0.9; atoms and units are paired one to one.
``KSparseCoder`` knows the number of atoms and k, and has its defaults. The family's TopK + AuxK knows both as well,
scikit-learn's dictionary learning the number, and that no value is negative. They get the CPU time of its fit, and the
rate or penalty that was best of a few tried with another seed. Exemplars and random directions learn nothing.
"""

import time
import warnings
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.preprocessing import normalize

from benchmarks import common
from ksae_lib import KSparseCoder
from replication.family import TopK, paired
from replication.methods.base import few_threads
from replication.report.tables import mean_and_half

OPTIONS = {"examples": (40_000, "examples"), "epochs": (10, "of KSparseCoder"), "seeds": (5, "of each set")}
INPUTS, _BATCH, _NOISE = 512, 100, 0.05
SETS = {
    "256 atoms, 10 on": (256, 10, 0, 0.003, 0.3),
    "1024 atoms, 10 on": (1024, 10, 0, 0.002, 0.3),
    "the same, mean of 30 spreads": (1024, 10, 30, 0.002, 0.3),
    "1024 atoms, 50 on": (1024, 50, 0, 0.003, 1.0),
    "4096 atoms, 10 on": (4096, 10, 0, 0.002, 0.3),
}
"""Atoms, how many are on in an example, the length of the mean in spreads, Adam's rate, scikit-learn's alpha."""


def measure(options: Any) -> dict[str, Any]:
    """A row for each of ``sets``: atoms found (%), the CPU seconds of a fit, shares ``by_seed``, mean |cosine|."""
    rows = {}
    for name, task in SETS.items():
        todo = (delayed(_one)(task, options.examples, options.epochs, seed) for seed in range(options.seeds))
        seconds, cosines = zip(*Parallel(n_jobs=-1)(todo), strict=True)
        by_seed = {method: [np.mean(found[method] >= 0.9) for found in cosines] for method in cosines[0]}
        cosine = {method: np.mean([found[method] for found in cosines]) for method in by_seed}
        found = {method: mean_and_half(100 * np.array(shares)) for method, shares in by_seed.items()}
        rows[name] = found | {"seconds": common.rounded(np.median(seconds)), "by_seed": by_seed, "cosine": cosine}
    settings = {"inputs": INPUTS} | {name: getattr(options, name) for name in OPTIONS}
    return {"sets": rows, "task": settings, "hardware": common.hardware() | {"threads": 1}}


def _one(task: tuple[Any, ...], examples: int, epochs: int, seed: int) -> tuple[float, dict[str, np.ndarray]]:
    """CPU seconds of a fit, and |cosine| of true atoms and units by method (shape of each: [atoms])."""
    atoms, on, spreads, rate, alpha = task
    rng = np.random.default_rng(seed)
    truth = normalize(rng.normal(size=(atoms, INPUTS)))
    x = np.stack([np.abs(rng.normal(size=on)) @ truth[rng.choice(atoms, on, replace=False)] for _ in range(examples)])
    x = (x + x.std() * (_NOISE * rng.normal(size=x.shape) + spreads * rng.choice([-1, 1], INPUTS))).astype(np.float32)
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    with few_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of coordinate descent that has not converged; what it finds is kept.
        coder = KSparseCoder(atoms, k=on, epochs=epochs, random_state=seed, engine="cpu")
        coder.fit(x[:_BATCH])  # A process's first fit compiles or loads.
        started = time.process_time()
        found = {"k-sparse": coder.fit(x).components_}
        seconds = time.process_time() - started
        found |= {
            "TopK + AuxK": _topk(TopK(x, atoms, on, rate=rate, seed=seed), seconds),
            "scikit-learn": _learn(centred, atoms, alpha, seconds, seed),
            "exemplars": rng.permutation(centred)[:atoms],
            "random": rng.normal(size=(atoms, INPUTS)),
        }
        return seconds, {method: paired(truth, one)[1] for method, one in found.items()}


def _topk(net: TopK, seconds: float) -> np.ndarray:
    started, examples = time.process_time(), len(net.x)
    while time.process_time() - started < seconds:
        net.step(net.x[torch.randint(examples, (_BATCH,), generator=net.generator)])
    return net.atoms


def _learn(x: np.ndarray, atoms: int, alpha: float, seconds: float, seed: int) -> np.ndarray:
    started, order = time.process_time(), np.random.default_rng(seed)
    how = {"fit_algorithm": "cd", "alpha": alpha, "positive_code": True, "dict_init": normalize(x[:atoms])}
    learner = MiniBatchDictionaryLearning(atoms, random_state=seed, **how)
    while time.process_time() - started < seconds:
        learner.partial_fit(x[order.integers(len(x), size=_BATCH)])
    return learner.components_
