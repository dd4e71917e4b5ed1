"""The files of a run on a disk that may be full, shared, or cut off by a kill."""

import json
import warnings
from pathlib import Path
from typing import Any

from train import log
from train.disk.files import whole


class FullDisk:
    """What cannot be written inside is one warning, until a writing succeeds."""

    def __init__(self, lost: str):
        self.failing, self._lost = False, lost

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, OSError):
            self.failing = self.failing and kind is not None
            return False
        if not self.failing:
            warnings.warn(f"{self._lost}: {error}; training goes on", stacklevel=2)
        self.failing = True
        return True


class Log:
    """metrics.jsonl: appended to, and cut back to the step that a run resumes from.

    A callback of `train.loop.fit`. Where it cannot be written, the records are kept,
    and written once it can.
    """

    def __init__(self, path: Path):
        self.path, self._before = path, 0.0
        self._disk = FullDisk("lines of metrics.jsonl are not written yet")
        self.records: list[dict[str, float]] = []
        self._opened = False

    def _open(self, step):
        self.records = [r for r in read_log(self.path) if r["step"] <= step]
        self._before = self.records[-1]["seconds"] if self.records else 0.0
        self._opened = True
        with self._disk:
            self._write()

    def __call__(self, state: Any, record: dict[str, float] | None) -> None:
        if not self._opened:
            self._open(int(state.step))
        if record is None:
            return
        record = record | {"seconds": record["seconds"] + self._before}
        self.records.append(record)
        failed = self._disk.failing
        with self._disk:
            if failed:
                return self._write()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _write(self) -> None:
        with whole(self.path) as part, part.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in self.records)


def loggers(name: log.Name | None, folder: Path) -> list[Any]:
    """The logger that is asked for, whose points may wait for a disk that is full."""
    if name is None:
        return []
    disk = FullDisk(f"points of {log.FILE} are not written yet")
    logger = log.logger(name, folder)

    def told(state, record):
        with disk:
            logger(state, record)

    return [told]


def read_log(path: Path) -> list[dict[str, float]]:
    """The whole lines of a metrics.jsonl; none where there is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [record for record in map(_record, lines) if record is not None]


def _record(line):
    """A line of metrics.jsonl; None if a kill or a full disk damaged it."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    wanted = {"step", "seconds", "examples_per_second"}
    if not isinstance(record, dict) or not wanted <= record.keys():
        return None
    numbers = all(isinstance(value, int | float) for value in record.values())
    return record if numbers else None
