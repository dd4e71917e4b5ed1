"""A process that saves, loads, steps and fits for long holds no more than at first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARES = [
    pytest.param(0.1, marks=pytest.mark.contract),
    pytest.param(1.0, marks=[pytest.mark.slow, pytest.mark.long]),
]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux's")
@pytest.mark.parametrize("share", SHARES)
def test_nothing_grows(tmp_path, share, record_property):
    command = [sys.executable, "-m", "tests.soak", str(tmp_path), str(share)]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, grown = json.loads(done.stdout), {}
    found.pop("seconds")
    for kind, tenths in found.items():
        # after three tenths pools and caches are there
        early, late = tenths[2], tenths[-1]
        grown[kind] = late["memory"] / early["memory"] - 1
        assert grown[kind] < 0.05, (kind, tenths)
        assert late["threads"] <= early["threads"] + 2, (kind, tenths)
        assert late["files"] <= early["files"] + 2, (kind, tenths)
    each = ", ".join(f"{kind} {100 * by:+.1f} %" for kind, by in grown.items())
    record_property("figure", f"{share:.0%} of 1,000 saves, ...: memory {each}")
