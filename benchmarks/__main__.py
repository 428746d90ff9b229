"""The command ``python -m benchmarks``: one measurement of the library's speed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from ksae_lib.io import write_text

_NAMES = ("encoding", "engines", "finetuning", "peers", "readout", "scaling")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the results, and write them where they are wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    kinds = parser.add_subparsers(required=True, metavar="|".join(_NAMES))
    for name in _NAMES:
        module = import_module(f"benchmarks.{name}")
        how: dict[str, Any] = {"description": module.__doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
        one = kinds.add_parser(name, **how)
        for option, (default, text) in module.OPTIONS.items():
            one.add_argument(f"--{option}", type=type(default), default=default, help=f"{text} (default: {default})")
        one.add_argument("--json", action="store_true", help="print one JSON object in place of a table")
        one.add_argument("--output", type=Path, help="also write the JSON to this file")
        one.set_defaults(measure=module.measure)
    options = parser.parse_args(arguments)
    for option, value in vars(options).items():
        if type(value) is int and value < 1:
            parser.error(f"--{option} {value} is not possible: it must be at least 1.")
    try:
        results, rows = options.measure(options)
    except ValueError as error:
        parser.error(str(error))
    text = json.dumps(results, indent=2)
    if options.output is not None:
        write_text(options.output, text + "\n")
    print(text if options.json else table(results, rows))


def table(results: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows as an aligned table, the other results below it, one a line."""
    flat = {name: {key: value for key, value in row.items() if key != "quartiles"} for name, row in rows.items()}
    shown = pd.DataFrame.from_dict(flat, orient="index").to_string(float_format="{:,.4g}".format, na_rep="–")
    others = [f"{name}: {part}" for name, part in results.items() if part is not rows and name not in rows]
    return "\n".join([shown, "", *others])


if __name__ == "__main__":
    main()
