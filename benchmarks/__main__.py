"""The command ``python -m benchmarks``: one measurement, printed as JSON.

``--output benchmarks/results/NAME.json`` stores it; ``ksae report`` makes tables of docs/ from there.
"""

import argparse
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from ksae_lib.io import write_text

_NAMES = ("encoding", "engines", "peers", "readout", "recovery", "scaling")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the results, and write them where they are wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    kinds = parser.add_subparsers(required=True, metavar="|".join(_NAMES))
    for name in _NAMES:
        module = import_module(f"benchmarks.{name}")
        one = kinds.add_parser(name, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        for option, (default, text) in module.OPTIONS.items():
            one.add_argument(f"--{option}", type=type(default), default=default, help=f"{text} (default: {default})")
        one.add_argument("--output", type=Path, help="also write the results to this file")
        one.set_defaults(measure=module.measure)
    options = parser.parse_args(arguments)
    for option, value in vars(options).items():
        if type(value) is int and value < 1:
            parser.error(f"--{option} {value} is not possible: it must be at least 1.")
    try:
        text = json.dumps(options.measure(options), indent=2)
    except ValueError as error:
        parser.error(str(error))
    if options.output is not None:
        write_text(options.output, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
