"""How good are films and models? `st2v evaluate`."""
