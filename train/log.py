"""Where the numbers of a training are sent: a logger is a function log(state, record).

It is a callback of `train.loop.fit`: told of `(state, None)` between lines, and at each
line of a record {"step": 100, "loss": 0.31, "test_loss": 0.4, ...}, all floats. So what
sends them to another place is a function of three lines; docs/howto/log.md has some.
"""

import struct
import time
from pathlib import Path
from typing import Any, Literal, get_args

from train.disk.files import whole
from train.step import State
from zoo.base import UsageError, check_choice

Name = Literal["tensorboard"]
FILE = "events.out.tfevents"  # TensorBoard reads files of such a name


def logger(name: Name, folder: Path | str) -> "TensorBoard":
    """The logger of that name, into a folder. Raises UsageError."""
    check_choice("log", name, get_args(Name))
    return TensorBoard(folder)


class TensorBoard:
    """A logger that writes the file that `tensorboard --logdir FOLDER` shows.

    A number of a record is a scalar at its step. Where a training goes on, the file
    does: what it has of later steps, which are done again, is dropped. A point that
    cannot be written (OSError) is written with the next. Raises UsageError without
    tensorboardX.
    """

    def __init__(self, folder: Path | str):
        self._event, self._checksum = _format()
        self.path = Path(folder) / FILE
        self._waiting, self._end = b"", 0
        self._begun: int | None = None  # the step from which points are ours

    def __call__(self, state: State, record: dict[str, float] | None) -> None:
        """Write what a record says; the first call says where points begin."""
        if self._begun is None:
            self._begun = int(state.step)
        if record is not None:
            self._waiting += self._framed(self._point(record))
        if not self._end:
            self._open(self._begun)
        with self.path.open("r+b") as file:  # over what a full disk cut off
            file.seek(self._end)
            file.write(self._waiting)
            file.truncate()
            file.flush()
            self._waiting, self._end = b"", file.tell()

    def _open(self, step):
        """Leave in the file, which may not be there, what it has until this step."""
        events = [self._event(wall_time=time.time(), file_version="brain.Event:2")]
        if self.path.exists():
            read = map(self._event.FromString, self._whole(self.path.read_bytes()))
            events = [event for event in read if event.step <= step]
        kept = b"".join(map(self._framed, events))
        with whole(self.path) as part:
            part.write_bytes(kept)
        self._end = len(kept)

    def _point(self, record):
        event = self._event(wall_time=time.time(), step=int(record["step"]))
        for name, value in record.items():
            if name not in ("step", "seconds"):  # an event has its time
                event.summary.value.add(tag=name, simple_value=value)
        return event

    def _framed(self, event):
        """An event as a record: its length and itself, each with a checksum."""
        data = event.SerializeToString()
        return self._summed(struct.pack("<Q", len(data))) + self._summed(data)

    def _summed(self, data):
        return data + struct.pack("<I", self._checksum(data))

    def _whole(self, data):
        """The events of a file, up to the first that is damaged."""
        while len(data) >= 16:
            size = 12 + struct.unpack("<Q", data[:8])[0]
            event = data[12:size]
            head, data = data[: size + 4], data[size + 4 :]
            if head != self._summed(head[:8]) + self._summed(event):
                return
            yield event


def _format() -> tuple[Any, Any]:
    """The class of an event, and the checksum of bytes. Raises UsageError."""
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c
    except ImportError as error:
        raise UsageError(
            "expected tensorboardX for a log: pip install 'purezoo[tensorboard]'"
        ) from error
    return Event, masked_crc32c
