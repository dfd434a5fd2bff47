"""What survives the process: one SQLite file that is the truth, and immutable blobs beside it."""
