"""Downloads, against a server on this computer; the formats they come in."""

import gzip
import hashlib
import io
import os
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from train import data
from train.data import download
from zoo.base import UsageError


class Server:
    """Files by path; `cut` answers are cut short after so many bytes, one by one."""

    def __init__(self):
        self.files, self.cut, self.ranges, self.requests = {}, [], True, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.requests.append((self.path, wanted))
                body = outer.files.get(self.path)
                if body is None:
                    return self.send_error(404)
                begin = int(wanted[6:-1]) if wanted and outer.ranges else 0
                if begin and begin >= len(body):
                    return self.send_error(416)
                self.send_response(206 if begin else 200)
                if begin:
                    span = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                    self.send_header("Content-Range", span)
                self.send_header("Content-Length", str(len(body) - begin))
                self.end_headers()
                stop = begin + outer.cut.pop(0) if outer.cut else None
                self.wfile.write(body[begin:stop])

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    """A computer with an empty cache and no packaged data sets."""
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "SYSTEM", tmp_path / "system")
    return tmp_path / "cache"


def md5(body):
    return hashlib.md5(body).hexdigest()


def idx(array, kind=8):
    header = bytes([0, 0, kind, array.ndim])
    sizes = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + sizes + array.astype(np.uint8).tobytes(), mtime=0)


def mnist_files(train=20, test=10, seed=0):
    draw, files = np.random.default_rng(seed), {}
    for prefix, count in ("train", train), ("t10k", test):
        images = draw.integers(0, 256, (count, 28, 28))
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx(np.arange(count) % 10)
    return files


