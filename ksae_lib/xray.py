"""The X-ray of units: one HTML page that shows what each unit does for given examples."""

import hashlib
import math
import zlib
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from ksae_lib.codes import codes
from ksae_lib.io import KsaeError, atomic_path
from ksae_lib.model import CodeMode, KSparseAutoencoder

_CHUNK, _PRODUCTS, _PICTURE_BYTES = 1_000, 5_000_000, 10_000_000
_TOP, _BINS, _NEAREST, _WEIGHTS, _PARTS = 12, 24, 3, 12, 4
_CLASSES, _FITTED, _FACTORS = 100, 10_000, (0.0, 1.0, 2.0)
Arrays = dict[str, np.ndarray]
Seen = Callable[[Any], np.ndarray]


@torch.no_grad()
def write_xray(
    path: Path,
    model: KSparseAutoencoder,
    x: Any,
    seen: Seen,
    scale: float,
    report: dict[str, Any],
    y: Any = None,
    image_shape: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write the page of a model's k largest codes, whole or not at all. It needs nothing but itself.

    Args:
        path, model: the file; the encoder.
        x: examples, an array or CSR (shape: [examples, features]).
        seen, scale: the model sees ``seen(rows) = (rows − mean) · scale`` of some rows of ``x``, dense float32.
        report: what ``metrics.unit_report`` says of model and examples.
        y: a class for each example; adds class profiles and what each unit does to a linear classifier.
        image_shape: height and width, and 3 for colours last: atoms and examples become pictures.
        names: of the features; their numbers by default.

    Raises:
        ValueError: labels or ``image_shape`` that do not fit the examples, fewer than 2 or more than 100 classes.
        OSError: the file could not be written; the old one, if any, is as it was.
        KsaeError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ModuleNotFoundError as error:
        raise KsaeError("The X-ray of units needs Jinja2: pip install 'ksae-lib[xray]'.") from error
    shape = None if image_shape is None else [int(size) for size in image_shape]
    if shape and (math.prod(shape) != model.inputs or min(shape) < 1 or (len(shape) != 2 and shape[2:] != [3])):
        said = f"image_shape = {tuple(shape)} does not fit {model.inputs} features"
        raise ValueError(f"{said}: give height and width, and 3 for colours last.")
    classes, labels = ([], None) if y is None else _checked(np.asarray(y), x.shape[0])
    templates = Environment(loader=(loader := PackageLoader("ksae_lib")), autoescape=True)
    script, _, _ = loader.get_source(templates, "xray.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head = {
        "units": model.units, "k": model.k, "examples": x.shape[0], "features": model.inputs, "shape": shape,
        "fvu": report["fvu"], "l0": report["l0"], "dead": int((~report["live"]).sum()), "classes": classes,
        "names": None if names is None else [str(name) for name in names],
    }  # fmt: skip
    try:
        with atomic_path(path) as temporary:
            arrays, code = _of_codes(model, x, seen, scale)
            arrays |= _of_atoms(model.weight.numpy(), shape) | _of_examples(arrays["top"], model, x, seen, shape)
            if labels is not None:
                found, judged = _of_classes(code, labels, len(classes))
                arrays, head = arrays | found, head | judged
            head["layout"], content = _packed(arrays)
            page = templates.get_template("xray.html").render(head=head, content=content, script=script, digest=digest)
            temporary.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror}): name another file") from error


def _checked(labels: np.ndarray, examples: int) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and the number of each example's class."""
    if labels.shape != (examples,):
        raise ValueError(f"y has shape {labels.shape}, but there are {examples} examples: give one label an example.")
    if (real := labels.dtype.kind == "f") and not np.isfinite(labels).all():
        raise ValueError("y holds NaN or infinite values: leave out examples without a label.")
    found, numbers = np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)
    if not 2 <= len(found) <= _CLASSES:
        raise ValueError(f"y has {len(found)} classes, but the X-ray takes 2 to {_CLASSES}: group them, or omit y.")
    return [f"{name:g}" if real else str(name) for name in found], numbers


