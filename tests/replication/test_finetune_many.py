from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ksae_lib.training import DivergenceError
from replication.judge.finetune import DiscriminativeNet, FinetuneConfig, Layer, Unit, finetune
from replication.judge.finetune_many import finetune_many
from tests.replication.test_finetune import CLASSES, examples

CONFIG = FinetuneConfig(
    epochs=6, batch_size=17, learning_rate=0.2, learning_rate_end=0.05, momentum=0.5, engine="reference"
)
CONFIGS = tuple(replace(CONFIG, seed=seed) for seed in range(3))


def net(seed: int, unit: Unit, kept: tuple[int, ...] | None, dropout: float = 0.0) -> DiscriminativeNet:
    noise = torch.Generator().manual_seed(seed)
    sizes = (20, 30, 25)
    layers = [
        Layer(torch.randn(after, before, generator=noise) / 3, torch.randn(after, generator=noise) / 9, unit,
              None if kept is None else kept[number], dropout, dropout)
        for number, (before, after) in enumerate(pairwise(sizes))
    ]  # fmt: skip
    return DiscriminativeNet(layers, CLASSES)


@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize(("unit", "kept"), [("linear", (7, 9)), ("relu", None), ("sigmoid", None)])
def test_nets_at_once_are_the_nets_one_by_one(unit: Unit, kept: tuple[int, ...] | None, layerwise: bool) -> None:
    (x, y), held = examples(), examples(30, seed=1)
    configs = [replace(config, layerwise=layerwise) for config in CONFIGS]

    def nets() -> list[DiscriminativeNet]:
        return [net(seed, unit, kept and (kept[0] + seed, kept[1])) for seed in range(3)]

    together, alone = nets(), nets()
    for outcome, one, other, config in zip(
        finetune_many(together, x, y, configs, held, "cpu"), together, alone, configs, strict=True
    ):
        wanted = finetune(other, x, y, config, held)
        assert not isinstance(outcome, DivergenceError)
        assert set(outcome.columns) == set(wanted.columns)
        for column in ("epoch", "fixed_layers", "learning_rate", "momentum", "validation_error"):
            assert outcome[column].tolist() == pytest.approx(wanted[column].tolist()), column
        assert outcome["loss"].to_numpy() == pytest.approx(wanted["loss"].to_numpy(), rel=1e-4)
        for (name, value), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(value, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_dropout_of_a_single_net_is_that_of_finetune() -> None:
    (x, y), held = examples(), examples(30, seed=1)
    ours, theirs = net(0, "relu", None, 0.3), net(0, "relu", None, 0.3)
    finetune_many([ours], x, y, CONFIGS[:1], held, "cpu")
    finetune(theirs, x, y, CONFIG, held)
    for value, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-4)


def test_a_net_that_diverges_leaves_the_others_alone() -> None:
    (x, y), held = examples(), examples(30, seed=1)
    wild = net(1, "linear", (7, 9))
    wild.layers[0].weight.data.mul_(1e30)
    calm, alone = net(0, "linear", (7, 9)), net(0, "linear", (7, 9))
    history, error = finetune_many([calm, wild], x, y, CONFIGS[:2], held, "cpu")
    assert isinstance(error, DivergenceError)
    assert not isinstance(history, DivergenceError)
    assert history["loss"].to_numpy() == pytest.approx(finetune(alone, x, y, CONFIG, held)["loss"].to_numpy(), rel=1e-4)


def test_what_cannot_be_fine_tuned_at_once_is_refused() -> None:
    (x, y), held = examples(), examples(30, seed=1)
    with pytest.raises(ValueError, match="of 2 kinds"):
        finetune_many([net(0, "relu", None), net(0, "linear", None)], x, y, CONFIGS[:2], held, "cpu")
    nets = [net(0, "relu", None), net(1, "relu", None)]
    with pytest.raises(ValueError, match="must have the same epochs"):
        finetune_many(nets, x, y, (CONFIG, replace(CONFIG, epochs=7)), held, "cpu")
    with pytest.raises(ValueError, match="NaN"):
        finetune_many(nets, np.full_like(x, np.nan), y, CONFIGS[:2], held, "cpu")
