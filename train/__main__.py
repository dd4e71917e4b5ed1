"""`zoo`, which is also `python -m train`: the command line, with memory in huge pages.

XLA takes the buffers of a program from the system each time it runs. Where Linux gives
pages of 4 KiB unless asked otherwise, getting and addressing them is up to a third of
the time of a step.
"""

import contextlib
import os
import sys
from pathlib import Path

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
HUGE = "glibc.malloc.hugetlb"
BEGUN = "ZOO_STARTED_AGAIN"  # in the environment between the two starts


def main() -> int:
    """Run a command; the exit status, as `train.cli.main` has it."""
    huge_pages()
    from train.cli.main import main as run  # after the restart: it takes time to import

    return run()


def huge_pages() -> None:
    """Start this process again, asking for huge pages, where they are given if asked.

    The C library (glibc 2.35) reads the setting when a process begins. Does nothing
    where the user has set it, and never twice.
    """
    # the loader hides the setting from a Python with file capabilities: restarted
    # without a mark, it would start again for ever
    if os.environ.pop(BEGUN, None):
        return
    with contextlib.suppress(OSError):  # not Linux; or no process may be started
        tunables = os.environ.get("GLIBC_TUNABLES", "")
        if "[madvise]" in SWITCH.read_text() and HUGE not in tunables:
            os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE}=1".lstrip(":")
            os.environ[BEGUN] = "1"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
