"""The parent's end of `benchmarks.worker`."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.setting import Setting
from train.__main__ import HUGE

LIMIT = {"cpu": 900, "gpu": 240}  # seconds to wait for an answer


class Failed(Exception):
    """A worker that ended or reported an error; the reason, without any path."""


class Worker:
    """A process that computes only while it is asked."""

    def __init__(self, peer: str, name: str, file: Path, setting: Setting, cache: Path):
        """`cache` is the folder where compiled programs are kept."""
        env = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            # as `zoo train` has it; JAX's own is a second
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "TORCHINDUCTOR_CACHE_DIR": str(cache),
            **setting.environment(),
        }
        if not setting.gpu:
            env |= {
                # keep freed memory: else eager torch spends a third of a step on
                # getting the same pages from the system again, or does not, by chance
                "MALLOC_MMAP_THRESHOLD_": str(2**30),
                "MALLOC_TRIM_THRESHOLD_": str(2**32),
                "MALLOC_TOP_PAD_": str(2**28),
                # in huge pages, as `zoo train` does
                "GLIBC_TUNABLES": f"{HUGE}=1",
            }
        words = [peer, name, str(file), setting.text()]
        self._limit = LIMIT[setting.device]
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )

    def ask(self, *command: object) -> dict:
        """Let it compute; its answer. Raises Failed."""
        self.send(*command)
        return self.answer()

    def send(self, *command: object) -> None:
        """Let it compute."""
        # if it is dead, answer() says how it ended
        with contextlib.suppress(OSError):
            print(*command, file=self._process.stdin, flush=True)

    def answer(self) -> dict:
        """The next answer. Raises Failed."""
        timer = threading.Timer(self._limit, self._process.kill)
        timer.daemon = True  # after Ctrl-C nothing waits for it
        timer.start()
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        timer.cancel()
        if not line:
            raise Failed(f"ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(without_paths(answer["error"])[:200])
        return answer

    def seconds(self) -> float:
        """Since the process began."""
        return time.perf_counter() - self._began

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def without_paths(text: str) -> str:
    """One line of text for a file that others read: no folders."""
    return re.sub(r"(?<![\w.])(/[^\s/'\",:]+)+/", "", " ".join(text.split()))
