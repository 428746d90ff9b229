"""Generated parts of README.md and docs/: blocks between markers and single numbers, from the committed runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ksae_lib.io import KsaeError, write_text
from replication.experiments.profiles import PROFILES
from replication.report.claims import claims
from replication.report.tables import INTERVAL_NOTE, epoch_table, error_table, markdown, readable, table_title
from replication.study import Study

_BLOCK = re.compile(r"(<!-- (\w+):begin -->\n).*?(<!-- \2:end -->)", re.DOTALL)
_NUMBER = re.compile(r"(<!-- n:(\w+) -->).*?(<!-- /n -->)", re.DOTALL)
_MARKER = re.compile(r"<!-- (?:\w+:(?:begin|end)|n:\w+|/n) -->")
_SHORT = ["Method", "Variant", "Paper", "Ours", "95% interval", "Seeds"]


class MarkerError(KsaeError):
    """A document asks for a block or number that does not exist, or one of its markers has no other end."""


def update_blocks(root: Path) -> list[Path]:
    """Fill every generated part of the README and of ``docs/*.md``.

    Args:
        root: the checkout, with ``results/`` and ``benchmarks/results/``.

    Returns:
        The documents that changed.

    Raises:
        MarkerError: an unknown name, or a marker without its other end.
    """
    changed = {path: text for path, text in filled(root).items() if path.read_text(encoding="utf-8") != text}
    for path, text in changed.items():
        write_text(path, text)
    return list(changed)


def filled(root: Path) -> dict[Path, str]:
    """The documents that have generated parts, and what they should say."""
    blocks = Blocks(root)
    documents = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    texts = {path: path.read_text(encoding="utf-8") for path in documents if path.exists()}
    return {path: fill(text, path.name, blocks) for path, text in texts.items() if _MARKER.search(text)}


def fill(text: str, name: str, blocks: Blocks) -> str:
    """A document's text with its generated parts replaced; see ``update_blocks``."""
    known: dict[str, Any] = {}

    def replaced(kind: str, found: re.Match[str]) -> str:
        asked = found[2]
        if asked not in known:
            source = blocks.makers if kind == "block" else blocks.numbers
            if asked not in source:
                raise MarkerError(f"{name} asks for the {kind} {asked!r}: there are {', '.join(sorted(source))}.")
            made = source[asked]
            known[asked] = made() if callable(made) else made
        return f"{found[1]}{known[asked]}{found[3]}"

    unpaired = _MARKER.search(_NUMBER.sub("", _BLOCK.sub("", text)))
    if unpaired:
        raise MarkerError(f"{name} has {unpaired[0]} without its other end: restore it.")
    return _NUMBER.sub(partial(replaced, "number"), _BLOCK.sub(partial(replaced, "block"), text))


class Blocks:
    """What documents can ask for by name, made when it is asked for.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path) -> None:
        self._benchmarks = root / "benchmarks" / "results"
        self._results = root / "results"
        self._quick, self._paper = self._study("quick"), self._study("paper")
        self.makers: dict[str, Callable[[], str]] = {
            "table1": lambda: markdown(readable(error_table(self._quick, 1))[_SHORT]),
            "table1_full": lambda: markdown(readable(error_table(self._quick, 1))) + "\n" + INTERVAL_NOTE + "\n",
            "table2": partial(self._titled, 2),
            "table3": lambda: markdown(readable(error_table(self._quick, 3))),
            "table4": partial(self._titled, 4),
            "claims": lambda: markdown(pd.DataFrame(claims(self._quick))[["id", "claim", "verdict", "confidence"]]),
            "designed": self._designed,
            "epochs": lambda: markdown(epoch_table(self._paper).drop(columns=["val_error", "run_id"], errors="ignore")),
            "gabor": self._gabor,
            "longer": self._paper_length,
            "speed": partial(self._measured, "engines.json"),
            "norb_speed": partial(self._measured, "engines_norb.json"),
            "readout_speed": partial(self._measured, "readout.json", "codes"),
            "peers_speed": partial(self._measured, "peers.json", "peers"),
            "encoding_speed": partial(self._measured, "encoding.json", "methods"),
        }

    def _study(self, profile: str) -> Study:
        return Study(profile, results=self._results, evidence=self._results)

    @cached_property
    def numbers(self) -> dict[str, str]:
        """Single numbers: of rows, as ``k25_error``, ``tuned_none_low`` or ``long_k25_seeds``; of all runs; of peers.

        ``tuned_``: Table 3 instead of 1. ``long_``: profile ``paper`` instead of ``quick``.
        """
        found = {}
        quick, paper = self._quick, self._paper
        asked = (quick, 1, ""), (quick, 3, "tuned_"), (paper, 1, "long_"), (paper, 3, "long_tuned_")
        for study, number, prefix in asked:
            for row in error_table(study, number).to_dict("records"):
                for name, column in (("error", "error_mean"), ("low", "error_ci_low"), ("high", "error_ci_high")):
                    found[f"{prefix}{row['key']}_{name}"] = f"{row[column]:.2f}"
                found[f"{prefix}{row['key']}_paper"] = f"{row['paper_error']:.2f}"
                found[f"{prefix}{row['key']}_seeds"] = str(row["n_seeds"])
        stores = [self._study(profile).evidence for profile in PROFILES]
        of_other_code = [not store.read(name).is_current for store in stores for name in store.names()]
        if (peers := self._benchmarks / "peers.json").exists():
            ours = json.loads(peers.read_text(encoding="utf-8"))["peers"]["ours, cpu engine"]
            found["peers_ratio"] = f"{ours['fastest_peer_over_this']:.1f}"
        return found | {"runs_total": f"{len(of_other_code):,}", "runs_of_other_code": f"{sum(of_other_code):,}"}

    def _titled(self, number: int) -> str:
        """Table 2 or 4 under its title, which names the data."""
        return f"{table_title(self._quick, number)}:\n\n{markdown(readable(error_table(self._quick, number)))}"

    def _gabor(self) -> str:
        """What the Gabor fits of Figure 3's filters come to, for every profile that has its run."""
        rows = []
        for study in (self._quick, self._paper):
            for stored in filter(None, map(study.find, study.experiment("figure3").filters)):
                found = stored.metrics["gabor"]
                medians = [f"{np.median(found[name]):.2f}" for name in ("explained", "control_explained")]
                shares = [f"{100 * found[name]:.0f}" for name in ("share", "control_share")]
                rows.append((study.profile, stored.run.data.source, found["filters"], *shares, *medians))
        columns = ["Profile", "Patches of", "Filters fitted", "Localized and oriented (%)", "Noise (%)"]
        return markdown(pd.DataFrame(rows, columns=[*columns, "Variance explained, median", "Noise, median"]))

    def _paper_length(self) -> str:
        """Tables 1 and 3 of profile ``paper``, the rows that have runs."""
        table = pd.concat([error_table(self._paper, number) for number in (1, 3)], ignore_index=True)
        return markdown(readable(table).assign(Table=table["table"])[table["n_seeds"] > 0][["Table", *_SHORT]])

    def _designed(self) -> str:
        """Every row of Table 1 at k = 25, of both profiles."""
        tables = [error_table(study, 1).assign(profile=study.profile) for study in (self._quick, self._paper)]
        table = pd.concat(tables, ignore_index=True)
        shown = readable(table).assign(Profile=table["profile"], Validation=table["val_error_mean"].round(2))
        keys = ("k25_fixed", "k25", "k25_printed", "k25_designed", "k25_refitted")
        wanted = table["key"].isin(keys) & (table["n_seeds"] > 0)
        return markdown(shown[wanted][["Profile", *_SHORT[1:], "Validation"]])

    def _measured(self, file: str, rows: str = "") -> str:
        """A benchmark's single values as a table, a row for each entry of ``rows``, or of those named by a number."""
        path = self._benchmarks / file
        if not path.exists():
            return ""
        measured = json.loads(path.read_text(encoding="utf-8"))
        entries = measured[rows] if rows else {key: entry for key, entry in measured.items() if key.isdigit()}
        entries = entries or {"": measured}
        table = pd.DataFrame.from_dict(entries, orient="index").rename_axis(rows or "k").reset_index()
        listed = [name for name in table if table[name].map(lambda value: isinstance(value, list | dict)).any()]
        task = ", ".join(f"{name} {value}" for name, value in measured.get("task", {}).items())
        machine = "{hardware[cpu]} with {hardware[cores]} cores".format(**measured)
        return f"Medians; machine: {machine}{task and '; '}{task}:\n\n" + markdown(
            table.drop(columns=listed).astype(object).fillna("–")
        )
