"""Models as pure functions."""
