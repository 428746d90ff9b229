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
from replication.code_digest import is_current
from replication.experiments.profiles import PROFILES
from replication.report.claims import claims
from replication.report.tables import INTERVAL_NOTE, epoch_table, error_table, markdown, readable, table_title
from replication.runs import RunStore
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


def code_state(store: RunStore) -> tuple[int, int]:
    """How many runs the store has, and how many of them are of the code that is here."""
    runs = [store.read(name) for name in store.names()]
    return len(runs), sum(map(is_current, runs))


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
            "longer": self._longer,
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
        """Single numbers: of rows of profile ``quick``, as ``k25_error`` and ``tuned_none_paper``, and of all runs."""
        found = {}
        for number, prefix in ((1, ""), (3, "tuned_")):
            for row in error_table(self._quick, number).to_dict("records"):
                for name, column in (("error", "error_mean"), ("low", "error_ci_low"), ("high", "error_ci_high")):
                    found[f"{prefix}{row['key']}_{name}"] = f"{row[column]:.2f}"
                found[f"{prefix}{row['key']}_paper"] = f"{row['paper_error']:.2f}"
                found[f"{prefix}{row['key']}_seeds"] = str(row["n_seeds"])
        states = [code_state(self._study(profile).evidence) for profile in PROFILES]
        total = sum(runs for runs, _ in states)
        found |= {"runs_total": f"{total:,}", "runs_of_other_code": f"{total - sum(here for _, here in states):,}"}
        return found

    def _titled(self, number: int) -> str:
        """Table 2 or 4 under its title, which names the data."""
        return f"{table_title(self._quick, number)}:\n\n{markdown(readable(error_table(self._quick, number)))}"

    def _gabor(self) -> str:
        """What the Gabor fits of Figure 3's filters come to, for every profile that has its run."""
        studies = (self._quick, self._paper)
        runs = [(study, run, study.find(run)) for study in studies for run in study.experiment("figure3").filters]
        return markdown(
            pd.DataFrame(
                {
                    "Profile": study.profile,
                    "Patches of": run.data.source,
                    "Epochs": run.method.epochs,
                    "Filters fitted": gabor["filters"],
                    "Localized and oriented (%)": f"{100 * gabor['share']:.0f}",
                    "Noise (%)": f"{100 * gabor['control_share']:.0f}",
                    "Variance explained, median": f"{np.median(gabor['explained']):.2f}",
                    "Noise, median": f"{np.median(gabor['control_explained']):.2f}",
                }
                for study, run, stored in runs
                if stored is not None
                for gabor in [stored.metrics["gabor"]]
            )
        )

    def _designed(self) -> str:
        """Every row of Table 1 at k = 25, of both profiles."""
        keys = ("k25_fixed", "k25", "k25_printed", "k25_designed", "k25_refitted")
        tables = [error_table(study, 1).assign(profile=study.profile) for study in (self._quick, self._paper)]
        table = pd.concat(tables, ignore_index=True)
        table = table[table["key"].isin(keys) & (table["n_seeds"] > 0)]
        shown = readable(table).drop(columns=["Method", "Verdict"])
        shown.insert(1, "Profile", table["profile"])
        shown.insert(4, "Validation", table["val_error_mean"].map("{:.2f}".format))
        return markdown(shown)

    def _longer(self) -> str:
        """Errors of the two profiles beside each other, for the rows that both have: error (interval; seeds)."""
        sides = []
        for study in (self._quick, self._paper):
            table = pd.concat([error_table(study, number) for number in (1, 3)], ignore_index=True)
            shown = readable(table).assign(key=table["key"], Table=table["table"])[table["n_seeds"] > 0]
            said = shown["Ours"] + " (" + shown["95% interval"] + "; " + shown["Seeds"].astype(str) + ")"
            sides.append(shown.assign(**{f"Profile `{study.profile}`": said}))
        names = ["Table", "Method", "Variant", "Paper", "key"]
        both = sides[0][[*names, "Profile `quick`"]].merge(sides[1][["Table", "key", "Profile `paper`"]], sort=False)
        return markdown(both.drop(columns="key"))

    def _measured(self, file: str, rows: str = "") -> str:
        """A benchmark's single values as a table, a row for each entry of ``rows`` (none: those named by a number)."""
        path = self._benchmarks / file
        if not path.exists():
            return ""
        measured = json.loads(path.read_text(encoding="utf-8"))
        entries = measured[rows] if rows else {key: entry for key, entry in measured.items() if key.isdigit()}
        table = pd.DataFrame.from_dict(entries, orient="index").rename_axis(rows or "k").reset_index()
        listed = [name for name in table if table[name].map(lambda value: isinstance(value, list)).any()]
        task = ", ".join(f"{name} {value}" for name, value in measured.get("task", {}).items())
        machine = "{hardware[cpu]}, {hardware[cores]} cores".format(**measured)
        return f"Median on {machine}{task and '; '}{task}:\n\n" + markdown(table.drop(columns=listed).fillna("–"))
