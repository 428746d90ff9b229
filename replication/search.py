"""The search for settings: Optuna proposes, successive halving ends what lags behind, validation errors decide."""

import json
from typing import Any

from ksae_lib.io import KsaeError, write_text
from ksae_lib.loop import DivergenceError
from replication.experiments.base import Between, Search
from replication.experiments.search import TRIALS
from replication.study import Study

_NOTHING_LEARNT = 90.0
"""Percent; what a trial that diverged or lost all its units counts as."""


def run_search(study: Study, name: str, trials: int) -> None:
    """Try so many settings of a row and write down what was tried: of evidence as the plan.

    Every trial starts with a short run; the best third goes on to longer ones. Stored runs are not carried out again,
    and the same errors lead to the same proposals: a search that was interrupted goes on where it was.

    Raises:
        KsaeError: there is no search of that name, or more trials than these are recorded.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {one.name: one for experiment in study.experiments for one in experiment.searches}
    if name not in found:
        raise KsaeError(f"There is no search {name!r} in profile {study.profile}: choose one of {', '.join(found)}.")
    one = found[name]
    record = TRIALS if study.updates_evidence else study.folder / TRIALS.name
    others = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    shortest, *longer = one.rungs
    if trials < (recorded := sum(done["epochs"] == shortest for done in others.get(name, []))):
        raise KsaeError(f"{recorded} trials of {name} are recorded: give as many, or more, with --trials.")
    tried: list[dict[str, Any]] = []

    def error_of(settings: dict[str, Any], epochs: int) -> float:
        try:
            error = study.obtain(one.build(**settings, epochs=epochs).at(0)).metrics["validation_error"]
        except (DivergenceError, ValueError):
            # A net without an active unit is refused with the latter.
            error = _NOTHING_LEARNT
        tried.append({**settings, "epochs": epochs} | ({"diverged": True} if error == _NOTHING_LEARNT else {}))
        print(f"{name}: {json.dumps(tried[-1])}: {error:.2f}%", flush=True)
        return float(error)

    optimizer = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    errors: list[tuple[float, dict[str, Any]]] = []
    for _ in range(trials):
        trial = optimizer.ask()
        settings = {key: _proposed(trial, key, one) for key in one.space}
        errors.append((error_of(settings, shortest), settings))
        optimizer.tell(trial, errors[-1][0])
    for epochs in longer:
        errors.sort(key=lambda found: found[0])
        errors = [(error_of(settings, epochs), settings) for _, settings in errors[: -(-len(errors) // 3)]]
    write_text(record, json.dumps({**others, name: tried}, indent=1, sort_keys=True) + "\n")


def _proposed(trial: Any, key: str, one: Search) -> Any:
    """A value of a setting; numbers with two digits, as a reader would choose them."""
    values = one.space[key]
    if isinstance(values, Between):
        return float(f"{trial.suggest_float(key, *values, log=True):.2g}")
    return trial.suggest_categorical(key, values)