def _entries(code: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, unit and value (float64) of each entry."""
    row = np.repeat(np.arange(code.shape[0]), np.diff(code.indptr))
    return row, code.indices.astype(np.int64), code.data.astype(np.float64)


def _of_codes(model: KSparseAutoencoder, x: Any, seen: Seen, scale: float) -> tuple[Arrays, sparse.csr_array]:
    """What codes and errors are for each unit, and what switching it off does to the error; and the codes.

    Taking z w off x̂ adds 2 z ⟨x − x̂, w⟩ + z² ‖w‖² to ‖x − x̂‖².
    """
    weight, units, made = model.weight.numpy(), model.units, []
    norms, before, rise = np.square(weight, dtype=np.float64).sum(1), np.zeros(units), np.zeros(units)
    for start in range(0, x.shape[0], _CHUNK):
        block = seen(x[start : start + _CHUNK])
        code = sparse.csr_array(codes(model, block, CodeMode.K)[0])
        error = block - model.decode(torch.from_numpy(code.toarray())).numpy()
        row, unit, z = _entries(code)
        before += np.bincount(unit, np.square(error, dtype=np.float64).sum(1)[row], units)
        rise += np.bincount(unit, 2 * z * (error @ weight.T)[row, unit] + z**2 * norms[unit], units)
        made.append(code)
    whole = sparse.csr_array(sparse.vstack(made))
    row, unit, z = _entries(whole)
    order = np.lexsort((-z, unit))
    row, unit, z = row[order], unit[order], z[order]
    uses, high, low = np.bincount(unit, minlength=units), np.zeros(units), np.zeros(units)
    starts, many = np.cumsum(uses) - uses, np.maximum(uses, 1)
    high[uses > 0], low[uses > 0] = z[starts[uses > 0]], z[(starts + uses)[uses > 0] - 1]
    place = (z - low[unit]) / np.where(high > low, high - low, 1)[unit]
    bins = unit * _BINS + np.minimum(place * _BINS, _BINS - 1).astype(np.int64)
    rank, top, strength = np.arange(len(z)) - starts[unit], np.full((units, _TOP), -1), np.zeros((units, _TOP))
    best = rank < _TOP
    top[unit[best], rank[best]], strength[unit[best], rank[best]] = row[best], z[best]
    return {
        "uses": uses, "mean": np.bincount(unit, z, units) / many, "low": low, "high": high,
        "histogram": np.bincount(bins, minlength=units * _BINS).reshape(units, _BINS), "top": top, "strength": strength,
        "before": before / many / model.inputs / scale**2, "rise": rise / many / model.inputs / scale**2,
    }, whole  # fmt: skip


def _of_atoms(weight: np.ndarray, shape: list[int] | None) -> Arrays:
    """The nearest other atoms by cosine; the atoms as pictures, or their largest weights."""
    near, tiny = min(_NEAREST, len(weight) - 1), np.finfo(np.float32).tiny
    directions, made = weight / np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), tiny), []
    for start in range(0, len(weight), _CHUNK):
        cosines = directions[start : start + _CHUNK] @ directions.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        made.append(_largest(cosines, near))
    nearest, cosine = map(np.concatenate, zip(*made, strict=True))
    if shape:
        pictures = np.rint(weight / np.maximum(np.abs(weight).max(1, keepdims=True), tiny) * 127).astype(np.int8)
        return {"nearest": nearest, "cosine": cosine, "atoms": pictures}
    part, _ = _largest(np.abs(weight), min(_WEIGHTS, weight.shape[1]))
    return {"nearest": nearest, "cosine": cosine, "parts": part, "weights": np.take_along_axis(weight, part, 1)}


def _largest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the largest of each row are, from the largest down, and what they are (shapes: [rows, count])."""
    index = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return index, np.take_along_axis(values, index, 1)


def _of_examples(top: np.ndarray, model: KSparseAutoencoder, x: Any, seen: Seen, shape: list[int] | None) -> Arrays:
    """Pictures of the top examples, as many as fit; or the features of each that add most to the activation."""
    dense = (lambda rows: x[rows].toarray()) if sparse.issparse(x) else (lambda rows: x[rows])
    if not shape:
        weight, count = model.weight.numpy(), min(_PARTS, model.inputs)
        adds = [(rows, _largest(seen(x[rows]) * weight, count)[0]) for rows in np.maximum(top, 0).T]
        values = [np.take_along_axis(dense(rows), part, 1) for rows, part in adds]
        return {"part": np.stack([part for _, part in adds], 1), "value": np.stack(values, 1)}
    fit = _PICTURE_BYTES // model.inputs
    top = top if x.shape[0] <= fit else top[:, : max(1, fit // len(top))]
    rows = np.unique(top[top >= 0])
    pictures = dense(rows).astype(np.float64)
    low, high = pictures.min(initial=np.inf), pictures.max(initial=-np.inf)
    grey = (pictures - low) / (high - low if high > low else 1)
    return {"top": top, "rows": rows, "pictures": np.rint(grey * 255).astype(np.uint8)}


def _of_classes(code: sparse.csr_array, labels: np.ndarray, classes: int) -> tuple[Arrays, dict[str, Any]]:
    """Classes of the examples that keep each unit; what a linear classifier says with the unit off, as is, and doubled.

    It is logistic regression on half of the examples of each class, about 10,000 in all at most. The others tell its
    accuracy, and those of them that keep a unit what the unit does to its probabilities.
    """
    sizes, units = np.bincount(labels, minlength=classes), code.shape[1]
    row, unit, _ = _entries(code)
    counts = np.bincount(unit * classes + labels[row], minlength=units * classes).reshape(units, classes)
    mixed = np.random.default_rng(0).permutation(len(labels))
    mixed = mixed[np.argsort(labels[mixed], kind="stable")]
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = place % max(2, math.ceil(len(labels) / _FITTED)) == 0
    fitted, held = mixed[chosen], mixed[~chosen]
    judge = LogisticRegression(max_iter=1_000).fit(code[fitted], labels[fitted])
    # Of two classes scikit-learn has the difference alone.
    two = np.array([0, 1] if classes == 2 else [1])
    weight, logits = judge.coef_.T * two, judge.decision_function(code[held]).reshape(len(held), -1) * two
    (row, unit, z), truth = _entries(code[held]), labels[held]
    chance, right = np.zeros((len(_FACTORS), units, classes)), np.zeros((len(_FACTORS), units))
    for start in range(0, len(z), step := _PRODUCTS // classes):
        i, j, value = (entries[start : start + step] for entries in (row, unit, z))
        of_unit = sparse.csr_array((np.ones(len(j)), (j, np.arange(len(j)))), shape=(units, len(j)))
        for n, factor in enumerate(_FACTORS):
            moved = logits[i] + (factor - 1) * value[:, None] * weight[j]
            chance[n] += of_unit @ softmax(moved, axis=1)
            right[n] += np.bincount(j, moved.argmax(1) == truth[i], units)
    keepers = np.bincount(unit, minlength=units)
    many = np.maximum(keepers, 1)
    arrays = {"counts": counts, "keepers": keepers, "chance": chance / many[:, None], "right": right / many}
    accuracy = float((logits.argmax(1) == truth).mean()) if len(held) else None
    return arrays, {"sizes": sizes.tolist(), "fitted": len(fitted), "held": len(held), "accuracy": accuracy}


def _packed(arrays: Arrays) -> tuple[list[list[Any]], str]:
    """Name, type and shape of each array, in 32 bits or 8, and all of them one after the other, deflated, in base64."""
    kinds = {name: "<f4" if array.dtype.kind == "f" else "<i4" for name, array in arrays.items()}
    kinds |= {name: array.dtype.str for name, array in arrays.items() if array.dtype.itemsize == 1}
    # The wide ones first, so that all start at whole multiples of their size.
    small = {name: arrays[name].astype(kinds[name]) for name in sorted(arrays, key=lambda name: kinds[name][0] == "|")}
    whole = zlib.compress(b"".join(array.tobytes() for array in small.values()))
    return [[name, array.dtype.name, array.shape] for name, array in small.items()], b64encode(whole).decode()
