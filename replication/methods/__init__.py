# ruff: noqa: F401
"""The feature learners of the study, all fitted and used in one way.

A new baseline is one file and the line below that imports it, see ``docs/extending.md``. Stored runs depend on its name
``method`` and on the names of its settings: choose them to stay.
"""

from dataclasses import fields
from typing import Any

from replication.methods.autoencoders import Autoencoder, KLSparse
from replication.methods.base import Method
from replication.methods.k_sparse import KSparse, RandomK
from replication.methods.plain import PCA, Pixels
from replication.methods.rbm import DBN, RBM, GaussianRBM

METHODS: dict[str, type[Method]] = {
    kind.method: kind
    for kind in list(vars().values())
    if isinstance(kind, type) and issubclass(kind, Method) and kind.method
}
"""Class of each method imported above, by its name."""


def method_from_json(config: dict[str, Any]) -> Method:
    """The method whose settings are under ``train`` (the k-sparse autoencoder) or ``baseline``.

    Raises:
        ValueError: an unknown method, an unknown setting or an impossible value.
    """
    settings = config["train"] if "train" in config else config["baseline"]
    name = "k_sparse" if "train" in config else settings.get("method")
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}: choose one of {', '.join(METHODS)}.")
    known = [f.name for f in fields(METHODS[name])]
    for unknown in sorted(settings.keys() - known):
        raise ValueError(f"{name} has no setting {unknown!r}: its settings are {', '.join(known)}.")
    return METHODS[name](**settings)
