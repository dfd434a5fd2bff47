"""The house: one Starlette application around a Director, and the process that serves it."""
