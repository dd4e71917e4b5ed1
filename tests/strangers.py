"""Files as a stranger could make them, and what reading them does: a program.

`python -m tests.strangers FOLDER [N]` damages N files of each kind, reads each, and
prints what happened, as JSON. What is right is in FOLDER: see `tests.test_strangers`.
"""

import codecs
import copy
import gc
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from rich.cells import cell_len
from safetensors.numpy import load_file, save

import train
from train.cli.main import main
from train.data import inputs, load
from train.data.speech import read_wav
from train.data.text import read_text
from train.disk.files import write_sealed
from train.recipes import export
from zoo.base import UsageError

# what a file must never bring about; `import` is of a module that is not there yet
CODE = ("exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn")
CODE += ("os.spawn", "subprocess.Popen", "pickle.find_class", "ctypes.dlopen")
CODE += ("socket.connect", "os.fork", "marshal.loads", "code.__new__")
# what a value of JSON becomes
VALUES = (None, -1, 0, 1, 2**31, 2**63, 1e308, float("nan"), "", "x", [], {}, [1] * 50)
VALUES += ("__import__('os').system('touch canary')", "os", "../../x", "\0\x1b[2J")
VALUES += (True, "${jndi}", [[[[]]]], {"__reduce__": ["os.system", "touch canary"]})
BYTES = (b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"(((((((((", b"\x1b]0;x\x07")


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Some bytes of a file changed, cut out, put in, or all past a place gone."""
    raw = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        # headers are in the beginning, or in the end
        edge = draw.choice((64, 512, len(raw)))
        at = draw.randrange(max(1, min(edge, len(raw))))
        at = max(0, len(raw) - 1 - at) if draw.random() < 0.3 else at
        match draw.randrange(5):
            case 0:
                raw[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                new = draw.choice(BYTES)
                raw[at : at + len(new)] = new
            case 2:
                del raw[at : at + draw.randrange(1, 64)]
            case 3:
                raw[at:at] = raw[at : at + 64]
            case 4:
                del raw[at:]
    return bytes(raw)


def twisted(value: object, draw: random.Random) -> object:
    """JSON with one to three of its values, or its names, replaced."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place, key = _place(value, draw)
        if isinstance(place, dict) and draw.random() < 0.1:
            place[draw.choice(("__class__", "import", "\x1b[2J"))] = place.pop(key)
        elif draw.random() < 0.1:
            del place[key]
        else:
            place[key] = draw.choice(VALUES)
    return value


def _place(value, draw):
    """Somewhere in JSON: what holds it, and its name or number there."""
    while True:
        key = draw.choice([*value] if isinstance(value, dict) else [*range(len(value))])
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or draw.random() < 0.2:
            return value, key
        value = inner


def configs(source: Path, to: Path, draw: random.Random) -> None:
    """A run with a config that is made up, or is no JSON."""
    shutil.copytree(source, to)
    path = to / "config.json"
    text = path.read_text()
    if draw.random() < 0.2:
        path.write_bytes(damaged(text.encode(), draw))
    else:
        path.write_text(json.dumps(twisted(json.loads(text), draw)))


def states(source: Path, to: Path, draw: random.Random) -> None:
    """A run of which a file of its saved state is damaged."""
    shutil.copytree(source, to)
    files = [p for p in sorted((to / "checkpoints").rglob("*")) if p.is_file()]
    path = draw.choice([p for p in files if p.stat().st_size])
    path.write_bytes(damaged(path.read_bytes(), draw))


def sealed_runs(source: Path, to: Path, draw: random.Random) -> None:
    """A sealed run, one to three of whose files are other, elsewhere, or gone."""
    shutil.copytree(source, to)
    for _ in range(draw.choice((1, 1, 2, 3))):
        files = [p for p in sorted(to.rglob("*")) if p.is_file()]
        path, other = draw.choice(files), draw.choice(files)
        match draw.randrange(6):
            case 0:
                path.write_bytes(damaged(path.read_bytes(), draw))
            case 1:
                os.truncate(path, draw.randrange(path.stat().st_size + 1))
            case 2:  # this file, or the folder that it is in
                path.unlink()
                if path.parent != to and draw.random() < 0.3:
                    shutil.rmtree(path.parent)
            case 3:  # two files, or two states, change places
                pair = path, other
                if draw.random() < 0.3:
                    pair = tuple(sorted((to / "checkpoints").glob("step_*")))[:2]
                swapped(*pair)
            case _:  # made up, under a right seal where there was one
                jsons = [p for p in files if p.suffix == ".json"]
                twist(draw.choice(jsons) if jsons else path, draw)


def swapped(one: Path, two: Path | None = None) -> None:
    """Two files, or folders, change places; one stays where it is."""
    if two is not None and one != two:
        between = one.with_name("between")
        one.rename(between)
        two.rename(one)
        between.rename(two)


