"""Figures, drawn from stored runs and saved as PNG and SVG with stable bytes."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter
from scipy.optimize import isotonic_regression

from ksae_lib import metrics
from ksae_lib.io import atomic_path
from ksae_lib.model import KSparseAutoencoder
from replication.methods.autoencoders import kl_penalty
from replication.report.tables import net_title, paper_figure, sweep_table
from replication.runs import EncoderRun, StoredRun, requires
from replication.study import Study

# The one palette: its ten colours stay apart for colour-blind readers. Notebooks that import this module have it too.
sns.set_palette("colorblind")
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True})
_PAPER_KS = (10, 25, 40)
_OF_ALPHA = {"validation_error": "validation error", "test_error": "test error", "fvu": "validation FVU"}


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Save as ``<folder>/<name>.png`` and ``.svg``, which says what it shows; the same figure gives the same bytes."""
    said = [figure.get_suptitle()]
    for axis in figure.axes:
        said += [axis.get_title() or axis.get_title(loc="left"), axis.get_ylabel(), axis.get_xlabel()]
    title, *panels = dict.fromkeys(" ".join(text.split()) for text in said if text) or [""]
    files = {".png": {"Software": None}, ".svg": {"Date": None, "Title": title, "Description": "; ".join(panels)}}
    with mpl.rc_context({"svg.hashsalt": "ksae"}):
        for suffix, metadata in files.items():
            with atomic_path(folder / (name + suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)


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
    figure, axis = plt.subplots(figsize=(12, 12 * height / width))
    _show(axis, mosaic, *np.nanpercentile(mosaic, (1, 99)))
    return figure


def filter_panels(
    nets: Sequence[tuple[EncoderRun, KSparseAutoencoder]],
    x: np.ndarray,
    shape: tuple[int, ...],
    rows: int = 4,
    columns: int = 30,
    fits: Sequence[float] = (),
) -> Figure:
    """Figures 1, 2 and 3: filters of several autoencoders, some rows a panel.

    Shown are the first live units in order of index (those the k largest code of some training image keeps), so that
    panels are not filled with the noise of units that were never trained; the title says how the net was trained.

    Args:
        nets: run and trained model of each panel, in their order.
        x: training images (shape: [examples, inputs]).
        shape: of an image, see ``Dataset.image_shape``.
        rows, columns: filters shown of each.
        fits: how well a Gabor function fits each of the first live units; these are shown, the best fit first.
    """
    mosaics, order = [], np.argsort(-np.array(fits), kind="stable") if fits else slice(None)
    for run, model in nets:
        live = metrics.live_units(model, x)
        weight = model.weight.detach().numpy()[live][order]
        mosaics.append((net_title(run, int(live.sum())), filter_mosaic(weight, shape, rows, columns)))
    height, width = mosaics[0][1].shape[:2]
    figure, axes = plt.subplots(len(mosaics), figsize=(12, (12 * height / width + 0.4) * len(mosaics)), squeeze=False)
    for axis, (title, mosaic) in zip(axes[:, 0], mosaics, strict=True):
        _show(axis, np.nan_to_num((mosaic + 1) / 2, nan=1) if mosaic.ndim == 3 else mosaic)
        axis.set_title(title, loc="left")
    return figure


def one_digit(model: KSparseAutoencoder, x: np.ndarray, shape: tuple[int, ...]) -> Figure:
    """How one image is coded (section 2.1): b' and the terms z_j w_j of the kept units, which add up to x̂; x beside it.

    Terms are images on one scale, blue below 0 and red above, the largest first.

    Args:
        model: a trained autoencoder.
        x: one image (shape: [inputs]).
        shape: of the image, see ``Dataset.image_shape``.
    """
    with torch.no_grad():
        reconstruction, code = (part[0].numpy() for part in model(torch.from_numpy(x[None])))
        terms = code[:, None] * model.weight.numpy()
        bias = model.visible_bias.numpy()
    kept = np.flatnonzero(code)
    kept = kept[np.argsort(-np.linalg.norm(terms[kept], axis=1), kind="stable")]
    columns = 5
    mosaic = _mosaic(_pictures(terms[kept], shape), -(-len(kept) // columns), columns)
    start, end, whole = _pictures(np.stack([bias, reconstruction, x]), shape)
    grey, most = (float(x.min()), float(x.max())), float(np.nanpercentile(np.abs(mosaic), 99.5))
    titles = ("bias b'", f"+ the {len(kept)} terms z w of the kept units", "= reconstruction x̂", "image x")
    figure, axes = plt.subplots(1, 4, figsize=(11, 4.2), width_ratios=[1, 1.7, 1, 1])
    for axis, title, image in zip(axes, titles, (start, mosaic, end, whole), strict=True):
        _show(axis, image, *((-most, most, "RdBu_r") if image is mosaic else grey))
        axis.set_title(title, fontsize=11)
    return figure


def error_against_k(study: Study) -> Figure:
    """Test error against k with 95% intervals, of the experiment on the gap, lines moved apart; the paper's points."""
    table = sweep_table(study)
    table = table[table["is_base"] | (table["factor"] == "schedule")].drop_duplicates(["k", "is_base"]).sort_values("k")
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for is_base, label, apart in ((True, "constant k", 0.985), (False, "k falls during training", 1.015)):
        found = table[table["is_base"] == is_base]
        if len(found):
            k, error = apart * found["k"], found["test_error_mean"]
            line = axis.errorbar(k, error, found["test_error_half"], fmt="o-", capsize=3)
            is_last = found["k"].max() == table["k"].max()
            place: Any = {"xytext": (8, 0), "va": "center"} if is_last else {"xytext": (0, 16), "ha": "center"}
            end = k.iloc[-1], error.iloc[-1]
            axis.annotate(label, end, textcoords="offset points", color=line[0].get_color(), **place)
    paper: list[Any] = [paper_figure(1, f"k{k}") for k in _PAPER_KS]
    axis.plot(_PAPER_KS, paper, "s", color="0.2", markerfacecolor="none", markersize=11, zorder=0)
    axis.annotate("the paper", (_PAPER_KS[1], paper[1]), (0, -16), textcoords="offset points", ha="center", color="0.2")
    axis.set(xlabel="k, units kept of 1000", ylabel="test error", ylim=(0, None), xscale="log")
    axis.yaxis.set_major_formatter(PercentFormatter(decimals=1))
    axis.set_xticks(sorted(table["k"].unique()))
    axis.xaxis.set(major_formatter="{x:g}", minor_locator=NullLocator())
    return figure


def what_it_takes(study: Study) -> Figure:
    """What each change of a factor does to the test error, a panel for each k of the paper, which is a dotted line.

    Bars are 95% intervals of the difference from the base, paired over the seeds. k = 25 has all, so it sets the order.
    """
    table = sweep_table(study)
    bases = table[table["is_base"]].drop_duplicates("k").set_index("k")["test_error_mean"]
    table = table[table["k"].isin(_PAPER_KS) & ~table["is_base"]].sort_values("k", key=lambda k: k != 25, kind="stable")
    ks = sorted(table["k"].unique())
    names = list(dict.fromkeys(zip(table["factor"], table["value"], strict=True)))
    size = (2 + 3 * len(ks), 0.26 * len(names) + 1.4)
    figure, axes = plt.subplots(1, len(ks), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, k in zip(axes[0], ks, strict=True):
        part, paper = table[table["k"] == k], cast("float", paper_figure(1, f"k{k}"))
        places = [names.index(name) for name in zip(part["factor"], part["value"], strict=True)]
        axis.axvline(0, color="C0", zorder=0)
        axis.axvline(paper - bases[k], color="C3", linestyle=":", zorder=0)
        axis.errorbar(part["test_effect"], places, xerr=part["test_ci_half"], fmt="o", color="0.25", capsize=2)
        axis.set_title(f"k = {k}\nbase (line) {bases[k]:.2f}%\npaper (dots) {paper:.2f}%", fontsize=10)
        axis.set(xlabel="change of the test error (points)", ylim=(len(names) - 0.5, -0.5))
        axis.set_yticks(range(len(names)), labels=[f"{factor}: {value}" for factor, value in names])
        axis.grid(axis="y", color="0.92")
    return figure


def gabor_histogram(explained: dict[str, list[float]]) -> Figure:
    """How much of the variance of each filter its best Gabor function explains: shares, by the name of the filters."""
    figure, axis = plt.subplots(figsize=(6, 3.2))
    for i, (label, values) in enumerate(explained.items()):
        axis.hist(values, np.linspace(0, 1, 41).tolist(), alpha=0.6)
        axis.annotate(label, (0.98, 0.92 - 0.09 * i), xycoords="axes fraction", ha="right", color=f"C{i}")
    axis.set(xlabel="variance explained by the best Gabor function", ylabel="number of filters", xlim=(0, 1))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def draw_line(axis: Axes, label: str, x: Any, y: Any, low: Any, high: Any, **how: Any) -> None:
    """A labelled line with a band of its colour from ``low`` to ``high``."""
    (line,) = axis.plot(x, y, label=label, **how)
    axis.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def name_lines(axis: Axes, apart: float) -> None:
    """The lines' labels beside the panel, with leaders to their ends; they keep apart by a share of its height."""
    axis.get_ylim()  # Limits are found only when they are asked for.
    place = axis.transScale + axis.transLimits
    named = [line for line in axis.lines if not str(line.get_label()).startswith("_")]
    ends = [(*place.transform(np.asarray(line.get_xydata(), dtype=float)[-1]), line) for line in named]
    ends.sort(key=lambda end: end[1])
    steps = apart * np.arange(len(ends))
    heights = isotonic_regression(np.array([end[1] for end in ends]) - steps).x
    heights = heights.clip(0, max(0, 1 - apart * (len(ends) - 1))) + steps
    for height, (x, y, line) in zip(heights, ends, strict=True):
        colour = line.get_color()
        leader = {"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        text = axis.annotate(str(line.get_label()), (x, y), (1.04, height), "axes fraction", arrowprops=leader)
        text.set(color=colour, fontsize=9, va="center")


def training_curves(histories: dict[int, pd.DataFrame], units: int) -> Figure:
    """Loss, k and live units against the epoch, one line for each k."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    labels = {"loss": "E = ‖x − x̂‖² per image", "k": "units kept, k(t)", "live_units": "units kept at least once"}
    axes[2].set_ylim(0, 1.12 * units)
    axes[2].axhline(units, color="0.5", linestyle=":")
    axes[2].text(0.5, 1.02 * units, "all units", transform=axes[2].get_yaxis_transform(), color="0.4", ha="center")
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for k, history in histories.items():
            axis.plot(history["epoch"] + 1, history[column], label=f"k = {k}")
        axis.set(xlabel="epoch", ylabel=label)
        axis.locator_params(axis="x", integer=True)
        name_lines(axis, apart=0.08)
    return figure


def activity_histograms(activities: dict[str, np.ndarray]) -> Figure:
    """Figure 4: how often activities have a size from 0 to 6, on a logarithmic axis; [examples, units], by model."""
    figure, axes = plt.subplots(1, len(activities), figsize=(2.5 * len(activities), 2.8), sharey=True, squeeze=False)
    for axis, (label, h) in zip(axes[0], activities.items(), strict=True):
        counts, edges = np.histogram(h, bins=60, range=(0, 6))
        axis.stairs(counts / h.size, edges, fill=True)
        axis.set(title=fill(label, 20), xlabel="activity", yscale="log", xlim=(0, 6))
    axes[0, 0].set_ylabel("share of activities")
    return figure


def penalty_and_filters(rho: float, filters: dict[str, np.ndarray], shape: tuple[int, ...]) -> Figure:
    """The KL penalty of the CS294A notes against the mean activation, of which ``rho`` is wanted; filters beside it.

    ``filters`` are by model (shape: [units, h·w]), of ``shape`` (h, w); the first 4 rows of 12 are shown.
    """
    panels = 1 + len(filters)
    figure, axes = plt.subplots(1, panels, figsize=(3.3 * panels, 2))
    mean = np.linspace(0.001, 0.999, 999)
    axes[0].plot(mean, kl_penalty(torch.from_numpy(mean), rho).numpy())
    axes[0].set(title=f"KL(ρ‖ρ̂), ρ = {rho:g}", xlabel="mean activation ρ̂", xlim=(0, 1), ylim=(0, None))
    for axis, (label, weight) in zip(axes[1:], filters.items(), strict=True):
        _show(axis, filter_mosaic(weight, shape, columns=12))
        axis.set_title(label)
    return figure


def finetuning_curves(rows: list[tuple[str, list[StoredRun]]]) -> Figure:
    """Validation error against epochs of fine-tuning, the mean over the runs of each labelled row, by number of layers.

    Bands are 95% binomial intervals: what the choice of the validation images does to an error. Nets from one
    encoder have one colour.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.4), sharex=True, sharey=True)
    colours: dict[str, str] = {}
    for label, stored in rows:
        run, history = stored[0].run, pd.concat([one.history for one in stored])
        encoders = requires(run)
        axis = axes[int(len(encoders) > 1 or history["fixed_layers"].max() > 1)]
        error = history.groupby("epoch")["validation_error"].mean()
        half = 1.96 * np.sqrt(error * (100 - error) / run.data.sizes[1])
        name = fill(label.replace(" + F.T.", ""), 28, break_on_hyphens=False)
        colour = colours.setdefault(encoders[0].run_id if encoders else "", f"C{len(colours)}")
        style = "--" if colour in {line.get_color() for line in axis.lines} else "-"
        draw_line(axis, name, error.index + 1, error, error - half, error + half, color=colour, linestyle=style)
    for axis, title in zip(axes, ("one hidden layer", "two hidden layers"), strict=True):
        axis.set(title=title, xlabel="epoch", yscale="log")
        axis.yaxis.set(major_locator=LogLocator(subs=(1, 1.5, 2, 3, 4, 6)), minor_locator=NullLocator())
        axis.yaxis.set_major_formatter("{x:g}%")
        axis.locator_params(axis="x", integer=True)
        name_lines(axis, apart=0.1)
    axes[0].set_ylabel("validation error, 95% binomial bands")
    return figure


def alpha_curves(rows: list[tuple[str, list[StoredRun]]]) -> Figure:
    """Errors and FVU against α of labelled readouts: a row for each kind of net, a line for each k.

    Bands reach over the seeds. At each α the l2 is the best by validation error.
    """
    nets: dict[str, dict[int, Any]] = {}
    for label, stored in rows:
        encoder: Any = stored[0].run.encoder  # type: ignore[union-attr]
        trials = pd.concat([run.history.assign(run=i) for i, run in enumerate(stored)], ignore_index=True)
        best = trials.loc[trials.groupby(["run", "alpha"])["validation_error"].idxmin()]
        same = nets.setdefault(label.replace(f", k={encoder.method.k}", ""), {})
        same[encoder.method.k] = best.groupby("alpha")[list(_OF_ALPHA)].agg(["mean", "min", "max"])
    colours = {k: f"C{i}" for i, k in enumerate(sorted({k for net in nets.values() for k in net}))}
    size = (9, 1.8 * len(nets) + 0.8)
    figure, axes = plt.subplots(len(nets), 3, figsize=size, sharex=True, squeeze=False)
    for of_net, (net, lines) in zip(axes, nets.items(), strict=True):
        for axis, name in zip(of_net, _OF_ALPHA, strict=True):
            for k, found in lines.items():
                draw_line(axis, f"k = {k}", found.index, *found[name].to_numpy().T, color=colours[k])
            axis.set(xticks=found.index, title=_OF_ALPHA[name] if net == next(iter(nets)) else "")
            axis.yaxis.set_major_formatter("{x:g}" if name == "fvu" else "{x:g}%")
        of_net[0].set_ylabel(fill(net, 14, break_on_hyphens=False))
    for axis in axes.flat:
        name_lines(axis, apart=0.12)
    figure.supxlabel("α", fontsize=10)
    return figure
