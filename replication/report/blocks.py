"""Generated parts of README.md and docs/: blocks between markers and single numbers, from the committed runs."""

import json
import math
import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from ksae_lib.estimator import PRETRAINED
from ksae_lib.io import KsaeError
from replication.report.claims import claims
from replication.report.tables import error_table, markdown, readable, readable_sweeps, sweep_table, table_title
from replication.report.verdicts import INTERVAL_NOTE
from replication.study import Study

_BLOCK = re.compile(r"(<!-- (\w+):begin -->\n).*?(<!-- \2:end -->)", re.DOTALL)
_NUMBER = re.compile(r"(<!-- n:(\w+) -->).*?(<!-- /n -->)", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:\w+:(?:begin|end)|n:\w+|/n) -->")
_SHORT = ["Method", "Variant", "Paper", "Ours", "95% interval", "Seeds", "Verdict"]


def outdated(root: Path) -> dict[Path, str]:
    """The README and ``docs/*.md`` whose generated parts are not what they should be, and what they should say.

    Args:
        root: the checkout, with ``results/`` and ``benchmarks/results/``.

    Raises:
        KsaeError: as ``fill``.
    """
    blocks = Blocks(root)
    documents = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    texts = {path: path.read_text(encoding="utf-8") for path in documents if path.exists()}
    return {path: new for path, text in texts.items() if (new := fill(text, path.name, blocks)) != text}


def fill(text: str, name: str, blocks: "Blocks") -> str:
    """A document's text with its generated parts replaced.

    Raises:
        KsaeError: an unknown name, or a marker without its other end.
    """

    def replaced(kind: str, found: re.Match[str]) -> str:
        known = blocks.makers if kind == "block" else blocks.numbers
        if found[2] not in known:
            raise KsaeError(f"{name} asks for the {kind} {found[2]!r}: there are {', '.join(sorted(known))}.")
        return found[1] + (blocks.makers[found[2]]() if kind == "block" else blocks.numbers[found[2]]) + found[3]

    unpaired = _MARKER.search(_NUMBER.sub("", _BLOCK.sub("", text)))
    if unpaired:
        raise KsaeError(f"{name} has {unpaired[0]} without its other end: restore it.")
    return _NUMBER.sub(partial(replaced, "number"), _BLOCK.sub(partial(replaced, "block"), text))


class Blocks:
    """What documents can ask for by name, made when it is asked for.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path) -> None:
        self._benchmarks = root / "benchmarks" / "results"
        where = root / "results"
        self._studies = {name: Study(name, results=where, evidence=where) for name in ("quick", "paper")}
        quick, paper = self._studies.values()
        self.makers: dict[str, Callable[[], str]] = {
            "table1": lambda: markdown(readable(error_table(paper, 1).dropna(subset="paper_error"))[_SHORT]),
            "table1_full": lambda: markdown(readable(error_table(quick, 1))) + "\n" + INTERVAL_NOTE + "\n",
            "table2": lambda: f"{table_title(quick, 2)}:\n\n{markdown(readable(error_table(quick, 2)))}",
            "table3": lambda: markdown(readable(error_table(quick, 3))),
            "table4": lambda: f"{table_title(quick, 4)}:\n\n{markdown(readable(error_table(quick, 4)))}",
            "claims": self._claims,
            "what_it_takes": lambda: markdown(readable_sweeps(sweep_table(paper))),
            "models": self._models,
            "speed": partial(self._measured, "engines.json", "nets"),
            "norb_speed": partial(self._measured, "engines_norb.json", "nets"),
            "readout_speed": partial(self._measured, "readout.json", "codes"),
            "peers_speed": partial(self._measured, "peers.json", "peers"),
            "encoding_speed": partial(self._measured, "encoding.json", "methods"),
            "recovery": partial(self._measured, "recovery.json", "sets", "True atoms found (%), `seconds` of a fit"),
        }

    @cached_property
    def numbers(self) -> dict[str, str]:
        """Mean errors of rows of profiles ``quick`` and ``paper``; the ratio of peers.

        An error's name is as ``k25_error``, in Table 3 ``tuned_none_error``, in profile ``paper`` ``paper_k25_error``.
        """
        found: dict[str, str] = {}
        for profile, first in (("quick", ""), ("paper", "paper_")):
            for number, prefix in ((1, ""), (3, "tuned_")):
                table = error_table(self._studies[profile], number)
                names, errors = first + prefix + table["key"] + "_error", table["error_mean"].map("{:.2f}".format)
                found |= dict(zip(names, errors, strict=True))
        if (peers := self._benchmarks / "peers.json").exists():
            ours = json.loads(peers.read_text(encoding="utf-8"))["peers"]["ours, cpu engine"]
            found["peers_ratio"] = f"{ours['fastest_peer_over_this'] or math.nan:.1f}"
        return found

    def _claims(self) -> str:
        """Each claim's verdict in the two profiles that have most, and in brackets its confidence."""
        made = {name: pd.DataFrame(claims(self._studies[name])) for name in ("quick", "paper")}
        said = {f"profile {name}": one["verdict"] + " (" + one["confidence"] + ")" for name, one in made.items()}
        return markdown(made["quick"][["id", "claim"]].assign(**said).replace("not tested (none)", "not tested"))

    def _models(self) -> str:
        """The trained coders that come with the library, from their cards."""
        cards = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in PRETRAINED.glob("*.json")}
        rows = [
            {
                "Name": f"`{name}`", "Live units": card["live_units"], "FVU of test examples": card["test_fvu"],
                "Test error of the readout (%)": f"{card['readout']['test_error']:.2f}" if "readout" in card else "–",
                "Run": card["run"],
            }
            for name, card in sorted(cards.items())
        ]  # fmt: skip
        return markdown(pd.DataFrame(rows))

    def _measured(self, file: str, rows: str, what: str = "Medians") -> str:
        """A benchmark's single values as a table, a row for each entry of ``rows``."""
        path = self._benchmarks / file
        if not path.exists():
            return ""
        measured = json.loads(path.read_text(encoding="utf-8"))
        table = pd.DataFrame.from_dict(measured[rows], orient="index").rename_axis(rows).reset_index()
        listed = [name for name in table if table[name].map(lambda value: isinstance(value, list | dict)).any()]
        table = table.drop(columns=listed).astype(object).fillna("–")
        task = ", ".join(f"{name} {value}" for name, value in measured.get("task", {}).items())
        machine = "{hardware[cpu]} with {hardware[cores]} cores".format(**measured)
        return f"{what}; machine: {machine}{task and '; '}{task}:\n\n{markdown(table)}"
