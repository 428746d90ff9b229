# ruff: noqa: F401
"""The feature learners of the study, all fitted and used in one way.

To add a baseline, write one file and add the line below that imports it. Derive a frozen dataclass from ``SGDBaseline``
and write ``loss`` where autograd trains one layer of units (example: ``kl_sparse.py``); otherwise derive it from
``Baseline`` and write ``build``, ``fit`` and ``encode`` (example: ``pca.py``). Declare settings that have impossible
values with ``setting(default, rule)``. Stored runs depend on the name ``method`` and on the names of the settings:
choose them to stay. Override ``hidden_layers`` if fine-tuning starts from it and not from one layer of units.
"""

from dataclasses import fields
from typing import Any

from replication.methods.autoencoder import Autoencoder
from replication.methods.base import Method
from replication.methods.k_sparse import KSparse, RandomK
from replication.methods.kl_sparse import KLSparse
from replication.methods.pca import PCA
from replication.methods.pixels import Pixels
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
