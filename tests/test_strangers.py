"""Files that strangers made: nothing of them runs, and what they ask for is bounded."""

import ast
import gzip
import json
import os
import shutil
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_architecture import SOURCES, walk
from train.cli import tables
from train.data import formats
from train.data.formats import open_npz, unpacked
from train.data.frames import read_frame
from train.data.speech import LONGEST, RATE, read_wav
from train.data.tables import read_npz
from train.disk import files, states
from train.recipes import export, saved
from zoo.base import UsageError, plain

ROOT = Path(__file__).parent.parent
RUN = ROOT / "tests" / "runs" / "format2"


# Code ---------------------------------------------------------------------------------


def test_nothing_here_turns_text_into_code():
    calls = {"eval", "exec", "compile", "__import__"}
    modules = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
    for path in SOURCES:
        for node in walk(path, ast.Call, ast.Import, ast.ImportFrom):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in calls and not name.endswith("import_module"), path
                allowed = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert allowed.get("allow_pickle", "False") == "False", path
            else:
                names = {alias.name.split(".")[0] for alias in node.names}
                assert not modules & (names | {getattr(node, "module", "")}), path
    for path in SOURCES:
        text = path.read_text()
        escaped = "escape(" in text or "as_html(" in text  # which escapes
        assert "_repr_html_" not in text or escaped, path


def corpus(folder: Path) -> None:
    """A right file of each kind that `tests.strangers` damages."""
    from PIL import Image

    rng = np.random.default_rng(0)
    shutil.copytree(RUN, folder / "run")
    sealed(folder / "sealed")
    config, _, trained = saved.restore(folder / "run")
    export.write_weights(trained, config, folder / "weights.safetensors")
    x, y = rng.normal(size=(20, 3)).round(3), np.arange(20) % 2
    rows = [",".join(map(str, [*row, "ab"[i % 2], i % 2])) for i, row in enumerate(x)]
    (folder / "table.csv").write_text("\n".join(["p,q,r,kind,y", *rows]))
    np.savez(folder / "rows.npz", x_train=x, y_train=y)
    np.savez_compressed(folder / "packed.npz", x_train=x, y_train=y.astype(str))
    sound(folder / "sound.wav", 4000)
    (folder / "text.txt.gz").write_bytes(gzip.compress(b"a rose is a rose. " * 99))
    picture = Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8))
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm"):
        picture.save(folder / f"picture.{suffix}")


def sealed(folder: Path) -> None:
    """The bundled run as it is left now: two states, and all is under seals."""
    shutil.copytree(RUN, folder)
    config = json.loads((folder / "config.json").read_text())
    files.write_sealed(folder / "config.json", config | {"format": saved.FORMAT})
    line = {"step": 20, "loss": 1.0, "seconds": 1.0, "examples_per_second": 9.0}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    config, kept = saved.read_config(folder), folder / "checkpoints"
    tree = states.shapes(saved.shapes(config, saved.described(config)))
    origin = json.loads((kept / "origin.json").read_text())
    (kept / "origin.json").unlink()
    shutil.copytree(kept / states.name(20), kept / states.name(10))
    for step in (10, 20):
        about = {"step": step, "origin": origin, "tree": tree}
        files.seal(kept / states.name(step), about)


@pytest.mark.contract
@pytest.mark.skipif(not os.path.isfile("/proc/self/clear_refs"), reason="Linux's")
def test_500_damaged_files_run_no_code(tmp_path, record_property):
    """No event of code, no crash, no error but UsageError, and below 50 MB."""
    corpus(tmp_path)
    command = [sys.executable, "-m", "tests.strangers", str(tmp_path), "62"]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    count = found["read"] + found["refused"]
    assert found["crashed"] == [] and found["events"] == {}
    assert count >= 500 and found["refused"] > count / 3
    assert found["memory"] < 50e6
    record_property(
        "figure",
        f"{count} files, 0 events, 0 crashes, +{found['memory'] / 1e6:.0f} MB",
    )


# Sizes --------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Files may unpack to a mebibyte."""
    monkeypatch.setattr(formats, "FREE", 2**20)


def refused(match, call, *args):
    with pytest.raises(UsageError, match=match) as caught:
        call(*args)
    return str(caught.value)


