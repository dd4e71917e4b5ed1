"""Training: one pure step for every model of `zoo`, and what runs it."""
