"""The X-ray of units: one HTML page that shows what each unit does for given examples."""

import hashlib
import math
import zlib
from base64 import b64encode
from collections.abc import Callable
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

_CHUNK, _PRODUCTS, _BYTES, _CLASSES, _FITTED = 1_000, 5_000_000, 10_000_000, 100, 10_000
_TOP, _BINS, _NEAREST, _WEIGHTS, _PARTS = 12, 24, 3, 12, 3
_MISSING = ("nan", "NaN", "inf", "-inf", "None", "<NA>", "NaT")
Arrays = dict[str, np.ndarray]
Map = dict[str, Any]
Seen = Callable[[Any], np.ndarray]


@torch.no_grad()
def write_xray(
    path: Path, model: KSparseAutoencoder, x: Any, seen: Seen, scale: float, report: Map, y: Any, shape: Any, names: Any
) -> None:
    """Write the page of a model's k largest codes, whole or not at all. It needs nothing but itself.

    Args:
        x: examples, an array or CSR (shape: [examples, features]).
        seen, scale: the model sees ``seen(rows) = (rows − mean) · scale`` of some rows of ``x``, dense float32.
        report: what ``metrics.unit_report`` says of model and examples.
        y: None, or a class for each example: adds class profiles and what each unit does to a linear classifier.
        shape: None, or height and width, and 3 for colours last: atoms and examples become pictures.
        names: of the features, or None.

    Raises:
        ValueError: labels or a shape that do not fit the examples, fewer than 2 or more than 100 classes.
        OSError: the file could not be written; the old one, if any, is as it was.
        KsaeError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader
    except ModuleNotFoundError as error:
        raise KsaeError("The X-ray of units needs Jinja2: pip install jinja2.") from error
    if shape is not None:
        sizes = tuple(np.ravel(shape).tolist())
        whole = all(isinstance(size, int) and size > 0 for size in sizes)
        if not whole or len(sizes) < 2 or sizes[2:] not in ((), (3,)) or math.prod(sizes) != model.inputs:
            raise ValueError(
                f"image_shape = {sizes} is not height and width, and 3 if RGB, of {model.inputs} features."
            )
        shape = sizes
    classes, labels = ([], None) if y is None else _checked(y, x.shape[0])
    templates = Environment(loader=(loader := PackageLoader("ksae_lib")), autoescape=True)
    script, _, _ = loader.get_source(templates, "xray.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    head = {
        "units": model.units, "k": model.k, "examples": x.shape[0], "shape": shape, "fvu": report["fvu"],
        "l0": report["l0"], "dead": int((~report["live"]).sum()), "classes": classes, "names": names,
    }  # fmt: skip
    try:
        with atomic_path(path) as temporary:
            arrays, code = _of_codes(model, x, seen, scale)
            arrays |= _of_atoms(model, bool(shape)) | _of_examples(arrays["top"], model, x, seen, bool(shape))
            if labels is not None:
                found, judged = _of_classes(code, labels, len(classes))
                arrays, head = arrays | found, head | judged
            head["layout"], content = _packed(arrays)
            page = templates.get_template("xray.html").render(head=head, content=content, script=script, digest=digest)
            temporary.write_text(page, encoding="utf-8", newline="\n")
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror}): name another file") from error


def _checked(y: Any, examples: int) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and the number of each example's class."""
    labels = np.asarray(y)
    if labels.shape != (examples,):
        raise ValueError(f"y has shape {labels.shape}, but there are {examples} examples: give one label an example.")
    # As objects, for beside strings NumPy makes a string of NaN.
    if any(str(one) in _MISSING for one in np.asarray(y, dtype=object) if not isinstance(one, str)):
        raise ValueError("y holds missing or infinite values: leave out examples without a label.")
    found, numbers = np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)
    if len(found) not in range(2, 1 + (most := min(_CLASSES, examples - 1))):
        raise ValueError(f"The classes in y are {len(found)}, but must be 2 to {most}: group them, or leave y out.")
    whole = ".0" if labels.dtype.kind == "f" else ""
    return [str(name).removesuffix(whole) for name in found], numbers


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
        row, unit, z = sparse.find(code.astype(np.float64))
        before += np.bincount(unit, np.square(error, dtype=np.float64).sum(1)[row], units)
        rise += np.bincount(unit, 2 * z * (error @ weight.T)[row, unit] + z**2 * norms[unit], units)
        made.append(code)
    whole = sparse.csr_array(sparse.vstack(made))
    row, unit, z = sparse.find(whole.astype(np.float64))
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