def cifar_file(batches):
    """Batches by member name: (images [N, 32, 32, 3], labels [N]) -> a tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, (x, y) in batches.items():
            planes = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
            body = np.concatenate([y[:, None], planes], 1).astype(np.uint8).tobytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return buffer.getvalue()


def cifar_batches(size=4):
    draw = np.random.default_rng(1)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {
        f"cifar-10-batches-bin/{name}.bin": (
            draw.integers(0, 256, (size, 32, 32, 3)),
            draw.integers(0, 10, size),
        )
        for name in names
    }


def publish(monkeypatch, server, name, files):
    """The data set `name` is now these files, on that server."""
    server.files |= {f"/{file}": body for file, body in files.items()}
    sums = {file: md5(body) for file, body in files.items()}
    monkeypatch.setitem(download.SOURCES, name, download.Source(server.url, sums))


def original(schema, x):
    return np.rint(x * np.array(schema.scale) + np.array(schema.mean))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_data_sets_are_downloaded_once_and_read_right(
    monkeypatch, server, empty, name
):
    files = mnist_files()
    publish(monkeypatch, server, name, files)
    found = data.load(name)
    assert found.schema.shape == (28, 28, 1) and len(found.schema.classes) == 10
    assert found.schema.shape == data.schema_of(name).shape
    assert found.schema.classes == data.schema_of(name).classes
    draw = np.random.default_rng(0)
    train = draw.integers(0, 256, (20, 28, 28, 1))
    test = draw.integers(0, 256, (10, 28, 28, 1))
    assert (original(found.schema, found.train["x"]) == train).all()
    assert (original(found.schema, found.test["x"]) == test).all()
    assert (found.train["y"] == np.arange(20) % 10).all()
    assert found.train["y"].dtype == np.int32
    np.testing.assert_allclose(found.schema.mean, [train.mean()])
    np.testing.assert_allclose(found.schema.scale, [train.std()])
    assert len(server.requests) == 4
    assert {path.name for path in (empty / name).iterdir()} == set(files)
    data.load(name)  # from the cache
    assert len(server.requests) == 4


def test_cifar_keeps_the_order_of_its_batches_and_its_channels(monkeypatch, server):
    batches = cifar_batches()
    shuffled = dict(reversed(batches.items()))
    test_x, test_y = batches.popitem()[1]
    body = cifar_file({"../../outside.bin": (test_x, test_y)} | shuffled)
    publish(monkeypatch, server, "cifar10", {"cifar-10-binary.tar.gz": body})
    found = data.load("cifar10")
    x = np.concatenate([x for x, _ in batches.values()])
    y = np.concatenate([y for _, y in batches.values()])
    assert found.train["x"].shape == (20, 32, 32, 3)
    assert (original(found.schema, found.train["x"]) == x).all()
    assert (original(found.schema, found.test["x"]) == test_x).all()
    assert (found.train["y"] == y).all() and (found.test["y"] == test_y).all()
    np.testing.assert_allclose(found.schema.mean, x.mean((0, 1, 2)))
    np.testing.assert_allclose(found.schema.scale, x.std((0, 1, 2)))


def test_cifar_with_an_eleventh_class_is_refused(monkeypatch, server):
    file = "cifar-10-binary.tar.gz"
    batches = cifar_batches()
    batches["cifar-10-batches-bin/test_batch.bin"][1][0] = 10
    publish(monkeypatch, server, "cifar10", {file: cifar_file(batches)})
    with pytest.raises(UsageError, match="labels below 10.*up to 10"):
        data.load("cifar10")


@pytest.mark.parametrize("wrong", ["absent", "link", "short", "cut", "text"])
def test_a_damaged_cifar_archive_is_refused(monkeypatch, server, wrong):
    batches, member = cifar_batches(), "cifar-10-batches-bin/test_batch.bin"
    x, y = batches.pop(member)
    body = cifar_file(batches)
    if wrong in ("link", "short"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            with tarfile.open(fileobj=io.BytesIO(body)) as whole:
                for entry in whole:
                    archive.addfile(entry, whole.extractfile(entry))
            entry = tarfile.TarInfo(member)
            if wrong == "link":
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/hostname"
            else:
                entry.size = 3072
            archive.addfile(entry, io.BytesIO(bytes(3072)))
        body = buffer.getvalue()
    body = {"cut": body[: len(body) // 2], "text": b"<html>"}.get(wrong, body)
    publish(monkeypatch, server, "cifar10", {"cifar-10-binary.tar.gz": body})
    expected = {
        "absent": "test_batch.bin of records of 3073 bytes in .*, found none",
        "link": "test_batch.bin of records of 3073 bytes in .*, found none",
        "short": "found 3072 bytes",
    }.get(wrong, "expected a whole tar.gz archive")
    with pytest.raises(UsageError, match=expected):
        data.load("cifar10")


@pytest.mark.parametrize(
    "file, body, message",
    [
        ("train-images-idx3-ubyte.gz", b"<html>no</html>", "a whole gzip file"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((20, 28, 28)))[:40], "a whole gz"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((20, 28, 28)), 9), "the header"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros(20)), "the header"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((20, 28, 27))), r"28, 27, 1"),
        ("train-images-idx3-ubyte.gz", idx(np.zeros((19, 28, 28))), "expected 20 im"),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(b"\0\0\x08\1\0", mtime=0),
            "the header",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(b"\0\0\x08\1\0\0\0\5abc", mtime=0),
            "5 values.*found 3",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(b"\0\0\x08\1\0\0\0\5abcdef", mtime=0),
            "5 values.*found more",
        ),
        ("train-labels-idx1-ubyte.gz", idx(np.full(20, 10)), "labels up to 10"),
        ("train-labels-idx1-ubyte.gz", idx(np.zeros(0)), "expected 0 images"),
    ],
)
def test_a_damaged_idx_file_is_refused(monkeypatch, server, file, body, message):
    publish(monkeypatch, server, "mnist", mnist_files() | {file: body})
    with pytest.raises(UsageError, match=message):
        data.load("mnist")


def test_a_packaged_data_set_needs_no_server(monkeypatch, tmp_path):
    folder = tmp_path / "system" / "fashion-mnist"
    folder.mkdir(parents=True)
    for file, body in mnist_files().items():
        (folder / file).write_bytes(body)  # compressed anew: its checksum is another
    dead = download.SOURCES["fashion_mnist"]._replace(url="http://127.0.0.1:1/")
    monkeypatch.setitem(download.SOURCES, "fashion_mnist", dead)
    assert len(data.load("fashion_mnist").train["x"]) == 20
    assert not (tmp_path / "cache").exists()


def test_the_cache_comes_before_the_package(monkeypatch, server, empty, tmp_path):
    publish(monkeypatch, server, "mnist", mnist_files())
    for folder, count in (tmp_path / "system", 12), (empty, 20):
        (folder / "mnist").mkdir(parents=True)
        for file, body in mnist_files(count).items():
            (folder / "mnist" / file).write_bytes(body)
    assert len(data.load("mnist").train["x"]) == 20
    assert server.requests == []


def test_a_cached_file_with_a_wrong_checksum_is_named(monkeypatch, server, empty):
    publish(monkeypatch, server, "mnist", mnist_files())
    path = empty / "mnist" / "train-images-idx3-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match=f"{path}.*{md5(b'something else')}.*delete"):
        data.load("mnist")
    assert path.read_bytes() == b"something else"  # the user's to delete


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert download.cache() == tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("ZOO_DATA_DIR", "")
    assert download.cache() == tmp_path / "xdg" / "purezoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert download.cache() == tmp_path / "home" / ".cache" / "purezoo"


# download itself ----------------------------------------------------------------------

BODY = np.random.default_rng(2).bytes(700_000)


@pytest.fixture
def get(server, tmp_path):
    """get() downloads BODY from its server to its path, through its part."""
    server.files["/file"] = BODY

    def get(md5sum=None, path="file", **options):
        options = {"pause": 0.0, "timeout": 5.0} | options
        url = server.url + path
        return download.download(url, get.path, md5sum or md5(BODY), **options)

    get.path, get.part = tmp_path / "a" / "file", tmp_path / "a" / "file.part"
    get.server = server
    return get


def test_a_broken_transfer_resumes_where_it_stopped(get):
    get.server.cut = [300_000, 100_000]
    assert get().read_bytes() == BODY
    wanted = [None, "bytes=300000-", "bytes=400000-"]
    assert [asked for _, asked in get.server.requests] == wanted
    assert not get.part.exists()


def test_a_server_without_ranges_starts_over(get):
    get.server.cut, get.server.ranges = [300_000], False
    assert get().read_bytes() == BODY
    assert len(get.server.requests) == 2


def test_what_an_interrupted_run_left_is_resumed(get):
    get.part.parent.mkdir()
    get.part.write_bytes(BODY[:500_000])
    assert get().read_bytes() == BODY
    assert get.server.requests == [("/file", "bytes=500000-")]


def test_a_part_that_is_whole_already_is_only_checked(get):
    get.part.parent.mkdir()
    get.part.write_bytes(BODY)
    assert get().read_bytes() == BODY
    assert len(get.server.requests) == 1


@pytest.mark.parametrize("size", [400_000, 800_000])
def test_a_part_of_another_file_is_dropped(get, size):
    get.part.parent.mkdir()
    get.part.write_bytes(bytes(size))
    assert get().read_bytes() == BODY
    assert [asked for _, asked in get.server.requests] == [f"bytes={size}-", None]


def test_a_transfer_that_always_breaks_says_what_is_kept(get):
    get.server.cut = [1000, 1000, 1000]
    with pytest.raises(UsageError, match="in 3 attempts.*3000 bytes are kept in") as e:
        get(attempts=3)
    assert str(get.part) in str(e.value) and get.part.read_bytes() == BODY[:3000]
    assert not get.path.exists()
    assert get().read_bytes() == BODY  # the next run
    assert get.server.requests[-1] == ("/file", "bytes=3000-")


def test_a_wrong_checksum_is_told_and_nothing_stays(get):
    with pytest.raises(UsageError, match=f"{'0' * 32}, found {md5(BODY)}.*deleted"):
        get("0" * 32)
    assert list(get.path.parent.iterdir()) == []
    assert len(get.server.requests) == 1


def test_a_refusal_names_the_file_and_where_to_put_it(get):
    with pytest.raises(UsageError, match="/nothing.*Not Found.*by hand") as error:
        get(path="nothing")
    assert f"file may be put into {get.path.parent}" in str(error.value)


def test_a_dead_server_is_one_sentence(monkeypatch, empty):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    source = download.SOURCES["mnist"]._replace(url=url)
    monkeypatch.setitem(download.SOURCES, "mnist", source)
    with pytest.raises(UsageError) as error:
        data.load("mnist")
    text = str(error.value)
    assert f"{url}train-images-idx3-ubyte.gz" in text and "refused" in text
    assert f"put into {empty / 'mnist'} by hand" in text and "\n" not in text


def test_a_silent_server_times_out(get):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        with pytest.raises(UsageError, match="timed out"):
            download.download(url, get.path, md5(BODY), timeout=0.2)


def test_a_folder_that_cannot_be_made_is_named(get, tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(UsageError, match="expected a folder to write file to.*ZOO_DA"):
        get()
    assert get.server.requests == []


def test_progress_is_a_line_without_a_terminal_and_a_bar_with_one(
    get, capsys, monkeypatch
):
    get()
    out, err = capsys.readouterr()
    assert out == "" and err == f"downloading {get.server.url}file (0.7 MB)\n"
    os.remove(get.path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    get()
    out, err = capsys.readouterr()
    assert out == "" and "downloading" not in err and "file" in err
