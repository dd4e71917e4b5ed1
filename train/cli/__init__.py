"""The command `zoo`: flags, runs, progress."""
