"""Pictures of the user's own: a folder with one of each class, or a table of files.

    photos/cat/1.jpg                 file,animal
    photos/dog/2.png                 shots/1.jpg,cat

Pictures of any size become [H, W, C] as `train.data.formats.read_image` makes them, in
training and for a prediction alike. They are read one by one into an array of the final
size. All is said of what is left out.
Shapes: N pictures, H height, W width, C channels.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from train.data.formats import SUFFIXES, open_picture, read_image, sight
from train.data.frames import quoted
from train.data.prepare import listed
from train.data.tables import Kind, Rows, several_of, targets
from zoo.base import UsageError, nearest
from zoo.checks import check_int

if TYPE_CHECKING:
    from pandas import DataFrame

SIZE = 32  # of pictures that are larger, or of different sizes, unless it is given
OWN = 64  # up to so high and wide, pictures of one size keep it
DAMAGED = 0.1  # share of the pictures that may be unreadable
BYTES = 2**30  # of all pictures; training has six times as much, as float32 and parts
TESTS = ("test", "val", "valid", "validation")  # beside "train", of which one is read


class Look(NamedTuple):
    """How pictures are to be seen."""

    size: int | None = None  # height and width; None: see `SIZE` and `OWN`
    grey: bool = False  # also those with colours


LOOK = Look()


class Found(NamedTuple):
    """Files of one part of a data set, and the name of the class of each."""

    paths: list[Path]
    labels: list[str]
    other: list[str]  # what is no picture
    hidden: int


def read_folder(path: Path, look: Look = LOOK, kind: Kind | None = None) -> Rows:
    """The pictures of a folder, a class for each folder in it, in the order of names.

    Folders in a class's folder belong to it. Where there is a folder train of folders,
    classes are in that, and in test (or val, valid, validation), the test part. Hidden
    files are left out; links to files are followed, but below a class's folder none to
    folders.
    Raises UsageError.
    """
    if kind == "regression":
        raise UsageError(f"expected a table of files for a quantity, found {path}")
    known = _folders(path)
    # a folder of that name without folders in it is a class of vehicles
    parted = "train" in known and bool(_folders(path / "train"))
    names = ["train", *[name for name in TESTS if name in known][:1]]
    parts = [path / name for name in names] if parted else [path]
    found = [_search(part) for part in parts]
    for part, each in zip(parts, found, strict=True):
        if not each.paths:
            raise UsageError(
                f"expected pictures ({', '.join(SUFFIXES)}) in folders of {part}, one "
                f"for each class, found none{_among(each)}"
            )
    paths = [p for each in found for p in each.paths]
    x, kept, failed = read_pictures(paths, path, look)
    skipped = sorted(known - set(names)) if parted else []
    _warn(path, [*[f"the folder {s}" for s in skipped], _left_out(found), failed])
    labels = np.array([label for each in found for label in each.labels])[kept]
    train = np.flatnonzero(kept < len(found[0].paths))
    test = np.flatnonzero(kept >= len(found[0].paths))
    own = labels[test] if len(test) else None
    y, y_test, classes = targets(labels[train], own, kind, f"the folders of {parts[0]}")
    if y_test is None:
        return Rows(x, y, classes)
    return Rows(x[: len(train)], y, classes, (x[len(train) :], y_test))


def read_listed(
    frame: "DataFrame",
    path: Path,
    target: str,
    look: Look = LOOK,
    kind: Kind | None = None,
) -> Rows:
    """The pictures that a table lists, by their paths from the folder that it is in.

    Of its columns, the first of files and the target, or those of "a,b", count. Raises
    UsageError.
    """
    columns = [str(name) for name in frame]
    name = next((n for n in columns if _is_picture(frame[n].iloc[0])), None)
    many = target not in columns and "," in target
    wanted = listed(target, columns, "--target") if many else [target]
    if name in (None, *wanted) or not set(wanted) <= set(columns):
        raise UsageError(
            f"expected a target beside the files in the columns {quoted(columns)} "
            f'of {path}, found "{target}"' + nearest(target, columns)
        )
    if (gaps := frame[wanted].isna().any(axis=1)).any():
        raise UsageError(
            f"expected a value in each row of {quoted(wanted)} of {path}, found none "
            f"in line {frame.index[gaps][0]}"
        )
    paths = [path.parent / str(cell) for cell in frame[name]]
    x, kept, failed = read_pictures(paths, path.parent, look)
    others = [f'the column "{c}"' for c in columns if c not in (name, *wanted)]
    _warn(path, [*frame.attrs["notes"], *others, failed])
    if many:
        y, classes = several_of(frame.iloc[kept], wanted, kind)
        return Rows(x, y, classes, target_name=target, targets=tuple(wanted))
    values = frame[target].to_numpy()[kept]
    values = values.astype(str) if values.dtype == object else values
    y, _, classes = targets(values, None, kind, f'the column "{target}" of {path}')
    return Rows(x, y, classes, target_name=target)


def lists_pictures(frame: "DataFrame") -> bool:
    """Whether the first row of a table has the name of a picture."""
    return any(map(_is_picture, frame.iloc[0]))


def _is_picture(cell):
    return str(cell).strip().lower().endswith(SUFFIXES)


def read_pictures(
    paths: Sequence[Path], where: Path, look: Look
) -> tuple[np.ndarray, np.ndarray, str]:
    """Files -> (x [N, H, W, C] uint8, which of them they are [N], what failed).

    Raises UsageError where more than a share of `DAMAGED` fails, or all are too large.
    """
    failed: dict[int, str] = {}
    seen = {}
    for i, path in enumerate(paths):
        try:
            with open_picture(path) as image:
                seen[i] = sight(image)
        except UsageError as error:
            failed[i] = _why(error, path)
    shape = _shape(list(seen.values()), look)
    needed = len(seen) * int(np.prod(shape))
    if needed > BYTES:
        raise UsageError(
            f"expected at most {BYTES:,} bytes of pictures, found {needed:,} in "
            f"{where}: {len(seen):,} of {shape}; a smaller --size, or --grey, takes "
            "less"
        )
    x = np.empty((len(seen), *shape), np.uint8)
    kept: list[int] = []
    for i in seen:
        try:
            x[len(kept)] = read_image(paths[i], shape)[0]
            kept.append(i)
        except UsageError as error:
            failed[i] = _why(error, paths[i])
    said = _list([f"{_name(paths[i], where)}: {failed[i]}" for i in sorted(failed)])
    said = f"{len(failed)} of {len(paths)} pictures, unreadable ({said})"
    if len(failed) > DAMAGED * len(paths):
        raise UsageError(
            f"expected at most {DAMAGED:.0%} unreadable pictures in {where}, found "
            f"{said}"
        )
    return x[: len(kept)], np.array(kept), said if failed else ""


def _warn(path, said):
    if what := "; ".join(filter(None, said)):
        warnings.warn(f"left out of {path}: {what}", stacklevel=4)


def _shape(seen, look):
    """Of all pictures, by their own sizes and colours."""
    channels = 1 if look.grey or all(grey for _, grey in seen) else 3
    if look.size is not None:
        side = check_int("size", look.size, 1, 4096)
        return side, side, channels
    sizes = {size for size, _ in seen}
    one = sizes.pop() if len(sizes) == 1 else None
    return (*(one if one and max(one) <= OWN else (SIZE, SIZE)), channels)


def _folders(path):
    return {p.name for p in path.iterdir() if p.is_dir() and p.name[0] != "."}


def _search(part):
    """The pictures in the classes' folders of a part, by their paths."""
    found = Found([], [], [], 0)
    hidden = 0
    for label in sorted(_folders(part)):
        names = []
        for folder, folders, files in os.walk(part / label):  # follows no links
            hidden += sum(name[0] == "." for name in (*folders, *files))
            folders[:] = [name for name in folders if name[0] != "."]
            names += [Path(folder, name) for name in files if name[0] != "."]
            links = [name for name in folders if Path(folder, name).is_symlink()]
            found.other.extend(_name(Path(folder, name), part) for name in links)
        for path in sorted(names):
            if path.suffix.lower() in SUFFIXES and (
                path.is_file() or not path.exists()  # no pipe; a link to nothing fails
            ):
                found.paths.append(path)
                found.labels.append(label)
            else:
                found.other.append(_name(path, part))
        if label not in found.labels[-1:]:
            found.other.append(f"{label}/, without a picture")
    for path in sorted(part.iterdir()):
        if path.name[0] == ".":
            hidden += 1
        elif not path.is_dir():
            found.other.append(path.name)
    return found._replace(hidden=hidden)


def _left_out(found):
    other = [name for each in found for name in each.other]
    hidden = sum(each.hidden for each in found)
    said = [f"{hidden} hidden"] if hidden else []
    said += [f"{len(other)} that are no pictures of a class ({_list(other)})"] * any(
        other
    )
    return ", ".join(said)


def _among(found):
    return f" among {quoted(found.other)}" if found.other else ""


def _list(names):
    more = [f"and {len(names) - 10} more"] if len(names) > 10 else []
    return ", ".join([*names[:10], *more])


def _name(path, where):
    return str(path.relative_to(where) if path.is_relative_to(where) else path)


def _why(error, path):
    """What a message says beside the path, which is said already."""
    said = str(error).partition(f"found {path} (")[2][:-1] or str(error)
    for again in (f" in {path}", f": '{path}'", f" '{path}'"):
        said = said.replace(again, "")
    return said