def npy(descr="'<f8'", shape="(3,)", body=bytes(24), length=None):
    """A member of an .npz file, with any header."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = len(text) if length is None else length
    return b"\x93NUMPY\1\0" + size.to_bytes(2, "little") + text + body


def packed(path, method=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {
        "f": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
        "turned": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
        "scalar": np.array(3),
        "none": np.zeros((0, 4)),
        "text": np.array(["a", "bcd"]),
        "big": np.arange(4, dtype=">i4"),
        "truth": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        found = open_npz(path)
        assert list(found) == list(arrays) and len(found) == 7
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, strict=True)
            assert found[name].flags.writeable
    with pytest.raises(KeyError):
        found["absent"]


def test_a_small_archive_does_not_fill_the_memory(tmp_path, small):
    path = tmp_path / "a.npz"
    zeros = np.zeros(2**18)
    np.savez_compressed(path, x_train=np.ones((4, 2)), y_train=[0, 1, 0, 1], z=zeros)
    assert path.stat().st_size < 4000
    assert len(read_npz(path).x) == 4  # z is not unpacked
    refused(
        "at most 1,048,576 bytes .*2,097,248 with z: packed so", dict, open_npz(path)
    )
    np.savez(path, z=zeros)  # as large on the disk
    assert open_npz(path)["z"].shape == zeros.shape
    parts = {name: np.zeros(2**16) for name in "abc"}  # each is small enough
    np.savez_compressed(path, **parts)
    refused("found 1,572,864 with c", dict, open_npz(path))


@pytest.mark.parametrize(
    "match, member",
    [
        ("at most .* found 8,000,000,000,000 with x", npy(shape="(10, 100000000000)")),
        ("another size than its header", npy(shape="(4,)")),
        ("another size than its header", npy(shape="(2,)")),
        ("no array of numbers", npy(shape="(2, -3)")),
        ("no array of numbers", npy(shape="(__import__('os').abort(),)")),
        ("no array of numbers", npy(shape="(" * 5000)),
        ("no array of numbers", npy("[('a', '<f8')]")),
        ("no array of numbers", npy("'<M8[ns]'")),
        ("no array of numbers", npy(length=60000)),
        ("no array of numbers", b"RIFF"),
        ("Python objects in x, which are not read: unpickling", npy("'|O'")),
        ("found .*a.npz", npy("'<f3'", body=bytes(9))),
        ("found .*a.npz", npy(shape="(0, " + "9" * 30 + ")", body=b"")),
    ],
)
def test_a_header_that_lies_is_a_sentence(tmp_path, match, member):
    said = refused(match, dict, open_npz(packed(tmp_path / "a.npz", x=member)))
    assert "a.npz" in said and len(said.splitlines()) == 1


def test_other_ways_of_packing_are_refused(tmp_path):
    path = packed(tmp_path / "a.npz", zipfile.ZIP_BZIP2, x=npy())
    refused("packed as it never packs", dict, open_npz(path))


def test_a_packed_text_is_measured_before_it_is_held(tmp_path, small):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(bytes(2**20)))
    assert len(unpacked(path)) == 2**20
    path.write_bytes(gzip.compress(bytes(2**20 + 1)))
    refused("at most 1,048,576 bytes in .*a.txt.gz once", unpacked, path)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 2**18))
    refused("a table of at most 1 MiB in .*a.csv.gz, found a longer", read_frame, path)


def sound(path, samples):
    noise = np.random.default_rng(0).integers(-999, 999, samples).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    return path


def test_a_sound_is_as_long_as_its_file(tmp_path):
    path = sound(tmp_path / "a.wav", 100)
    raw = bytearray(path.read_bytes())
    raw[4:8] = raw[40:44] = b"\xff\xff\xff\x7f"  # two gigabytes, it says
    path.write_bytes(raw)
    assert read_wav(path).shape == (100,)
    refused("at most 600 seconds", read_wav, sound(path, LONGEST * RATE + 1))


# Runs and weights ---------------------------------------------------------------------


def changed(tmp_path, **arguments):
    """The bundled run, whose config asks for something else."""
    shutil.copytree(RUN, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["arguments"] |= arguments
    path.write_text(json.dumps(config))
    return tmp_path / "run"


def test_a_config_decides_no_memory(tmp_path):
    run = changed(tmp_path, widths=[10**6, 10**6])
    refused("states of 12,0.* bytes in .*, as its config says", saved.restore, run)


@pytest.mark.parametrize(
    "arguments", [{"widths": None}, {"widths": ["a"]}, {"optimizer": []}, {"steps": {}}]
)
def test_a_config_of_nonsense_is_a_sentence(tmp_path, arguments):
    refused(".", saved.restore, changed(tmp_path, **arguments))


def test_a_seal_of_nonsense_is_a_sentence(tmp_path):
    sealed(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / states.name(20)
    shutil.rmtree(newest.with_name(states.name(10)))
    about = files.sealed(newest)
    for change, match in [
        ({"files": [1]}, "seals no files"),
        ({"files": {"/dev/zero": "0" * 64}}, "/dev/zero cannot be read"),
        ({"files": {"state/_METADATA": 1}}, "other bytes than were saved"),
        ({"tree": [1]}, "does not fit this model"),
        ({"step": "20"}, "holds step 20"),
    ]:
        files.write_sealed(newest / "SEAL.json", about | change)
        refused(match, saved.restore, tmp_path / "run")
    files.write_sealed(newest / "SEAL.json", about)
    assert saved.restore(tmp_path / "run").config["format"] == saved.FORMAT


def test_weights_fit_what_they_say_they_are_of(tmp_path):
    config, _, trained = saved.restore(RUN)
    path = tmp_path / "a.safetensors"
    export.write_weights(trained, config, path)
    assert saved.restore(path).config == config
    other = config | {"arguments": config["arguments"] | {"widths": (5,)}}
    export.write_weights(trained, other, path)
    refused("are not of its own config", saved.restore, path)
    both = {"a": jnp.zeros(2), "a/b": jnp.zeros(2)}
    export.write_weights(trained._replace(params=both), config, path)
    refused("cannot be read as weights", saved.restore, path)


# Names --------------------------------------------------------------------------------


def test_names_are_no_commands_to_a_terminal(zoo, capsys, tmp_path):
    name = "a\x1b]0;mine\x07\u202eb\x9bc\ud800\r"
    assert plain(name) == r"a\x1b]0;mine\x07\u202eb\x9bc\ud800\r"
    assert plain("Zoë\t中\n👩‍💻") == "Zoë\t中\n👩‍💻"
    assert str(UsageError(f"found {name}")) == f"found {plain(name)}"
    tables.table((name,), [(f"[bold]{name}",)])
    tables.failed(name)
    said = capsys.readouterr()
    status, _, error = zoo("info no\x1b[2Jrun")
    assert status == 2 and r"no\x1b[2Jrun" in error
    for text in (said.out, said.err, error):
        assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert r"[bold]a\x1b]" in said.out
