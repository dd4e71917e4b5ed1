"""Learning by acting in an environment: there are no rows, a test row is an episode."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from train import evaluate
from train import source as sources
from train.data import Data, Schema, Split
from train.recipes.base import Built, Goal, Recipe, Training
from train.report import Measured, Report
from train.report.measure import tested
from train.step import Trained
from zoo import actors, dqn, driving, rl, rollouts, sac, tables
from zoo import environments as worlds
from zoo.base import Number, UsageError, nearest

EPISODES = 100  # that a policy is measured on
WORLDS: dict[str, Callable[[], worlds.Environment | tables.Table]] = {
    **worlds.ENVIRONMENTS,
    **{name: partial(tables.frozen_lake, name) for name in tables.LAKES},
    "taxi": tables.taxi,
    "driving": driving.driving,
}


def episodes(request: Split) -> Data:
    """An environment by its name: each row of a part stands for an episode.

    What is in a row is one first observation; which episode it is, the row's number
    says. Raises UsageError for an unknown name.
    """
    world = environment(str(request.source))
    names = tuple(map(str, range(world.actions)))
    d = world.shape[0]
    schema = Schema(world.name, world.shape, names, (0.0,) * d, (1.0,) * d)

    def part(n, seed):
        return {"x": np.asarray(worlds.starts(world, n, seed))}

    watched = None
    if request.watched:  # other episodes than those of the test
        number = np.arange(EPISODES, 2 * EPISODES, dtype=np.int32)
        watched = part(EPISODES, 2) | {"row": number}
    return Data(schema, part(1, 0), part(EPISODES, 1), watched)


def environment(name: str) -> worlds.Environment:
    """An environment by its name. Raises UsageError."""
    if name not in WORLDS:
        raise UsageError(
            f"expected one of the environments {', '.join(WORLDS)}, found {name!r}"
            + nearest(name, list(WORLDS))
        )
    found = WORLDS[name]()
    return tables.environment(found) if isinstance(found, tables.Table) else found


def ppo(
    schema: Schema,
    *,
    environments: int = 4,
    horizon: int = 128,
    epochs: int = 4,
    parts: int = 4,
    widths: tuple[int, ...] = (64, 64),
    discount: Number = 0.99,
    decay: Number = 0.95,
    trust: Number = 0.2,
    entropy_weight: Number = 0.01,
) -> Built:
    """A policy learned by its gradient, within a region of trust."""
    world = environment(schema.name)
    network = actors.network(world, widths)
    task = rl.task(
        world,
        network,
        environments=environments,
        horizon=horizon,
        epochs=epochs,
        parts=parts,
        discount=discount,
        decay=decay,
        clip=trust,
        entropy_weight=entropy_weight,
    )
    report = _report(task, world, partial(actors.policy, world, network))
    size = max(1, environments * horizon // (epochs * parts))
    return _built(task, network, report, size)


def deep_q(
    schema: Schema,
    *,
    environments: int = 10,
    memory: int = 10_000,
    batch_size: int = 128,
    widths: tuple[int, ...] = (120, 84),
    discount: Number = 0.99,
    warmup: int = 1000,
    exploring: Number = 10_000.0,
    exploration: Number = 0.05,
    refresh: int = 50,
    double: bool = True,
    dueling: bool = False,
) -> Built:
    """Values of actions, learned from a memory."""
    world = environment(schema.name)
    network = dqn.QNetwork(world.actions, widths, dueling)
    task = dqn.task(
        world,
        network,
        environments=environments,
        memory=memory,
        batch_size=batch_size,
        discount=discount,
        warmup=warmup,
        exploring=exploring,
        exploration=exploration,
        refresh=refresh,
        double=double,
    )
    report = _report(task, world, partial(dqn.policy, network))
    return _built(task, network, report, environments)


def soft_actor_critic(
    schema: Schema,
    *,
    environments: int = 1,
    memory: int = 20_000,
    batch_size: int = 128,
    widths: tuple[int, ...] = (64, 64),
    discount: Number = 0.95,
    pace: Number = 0.01,
    target_entropy: Number = -1.0,
    warmup: int = 500,
) -> Built:
    """Real actions at an entropy that is asked for, learned from a memory."""
    world = environment(schema.name)
    network = sac.networks(widths)
    task = sac.task(
        world,
        network,
        environments=environments,
        memory=memory,
        batch_size=batch_size,
        discount=discount,
        pace=pace,
        target_entropy=target_entropy,
        warmup=warmup,
    )
    report = _report(task, world, partial(sac.policy, world, network.actor))
    return _built(task, network.actor, report, environments)


def _built(task, network, report, size):
    def nothing(rows, batch_size):
        return sources.nothing(size)

    return Built(task, network, report, nothing, stoppable=False, mixed=False)


def _report(task, world, policy):
    return Report(partial(_played, task, world, policy))


def _played(task, world, policy, trained: Trained, data: Data) -> Measured:
    """The mean return of the test episodes, and one of them as a strip of pictures."""
    scores: dict[str, Any] = evaluate.evaluate(task, trained, tested(data))
    act = policy(trained.params)

    def film():
        from train.report import charts

        seen = jax.jit(lambda key: rollouts.recorded(world, act, key))(
            jax.random.key(0)
        )
        length = int(np.argmax(seen.ended)) + 1
        return charts.film(world.name, np.asarray(seen.observation)[:length])

    return Measured(scores, files={"episode.png": film})


RECIPES = {
    "ppo": Recipe(
        ppo,
        episodes,
        "cartpole",
        Training(15_616, None, "adam", 1e-3, "cosine", clip=0.5),
        Goal("return", 490.0),
        "A policy learned by its gradient, within a region of trust: the mean return "
        "of 100 episodes.",
        "half a minute",
        'Schulman et al., "Proximal policy optimization algorithms", 2017',
    ),
    "dqn": Recipe(
        deep_q,
        episodes,
        "cartpole",
        Training(40_000, 128, "adam", 1e-3, "cosine", ema=0.999),
        Goal("return", 489.0),
        "Values of actions learned from a memory of what was done: the mean return of "
        "100 episodes.",
        "a minute",
        'Mnih et al., "Human-level control through deep reinforcement learning", 2015',
    ),
    "sac": Recipe(
        soft_actor_critic,
        episodes,
        "pendulum",
        Training(10_000, 128, "adam", 1e-3),
        Goal("return", -150.0),
        "Real actions at an entropy that is asked for, learned from a memory: the mean "
        "return of 100 episodes.",
        "half a minute",
        'Haarnoja et al., "Soft actor-critic algorithms and applications", 2018',
    ),
}
