"""Processes that train together: how they meet, what they agree on, what a kill is."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from train import checkpoint, loop, optim, source
from train.cli.disk import read_log
from train.data import stream
from train.disk import files
from train.machines import devices, feed, hosts
from train.recipes import saved
from zoo import mlp, supervised
from zoo.base import UsageError

ROOT = Path(__file__).parent.parent


def free_port(at_least=20_000, below=60_000):
    """A port that nothing listens on."""
    for port in np.random.default_rng(os.getpid()).permutation(below - at_least):
        with contextlib.suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", at_least + int(port)))
            return at_least + int(port)
    raise AssertionError


# Meeting ------------------------------------------------------------------------------


def meeting(*who, seconds=10.0):
    """What became of processes (number, of how many) that meet: None, or words."""
    said: list = [""] * len(who)
    address = f"127.0.0.1:{free_port()}"

    def come(i, process, processes):
        try:
            said[i] = hosts.meet(address, processes, process, seconds)
        except UsageError as error:
            said[i] = str(error).replace(address, "HOST")

    threads = [threading.Thread(target=come, args=(i, *w)) for i, w in enumerate(who)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_all_meet_in_any_order():
    assert meeting((2, 3), (0, 3), (1, 3)) == [None] * 3


def test_who_does_not_come_is_named():
    said = meeting((0, 4), (2, 4), seconds=0.5)
    assert said == ["expected 4 processes at HOST, of which did not come: 1, 3"] * 2


def test_a_missing_coordinator_is_a_sentence():
    (said,) = meeting((1, 2), seconds=0.2)
    assert said.startswith("nothing answers at HOST after 0 seconds")


@pytest.mark.parametrize("who", [(1, 3), (5, 2)])
def test_numbers_that_do_not_fit_are_refused_by_both(who):
    wrong = f"found process {who[0]} of {who[1]}"
    assert all(wrong in str(text) for text in meeting((0, 2), who))


def test_a_number_that_came_already_is_refused_by_all():
    said = meeting((0, 3), (1, 3), (1, 3))
    assert all("found process 1 of 3 twice" in str(text) for text in said)


def test_a_busy_port_is_a_sentence():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError, match="port .* choose another"):
            hosts.meet(address, 2, 0, 1.0)


def test_who_is_no_process_is_not_counted():
    address = f"127.0.0.1:{free_port()}"
    done = []
    first = threading.Thread(target=lambda: done.append(hosts.meet(address, 2, 0, 9.0)))
    first.start()
    host, port = address.split(":")
    for text in (b"GET / HTTP/1.1\r\n", b""):
        while True:
            with contextlib.suppress(OSError):
                with socket.create_connection((host, int(port))) as stranger:
                    stranger.sendall(text)
                break
    assert not done
    hosts.meet(address, 2, 1, 9.0)
    first.join()
    assert done == [None]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_who_died_waiting_may_come_again(order):
    address = f"127.0.0.1:{free_port()}"
    done = []
    first = threading.Thread(target=lambda: done.append(hosts.meet(address, 3, 0, 9.0)))
    first.start()
    host, port = address.split(":")
    dead = False
    while not dead:
        with contextlib.suppress(OSError):
            with socket.create_connection((host, int(port))) as link:
                link.sendall(b"1/3\n")
                dead = True
    others = [
        threading.Thread(target=hosts.meet, args=(address, 3, i, 9.0)) for i in order
    ]
    for thread in others:
        thread.start()
        time.sleep(0.3)  # who comes last is not there yet when the other has come
    for thread in (first, *others):
        thread.join()
    assert done == [None]


def test_a_coordinator_that_ends_is_waited_for():
    done = []
    with socket.socket() as old:  # of the run that is started again
        old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        old.bind(("127.0.0.1", 0))
        old.listen()
        address = f"127.0.0.1:{old.getsockname()[1]}"
        other = threading.Thread(
            target=lambda: done.append(hosts.meet(address, 2, 1, 9.0))
        )
        other.start()
        link, _ = old.accept()
        with link:
            assert link.recv(9) == b"1/2\n"
            link.sendall(b"\0\0\x12\4\n")  # another protocol, as a runtime's
    hosts.meet(address, 2, 0, 9.0)
    other.join()
    assert done == [None]


def test_only_loopback_is_listened_on_for_a_loopback_address():
    with hosts._listen("127.0.0.1", port := free_port()) as server:
        assert server.getsockname() == ("127.0.0.1", port)
    with hosts._listen("a-host", port) as server:
        assert server.getsockname() == ("0.0.0.0", port)


@pytest.mark.parametrize(
    "given, words",
    [
        (("a", None, None), "or none of the three"),
        (("a", 2, 0), "HOST:PORT, found 'a'"),
        (("a:99999", 2, 1), "HOST:PORT"),
        (("a:1", 2, 2), "process"),
        (("a:1", 0, 0), "processes"),
        ((None, None, None), "started by Slurm"),
    ],
)
def test_what_is_said_of_the_processes_is_checked(given, words):
    with pytest.raises(UsageError, match=words):
        hosts.join(*given, seconds=0.1)


# Agreeing -----------------------------------------------------------------------------


def test_one_process_agrees_with_itself():
    assert hosts.alone() and hosts.leads() and hosts.most(3) == 3
    assert hosts.together(lambda: "x") == "x"
    with pytest.raises(UsageError, match="y"):
        hosts.together(lambda: (_ for _ in ()).throw(UsageError("y")))


@pytest.fixture
def second(monkeypatch):
    """This process as the second of two, of which the first says such texts."""

    def make(*texts):
        words = iter(texts)
        monkeypatch.setattr(hosts, "alone", lambda: False)
        monkeypatch.setattr(hosts, "leads", lambda: False)
        monkeypatch.setattr(hosts, "said", lambda text: [next(words), text])

    return make


def test_what_another_process_refuses_is_refused(second):
    second("no room")
    with pytest.raises(UsageError, match="no room"):
        hosts.together(lambda: "x")


def test_what_the_first_process_finds_is_told(second):
    second("", '{"steps": [1, 2], "out": null}', "the directory is locked")
    assert hosts.told(None) == {"steps": (1, 2), "out": None}  # nothing is called here
    with pytest.raises(UsageError, match="locked"):
        hosts.told(None)


def test_flags_must_be_the_same(second):
    second('{"seed": 1, "batch_size": 4}')
    words = "the same --batch-size in all processes, found 4 and 5"
    with pytest.raises(UsageError, match=words):
        hosts.same({"seed": 1, "batch_size": 5})


def test_what_one_process_meets_ends_it_alone(second, monkeypatch, capsys):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    second()
    with pytest.raises(UsageError), hosts.one_fate():
        raise UsageError("agreed")
    with hosts.one_fate():
        raise OSError("a disk of this host")
    assert ends == [1] and "a disk of this host" in capsys.readouterr().err


def test_each_process_has_its_rows(monkeypatch):
    class Device:
        def __init__(self, i):
            self.process_index = i // 3

    class Six:
        is_multi_process, size = True, 6
        devices = np.array([Device(i) for i in range(6)])

    found = []
    for i in range(2):
        monkeypatch.setattr(jax, "process_index", lambda i=i: i)
        found.append(feed.own(Six, 24))
    assert found == [slice(0, 12), slice(12, 24)]
    assert feed.own(None, 24) == slice(0, 24)


# Training -----------------------------------------------------------------------------


def run_one(kind, place, **options):
    """A training whose first weights [256, 256] are large enough to be cut."""
    random = np.random.default_rng(0)
    x = random.normal(size=(96, 256)).astype(np.float32)
    rows = {"x": x, "y": x[:, 0] * x[:, 1]}
    made, few = source.examples, {name: a[:90] for name, a in rows.items()}
    if kind == "stream":  # with a row of which the loss is infinite
        made, x[95] = stream.streamed, x[95] * 1e30
    return loop.fit(
        supervised.task(mlp.MLP(1, (256,)), supervised.regression),
        optim.optimizer("sgd", 0.01),
        made(rows, 32),
        steps=12,
        seed=5,
        ema=0.9,
        evaluation=few,
        eval_every=4,
        patience=50,
        log_every=4,
        mesh=place,
        progress=False,
        **options,
    )


def numbers(found):
    """All that a training leaves, on the host: the same in each process."""
    state = devices.local(found.state)
    losses = [[r.get("skipped", 0), r["loss"], r["eval_loss"]] for r in found.records]
    return [np.array(losses), *map(np.asarray, jax.tree.leaves((found.trained, state)))]


WORKER = """
import sys
from pathlib import Path
import jax, numpy as np
from tests import test_hosts
from train import checkpoint
from train.machines import devices, feed, hosts
from train.data import stream
from zoo.base import UsageError
out, address, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
hosts.join(address, 2, process, seconds=60)
read, plain = [], stream._gather
def gather(array, rows):
    read.append(rows.shape[1])
    return plain(array, rows)
