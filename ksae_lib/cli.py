"""The command ``ksae``: fit, transform, xray, info, and what other packages add as entry points ``ksae.verbs``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy import sparse

from ksae_lib.io import KsaeError, atomic_path, read_model
from ksae_lib.model import Activation, BiasInit, CodeMode
from ksae_lib.training import ENGINE_NAMES

_STUDY = ("reproduce", "run", "notebook", "testbed", "data", "report", "check", "search")
_SETTINGS: dict[str, dict[str, Any]] = {
    "units": {"type": int, "help": "hidden units (default: 1000)"},
    "k": {"type": int, "help": "units kept in training (default: 25)"},
    "alpha": {"type": float, "help": "codes keep alpha times k units (default: 1)"},
    "code_mode": {"choices": list(CodeMode), "help": "what codes keep (default: alpha_k)"},
    "k_start": {"type": int, "help": "units kept in the first epoch, falling to k (default: a third)"},
    "epochs": {"type": int, "help": "passes over the examples (default: 40)"},
    "batch_size": {"type": int, "help": "examples per update (default: 100)"},
    "learning_rate": {"type": float, "help": "default: 0.01"},
    "activation": {"choices": get_args(Activation), "help": "default: linear"},
    "bias_init": {"choices": get_args(BiasInit), "help": "default: centered"},
    "engine": {"choices": ENGINE_NAMES, "help": "default: auto, a GPU where there is one"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 130 interrupted. Wrong usage exits with 2."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
        sys.stdout.flush()
    except KsaeError as error:
        return _failed(str(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):
            raise
        return _failed("There is not enough memory for this: take fewer units or examples.")
    except (ValueError, TypeError) as error:
        # What the library refuses is the user's to mend; from another package's verb it is a defect.
        if options.command not in (_fit, _transform, _xray, _info):
            raise
        return _failed(str(error).strip().split("\n")[0])
    except KeyboardInterrupt:
        _failed("interrupted. What is finished is kept.")
        return 130
    except BrokenPipeError:
        # The reader of a pipe, say 'head', has seen enough; without this Python complains again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        about = f": {error.filename}" if error.filename else ", nothing was left half-written"
        return _failed(f"{error.strerror or error}{about}.")
    return 0


def _check_output(options: argparse.Namespace) -> None:
    out, given = options.out, [one for name, one in vars(options).items() if name != "out" and isinstance(one, Path)]
    if out.exists() and (not out.is_file() or any(one.exists() and out.samefile(one) for one in given)):
        what = "a folder" if out.is_dir() else "an input" if out.is_file() else "no file"
        raise KsaeError(f"{out} is {what}: name another file.")


def _failed(sentence: str) -> int:
    print(f"ksae: {sentence}", file=sys.stderr)
    return 1


def _fit(options: argparse.Namespace) -> None:
    from ksae_lib.estimator import KSparseCoder

    coder = KSparseCoder(**_chosen(options), random_state=options.seed, verbose=sys.stderr.isatty())
    _check_output(options)
    x = _array(options.x)
    # Opened before, so that a place that cannot be written to costs no training.
    with atomic_path(options.out) as temporary:
        coder.fit(x).save(temporary)
    loss, live = coder.history_["loss"][-1], coder.history_["live_units"][-1]
    print(f"{options.out}: {coder.units} units, k = {coder.k}, loss {loss:.4g}, {live} live units")


def _transform(options: argparse.Namespace) -> None:
    from ksae_lib.estimator import KSparseCoder

    if options.out.suffix not in (".npz", ".npy"):
        raise KsaeError(f"{options.out} ends in neither .npz, for sparse codes, nor .npy, for an array: name it so.")
    _check_output(options)
    coder = KSparseCoder.load(options.model)
    coder.set_params(sparse_output=options.out.suffix == ".npz", **_chosen(options))
    codes = coder.transform(_array(options.x))
    with atomic_path(options.out) as temporary, temporary.open("wb") as file:
        if isinstance(codes, np.ndarray):
            np.save(file, codes)
        else:
            sparse.save_npz(file, codes)
    print(f"{options.out}: {codes.shape[0]} codes of {codes.shape[1]} units")


def _xray(options: argparse.Namespace) -> None:
    from ksae_lib.estimator import KSparseCoder

    _check_output(options)
    labels, shape = (getattr(options, name, None) for name in ("labels", "image_shape"))
    y = None if labels is None else _array(labels, "a label an example")
    report = KSparseCoder.load(options.model).report(_array(options.x), options.out, y=y, image_shape=shape)
    live = report["live"]
    print(f"{options.out}: {len(live)} units, {(~live).sum()} of them dead, FVU {report['fvu']:.4g}")


def _info(options: argparse.Namespace) -> None:
    model, metadata = read_model(options.model)
    for name, value in (metadata["model"] | metadata.get("parameters", {})).items():
        print(f"{name:16}{value}")
    for name, column in metadata.get("fitted", {}).get("history_", {}).items():
        print(f"{'last ' + name:24}{column[-1]}")
    print(f"{'parameters':16}{sum(p.numel() for p in model.parameters())}")


def _chosen(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name in _SETTINGS}


def _array(path: Path, content: str = "a row an example") -> np.ndarray:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise KsaeError(f"{path} is not one array: write it, {content}, with numpy.save.") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ksae", description="k-sparse autoencoders (Makhzani & Frey, ICLR 2014).")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    def verb(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text, argument_default=argparse.SUPPRESS)
        made.set_defaults(command=command)
        return made

    fit = verb("fit", _fit, "Train an encoder on the rows of an array.")
    fit.add_argument("x", type=Path, metavar="X.npy", help="examples, one a row")
    fit.add_argument("--out", type=Path, required=True, metavar="MODEL", help="file to write, say model.safetensors")
    fit.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")

    transform = verb("transform", _transform, "Write the codes of the rows of an array.")
    transform.add_argument("model", type=Path, metavar="MODEL", help="as 'ksae fit' wrote it")
    transform.add_argument("x", type=Path, metavar="X.npy", help="examples, one a row")
    transform.add_argument("--out", type=Path, required=True, help="codes.npz (sparse) or codes.npy (array)")
    for made, names in ((fit, _SETTINGS), (transform, ("alpha", "code_mode"))):
        for name in names:
            said = _SETTINGS[name]["help"]
            said = f"{said.split(' (default')[0]} (default: the model's)" if made is transform else said
            made.add_argument("--" + name.replace("_", "-"), **{**_SETTINGS[name], "help": said})

    xray = verb("xray", _xray, "Write a page that shows what each unit does for the rows of an array.")
    xray.add_argument("model", type=Path, metavar="MODEL", help="as 'ksae fit' wrote it")
    xray.add_argument("x", type=Path, metavar="X.npy", help="examples, one a row")
    xray.add_argument("--out", type=Path, required=True, metavar="PAGE", help="file to write, say units.html")
    xray.add_argument("--labels", type=Path, metavar="Y.npy", help="a class for each example")
    xray.add_argument(
        "--image-shape", type=int, nargs="+", metavar="SIZE", help="of pictures: height and width, and 3 if in colour"
    )

    info = verb("info", _info, "Say what a model file holds.")
    info.add_argument("model", type=Path, metavar="MODEL", help="a file of 'ksae fit' or save_model")
    _add_others(verbs)
    return parser


def _add_others(verbs: Any) -> None:
    """Add the verbs of other packages; where the study's are missing, verbs that say how to get them."""
    missing = ""
    for entry in entry_points(group="ksae.verbs"):
        try:
            entry.load()(verbs)
        except ModuleNotFoundError as error:
            missing = (error.name or "").split(".")[0]
    for name in _STUDY:
        if name not in verbs.choices:
            made = verbs.add_parser(name, add_help=False, prefix_chars="\0")
            made.add_argument("rest", nargs="*")
            made.set_defaults(command=_refuse, verb=name, missing=missing)


def _refuse(options: argparse.Namespace) -> None:
    needs = "" if options.missing in ("", "replication") else f" and the package {options.missing}"
    raise KsaeError(
        f"'{options.verb}' needs the checkout of the study{needs}: git clone its repository, run 'make setup' in it "
        "and use the ksae of its .venv."
    )


if __name__ == "__main__":
    sys.exit(main())