def twist(path: Path, draw: random.Random) -> None:
    """Other JSON in a file of such; sealed, if it was."""
    try:
        value = json.loads(path.read_text())
        seal = value.pop("seal", None)
        value = twisted(value, draw)
    except (ValueError, AttributeError, IndexError, KeyError):  # damaged before
        return
    if seal and isinstance(value, dict):
        write_sealed(path, value)
    else:
        path.write_text(json.dumps(value))


def weights(source: Path, to: Path, draw: random.Random) -> None:
    """Weights that are damaged, or whose config is made up under a right checksum."""
    if draw.random() < 0.5:
        to.write_bytes(damaged(source.read_bytes(), draw))
        return
    _, config = export.read_weights(source)
    config = twisted(json.loads(json.dumps(config)), draw)
    arrays = load_file(source)
    about = {"config": json.dumps(config), "sha256": export.checksum(arrays)}
    to.write_bytes(save(arrays, about))


def content(source: Path, to: Path, draw: random.Random) -> None:
    """A file of bytes, damaged."""
    to.write_bytes(damaged(source.read_bytes(), draw))


def asked(path: Path) -> None:
    """A run, or weights, loaded and asked as a user would."""
    found = train.load(path)
    found.predict(np.zeros((2, 4)))


def told(path: Path) -> None:
    """`zoo info` and `zoo runs`, whose errors are sentences and statuses."""
    assert main(["info", str(path)]) in (0, 1, 2)
    assert main(["runs", str(path)]) == 0
    asked(path)


def measured(path: Path) -> None:
    """`zoo eval` beside these."""
    assert main(["eval", str(path)]) in (0, 1, 2)
    told(path)


SCHEMA = load("mnist5k").schema
# of each kind: what is right, how it is made wrong, how it is read
KINDS = {
    "checkpoint": ("run", states, asked),
    "config": ("run", configs, told),
    "sealed": ("sealed", sealed_runs, measured),
    "safetensors": ("weights.safetensors", weights, asked),
    "csv": ("table.csv", content, lambda path: load(path, target="y")),
    "npz": ("rows.npz", content, load),
    "packed.npz": ("packed.npz", content, load),
    "wav": ("sound.wav", content, read_wav),
    "txt.gz": ("text.txt.gz", content, lambda path: read_text(str(path))),
    **{
        suffix: (f"picture.{suffix}", content, lambda p: inputs.read_inputs(SCHEMA, p))
        for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")
    },
}
WEIGHT = {"png": 0.3, "jpg": 0.3, "gif": 0.3, "bmp": 0.1, "tif": 0.3, "webp": 0.2}
WEIGHT |= {"sealed": 0.3, "ppm": 0.1, "packed.npz": 0.5, "txt.gz": 0.5}


def memory(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines[name].split()[0]) * 1024


def run(folder: Path, count: int) -> dict:
    """Read `count` damaged files of each kind; what came of it."""
    events: Counter[str] = Counter()
    watching = False

    def hook(event, args):
        if watching and event.startswith(CODE):
            events[f"{event} {str(args[:2])[:200]}"] += 1

    sys.addaudithook(hook)
    found: dict = {"read": 0, "refused": 0, "crashed": [], "seconds": {}}
    for name, _, read in KINDS.values():
        read(folder / name)  # what is right is read; modules are imported
    for code in ("cp1252", "utf-16"):  # of tables that are no UTF-8
        codecs.lookup(code)
    cell_len("\u4e2d\u0301")  # the widths of letters, for tables
    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    for kind, (name, damage, read) in KINDS.items():
        began = time.perf_counter()
        for number in range(max(1, round(count * WEIGHT.get(kind, 1)))):
            draw = random.Random(f"{kind} {number}")
            at = folder / "bad" / f"{number}-{name}"
            at.parent.mkdir(exist_ok=True)
            damage(folder / name, at, draw)
            watching = True
            try:
                read(at)
                found["read"] += 1
            except UsageError as error:
                watching = False
                found["refused"] += 1
                assert "\x1b" not in str(error) and "\0" not in str(error)
            except Exception:
                watching = False  # a traceback is made of code
                found["crashed"].append([kind, number, traceback.format_exc()[-1500:]])
            finally:
                watching = False
            shutil.rmtree(folder / "bad")
        found["seconds"][kind] = round(time.perf_counter() - began, 2)
    found["memory"] = memory("VmHWM") - before
    found["after"] = memory("VmRSS") - before
    return found | {"events": dict(events)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(1000)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(sys.argv[1])
    out, sys.stdout = sys.stdout, open(os.devnull, "w")
    sys.stderr = sys.stdout
    result = run(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps(result, indent=1), file=out)