stream._gather = gather
found, words = {}, []
def run(kind, to, **options):
    place = devices.data_parallel(fsdp=kind == "stream")
    more = {"checkpoints": f"{out}/{to}", "save_seconds": 0.0, **options}
    return test_hosts.run_one(kind, place, **more)
def refused(to, **options):
    try:
        run("memory", to, **options)
    except UsageError as error:
        words.append(str(error).replace(out, "OUT"))
def lone(state, record):
    if process == 1 and record and record["step"] == 8:
        raise UsageError("a disk of one")
def spoil(folder):
    largest = max(folder.rglob("*"), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
for kind in ("memory", "stream"):
    fit = run(kind, kind)
    found |= {f"{kind}{i}": a for i, a in enumerate(test_hosts.numbers(fit))}
    cut, *_ = (a for a in jax.tree.leaves(fit.state.params) if a.shape == (256, 256))
    found[f"{kind} cut"] = cut.addressable_shards[0].data.size / cut.size
refused("held")
refused("memory")
refused("lone", callbacks=[lone])
if process == 0:
    spoil(Path(out, "stream", "step_000000012"))
fit = run("stream", "stream", resume=True)  # from the state before
found |= {f"again{i}": a for i, a in enumerate(test_hosts.numbers(fit))}
np.savez(f"{out}/{process}.npz", read=read, words=words, **found)
"""


def environment(**more):
    """Of a process with two devices, to which no cluster is known."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return known | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu", **more}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Where two processes have trained, and said what they found."""
    out, address = tmp_path_factory.mktemp("two"), f"127.0.0.1:{free_port()}"
    with files.hold(out / "held"):
        both = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, str(out), address, str(i)],
                cwd=ROOT,
                env=environment(),
            )
            for i in range(2)
        ]
        assert [one.wait(100) for one in both] == [0, 0]
    return out


def close(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.contract
def test_two_processes_train_as_one(two):
    alone = {kind: numbers(run_one(kind, None)) for kind in ("memory", "stream")}
    assert alone["stream"][0][:, 0].sum() == 4  # a step of each epoch is skipped
    for process in range(2):
        with np.load(two / f"{process}.npz") as found:
            assert set(found["read"]) == {16}  # of 32 rows of each batch
            assert found["memory cut"] == 1 and found["stream cut"] == 1 / 4
            for kind, one in alone.items():
                close([found[f"{kind}{i}"] for i in range(len(one))], one)
    # what four devices of two processes saved, one device of one reads
    for kind in ("memory", "stream"):
        again = run_one(kind, None, checkpoints=two / kind, resume=True)
        close(numbers(again)[1:], alone[kind][1:])


@pytest.mark.contract
def test_two_processes_see_sealed_states_and_refuse_together(two):
    told = []
    for process in range(2):
        with np.load(two / f"{process}.npz") as found:
            told.append(list(found["words"]))
            again = [name for name in found if name.startswith("again")]
            for name in again[1:]:  # but the lines, of which some are not read again
                one = found[name.replace("again", "stream")]
                np.testing.assert_array_equal(found[name], one)
    assert told[0] == told[1]
    held, states, lone = told[0]
    assert held.startswith("another process is running in OUT/held: pid ")
    assert states.startswith("OUT/memory holds states of a training, the last of step ")
    assert lone == "a disk of one"
    for name, least in (("memory", 12), ("stream", 12), ("lone", 4)):
        assert checkpoint.latest(two / name) >= least
        for folder in (two / name).glob("step_?????????"):
            assert files.sealed(folder)["step"] == int(folder.name[5:])
        assert not (two / name / checkpoint.HALF).exists()
    # the state that was damaged lies aside, the one before it was gone on from
    assert [p.name for p in two.glob("*/*.damaged")] == ["step_000000012.damaged"]


# The command --------------------------------------------------------------------------


def command(*flags, said, cwd=ROOT, **known):
    """`zoo train mlp --distributed` as a process, which prints into a file."""
    own = ["--widths", "16", "--batch-size", "64", "--steps", "300"]
    with Path(said).open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "train", "train", "mlp", "--distributed", *own]
            + list(flags),
            cwd=cwd,
            env=environment(**known, PYTHONPATH=str(ROOT)),
            stdout=file,
            stderr=file,
        )


def start(to, *flags, own=((), ()), slurm=False, cwd=ROOT):
    """Two of them, which print into files that begin with a path; `own` flags."""
    port, both = free_port(), []
    for i in range(2):
        who = f"--coordinator 127.0.0.1:{port} --processes 2 --process {i}".split()
        known = {}
        if slurm:  # as srun sets them
            who, known = (
                [],
                {
                    "SLURM_JOB_ID": "1",
                    "SLURM_STEP_NODELIST": "127.0.0.1",
                    "SLURM_NTASKS": "2",
                    "SLURM_PROCID": str(i),
                    "SLURM_LOCALID": str(i),
                    "JAX_COORDINATOR_PORT": str(port),
                },
            )
        words = (*who, *flags, *own[i])
        both.append(command(*words, said=f"{to}-{i}.txt", cwd=cwd, **known))
    return both


def ended(to, *flags, seconds=200, **options):
    """Their exit statuses, and what they printed, but for what the runtime does."""
    status = [one.wait(seconds) for one in start(to, *flags, **options)]
    said = [Path(f"{to}-{i}.txt").read_text() for i in range(2)]
    # two threads of it may say so at once, their words among each other
    return status, [re.sub(r".*connected peer ranks.*\n", "", text) for text in said]


def reached(out, step, both):
    """Wait until a step past that is logged."""
    until = time.monotonic() + 120
    while time.monotonic() < until and all(one.poll() is None for one in both):
        records = read_log(out / "metrics.jsonl")
        if records and records[-1]["step"] > step:
            return
        time.sleep(0.02)
    raise AssertionError(f"ended, or took long: {[one.poll() for one in both]}")


def left(out):
    """The newest state of a run, and the losses of its lines."""
    config = saved.read_config(out)
    like = saved.shapes(config, saved.described(config))
    lines = [(r["step"], r["loss"]) for r in read_log(out / "metrics.jsonl")]
    return checkpoint.read(out / "checkpoints", like), lines


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What a run leaves that nothing disturbs."""
    out = tmp_path_factory.mktemp("calm") / "run"
    assert ended(out, "--out", str(out))[0] == [0, 0]
    return left(out)


