"""Several processes that train together, each on the devices of its own host.

JAX's runtime joins them: every process runs the same programs, on a mesh of all their
devices. They must therefore launch the same ones in the same order, so what a clock, a
signal or a disk says to one of them is agreed on before it is acted on (`most`,
`together`). A process that dies takes the others with it; all are started again, and
resume.
"""

import contextlib
import ipaddress
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from train.disk.files import from_json
from zoo.base import UsageError, check_int

WAIT = 300.0  # seconds until all processes must have come
BEAT = 30  # seconds of silence after which a process is taken for dead
PATIENCE = 10**9  # milliseconds that the living wait for each other


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    seconds: float = WAIT,
) -> None:
    """Become one of `processes`, number `process`, which meet at process 0's HOST:PORT.

    Without arguments, all is found where Slurm, Open MPI, Kubernetes or a TPU started
    the processes. To be called before anything is computed, and once. Raises UsageError
    where none of these did, and where not all come within `seconds`.
    """
    given = coordinator, processes, process
    if None in given and any(value is not None for value in given):
        raise UsageError(
            "expected a coordinator, the number of processes and which one this is, "
            "or none of the three"
        )
    options: dict[str, Any] = {}
    if coordinator is None or processes is None or process is None:
        coordinator, processes, process = _found()
    else:
        options = {
            "coordinator_address": coordinator,
            "num_processes": check_int("processes", processes, 1),
            "process_id": check_int("process", process, 0, processes - 1),
        }
    if processes > 1:
        meet(coordinator, processes, process, seconds)
    if _loopback(_address(coordinator)[0]):
        options["coordinator_bind_address"] = coordinator  # else on every network
    # a signal is heard by the loop, which agrees with the others on the step
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        initialization_timeout=int(seconds) + 1,
        heartbeat_timeout_seconds=BEAT,
        **options,
    )


def _found():
    """Coordinator, number of processes and which one this is, as JAX finds them."""
    # initialize() finds them too, but ends the interpreter where they are wrong
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, int(WAIT)
        )
    except Exception as error:  # as many kinds as there are clusters
        raise UsageError(f"the cluster does not say who is who: {error}") from error
    if None in found[:3]:
        raise UsageError(
            "expected to be started by Slurm, Open MPI, Kubernetes or on a TPU, found "
            "none of them: --coordinator HOST:PORT --processes N --process I say who "
            "is who"
        )
    return found[:3]


# Meeting ------------------------------------------------------------------------------


def meet(address: str, processes: int, process: int, seconds: float) -> None:
    """Return once all processes have said to process 0, at HOST:PORT, who they are.

    JAX's runtime would end the interpreter of who waits in vain. Raises UsageError.
    """
    host, port = _address(address)
    until = time.monotonic() + seconds
    if process == 0:
        _receive(host, port, processes, until)
        return
    while not (words := _hear(host, port, f"{process}/{processes}\n", until)):
        if time.monotonic() > until:
            raise UsageError(
                f"nothing answers at {host}:{port} after {seconds:.0f} seconds: "
                "process 0 must run there, and be reached from here"
            )
        time.sleep(0.1)
    if words != "go":
        raise UsageError(words)


def _hear(host, port, who, until):
    """What process 0 says; "" where it is not there yet, or one that dies."""
    try:
        with socket.create_connection((host, port), timeout=5) as link:
            link.settimeout(max(0.1, until + 1 - time.monotonic()))
            link.sendall(who.encode())
            head, _, words = link.makefile(errors="replace").readline().partition(": ")
            return words.strip() * (head == "zoo")
    except OSError:
        return ""


def _receive(host, port, processes, until):
    """Wait for all others, and let them go on together."""
    came: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack, _listen(host, port) as server:
        while _alive(came) < processes - 1:
            server.settimeout(max(0.01, until - time.monotonic()))
            try:
                link = stack.enter_context(server.accept()[0])
                link.settimeout(5)
                words = link.makefile(errors="replace").readline().strip()
            except TimeoutError:
                if time.monotonic() < until:
                    continue  # who connects and says nothing is none of them
                missing = sorted({*range(1, processes)} - {*came})
                raise _refused(
                    came.values(),
                    f"expected {processes} processes at {host}:{port}, of which did "
                    f"not come: {', '.join(map(str, missing))}",
                ) from None
            except OSError:
                continue
            number, _, total = words.partition("/")
            if not (number.isdecimal() and total.isdecimal()):
                continue
            fits = int(total) == processes and 0 < int(number) < processes
            if not fits or (int(number) in came and not _gone(came[int(number)])):
                raise _refused(
                    (link, *came.values()),
                    f"expected each of {processes} processes once at {host}:{port}, "
                    f"found process {number} of {total}" + " twice" * fits,
                )
            came[int(number)] = link
        _say("go", came.values())
        for link in came.values():  # who closes first keeps the port for a minute
            with contextlib.suppress(OSError):
                link.recv(1)


