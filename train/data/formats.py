"""Files as arrays: IDX (MNIST), CIFAR-10's archive, .npz and pictures.

None is trusted: nothing is unpickled or unpacked to disk, and a file that is not what
its name says is refused in a sentence.
Shapes: N examples, H height, W width, C channels.
"""

import contextlib
import gzip
import math
import re
import struct
import tarfile
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from zoo.base import UsageError


def quoted(names: Sequence[object]) -> str:
    """Up to ten names in quotes, for a message; "none" for none."""
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return (", ".join(f'"{name}"' for name in names[:10]) or "none") + more


# Packed files -------------------------------------------------------------------------

FREE = 2**28  # bytes that any file may unpack to
RATIO = 20  # to more than that only so many times its own size
BLOCK = 2**20  # bytes that are read at a time


def most(packed: int) -> int:
    """How many bytes a file of `packed` bytes may unpack to.

    Deflate packs zeros a thousandfold: a small file could fill any memory.
    """
    return max(FREE, RATIO * packed)


def unpacked(path: Path) -> bytes:
    """All of a file, unpacked if its name ends in .gz.

    What unpacks to too much is not held while it is measured: UsageError. A damaged
    file raises OSError, EOFError or zlib.error.
    """
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    limit, size = most(path.stat().st_size), 0
    with gzip.open(path) as file:
        while size <= limit and (block := file.read(BLOCK)):
            size += len(block)
        if size <= limit:
            file.seek(0)
            return file.read(size)
    raise UsageError(
        f"expected at most {limit:,} bytes in {path} once it is unpacked, found more"
    )


# Data sets that are downloaded --------------------------------------------------------


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """A gzipped IDX file of bytes -> uint8, of ndim dimensions.

    Source: LeCun, Cortes, Burges, "The MNIST database": magic number 0 0 8 ndim, the
    sizes as big-endian 32-bit integers, then the values. Raises UsageError otherwise.
    """
    try:
        with gzip.open(path) as file:
            magic, sizes = file.read(4), file.read(4 * ndim)
            if magic != bytes([0, 0, 8, ndim]) or len(sizes) < 4 * ndim:
                raise damaged(path, f"the header {bytes([0, 0, 8, ndim])!r}", magic)
            shape = np.frombuffer(sizes, ">u4").tolist()
            if math.prod(shape) > most(path.stat().st_size):
                raise damaged(path, "an array of a size that it may have", shape)
            values = file.read(math.prod(shape) + 1)  # one more shows what is too long
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, "a whole gzip file", error) from None
    if len(values) != math.prod(shape):
        wanted = f"{math.prod(shape)} values, as its header {shape} says"
        found = "more" if len(values) > math.prod(shape) else len(values)
        raise damaged(path, wanted, found)
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_cifar(path: Path, names: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches of the CIFAR-10 archive -> (images [N, 32, 32, 3], labels [N]) uint8.

    Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009):
    records of a label and 3 x 32 x 32 values. Raises UsageError otherwise. Members are
    read in memory, by their exact names: no path of the archive touches the disk.
    """
    record, found = 1 + 3 * 32 * 32, {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for entry in archive:  # one pass: going back would decompress anew
                if entry.name not in names or not entry.isfile():
                    continue
                if entry.size > FREE:
                    raise damaged(path, f"at most {FREE:,} bytes a file", entry.size)
                if file := archive.extractfile(entry):
                    found[entry.name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise damaged(path, "a whole tar.gz archive", error) from None
    batches = []
    for name in names:
        values = found.get(name, b"")
        if not values or len(values) % record:
            wanted = f"a file {name} of records of {record} bytes"
            raise damaged(path, wanted, f"{len(values)} bytes" if values else "none")
        rows = np.frombuffer(values, np.uint8).reshape(-1, record)
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        batches.append((np.ascontiguousarray(images), rows[:, 0]))
    return batches


def damaged(path: Path, expected: str, found: object) -> UsageError:
    """The error for a file that is not what its name says."""
    return UsageError(
        f"expected {expected} in {path}, found {found}: delete the file, and the next "
        "run downloads it again"
    )


# .npz ---------------------------------------------------------------------------------

# what reading such a file may raise; RuntimeError asks for a password, TypeError is of
# numbers of three bytes
BROKEN_NPZ = (
    *(OSError, EOFError, ValueError, TypeError, RuntimeError, OverflowError),
    *(BadZipFile, zlib.error, struct.error),
)
# numpy.lib.format, versions 1 to 3; the header is Python, which is not run here
NPY = re.compile(
    rb"\{'descr': '([<>|=]?[biufcSU][1-9]\d{0,8})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d+, ?)*\d*)\), ?\}\s*"
)
# how a file begins, and how many bytes the length of its header has
VERSIONS = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4, b"\x93NUMPY\3\0": 4}
HEADER = 10_000  # bytes; what numpy writes has some 100


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an .npz file by name, each read when it is first asked for.

    An array's size is taken from its header, compared with what the archive says, and
    bounded (`most`, of all that are read) before it is unpacked. None may hold pickled
    objects. Reading raises UsageError, KeyError for a name that is not there.
    """

    def __init__(self, path: Path):
        self._path = path
        self._read: dict[str, np.ndarray] = {}
        with self._opened() as archive:
            ends = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            self._members = {m.filename.removesuffix(".npy"): m for m in ends}

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members  # without reading it

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._read:
            member = self._members[name]
            with self._opened() as archive, archive.open(member) as file:
                self._read[name] = self._array(name, member, file)
        return self._read[name]

    @contextlib.contextmanager
    def _opened(self):
        try:
            with ZipFile(self._path) as archive:
                yield archive
        except UsageError:
            raise
        except BROKEN_NPZ as error:
            raise UsageError(
                f"expected an .npz file as numpy.savez writes it, found {self._path} "
                f"({error})"
            ) from None

    def _array(self, name, member, file) -> np.ndarray:
        """A member as an array."""
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError(f"{name} is packed as it never packs")
        width = VERSIONS.get(file.read(8), 0)
        length = int.from_bytes(file.read(width), "little")
        header = file.read(length) if length < HEADER else b""
        if b"'descr': '|O'" in header:
            raise UsageError(
                f"expected arrays of numbers or text in {self._path}, found Python "
                f"objects in {name}, which are not read: unpickling them may run any "
                "code"
            )
        if (found := NPY.fullmatch(header)) is None:
            raise ValueError(f"{name} is no array of numbers or text")
        kind, turned = np.dtype(found[1].decode()), found[2] == b"True"
        shape = tuple(int(n) for n in found[3].split(b",") if n.strip())
        size = math.prod(shape) * kind.itemsize
        total = size + sum(array.nbytes for array in self._read.values())
        if total > (limit := most(self._path.stat().st_size)):
            raise UsageError(
                f"expected at most {limit:,} bytes of arrays in {self._path}, found "
                f"{total:,} with {name}: packed so tightly they are not read, but may "
                "be as numpy.savez writes them"
            )
        if 8 + width + length + size != member.file_size:
            raise ValueError(f"{name} is of another size than its header says")
        array = _filled(file, size).view(kind)
        return array.reshape(shape[::-1]).T if turned else array.reshape(shape)


