"""Training of the built-in storybook model: `st2v train`, or `python -m st2v_stream.training`."""