def _say(words, links):
    for link in links:
        with contextlib.suppress(OSError):
            link.sendall(f"zoo: {words}\n".encode())


def _refused(links, wrong):
    """The error of those that came and of process 0."""
    _say(wrong, links)
    return UsageError(wrong)


def _alive(came):
    """How many wait; those that died are struck out, as they may come again."""
    for number in [number for number, link in came.items() if _gone(link)]:
        del came[number]
    return len(came)


def _gone(link):
    """Whether who waits there has died: it may come again."""
    link.settimeout(0)
    try:
        return not link.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        link.settimeout(5)


def _listen(host, port):
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # what was just closed may be bound again, what listens may not
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host if _loopback(host) else "", port))
        server.listen()
    except OSError as error:
        server.close()
        raise UsageError(
            f"port {port} cannot be listened on ({error}): choose another"
        ) from error
    return server


def _address(text):
    """ "HOST:PORT" -> both. Raises UsageError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"expected a coordinator as HOST:PORT, found {text!r}")
    return host.strip("[]"), int(port)


def _loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Agreeing -----------------------------------------------------------------------------


def alone() -> bool:
    """Whether there is one process."""
    return jax.process_count() == 1


def leads() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def most(number: float) -> float:
    """The greatest of the numbers that the processes have, for all of them.

    Each must ask, in the same order. The number itself where there is one process.
    """
    if alone():
        return number
    return float(np.max(_gathered(np.float32(number))))


def _gathered(array):
    """The arrays of all processes, [P, ...]."""
    from jax._src.distributed import global_state
    from jax.experimental import multihost_utils

    # who measures or draws may take long, and what CPUs gather waits for half a minute
    assert global_state.client is not None  # `join` was called
    global_state.client.wait_at_barrier("zoo", PATIENCE)
    return multihost_utils.process_allgather(array)


def said(text: str) -> list[str]:
    """What each of the processes says, in their order, for all of them.

    Each must say something, if only "", in the same order.
    """
    if alone():
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = _gathered(np.int32(len(own)))
    if not sizes.max():
        return [""] * len(sizes)
    own = np.pad(own, (0, sizes.max() - len(own)))
    found = _gathered(own)
    return [bytes(row[:n]).decode() for row, n in zip(found, sizes, strict=True)]


def together(call: Callable[[], Any], kind: type[Exception] = UsageError) -> Any:
    """call() in every process; an error of that kind in one of them is one in all."""
    result, error = None, None
    try:
        result = call()
    except kind as caught:
        if alone():
            raise
        error = caught
    wrong = "" if error is None else str(error) or type(error).__name__
    if text := next(filter(None, said(wrong)), ""):
        raise error or UsageError(text)
    return result


def first(call: Callable[[], Any], kind: type[Exception] = UsageError) -> None:
    """call() in the first process alone; its error of that kind is one in all."""
    together(lambda: call() if leads() else None, kind)


def told(call: Callable[[], Any]) -> Any:
    """What call() gives in the first process, for all: JSON, whose lists are tuples.

    Its UsageError is one in all.
    """
    if alone():
        return call()
    text = together(lambda: json.dumps(call()) if leads() else "")
    return from_json(said(text)[0])


def same(flags: dict[str, Any]) -> None:
    """Raise UsageError, in all processes, for a flag that is not the same in all."""
    every = [json.loads(text) for text in said(json.dumps(flags, default=str))]
    for name, value in every[0].items():
        for other in every[1:]:
            if other.get(name) != value:
                raise UsageError(
                    f"expected the same --{name.replace('_', '-')} in all processes, "
                    f"found {value} and {other.get(name)}"
                )


# Dying --------------------------------------------------------------------------------


def common(error: BaseException) -> bool:
    """Whether all processes meet this error: then they go on together."""
    return alone() or isinstance(error, UsageError)


@contextlib.contextmanager
def one_fate() -> Iterator[None]:
    """What one of several processes dies of inside, none waits for."""
    try:
        yield
    except BaseException as error:
        if common(error):
            raise
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # an ordinary end would wait for the others
