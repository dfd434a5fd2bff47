"""Training of the built-in storybook model: `st2v train`."""