def _filled(file, size: int) -> np.ndarray:
    """So many bytes of a file, uint8 [size]. Raises EOFError where there are fewer."""
    array, at = np.empty(size, np.uint8), 0
    while at < size:
        read = file.readinto(array[at : at + BLOCK].data)
        if not read:
            raise EOFError(f"it ends after {at:,} of {size:,} bytes")
        at += read
    return array


def open_npz(path: Path) -> Archive:
    """The arrays of an .npz file by name, as `Archive` has them. Raises UsageError."""
    return Archive(path)


# Pictures -----------------------------------------------------------------------------

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# of what Pillow reads, that which runs no other program; by content, not by name
PICTURES = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = tuple(".png .jpg .jpeg .gif .bmp .tif .tiff .webp .ppm .pgm .pbm".split())


@contextlib.contextmanager
def open_picture(path: Path) -> Iterator[Any]:
    """A picture of which the header alone is read; Pillow's Image.

    One of more than Image.MAX_IMAGE_PIXELS (89 million) or of 16 bits and more is
    refused before it is decoded. Raises UsageError, also for what the reader finds.
    """
    from PIL import Image  # comes with matplotlib

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=PICTURES) as image:
                if image.mode[0] in "IF":  # converting would clip
                    raise UsageError(
                        f"expected 8 bits a channel in {path}, found the mode "
                        f"{image.mode}"
                    )
                yield image
    except UsageError:
        raise
    except Exception as error:  # a damaged file can raise anything in Pillow
        raise UsageError(f"expected a picture, found {path} ({error})") from None


def sight(image: Any) -> tuple[tuple[int, int], bool]:
    """The height and width of a picture, turned upright, and whether it is grey."""
    from PIL.ExifTags import Base

    width, height = image.size
    if image.getexif().get(Base.Orientation, 1) > 4:  # lies on its side
        width, height = height, width
    return (height, width), image.mode in ("1", "L", "LA")


def read_image(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture file -> [1, H, W, C], its pixels 0..255, uint8. Raises UsageError.

    It is turned upright as its EXIF data say, scaled until it covers H x W, and its
    middle is cut out. What is transparent is white, but for 4 channels.
    """
    height, width, channels = shape
    if channels not in MODES:
        raise UsageError(
            f"expected a model of 1, 3 or 4 channels for the picture {path}, found "
            f"{channels}"
        )
    with open_picture(path) as image:
        from PIL import Image, ImageOps

        # a large JPEG is decoded at a part of its size, in less memory
        image.draft(None, (2 * max(height, width),) * 2)
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data and channels < 4:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        fitted = ImageOps.fit(image.convert(MODES[channels]), (width, height))
        return np.asarray(fitted).reshape(1, height, width, channels)


def numbers(x: np.ndarray, what: str) -> np.ndarray:
    """x itself, once it holds finite numbers within the range of float32.

    Raises UsageError, naming `what` and the first index and the count of what is wrong.
    """
    if x.dtype.kind not in "biuf":
        raise UsageError(f"expected numbers in {what}, found {x.dtype}")
    if x.size == 0:
        raise UsageError(f"expected examples in {what}, found shape {x.shape}: empty")
    if x.dtype.kind == "f":
        for bad, expected in (
            (~np.isfinite(x), "finite numbers"),
            (np.abs(x) > np.finfo(np.float32).max, "numbers within float32's range"),
        ):
            if bad.any():
                index = np.unravel_index(bad.argmax(), x.shape)
                raise UsageError(
                    f"expected {expected} in {what}, found {x[index]} at index "
                    f"{[int(i) for i in index]} ({bad.sum()} such in all)"
                )
    return x
