"""Figures, drawn from stored runs and saved as PNG and SVG with stable bytes."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ksae_lib import metrics
from ksae_lib.io import atomic_path
from ksae_lib.model import KSparseAutoencoder
from replication.methods.kl_sparse import kl_penalty
from replication.plan import ReadoutRun, TrainRun
from replication.runs import StoredRun
from replication.study import Study

_ROWS, _COLUMNS = 4, 30
_LONG_LABEL = 8


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Save as ``<folder>/<name>.png`` and ``.svg``; the same figure gives the same bytes."""
    files = []
    with mpl.rc_context({"svg.hashsalt": "ksae"}):
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            path = folder / (name + suffix)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)
            files.append(path)
    return files


def filter_mosaic(
    filters: np.ndarray, shape: tuple[int, ...], rows: int = _ROWS, columns: int = _COLUMNS
) -> np.ndarray:
    """Filters side by side, each scaled symmetrically to its own largest value, −1 … 1; what is empty is NaN.

    Args:
        filters: shape [units, inputs]; the first rows·columns are shown, missing ones stay empty.
        shape: of a filter as an image, see ``Dataset.image_shape``; the views of a stereo pair go side by side.

    Returns:
        Shape [rows·(h+1) − 1, columns·(w+1) − 1], of colour filters with a last axis of 3.
    """
    shown = filters[: rows * columns]
    return _mosaic(_pictures(shown / np.maximum(np.abs(shown).max(axis=1, keepdims=True), 1e-12), shape), rows, columns)


