"""`python -m st2v_stream` is `st2v`."""

from __future__ import annotations

import sys

from st2v_stream.cli import main

if __name__ == "__main__":
    sys.exit(main())
