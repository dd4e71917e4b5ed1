"""Where a run computes: devices, what each is fed, and processes that meet."""