def _mosaic(pictures: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Pictures side by side, a line of NaN between them and NaN where there are none."""
    height, width = pictures.shape[1:3]
    mosaic = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *pictures.shape[3:]), np.nan)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        mosaic[top : top + height, left : left + width] = picture
    return mosaic


def _pictures(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rows as images (shape: [rows, h, w] or [rows, h, w, 3])."""
    images = rows.reshape(len(rows), *shape)
    if len(shape) == 3 and shape[-1] != 3:
        return np.concatenate(list(images.swapaxes(0, 1)), axis=2)
    return images


def example_panel(x: np.ndarray, y: np.ndarray, shape: tuple[int, ...], columns: int = 12) -> Figure:
    """The first images of each class, a row a class, brightness as preprocessed.

    Args:
        x: images (shape: [examples, inputs]), one of each class at least.
        y: their classes, from 0 (shape: [examples]).
        shape: of an image, see ``Dataset.image_shape``.
        columns: images of each class.
    """
    of_class = [_pictures(x[y == label][:columns], shape) for label in range(int(y.max()) + 1)]
    mosaic = np.concatenate(
        [np.pad(_mosaic(some, 1, columns), ((0, 1), (0, 0)), constant_values=np.nan) for some in of_class]
    )
    height, width = mosaic.shape
    figure, axis = plt.subplots(figsize=(12, 12 * height / width), layout="constrained")
    low, high = np.nanpercentile(mosaic, (1, 99))
    axis.imshow(mosaic, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axis.set_axis_off()
    return figure


def filter_panels(
    models: dict[int, KSparseAutoencoder],
    x: np.ndarray,
    shape: tuple[int, ...],
    rows: int = _ROWS,
    columns: int = _COLUMNS,
) -> Figure:
    """Figures 1, 2 and 3: filters learnt at each k, some rows a panel.

    Shown are the first live units in order of index (those the k largest code of some training image keeps), so that
    panels are not filled with the noise of units that were never trained; how many are live stands in the title.

    Args:
        models: trained model for each k, in the order of the panels.
        x: training images (shape: [examples, inputs]).
        shape: of an image, see ``Dataset.image_shape``.
        rows, columns: filters shown of each.
    """
    mosaics = {}
    for k, model in models.items():
        live = metrics.live_units(model, x)
        title = f"k = {k}   ({int(live.sum())} of {model.units} units live)"
        mosaics[title] = filter_mosaic(model.weight.detach().numpy()[live], shape, rows, columns)
    height, width = next(iter(mosaics.values())).shape[:2]
    size = (12, (12 * height / width + 0.3) * len(mosaics))
    figure, axes = plt.subplots(len(models), 1, figsize=size, layout="constrained", squeeze=False)
    for axis, (title, mosaic) in zip(axes[:, 0], mosaics.items(), strict=True):
        if mosaic.ndim == 3:
            mosaic = np.nan_to_num((mosaic + 1) / 2, nan=1)
        axis.imshow(mosaic, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_axis_off()
    return figure


def gabor_histogram(explained: dict[str, list[float]]) -> Figure:
    """How much of the variance of each filter its best Gabor function explains.

    Args:
        explained: by the name of the filters, share of each.
    """
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    bins = np.linspace(0, 1, 41).tolist()
    for colour, (label, values) in zip(sns.color_palette("viridis", len(explained)), explained.items(), strict=True):
        axis.hist(values, bins, color=colour, alpha=0.6, label=label)
    axis.set(xlabel="variance explained by the best Gabor function", ylabel="filters", xlim=(0, 1))
    axis.legend()
    sns.despine(figure)
    return figure


def training_curves(histories: dict[int, pd.DataFrame], units: int) -> Figure:
    """Loss, k and live units against the epoch, one line for each k."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    colours = sns.color_palette("viridis", len(histories))
    for colour, (k, history) in zip(colours, histories.items(), strict=True):
        epochs = history["epoch"] + 1
        axes[0].semilogy(epochs, history["loss"], color=colour, label=f"k = {k}")
        axes[1].plot(epochs, history["k"], color=colour)
        axes[2].plot(epochs, history["live_units"], color=colour)
    for axis, label in zip(
        axes, ("E = ‖x − x̂‖² per image", "units kept, k(t)", "units kept at least once"), strict=True
    ):
        axis.set(xlabel="epoch", ylabel=label)
    axes[2].axhline(units, color="0.7", linestyle=":")
    axes[0].legend()
    sns.despine(figure)
    return figure


def activity_histograms(activities: dict[str, np.ndarray]) -> Figure:
    """Figure 4: how often a hidden unit has an activity of a given size, on a logarithmic axis, 0 to 6.

    Args:
        activities: hidden activities by model (shape: [examples, units]).
    """
    panels, size = len(activities), (3.4 * len(activities), 3)
    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axis, (label, h) in zip(axes[0], activities.items(), strict=True):
        counts, edges = np.histogram(h, bins=60, range=(0, 6))
        axis.stairs(counts / h.size, edges, fill=True, color=sns.color_palette("viridis", 3)[1])
        axis.set(title=label, xlabel="activity", yscale="log", xlim=(0, 6))
    axes[0, 0].set_ylabel("share of activities")
    sns.despine(figure)
    return figure


def penalty_and_filters(rho: float, filters: dict[str, np.ndarray], shape: tuple[int, ...]) -> Figure:
    """The KL penalty of the CS294A notes against the mean activation, and filters of models beside it.

    Args:
        rho: the wanted mean activation.
        filters: by model (shape: [units, h·w]); the first 4 rows of 12 are shown.
        shape: (h, w).
    """
    panels = 1 + len(filters)
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 2.4), layout="constrained")
    mean = np.linspace(0.001, 0.999, 999)
    axes[0].plot(mean, kl_penalty(torch.from_numpy(mean), rho).numpy())
    axes[0].set(title=f"KL(ρ‖ρ̂), ρ = {rho:g}", xlabel="mean activation ρ̂", xlim=(0, 1), ylim=(0, None))
    sns.despine(ax=axes[0])
    for axis, (label, weight) in zip(axes[1:], filters.items(), strict=True):
        axis.imshow(filter_mosaic(weight, shape, columns=12), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_title(label)
        axis.set_axis_off()
    return figure


def finetuning_curves(rows: list[tuple[str, list[StoredRun]]]) -> Figure:
    """Validation error against epochs of fine-tuning, the mean over seeds.

    Args:
        rows: label and runs, one a seed, of each row.
    """
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    for colour, (label, stored) in zip(sns.color_palette("tab10", len(rows)), rows, strict=True):
        mean = pd.DataFrame({i: run.history["validation_error"] for i, run in enumerate(stored)}).mean(axis=1)
        axis.semilogy(stored[0].history["epoch"] + 1, mean, color=colour, label=label)
    axis.set(xlabel="epoch", ylabel="validation error (%)")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    return figure


def alpha_curves(runs: list[tuple[str, list[StoredRun]]]) -> Figure:
    """Error and reconstruction against α, the best l2 at each α by validation error; thin lines are single seeds.

    Args:
        runs: label and readouts, one a seed, of each row.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    axes[1].sharey(axes[0])
    colours = sns.color_palette("tab10", len(runs))
    for colour, (label, stored) in zip(colours, runs, strict=True):
        best = [_best_by_alpha(run.history) for run in stored]
        for axis, column in zip(axes, ("validation_error", "test_error", "fvu"), strict=True):
            table = pd.DataFrame({i: b[column] for i, b in enumerate(best) if column in b})
            axis.plot(table.index, table.mean(axis=1), "o-", color=colour, label=label)
            axis.plot(table.index, table, color=colour, alpha=0.25, linewidth=0.8)
    axes[0].set(xlabel="α", ylabel="error (%)", title="validation (α is chosen here)")
    axes[1].set(xlabel="α", title="test")
    axes[2].set(xlabel="α", ylabel="FVU", title="reconstruction of validation images")
    axes[2].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    return figure


def _best_by_alpha(trials: pd.DataFrame) -> pd.DataFrame:
    return trials.loc[trials.groupby("alpha")["validation_error"].idxmin()].set_index("alpha")


def epoch_curve(curve: list[tuple[ReadoutRun, StoredRun]], paper_error: float) -> Figure:
    """Test error against length of training; every point is a run of its own with the schedule of its length."""
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    by_start: dict[str, list[tuple[int, float]]] = {}
    for run, stored in curve:
        if isinstance(run.encoder, TrainRun) and run.encoder.train.support_dtype == "float32":
            point = (run.encoder.train.epochs, stored.metrics["test_error"])
            by_start.setdefault(run.encoder.train.bias_init, []).append(point)
    for name, points in by_start.items():
        epochs, errors = zip(*sorted(points), strict=True)
        axis.semilogx(epochs, errors, "o-", label=f"biases: {name}")
    axis.axhline(paper_error, color="0.5", linestyle=":", label="the paper, 5000 epochs")
    axis.set(xlabel="epochs", ylabel="test error (%)", title="k = 25, one seed", ylim=(0, None))
    axis.legend()
    sns.despine(figure)
    return figure


def sweep_figure(table: pd.DataFrame) -> Figure:
    """Validation error against each setting, one changed at a time.

    Bars are 95% intervals of the difference from the base, which is red, paired over the seeds.

    Args:
        table: from ``sweep_table``; settings without their base value or another are left out.
    """
    table = _compared(table)
    names = list(dict.fromkeys(table["factor"]))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2 + 3 * columns, 3 * rows), layout="constrained", sharey=True, squeeze=False
    )
    for axis, name in itertools.zip_longest(axes.flat, names):
        if name is None:
            axis.axis("off")
            continue
        part = table[table["factor"] == name].reset_index(drop=True)
        axis.errorbar(part.index, part["val_error_mean"], part["effect_ci_half"], fmt="o", color="0.3", capsize=3)
        base = part[part["is_base"]]
        axis.plot(base.index, base["val_error_mean"], "o", color=sns.color_palette("tab10")[3], zorder=3)
        axis.axhline(float(base["val_error_mean"].iloc[0]), color="0.7", linestyle=":", zorder=0)
        axis.set(title=name, xticks=part.index, xticklabels=part["value"], xlim=(-0.5, len(part) - 0.5))
        if part["value"].str.len().max() > _LONG_LABEL:
            axis.tick_params("x", rotation=30)
            plt.setp(axis.get_xticklabels(), ha="right")
    for row in axes:
        row[0].set_ylabel("validation error (%)")
    sns.despine(figure)
    return figure


def _compared(table: pd.DataFrame) -> pd.DataFrame:
    """The settings that have their base value and another."""
    return table[table.groupby("factor")["is_base"].transform(lambda base: base.any() and not base.all())]


def write_figures(study: Study) -> list[Path]:
    """Write the figures that need no weights; the others are written by their notebooks."""
    from replication.report.tables import reported, sweep_table

    files = []
    table = sweep_table(study)
    for experiment, part in table.groupby("experiment") if len(table) else ():
        if len(_compared(part)):
            figure = sweep_figure(part)
            files += save_figure(figure, study.figures, f"error_against_{experiment}")
            plt.close(figure)
    if not (curve := study.curve()):
        return files
    paper = reported()
    best = float(paper.loc[(paper["table"] == 1) & (paper["variant"] == "k=25"), "error_percent"].iloc[0])
    figure = epoch_curve(curve, best)
    files += save_figure(figure, study.figures, "error_against_epochs")
    plt.close(figure)
    return files
