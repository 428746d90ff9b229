"""Raw pixels, as a method like the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np
import pandas as pd
from scipy import sparse
from torch import nn

from ksae_lib.model import CodeMode
from replication.methods.base import Codes, Fitted, How, Method, check_examples


@dataclass(frozen=True, kw_only=True)
class Pixels(Method):
    """The examples themselves."""

    uses_seed: ClassVar[bool] = False

    method = "pixels"

    def build(self, inputs: int) -> nn.Identity:
        """There is nothing to train."""
        return nn.Identity()

    def fit(self, x: np.ndarray, held_out: np.ndarray | None = None, **how: Unpack[How]) -> Fitted:
        """There is nothing to train; the history is empty."""
        check_examples(x)
        return nn.Identity(), pd.DataFrame({"seconds": []})

    def codes(self, model: Any, x: np.ndarray, mode: CodeMode, alphas: Sequence[float] = (1.0,)) -> Codes:
        """The examples as CSR (shape: [examples, inputs])."""
        return (sparse.csr_array(x),) * len(alphas)
