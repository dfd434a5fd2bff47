"""Tests run side by side, one process per CPU (pytest-xdist): one thread of torch in each, and in what it starts."""

import gc
import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; `-n 0` leaves all of this alone
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every process imports 600,000 objects that stay: to look through them for garbage would take a quarter of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()
