"""The page in a real headless Chromium, against the real server."""
