"""`python -m st2v_stream.training`."""

from __future__ import annotations

import argparse
import sys

from st2v_stream.training.command import add_arguments, run

parser = argparse.ArgumentParser(prog="python -m st2v_stream.training", description="Train the storybook model.")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