@pytest.mark.slow
def test_a_folder_is_chosen_by_one_process_for_both(tmp_path):
    (tmp_path / "runs" / "mlp").mkdir(parents=True)
    (tmp_path / "runs" / "mlp" / "notes.txt").write_text("mine")
    few, out = ("--steps", "20"), tmp_path / "runs" / "mlp-2"
    status, said = ended(tmp_path / "one", *few, cwd=tmp_path)
    assert status == [0, 0] and "saved in runs/mlp-2" in said[0] and said[1] == ""
    assert checkpoint.latest(out / "checkpoints") == 20
    (out / "curves.png").write_text("old")
    replace = (*few, "--overwrite", "--out", str(out))
    assert ended(tmp_path / "two", *replace, cwd=tmp_path)[0] == [0, 0]
    assert (out / "curves.png").read_bytes()[:3] != b"old"
    assert sorted(os.listdir(tmp_path / "runs")) == ["mlp", "mlp-2"]


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_a_sentence(tmp_path):
    out = tmp_path / "held"
    with files.hold(out):
        status, said = ended(tmp_path / "lock", "--out", str(out))
    assert status == [2, 2] and said[0] == said[1]
    assert said[0].startswith(f"zoo: another process is running in {out}: pid ")
    own = (("--seed", "1"), ("--seed", "2"))
    status, said = ended(tmp_path / "flags", "--out", str(out), own=own)
    words = "zoo: expected the same --seed in all processes, found 1 and 2\n"
    assert status == [2, 2] and said == [words, words]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        who = f"--coordinator 127.0.0.1:{other.getsockname()[1]} --processes 2"
        to = tmp_path / "busy.txt"
        assert command(*who.split(), "--process", "0", said=to).wait(60) == 2
    assert "cannot be listened on" in to.read_text() and to.read_text().count("\n") == 1
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_signal_and_a_kill_change_nothing(tmp_path, calm):
    out = tmp_path / "run"
    flags = ("--out", str(out))
    both = start(out, *flags)
    reached(out, 0, both)
    both[1].send_signal(signal.SIGTERM)  # one hears it, both save the same step
    assert [one.wait(60) for one in both] == [0, 0]
    stopped = checkpoint.latest(out / "checkpoints")
    assert 0 < stopped < 300
    assert f"stopped at step {stopped}" in Path(f"{out}-0.txt").read_text()
    both = start(out, *flags, "--resume", slurm=True)
    reached(out, stopped, both)
    both[1].kill()
    began = time.monotonic()
    assert both[1].wait() == -signal.SIGKILL and both[0].wait(120) != 0
    assert time.monotonic() - began < hosts.BEAT + 5
    assert ended(out, *flags, "--resume")[0] == [0, 0]
    jax.tree.map(np.testing.assert_array_equal, calm, left(out))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="asks Linux for pids")
def test_processes_that_are_started_again_find_each_other(tmp_path, calm):
    out = tmp_path / "run"
    both = start(out, "--out", str(out), "--restarts", "2")
    reached(out, 0, both)
    children = Path(f"/proc/{both[1].pid}/task/{both[1].pid}/children").read_text()
    os.kill(int(children.split()[0]), signal.SIGKILL)
    assert [one.wait(200) for one in both] == [0, 0]
    assert all("started again" in Path(f"{out}-{i}.txt").read_text() for i in range(2))
    jax.tree.map(np.testing.assert_array_equal, calm, left(out))
