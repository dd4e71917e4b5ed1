"""Steering learned from the drives of who knows the road, measured by driving."""

import functools
from functools import partial

import jax
import numpy as np

from train import evaluate
from train.data import Arrays, Data, Schema, Split, given
from train.recipes.base import Built, Goal, Recipe, Training
from train.report import Measured, Report
from train.report.measure import tested
from train.step import Trained
from zoo import driving, imitation, rollouts, supervised
from zoo.base import Task, UsageError, check_choice, check_int
from zoo.environments import Environment

NAME = "drives"
ROADS = 100  # that a driver is measured on
# parts of the data, each a stream of keys: its roads are no other's
TRAIN, WATCHED, TEST, CORRECTED, UNSEEN = range(5)


def drives(
    request: Split, *, drivers: int = 64, pushed: float = 0.5, frames: int = 1
) -> Data:
    """Images [H, W, 1] of drives, or the last `frames` of them, and the right steering.

    `drivers` cars are driven for as many steps as a road has metres by who knows it,
    but for pushes in a share of them; a tenth as many are to be tested on. Raises
    UsageError for another name, and for numbers out of range.
    """
    if isinstance(request.source, Data):
        return given(request.source, request)
    check_choice("data", str(request.source), (NAME,))
    check_int("drivers", drivers, 1, 10_000)
    check_int("frames", frames, 1, 100)
    if not 0 <= pushed <= 1:
        raise UsageError(f"expected a share pushed in [0, 1], found {pushed}")

    def part(which, seed, n):
        return rows(_lessons(frames, n, None, None, pushed, which, seed))

    few = max(1, drivers // 10)
    train, test = part(TRAIN, request.seed, drivers), part(TEST, 0, few)
    watched = part(WATCHED, request.seed, few) if request.watched else None
    schema = Schema(NAME, world(frames).shape, (), (0.0,), (1.0,))
    schema = schema._replace(target_name="steering", rows=len(train["x"]))
    return Data(schema, train, test, watched)


@functools.cache
def world(frames: int) -> Environment:
    """A road that is seen as an image, or as the last of them."""
    found = driving.driving("image")
    return found if frames == 1 else driving.several(found, frames)


def rows(lessons: imitation.Lessons) -> Arrays:
    """Lessons [T, N, ...] as rows "x" [T N, ...] and "y" [T N]."""
    x, y = map(np.asarray, lessons)
    return {"x": x.reshape(-1, *x.shape[2:]), "y": y.reshape(-1)}


@partial(jax.jit, static_argnums=(0, 1, 2))
def _lessons(frames, n, predict, trained, pushed, part, seed):
    """Of n drives of the teacher, or of a learner, if there is one."""
    key = jax.random.fold_in(jax.random.key(seed), part)

    def teacher(state):
        return driving.pursue(state if frames == 1 else state.state)

    act = None if predict is None else partial(_act, predict, trained)
    return imitation.lessons(
        *(world(frames), teacher, key, n, driving.LENGTH), act=act, pushed=pushed
    )


def _act(predict, trained, seen):
    return predict(trained.params, trained.model, {"x": seen}).reshape(-1, 1)


def corrected(
    task: Task, trained: Trained, data: Data, *, drivers: int = 64, seed: int = 0
) -> Data:
    """The data, and drives of a learner, each step with what would have been right.

    A round of DAgger (Ross et al. 2011): train on what comes of it, and so on, each
    time by another seed.
    """
    frames = _frames(data.schema)
    more = _lessons(frames, drivers, task.predict, trained, 0.0, CORRECTED, seed)
    train = {
        name: np.concatenate([data.train[name], array])
        for name, array in rows(more).items()
    }
    schema = data.schema._replace(rows=len(train["x"]))
    return data._replace(schema=schema, train=train)


def _frames(schema) -> int:
    """How many images an example has. Raises UsageError for other examples."""
    size = driving.SIZE, driving.SIZE, 1
    if schema.shape[-3:] != size or not 3 <= len(schema.shape) <= 4:
        raise UsageError(
            f"expected images {list(size)} of a road, or several, found examples of "
            f"shape {schema.shape} in {schema.name}"
        )
    return 1 if len(schema.shape) == 3 else schema.shape[0]


def driver(
    schema: Schema,
    *,
    channels: tuple[int, ...] = (8, 16),
    widths: tuple[int, ...] = (32,),
    features: int = 32,
) -> Built:
    """A network that steers by images: a CNN, and of several images an LSTM on it."""
    frames = _frames(schema)
    if not widths or min(*widths, *channels, features) < 1:
        raise UsageError("expected widths of 1 or more")
    network = imitation.Driver(schema.shape, channels, widths, features)
    task = supervised.task(network, supervised.regression)
    return Built(task, network, Report(partial(_driven, task, frames)))


def _driven(task, frames, trained: Trained, data: Data) -> Measured:
    """The share of unseen roads that are driven to their ends, and one as a film."""
    loss = evaluate.evaluate(task, trained, tested(data))["loss"]

    @jax.jit
    def played(trained, key):
        act = partial(_act, task.predict, trained)
        return rollouts.episodes(world(frames), act, key, ROADS)

    found = played(trained, _unseen())
    scores = {
        "arrived": float(driving.arrived(found.reward).mean()),
        "metres": float(found.reward.mean()),
        "rmse": float(np.sqrt(loss)),
    }
    return Measured(
        scores, files={"episode.png": partial(_film, task, frames, trained)}
    )


def _film(task, frames, trained):
    from train.report import charts  # matplotlib takes half a second: only to draw

    act = partial(_act, task.predict, trained)
    record = jax.jit(partial(rollouts.recorded, world(frames), act))
    seen = record(_unseen())
    images = np.asarray(seen.observation)[: int(np.argmax(seen.ended)) + 1]
    return charts.film(world(frames).name, images if frames == 1 else images[:, -1])


def _unseen():
    return jax.random.fold_in(jax.random.key(0), UNSEEN)


RECIPES = {
    "drive_cnn": Recipe(
        driver,
        drives,
        NAME,
        Training(2000, 64, "adam", 1e-3, "cosine"),
        Goal("arrived", 0.95),
        "A convolutional network steers by one image of the road, as one who knows the "
        "road does: the share of 100 unseen roads that it drives to their ends.",
        "fifteen seconds",
        'Bojarski et al., "End to end learning for self-driving cars", 2016',
    ),
    "drive_lstm": Recipe(
        driver,
        partial(drives, drivers=32, frames=4),
        NAME,
        Training(2000, 64, "adam", 1e-3, "cosine"),
        Goal("arrived", 0.95),
        "The same of the last four images: a convolutional network of each, and an "
        "LSTM.",
        "a minute",
        'Bojarski et al., "End to end learning for self-driving cars", 2016',
    ),
}
