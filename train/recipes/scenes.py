"""From images to images: the class of each pixel, and boxes around objects."""

from functools import partial

import numpy as np

from train import evaluate
from train.data import Data, Schema, views
from train.recipes.base import (
    Built,
    Goal,
    Recipe,
    Training,
    expect_classes,
    expect_images,
)
from train.report import Measured, Report, scenes
from train.report.measure import tested
from train.step import Trained
from zoo import detect, unet
from zoo.base import Number, UsageError

SHOWN = 8  # scenes in a picture
SCORES = 0.3  # of boxes that are drawn, and written by `zoo predict`


def segmenter(
    schema: Schema,
    *,
    channels: tuple[int, ...] = (8, 16, 32, 64),
    dropout: Number = 0.0,
    dice_weight: Number = 1.0,
) -> Built:
    """A U-Net, which tells the class of each pixel."""
    classes = _expect_scenes(schema, schema.shape[:2])
    network = unet.UNet(classes, channels, dropout)
    unet.check_sides(schema.shape[:2], 2 ** (len(channels) - 1))
    task = unet.task(network, classes, dice_weight=dice_weight)
    report = Report(partial(_segmented, task, schema), lines=partial(_areas, schema))
    return Built(task, network, report)


def detector(
    schema: Schema,
    *,
    channels: tuple[int, ...] = (8, 16, 32, 64),
    dropout: Number = 0.0,
    size_weight: Number = 0.1,
) -> Built:
    """A network that finds objects as the centres of their boxes."""
    classes = _expect_scenes(schema, (*schema.target_shape[:1], 5))
    network = detect.CenterNet(classes, channels, dropout=dropout)
    unet.check_sides(schema.shape[:2], 2 ** (len(channels) - 1))
    task = detect.task(network, classes, size_weight=size_weight)
    report = Report(partial(_detected, task, schema), lines=partial(_boxes, schema))
    return Built(task, network, report)


def _expect_scenes(schema, target):
    expect_images(schema)
    if schema.target_shape != target:
        raise UsageError(
            f"expected scenes, whose targets have the shape {target}, found "
            f"{schema.target_shape} in {schema.name}"
        )
    return expect_classes(schema)


def _segmented(task, schema, trained: Trained, data: Data) -> Measured:
    """Dice and its like over the test scenes, and some of them with their masks."""
    rows = tested(data)
    found = evaluate.predict(task, trained, {"x": rows["x"]}).argmax(-1)
    scores = scenes.segmentation(found, rows["y"], schema.classes)

    def picture():
        from train.report import overlays

        x, y, some = (part[:SHOWN] for part in (rows["x"], rows["y"], found))
        return overlays.masks(x, y, some, schema.classes)

    return Measured(scores, files={"scenes.png": picture})


def _detected(task, schema, trained: Trained, data: Data) -> Measured:
    """Mean average precision over the test scenes, and some of them with boxes."""
    rows = tested(data)
    found = evaluate.predict(task, trained, {"x": rows["x"]})
    scores = scenes.detection(found, rows["y"], schema.classes)

    def picture():
        from train.report import overlays

        x, y, some = (part[:SHOWN] for part in (rows["x"], rows["y"], found))
        return overlays.boxes(x, y, some, schema.classes, SCORES)

    return Measured(scores, files={"scenes.png": picture})


def _areas(schema, probabilities):
    """Of each image the pixels of each class."""
    found = probabilities.argmax(-1).reshape(len(probabilities), -1)
    counts = [np.bincount(row, minlength=len(schema.classes)) for row in found]
    heads = ["image", *(f"pixels({name})" for name in schema.classes)]
    return [heads, *([str(i), *map(str, row)] for i, row in enumerate(counts))]


def _boxes(schema, found):
    """A line for each box whose score is high enough."""
    heads = ["image", "class", "score", "top", "left", "bottom", "right"]
    lines = [
        [
            str(i),
            schema.classes[int(kind)],
            f"{score:.4f}",
            *(f"{e:.1f}" for e in edges),
        ]
        for i, rows in enumerate(found)
        for *edges, kind, score in rows
        if score >= SCORES
    ]
    return [heads, *lines]


def _training(steps: int) -> Training:
    return Training(steps, 16, "adamw", 3e-3, "warmup_cosine", ema=0.99)


RECIPES = {
    "unet": Recipe(
        segmenter,
        views.masks,
        "digit_scenes",
        _training(4000),
        Goal("dice", 0.92),
        "A U-Net tells which pixels are which digit, in scenes of one to four: Dice, "
        "the mean of the digits. --data may be clothes_scenes, mixed_scenes, or an "
        ".npz file of images and masks.",
        "five minutes",
        'Ronneberger et al., "U-Net: convolutional networks for biomedical image '
        'segmentation", 2015',
    ),
    "centernet": Recipe(
        detector,
        views.boxes,
        "digit_scenes",
        _training(5000),
        Goal("map", 0.95),
        "Boxes around the digits of scenes, found as the highest points of a map: mean "
        "average precision at an IoU of one half. --data may be clothes_scenes, "
        "mixed_scenes, or an .npz file of images and boxes.",
        "three minutes",
        'Zhou et al., "Objects as points", 2019',
    ),
}
