"""Pictures of one's own: read whole, upright, in order; what cannot be is said."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train import data
from train.cli.claims import FILES
from train.cli.main import main
from train.data import inputs, pictures
from train.data.formats import read_image
from train.data.pictures import Look
from train.disk.files import read_json
from train.source import augmented, examples
from zoo.base import UsageError

COLOURS = {"blue": (20, 30, 220), "green": (10, 200, 40), "red": (230, 20, 10)}


def paint(path, colour=(9, 9, 9), size=(12, 8), mode="RGB", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1] // 2))  # at the top left
    image.convert(mode).save(path, **more)


@pytest.fixture
def photos(tmp_path):
    """Six of each of three colours, in sizes, kinds and folders of their own."""
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        for i, kind in enumerate(["png", "jpg", "bmp", "webp", "tiff", "gif"]):
            paint(root / name / f"{i}.{kind}", colour, (30 + i, 20 + 2 * i))
    return root


def test_a_folder_is_read_in_order_and_parted_by_class(photos):
    paint(photos / "red" / "more" / "a.PNG", COLOURS["red"])
    rows = data.read_rows(str(photos), None, None)
    assert rows.x.shape == (19, 32, 32, 3) and rows.x.dtype == np.uint8
    assert rows.classes == ("blue", "green", "red")
    assert rows.y.tolist() == [0] * 6 + [1] * 6 + [2] * 7
    for x, y in zip(rows.x, rows.y, strict=True):
        # of a corner of each that is no white
        assert np.abs(x[-4, -4] - np.float64([*COLOURS.values()][y])).max() < 40
    assert np.array_equal(rows.x, data.read_rows(str(photos), None, None).x)
    found = data.load(photos, holdout=1 / 3)
    assert np.bincount(found.test["y"]).tolist() == [2, 2, 3]
    small = data.load(photos, size=9, grey=True).schema
    assert small.shape == (9, 9, 1)


def test_a_picture_to_predict_is_what_training_read(photos):
    found = data.load(photos, holdout=0.0, size=16)
    paths = sorted((photos / "blue").iterdir())
    assert np.array_equal(inputs.read_inputs(found.schema, paths), found.train["x"][:6])


def test_parts_of_its_own(photos):
    for name in COLOURS:
        paint(photos / "test" / name / "a.png", COLOURS[name])
        paint(photos / "val" / name / "a.png", COLOURS[name])
        (photos / "train").mkdir(exist_ok=True)
        (photos / name).rename(photos / "train" / name)
    with pytest.warns(UserWarning, match="left out of .*photos: the folder val$"):
        rows = data.read_rows(str(photos), None, None)
    assert len(rows.x) == 18 and rows.test[0].shape == (3, 32, 32, 3)
    assert rows.test[1].tolist() == [0, 1, 2]


def test_pictures_of_one_small_size_keep_it(tmp_path):
    for name in "ab":
        for i in range(3):
            paint(tmp_path / name / f"{i}.png", size=(20, 10), mode="L")
    rows = data.read_rows(str(tmp_path), None, None)
    assert rows.x.shape == (6, 10, 20, 1)
    assert rows.x[0, :, :, 0].tolist() == [[255] * 10 + [9] * 10] * 5 + [[9] * 20] * 5


def test_it_is_scaled_and_its_middle_cut_out(tmp_path):
    path = tmp_path / "a.png"
    stripes = np.repeat(np.uint8([10, 50, 90, 130]), 20)
    Image.fromarray(np.tile(stripes, (40, 1))).save(path)  # 40 high, 80 wide
    found = read_image(path, (4, 4, 1))[0, 0, :, 0]
    np.testing.assert_allclose(found, [50, 50, 90, 90], atol=5)  # stripes 2 and 3


@pytest.mark.parametrize("turn", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, turn):
    # Exif 2.3, 4.6.4 A: where row 0 and column 0 of what is stored are to be seen
    stored = np.uint8([[[200], [50]], [[100], [150]], [[0], [250]]]).repeat(8, 0)
    stored = stored.repeat(8, 1)[..., 0]
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    seen = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1]}
    across = stored.T
    seen |= {5: across, 6: across[:, ::-1], 7: across[::-1, ::-1], 8: across[::-1]}
    x, kept, said = pictures.read_pictures([tmp_path / "a.png"], tmp_path, Look())
    assert np.array_equal(x[0, ..., 0], seen[turn]) and not said


def test_kinds_of_colour(tmp_path):
    half = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, 4, 8))  # transparent on the left
    cases = {"rgba": half, "la": half.convert("LA")}
    cases["palette"] = Image.new("P", (8, 8), 0)
    cases["palette"].putpalette([255, 255, 255, 200, 0, 0])
    cases["palette"].paste(1, (4, 0, 8, 8))
    cases["bit"] = Image.new("1", (8, 8), 1)
    cases["cmyk"] = Image.new("RGB", (8, 8), "white").convert("CMYK")
    for name, image in cases.items():
        path = tmp_path / f"{name}.{'jpg' if name == 'cmyk' else 'png'}"
        image.save(path)
        x = read_image(path, (8, 8, 3))[0]
        assert (x[:, :4] == 255).all(), name
        right = {"rgba": (200, 0, 0), "palette": (200, 0, 0), "la": (60, 60, 60)}
        assert (x[:, 4:] == right.get(name, (255,) * 3)).all(), name
    assert (read_image(tmp_path / "rgba.png", (8, 8, 4))[0, :, :4] == 0).all()


def bomb(path, side=60_000):
    """A PNG that says it has 3.6 thousand million pixels, and has none."""

    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")
    path.write_bytes(body + chunk(b"IEND", b""))


def test_what_is_no_picture_is_left_out_and_said(photos):
    (photos / "red" / "notes.txt").write_text("a note")
    (photos / "red" / ".hidden.png").write_text("a thumbnail")
    (photos / "loose.png").write_text("of no class")
    (photos / "empty").mkdir()
    (photos / "red" / "linked.png").symlink_to(photos / "red" / "0.png")
    (photos / "red" / "loop").symlink_to(photos)
    os.mkfifo(photos / "red" / "pipe.png")
    bomb(photos / "blue" / "bomb.png")
    whole = (photos / "blue" / "1.jpg").read_bytes()
    (photos / "blue" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning) as caught:
        rows = data.read_rows(str(photos), None, None)
    assert len(rows.x) == 19  # with what is linked
    said = str(caught[0].message)
    for part in (
        "1 hidden, 5 that are no pictures of a class (",
        "empty/, without a picture",
        *("red/loop", "red/notes.txt", "red/pipe.png", "loose.png"),
        "2 of 21 pictures, unreadable (blue/bomb.png: Image size (3600000000 pixels) ",
        "blue/cut.jpg: ",
    ):
        assert part in said, said
    (photos / "blue" / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(UsageError, match=r"at most 10% unreadable .* 3 of 22 pictures"):
        data.read_rows(str(photos), None, None)


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    bomb(tmp_path / "a.png", 10_000)  # Pillow warns of it, and would decode
    with pytest.raises(UsageError, match="exceeds limit"):
        read_image(tmp_path / "a.png", (8, 8, 3))
    bomb(tmp_path / "b.eps")
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9")
    with pytest.raises(UsageError, match="cannot identify"):  # no Ghostscript
        read_image(tmp_path / "a.jpg", (8, 8, 3))


def test_any_damage_is_said(photos):
    draw = np.random.default_rng(0)
    for path in sorted((photos / "red").iterdir()):
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(20):
            broken = whole.copy()
            at = draw.integers(0, len(broken), 12)
            broken[at] = draw.integers(0, 256, 12)
            path.write_bytes(broken[: draw.integers(1, len(broken) + 1)].tobytes())
            try:
                assert read_image(path, (4, 4, 3)).shape == (1, 4, 4, 3)
            except UsageError as error:
                assert str(path) in str(error)


def test_too_much_for_the_memory_is_refused(photos, monkeypatch):
    monkeypatch.setattr(pictures, "BYTES", 18 * 32 * 32 * 3)
    assert len(data.read_rows(str(photos), None, None).x) == 18
    with pytest.raises(UsageError, match=r"at most 55,296 bytes .*, found 58,806 in"):
        data.read_rows(str(photos), None, None, Look(33))


def test_a_table_of_files(photos):
    paths = sorted(photos.glob("*/*"))
    lines = [
        f"{p.relative_to(photos)},{p.parent.name},{i}" for i, p in enumerate(paths)
    ]
    table = photos / "shots.csv"
    table.write_text("\n".join(["file,colour,number", *lines, "red/9.png,red,9"]))
    with pytest.warns(
        UserWarning, match=r'the column "number"; 1 of 19 .*No such file'
    ):
        rows = data.read_rows(str(table), "colour", None)
    assert rows.classes == ("blue", "green", "red") and len(rows.x) == 18
    with pytest.warns(UserWarning):
        rows = data.read_rows(str(table), "number", "regression")
    assert rows.y.tolist() == [*range(18)] and rows.classes == ()
    with pytest.raises(UsageError, match='columns "file", "colour", "number" of'):
        data.read_rows(str(table), "color", None)


def test_a_table_of_files_with_several_targets(photos):
    paths = sorted(photos.glob("*/*"))
    lines = [
        f"{i};{i % 2};{int(p.parent.name == 'red')};{p.relative_to(photos)}"
        for i, p in enumerate(paths)
    ]
    table = photos / "shots.txt"
    text = "\n".join(["number;odd;red;file", *lines, "9;1;1;red/gone.png"])
    table.write_text(text, encoding="utf-16")
    with pytest.warns(UserWarning, match='the column "number"; 1 of 19'):
        found = data.load(table, target="odd,red", several=True, holdout=0.5, size=8)
    assert found.schema.classes == ("odd", "red") and found.schema.image
    assert found.schema.targets == ("odd", "red") and found.schema.multilabel
    reds = np.concatenate([part["y"][:, 1] for part in (found.train, found.test)])
    assert reds.sum() == 6
    flags = {"kind": "regression", "several": True, "separator": ";"}
    with pytest.warns(UserWarning):
        found = data.load(table, target="number,red", holdout=0, **flags)
    np.testing.assert_allclose(
        data.restore_target(found.schema, found.train["y"])[:, 0], range(18), atol=1e-4
    )
    with pytest.warns(UserWarning), pytest.raises(UsageError, match="one target"):
        data.load(table, target="odd,red")
    with pytest.raises(UsageError, match='for --target, of .*found "rod"'):
        data.load(table, target="odd,rod", several=True)


@pytest.fixture
def zoo(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(command):
        with warnings.catch_warnings():
            status = main(command.split())
        return status, *capsys.readouterr()

    return run


def test_mistakes_are_sentences(photos, zoo):
    def fails(*words):
        status, _, said = zoo("train softmax --data photos")
        assert status == 2 and said.count("\n") == 1
        assert all(word in said for word in words), said

    for name in ("blue", "green"):
        (photos / name).rename(photos / f".{name}")
    for path in (photos / "red").iterdir():
        path.write_text("broken")
    fails("at most 10% unreadable pictures", "6 of 6", "red/0.png: cannot identify")
    for path in [*(photos / "red").iterdir()][1:]:
        path.unlink()
    paint(photos / "red" / "0.png")
    (photos / "red").rename(photos / "train")
    (photos / "train" / "a").mkdir()
    status, _, said = zoo("train softmax --data photos")
    assert status == 2 and "expected pictures (.png" in said
    (photos / "train" / "a").rmdir()
    (photos / "train").rename(photos / "one")
    [*(photos / "one").glob("[1-9]*")][0].unlink()
    paint(photos / "one" / "a.png")
    for hidden in (".blue", ".green"):
        (photos / hidden).rename(photos.parent / hidden)
    fails("two classes or more", '"one" alone')
    paint(photos / "two" / "a.png")
    fails("examples of every class", 'the rarest, "two", with 1')
    for message, flags in [
        ("expected pictures for --size and --grey, found digits", "--data digits"),
        ("expected size between 1 and 4096, found 0", "--data photos --size 0"),
    ]:
        status, _, said = zoo(f"train softmax --size 8 {flags}")
        assert status == 2 and message in said, said


def test_a_run_shows_its_pictures_and_predicts_more(photos, zoo):
    flags = "--size 12 --optimizer adam --learning-rate 0.05 --steps 30 --out run"
    assert zoo(f"train softmax --data photos {flags}")[0] == 0
    with Image.open("run/data.png") as image:
        assert image.width > 8 * 60 and image.height > 3 * 50
    photos.rename("gone")
    status, said, _ = zoo("predict run gone/red/0.png gone/green/1.jpg")
    found = [line.split(",")[0] for line in said.split()[1:]]
    assert status == 0 and found == ["red", "green"]
    own = FILES | set(read_json(Path("run/result.json"))["files"])
    assert {path.name for path in Path("run").iterdir()} <= own


def test_what_is_augmented_stands_beside_what_was_read(photos):
    from train.report import thumbnails

    found = data.load(photos, size=20)
    shift = lambda key, batch: batch | {"x": batch["x"][:, ::-1]}  # noqa: E731
    batches = lambda rows, n: augmented(examples(rows, n), shift)  # noqa: E731
    shown = []
    for source in (batches, examples):
        images, titles = thumbnails.sheet(found.schema, found.train, source)
        assert titles == [*COLOURS]
        shown.append(images.reshape(3, 8, 20, 20, 3))
    flipped, read = shown
    assert np.array_equal(flipped[:, :4], read[:, :4])
    np.testing.assert_allclose(flipped[:, 4:, ::-1], read[:, :4], atol=1e-6)
    x = found.train["x"] * found.schema.scale + found.schema.mean  # the first red one
    first = x[found.train["y"] == 2][0] / 255
    np.testing.assert_allclose(read[2, 0], first, atol=1e-5)


@pytest.mark.contract
@pytest.mark.parametrize("recipe", ["cnn", "few_labels --labels 6"])
def test_recipes_of_images_take_pictures(photos, zoo, recipe):
    flags = "--data photos --grey --steps 2 --batch-size 6 --out run"
    assert zoo(f"train {recipe} {flags}")[0] == 0
    assert Path("run/data.png").exists()