def _of_atoms(model: KSparseAutoencoder, pictures: bool) -> Arrays:
    """The nearest other atoms by cosine; the atoms as pictures, or their largest weights."""
    weight, tiny = model.weight.numpy(), np.finfo(np.float32).tiny
    directions, made = weight / np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), tiny), []
    for start in range(0, len(weight), _CHUNK):
        cosines = directions[start : start + _CHUNK] @ directions.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -np.inf
        made.append(_largest(cosines, min(_NEAREST, len(weight) - 1)))
    nearest, cosine = map(np.concatenate, zip(*made, strict=True))
    if pictures:
        grey = 128 + 127 * weight / np.maximum(np.abs(weight).max(1, keepdims=True), tiny)
        return {"nearest": nearest, "cosine": cosine, "atoms": np.rint(grey).astype(np.uint8)}
    part, _ = _largest(np.abs(weight), min(_WEIGHTS, weight.shape[1]))
    return {"nearest": nearest, "cosine": cosine, "parts": part, "weights": np.take_along_axis(weight, part, 1)}


def _largest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the largest of each row are, from the largest down, and what they are (shapes: [rows, count])."""
    index = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return index, np.take_along_axis(values, index, 1)


def _of_examples(top: np.ndarray, model: KSparseAutoencoder, x: Any, seen: Seen, pictures: bool) -> Arrays:
    """Pictures of the top examples, as many as fit; or the features of each that add most to the activation."""
    if not pictures:
        weight, parts, values = model.weight.numpy(), [], []
        for rows in np.maximum(top, 0).T:
            parts.append(_largest(seen(x[rows]) * weight, min(_PARTS, model.inputs))[0])
            values.append(np.take_along_axis(sparse.csr_array(x[rows], dtype=np.float64).toarray(), parts[-1], 1))
        return {"part": np.stack(parts, 1), "value": np.stack(values, 1)}
    top = top if x.shape[0] * model.inputs <= _BYTES else top[:, : max(1, _BYTES // model.weight.numel())]
    rows = np.unique(top[top >= 0])
    grey = sparse.csr_array(x[rows], dtype=np.float64).toarray()
    grey -= grey.min(initial=0)
    return {"top": top, "rows": rows, "pictures": np.rint(grey / (grey.max(initial=0) or 1) * 255).astype(np.uint8)}


def _of_classes(code: sparse.csr_array, labels: np.ndarray, classes: int) -> tuple[Arrays, Map]:
    """Classes of the examples that keep each unit; what a linear classifier says with the unit off, as is, and doubled.

    It is logistic regression on every second example of each class, of more than 20,000 on fewer. The others tell its
    accuracy, and those of them that keep a unit what the unit does to its probabilities.
    """
    sizes, units = np.bincount(labels, minlength=classes), code.shape[1]
    row, unit, _ = sparse.find(code)
    counts = np.bincount(unit * classes + labels[row], minlength=units * classes).reshape(units, classes)
    by_class = np.argsort(labels, kind="stable")
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = place % max(2, math.ceil(len(labels) / _FITTED)) == 0
    fitted, held = by_class[chosen], by_class[~chosen]
    judge = LogisticRegression(max_iter=1_000).fit(code[fitted], labels[fitted])
    two = np.array([0, 1] if classes == 2 else [1])  # of two classes scikit-learn has the difference alone
    weight, logits = judge.coef_.T * two, judge.decision_function(code[held]).reshape(len(held), -1) * two
    (row, unit, z), truth = sparse.find(code[held].astype(np.float64)), labels[held]
    chance, right = np.zeros((3, units, classes)), np.zeros((3, units))
    for start in range(0, len(z), step := _PRODUCTS // classes):
        i, j, value = (entries[start : start + step] for entries in (row, unit, z))
        of_unit = sparse.csr_array((np.ones(len(j)), (j, np.arange(len(j)))), shape=(units, len(j)))
        for factor in range(3):
            moved = logits[i] + (factor - 1) * value[:, None] * weight[j]
            chance[factor] += of_unit @ softmax(moved, axis=1)
            right[factor] += np.bincount(j, moved.argmax(1) == truth[i], units)
    many = np.maximum(keepers := np.bincount(unit, minlength=units), 1)
    arrays = {"counts": counts, "keepers": keepers, "chance": chance / many[:, None], "right": right / many}
    accuracy = float((logits.argmax(1) == truth).mean())
    return arrays, {"sizes": sizes.tolist(), "fitted": len(fitted), "held": len(held), "accuracy": accuracy}


def _packed(arrays: Arrays) -> tuple[list[Any], str]:
    """Name, type and shape of each array, in 32 bits or 8, and all of them one after the other, deflated, in base64."""
    small = {name: array.astype({"f": "f4", "i": "i4", "u": "u1"}[array.dtype.kind]) for name, array in arrays.items()}
    whole = zlib.compress(b"".join(array.tobytes() for array in small.values()))
    return [(name, array.dtype.name, array.shape) for name, array in small.items()], b64encode(whole).decode()
