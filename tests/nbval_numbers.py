"""Has nbval compare numbers to within a tolerance: ``pytest -p tests.nbval_numbers --nbval …``.

Processors sum in different orders, and a smoke-size run carries that on to the second digit of an error. A number
with decimals, or a whole one from 100, may therefore differ by a quarter. Smaller whole numbers are counts and must be
equal, and so must every word; ``nbval_sanitize.cfg`` says which words hang on noise.
"""

from __future__ import annotations

import os
import re
from typing import Any

from nbval.plugin import IPyNbCell

SHARE = 0.25
LEAST = 0.05
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
_EXACT_BELOW = 100
_compare = IPyNbCell.compare_outputs


def pytest_configure(config: Any) -> None:
    """Give each of pytest-xdist's processes a folder of its own: two would carry out a run that they share at once."""
    if hasattr(config, "workerinput"):
        for name in {"KSAE_RESULTS", "KSAE_EVIDENCE"} & os.environ.keys():
            os.environ[name] += f"/{config.workerinput['workerid']}"


def agree(test: str, reference: str) -> bool:
    """Whether two texts differ in nothing but numbers that are close."""
    if _NUMBER.sub("#", test) != _NUMBER.sub("#", reference):
        return False
    pairs = zip(_NUMBER.findall(test), _NUMBER.findall(reference), strict=True)
    return all(a == b or _close(a, b) for a, b in pairs)


def _close(a: str, b: str) -> bool:
    exact = a.isdigit() and b.isdigit() and min(int(a), int(b)) < _EXACT_BELOW
    difference = abs(float(a) - float(b))
    return not exact and difference <= max(LEAST, SHARE * max(float(a), float(b)))


def _with_reference_numbers(cell: IPyNbCell, test: Any, reference: Any) -> Any:
    """The test's value, or the reference's where both are texts that agree."""
    if isinstance(test, dict) and isinstance(reference, dict):
        return type(test)({k: _with_reference_numbers(cell, v, reference.get(k)) for k, v in test.items()})
    if isinstance(test, str) and isinstance(reference, str) and agree(cell.sanitize(test), cell.sanitize(reference)):
        return reference
    return test


def _compare_outputs(cell: IPyNbCell, test: Any, reference: Any, skip_compare: Any = None) -> bool:
    if len(test) == len(reference):
        test = [_with_reference_numbers(cell, *pair) for pair in zip(test, reference, strict=True)]
    return bool(_compare(cell, test, reference, skip_compare))


IPyNbCell.compare_outputs = _compare_outputs
