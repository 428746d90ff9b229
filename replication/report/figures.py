"""Figures, drawn from stored runs and saved as PNG and SVG with stable bytes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ksae_lib import metrics
from ksae_lib.io import atomic_path
from ksae_lib.model import KSparseAutoencoder
from replication.methods.autoencoders import kl_penalty
from replication.report.tables import net_title, paper_figure, sweep_table
from replication.runs import EncoderRun, StoredRun
from replication.study import Study

_PAPER_KS = (10, 25, 40)


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Save as ``<folder>/<name>.png`` and ``.svg``; the same figure gives the same bytes."""
    files = {".png": {"Software": None}, ".svg": {"Date": None}}
    with mpl.rc_context({"svg.hashsalt": "ksae"}):
        for suffix, metadata in files.items():
            with atomic_path(folder / (name + suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)
    return [folder / (name + suffix) for suffix in files]


def filter_mosaic(filters: np.ndarray, shape: tuple[int, ...], rows: int = 4, columns: int = 30) -> np.ndarray:
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
    height, width = pictures.shape[1:3]
    mosaic = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *pictures.shape[3:]), np.nan)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        mosaic[top : top + height, left : left + width] = picture
    return mosaic


def _pictures(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    images = rows.reshape(len(rows), *shape)
    return np.concatenate(list(images.swapaxes(0, 1)), axis=2) if len(shape) == 3 and shape[-1] != 3 else images


def _show(axis: Axes, image: np.ndarray, low: float = -1, high: float = 1, colours: str = "gray") -> None:
    axis.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
    axis.set_axis_off()


def example_panel(x: np.ndarray, y: np.ndarray, shape: tuple[int, ...], columns: int = 12) -> Figure:
    """The first images of each class, a row a class, brightness as preprocessed.

    Args:
        x: images (shape: [examples, inputs]), as many of each class as there are columns.
        y: their classes, from 0 (shape: [examples]).
        shape: of an image, see ``Dataset.image_shape``.
        columns: images of each class.
    """
    classes = range(int(y.max()) + 1)
    chosen = np.concatenate([np.flatnonzero(y == label)[:columns] for label in classes])
    mosaic = _mosaic(_pictures(x[chosen], shape), len(classes), columns)
    height, width = mosaic.shape
    figure, axis = plt.subplots(figsize=(12, 12 * height / width), layout="constrained")
    _show(axis, mosaic, *np.nanpercentile(mosaic, (1, 99)))
    return figure


def filter_panels(
    nets: Sequence[tuple[EncoderRun, KSparseAutoencoder]],
    x: np.ndarray,
    shape: tuple[int, ...],
    rows: int = 4,
    columns: int = 30,
) -> Figure:
    """Figures 1, 2 and 3: filters of several autoencoders, some rows a panel.

    Shown are the first live units in order of index (those the k largest code of some training image keeps), so that
    panels are not filled with the noise of units that were never trained; the title says how the net was trained.

    Args:
        nets: run and trained model of each panel, in their order.
        x: training images (shape: [examples, inputs]).
        shape: of an image, see ``Dataset.image_shape``.
        rows, columns: filters shown of each.
    """
    mosaics = {}
    for run, model in nets:
        live = metrics.live_units(model, x)
        weight = model.weight.detach().numpy()[live]
        mosaics[net_title(run, int(live.sum()))] = filter_mosaic(weight, shape, rows, columns)
    height, width = next(iter(mosaics.values())).shape[:2]
    size = (12, (12 * height / width + 0.3) * len(mosaics))
    figure, axes = plt.subplots(len(mosaics), 1, figsize=size, layout="constrained", squeeze=False)
    for axis, (title, mosaic) in zip(axes[:, 0], mosaics.items(), strict=True):
        if mosaic.ndim == 3:
            mosaic = np.nan_to_num((mosaic + 1) / 2, nan=1)
        _show(axis, mosaic)
        axis.set_title(title, fontsize=9, loc="left")
    return figure


def one_digit(model: KSparseAutoencoder, x: np.ndarray, shape: tuple[int, ...], columns: int = 5) -> Figure:
    """How one image is coded (section 2.1): b' and the terms z_j w_j of the kept units, which add up to x̂; x beside it.

    Terms are images on one scale, blue below 0 and red above, the largest first.

    Args:
        model: a trained autoencoder.
        x: one image (shape: [inputs]).
        shape: of the image, see ``Dataset.image_shape``.
        columns: terms in a row.
    """
    with torch.no_grad():
        reconstruction, code = (part[0].numpy() for part in model(torch.from_numpy(x[None])))
        terms = code[:, None] * model.weight.numpy()
        bias = model.visible_bias.numpy()
    kept = np.flatnonzero(code)
    kept = kept[np.argsort(-np.linalg.norm(terms[kept], axis=1), kind="stable")]
    mosaic = _mosaic(_pictures(terms[kept], shape), -(-len(kept) // columns), columns)
    start, end, whole = _pictures(np.stack([bias, reconstruction, x]), shape)
    grey, most = (float(x.min()), float(x.max())), float(np.nanpercentile(np.abs(mosaic), 99.5))
    panels: dict[str, tuple[np.ndarray, tuple[Any, ...]]] = {
        "bias b'": (start, grey),
        f"+ the {len(kept)} terms z w of the kept units": (mosaic, (-most, most, "RdBu_r")),
        "= reconstruction x̂": (end, grey),
        "image x": (whole, grey),
    }
    figure, axes = plt.subplots(1, 4, figsize=(11, 4.2), layout="constrained", width_ratios=[1, 1.7, 1, 1])
    for axis, (title, (image, scale)) in zip(axes, panels.items(), strict=True):
        _show(axis, image, *scale)
        axis.set_title(title, fontsize=11)
    return figure


def error_against_k(study: Study) -> Figure:
    """Test error against k with 95% intervals, of the experiment on the gap; the paper's points."""
    table = sweep_table(study)
    table = table[table["is_base"] | (table["factor"] == "schedule")].drop_duplicates(["k", "is_base"]).sort_values("k")
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for label, found in (
        ("constant k", table[table["is_base"]]),
        ("k falls during training", table[~table["is_base"]]),
    ):
        if len(found):
            line = axis.errorbar(found["k"], found["test_error_mean"], found["test_error_half"], fmt="o-", capsize=3)
            is_last = found["k"].max() == table["k"].max()
            place: dict[str, Any] = (
                {"xytext": (8, 0), "va": "center"} if is_last else {"xytext": (0, 16), "ha": "center"}
            )
            end = tuple(found[["k", "test_error_mean"]].iloc[-1])
            axis.annotate(label, end, textcoords="offset points", color=line[0].get_color(), **place)
    paper: list[Any] = [paper_figure(1, f"k{k}") for k in _PAPER_KS]
    axis.plot(_PAPER_KS, paper, "s", color="0.4")
    axis.annotate("the paper", (_PAPER_KS[1], paper[1]), (0, -14), textcoords="offset points", ha="center", color="0.4")
    axis.set(xlabel="k, units kept of 1000", ylabel="test error", ylim=(0, None), xscale="log")
    axis.yaxis.set_major_formatter(PercentFormatter(decimals=1))
    ticks = sorted(table["k"].unique())
    axis.set_xticks(ticks, labels=[f"{k:g}" for k in ticks], minor=False)
    axis.minorticks_off()
    sns.despine(figure)
    return figure


def what_it_takes(study: Study) -> Figure:
    """What each change of a factor does to the test error, a panel for each k of the paper, which is a dotted line.

    Bars are 95% intervals of the difference from the base, paired over the seeds.
    """
    table = sweep_table(study)
    bases = table[table["is_base"]].drop_duplicates("k").set_index("k")["test_error_mean"]
    table = table[table["k"].isin(_PAPER_KS) & ~table["is_base"]]
    ks = sorted(table["k"].unique())
    names = list(dict.fromkeys(zip(table["factor"], table["value"], strict=True)))
    size = (2 + 3 * len(ks), 0.26 * len(names) + 1.4)
    figure, axes = plt.subplots(1, len(ks), figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False)
    for axis, k in zip(axes[0], ks, strict=True):
        part, paper = table[table["k"] == k], cast("float", paper_figure(1, f"k{k}"))
        places = [names.index(name) for name in zip(part["factor"], part["value"], strict=True)]
        axis.axvline(0, color="0.7", zorder=0)
        axis.axvline(paper - bases[k], color="C3", linestyle=":", zorder=0)
        axis.errorbar(part["test_effect"], places, xerr=part["test_ci_half"], fmt="o", color="0.25", capsize=2)
        axis.set_title(f"k = {k}: {bases[k]:.2f}%, the paper {paper:.2f}%", fontsize=10)
        axis.set(xlabel="change of the test error (points)", ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), labels=[f"{factor}: {value}" for factor, value in names])
        axis.grid(axis="y", color="0.92")
    sns.despine(figure)
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
    labels = {"loss": "E = ‖x − x̂‖² per image", "k": "units kept, k(t)", "live_units": "units kept at least once"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for colour, (k, history) in zip(sns.color_palette("viridis", len(histories)), histories.items(), strict=True):
            axis.plot(history["epoch"] + 1, history[column], color=colour, label=f"k = {k}")
        axis.set(xlabel="epoch", ylabel=label)
    axes[0].set_yscale("log")
    axes[0].legend()
    axes[2].axhline(units, color="0.7", linestyle=":")
    sns.despine(figure)
    return figure


def activity_histograms(activities: dict[str, np.ndarray]) -> Figure:
    """Figure 4: how often a hidden unit has an activity of a given size, on a logarithmic axis, 0 to 6.

    Args:
        activities: hidden activities by model (shape: [examples, units]).
    """
    size = (3.4 * len(activities), 3)
    figure, axes = plt.subplots(1, len(activities), figsize=size, layout="constrained", sharey=True, squeeze=False)
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
        _show(axis, filter_mosaic(weight, shape, columns=12))
        axis.set_title(label)
    return figure


def finetuning_curves(rows: list[tuple[str, list[StoredRun]]]) -> Figure:
    """Validation error against epochs of fine-tuning, the mean over seeds.

    Args:
        rows: label and runs, one a seed, of each row.
    """
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    curves = pd.concat([run.history.assign(row=label) for label, stored in rows for run in stored])
    curves["epoch"] += 1
    sns.lineplot(curves, x="epoch", y="validation_error", hue="row", errorbar=None, palette="tab10", ax=axis)
    axis.set(xlabel="epoch", ylabel="validation error (%)", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    return _with_legend_outside(figure, axis)


def _with_legend_outside(figure: Figure, axis: Axes) -> Figure:
    sns.move_legend(axis, "center left", bbox_to_anchor=(1, 0.5), fontsize=8, title=None)
    sns.despine(figure)
    return figure


def alpha_curves(rows: list[tuple[str, list[StoredRun]]]) -> Figure:
    """Error and reconstruction against α, the best l2 at each α by validation error; bands reach over the seeds.

    Args:
        rows: label and readouts, one a seed, of each row.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    runs = [run.history.assign(row=label, run=run.run.run_id) for label, stored in rows for run in stored]
    trials = pd.concat(runs, ignore_index=True)
    best = trials.loc[trials.groupby(["run", "alpha"])["validation_error"].idxmin()]
    lines: dict[str, Any] = {"hue": "row", "hue_order": [label for label, _ in rows], "palette": "tab20", "marker": "o"}
    lines |= {"errorbar": ("pi", 100), "err_kws": {"alpha": 0.1}}
    panels = (
        ("validation_error", "error (%)", "validation (α is chosen here)"),
        ("test_error", "", "test"),
        ("fvu", "FVU", "reconstruction of validation images"),
    )
    for axis, (column, label, title) in zip(axes, panels, strict=True):
        sns.lineplot(best, x="alpha", y=column, legend=column == "fvu", ax=axis, **lines)
        axis.set(xlabel="α", ylabel=label, title=title, xticks=sorted(best["alpha"].unique()))
    axes[1].sharey(axes[0])
    return _with_legend_outside(figure, axes[2])


def drawn(study: Study) -> dict[str, Callable[[], Figure]]:
    """The figures that need no weights, by name, and what draws each; the others are written by their notebooks."""
    figures: dict[str, Callable[[], Figure]] = {}
    table = sweep_table(study)
    if len(table) and (table["k"].isin(_PAPER_KS) & ~table["is_base"]).any():
        figures["what_it_takes"] = partial(what_it_takes, study)
    if len(table):
        figures["error_against_k"] = partial(error_against_k, study)
    return figures
