from __future__ import annotations

import os
import subprocess
import sys

import pytest

# One parent, which forks in every way in turn. The alarms end a process that hangs, and each of its children.
PARENT = """
import multiprocessing, os, signal
import joblib
import numpy as np
from ksae_lib import KSparseCoder
from ksae_lib.engines import kernels

signal.alarm(500)
os.register_at_fork(after_in_child=lambda: signal.alarm(500))
dense = np.random.default_rng(0).random((600, 70), np.float32)
cases = [("cpu", np.where(dense < 0.8, 0, dense)), ("cpu", dense), ("reference", dense)]

def fit(case):
    engine, x = cases[case]
    return KSparseCoder(units=300, k=9, epochs=2, engine=engine, random_state=0).fit(x)

def check(case):
    (_, x), coder, codes = cases[case], fitted[case], expected[case]
    assert np.array_equal(coder.transform(x), codes)
    again = fit(case)
    assert np.array_equal(again.components_, coder.components_)
    assert np.array_equal(again.transform(x), codes)
    return case

def in_child(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

fitted = [fit(case) for case in range(3)]
expected = [coder.transform(x) for (_, x), coder in zip(cases, fitted)]
assert all(codes.any() for codes in expected)

def forks():
    in_child(lambda: [check(case) for case in range(3)])

def forks_of_a_fork():
    in_child(lambda: in_child(lambda: check(0)))

def forks_while_another_thread_trains():
    with kernels.ONE_CALLER:
        in_child(lambda: check(0))

def uses_a_pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(check, range(3), chunksize=1) == [0, 1, 2]

def uses_multiprocessing_by_joblib():
    assert joblib.Parallel(2, backend="multiprocessing")(joblib.delayed(check)(case) for case in range(3)) == [0, 1, 2]

def uses_loky_by_joblib():
    x, work = cases[0][1], joblib.delayed(lambda coder, x: (coder.transform(x), coder.fit(x).components_))
    for codes, components in joblib.Parallel(2, backend="loky")(work(fitted[0], x) for _ in range(3)):
        assert np.array_equal(codes, expected[0]) and np.array_equal(components, fitted[0].components_)

for way in (
    forks, forks_of_a_fork, forks_while_another_thread_trains, uses_a_pool, uses_multiprocessing_by_joblib,
    uses_loky_by_joblib,
):
    print(way.__name__, flush=True)
    way()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_forked_process_fits_and_codes_as_its_parent_did_before() -> None:
    # With one thread nothing would hang.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", PARENT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["done"]), done.stdout + done.stderr
