"""Speed of training beside other libraries: `python -m benchmarks [FAMILY ...]`."""
