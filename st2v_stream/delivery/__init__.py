"""The doors: how a film leaves the house. They see only a `Director` and immutable segments."""
