"""A training in a process of its own, which is started again where it crashes."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

ENDED = (0, 2, 130)  # done, a mistake, stopped: no crash


def restarted(argv: list[str], out: Path, restarts: int) -> int:
    """`zoo train` with such arguments, again after each crash; its exit status.

    A crash is a kill or an error that is no one's mistake: not a result, not Ctrl-C.
    The run goes on from its last saved state.
    """
    command = [sys.executable, "-m", "train", "train", *argv]
    command += ["--out", str(out), "--restarts", "0"]
    began = _written(out / "config.json")
    for left in range(restarts, -1, -1):
        before = _written(out / "result.json")
        status = _status(command)
        if status in ENDED or _written(out / "result.json") not in (None, before):
            break  # a training may fail by its scores
        how = f"a signal ({-status})" if status < 0 else f"an error ({status})"
        again = f"it is started again, {left - 1} more times if need be"
        print(
            f"zoo: the training ended by {how}: {again if left else 'not again'}",
            file=sys.stderr,
        )
        if _written(out / "config.json") not in (None, began):
            command = [*command, "--no-overwrite", "--resume"]
    return 128 - status if status < 0 else status


def _written(path):
    """When a file was; None without one."""
    return path.stat().st_mtime_ns if path.exists() else None


def _status(command):
    with subprocess.Popen(command) as child, _passed_on(child):
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the terminal told it, too
                return child.wait()


@contextlib.contextmanager
def _passed_on(child: subprocess.Popen) -> Iterator[None]:
    """SIGTERM is for the child, which saves and ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)
