"""Tests run side by side, one process per CPU (pytest-xdist): one thread of torch in each, and in what it starts."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported; `-n 0` leaves all of this alone
    os.environ.setdefault("OMP_NUM_THREADS", "1")
