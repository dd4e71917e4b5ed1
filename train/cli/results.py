"""`zoo results`: recipes over several seeds, and the table of them in a page.

DIR/RECIPE.json   scores by seed, goal, parameters, seconds, device, versions, and two
                  numbers of a step of the training: with others they are old
DIR/.members/     the states of a recipe that is under way, to go on from

The seeds of a recipe are one sweep, but where its data has no test part of its own:
there each seed also parts the rows anew.
"""

import importlib.metadata
import platform
import re
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from optax.tree import norm

from train import many, optim
from train import step as one
from train.checkpoint import read_json, whole, write_json
from train.cli.ask import table
from train.cli.flags import parse
from train.data import Split
from train.recipes import RECIPES, Experiment, prepare
from train.recipes.members import members
from zoo.base import UsageError, check_choice, check_int, count_parameters

BEGIN, END = "<!-- zoo results -->", "<!-- end of zoo results -->"
NEAR = 1e-3  # of the numbers of a probe: rounding is below, a rate of 1 % more is not
VERSIONS = ("purezoo", "jax", "flax", "optax")


def results(argv: list[str]) -> int:
    """`zoo results [RECIPE ...] [--seeds 5] [--page README.md]`."""

    def flags(
        recipes: tyro.conf.Positional[tuple[str, ...]] = (),
        seeds: Annotated[int, tyro.conf.arg(help="trainings of each recipe")] = 5,
        out: Annotated[Path, tyro.conf.arg(help="where their scores are")] = Path(
            "benchmarks/results"
        ),
        page: Annotated[
            Path | None, tyro.conf.arg(help=f"a page to write the table to, at {BEGIN}")
        ] = None,
        again: Annotated[
            bool, tyro.conf.arg(help="train those too whose scores are there")
        ] = False,
    ) -> tuple[tuple[str, ...], int, Path, Path | None, bool]:
        """Train recipes over seeds; without RECIPE, show the scores that are there."""
        return recipes, seeds, out, page, again

    recipes, seeds, out, page, again = parse(flags, argv, "zoo results")
    for name in recipes:
        check_choice("recipe", name, tuple(RECIPES))
    check_int("seeds", seeds, 2, 1000)
    for name in recipes:
        path = out / f"{name}.json"
        if path.exists() and not again:
            have = read_json(path)
            if len(have["scores"][have["metric"]]) == seeds and not old(name, have):
                continue
        if again:
            shutil.rmtree(out / ".members" / name, ignore_errors=True)
        found = _trained(name, seeds, out)
        if found is None:
            print(f"stopped, saved; `zoo results {' '.join(argv)}` goes on")
            return 130
        write_json(path, found)
        shutil.rmtree(out / ".members" / name, ignore_errors=True)
        _show([found])
    paths = [out / f"{name}.json" for name in RECIPES]
    found = [read_json(path) for path in paths if path.exists()]
    if not found:
        raise UsageError(
            f"there are no results in {out}: zoo results RECIPE makes some"
        )
    if not recipes:
        _show(found)
    if page is not None:
        write(page, found)
    return 0


def old(name: str, found: dict[str, Any]) -> bool:
    """Whether scores are of another training than the recipe is now.

    A step from fresh weights, in the middle of the training, is compared in numbers,
    which another device or version of JAX moves by their rounding alone.
    """
    experiment = _experiment(name, 0)
    if found["steps"] != experiment.training.steps:
        return True
    now, then = probe(experiment), found["probe"]
    return any(abs(now[k] - then[k]) > NEAR * abs(now[k]) for k in now)


def probe(experiment: Experiment) -> dict[str, float]:
    """Norms of the gradient and of the update of a step: model, data, objective,
    optimizer and schedule are in them."""
    training, source = experiment.training, experiment.source()
    task = optim.accumulated(experiment.task, training.accumulate)
    step = one.make_step(task, experiment.optimizer, ema=training.ema)

    @jax.jit
    def run(arrays, seed, t):
        batch = source.batch(arrays, seed, t)
        average = training.ema is not None
        state = one.init(task, experiment.optimizer, seed, batch, average=average)
        moved, metrics = step(state._replace(step=t), batch)
        change = jax.tree.map(jnp.subtract, moved.params, state.params)
        return {"gradient": metrics["grad_norm"].value(), "update": norm(change)}

    found = run(source.arrays, np.uint32(0), np.int32(training.steps // 2))
    return {name: float(value) for name, value in found.items()}


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """A recipe's line of the table."""
    values = np.asarray(found["scores"][found["metric"]])
    size = f"{values.mean():.4g} ± {values.std(ddof=1):.2g}"
    failed = f", {found['failures']} failed" if found["failures"] else ""
    return (
        f"`{found['recipe']}`",
        found["data"],
        f"{found['metric']} {size}{failed}",
        found["goal"],
        f"{found['parameters']:,}",
        f"{found['seconds']:,.0f}" if found["seconds"] else "",
        found["date"],
    )


HEADS = ("recipe", "data", "score", "goal", "parameters", "seconds", "measured")


def markdown(found: list[dict[str, Any]]) -> str:
    """The table of all, as a page has it."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---|---|---|---|--:|--:|---|"]
    lines += ["| " + " | ".join(row(each)) + " |" for each in found]
    return "\n".join(lines)


def write(page: Path, found: list[dict[str, Any]]) -> None:
    """Put the table between the two marks of a page. Raises UsageError without them."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(f"expected {BEGIN} and {END} in {page}, each once")
    middle = f"{BEGIN}\n{markdown(found)}\n{END}"
    text = re.sub(f"{BEGIN}.*{END}", lambda _: middle, text, flags=re.S)
    with whole(page) as part:
        part.write_text(text, encoding="utf-8")


def _show(found):
    table(HEADS, [row(each) for each in found])


def _experiment(name, seed) -> Experiment:
    recipe = RECIPES[name]
    return prepare(recipe, Split(recipe.data, 0.0, seed))


def _device():
    kind, number = jax.devices()[0].device_kind, len(jax.devices())
    kind = platform.machine() if kind == "cpu" else kind
    return f"{number} x {kind}" if number > 1 else kind


def _trained(name, seeds, out):
    """What RECIPE.json says; None where it was interrupted."""
    first, folder = _experiment(name, 0), out / ".members" / name
    parted = not _same(first, _experiment(name, 1))
    scores: list[dict] = []
    seconds, failures, begun = 0.0, 0, not folder.exists()
    for seed in range(seeds) if parted else [None]:
        experiment = first if seed is None else _experiment(name, seed)
        began = time.perf_counter()
        found = many.sweep(
            members(RECIPES[name], experiment.schema),
            experiment.source(),
            experiment.training.steps,
            seeds=seeds if seed is None else [seed],
            checkpoints=folder if seed is None else folder / str(seed),
            resume=True,
        )
        seconds += time.perf_counter() - began
        if found.ended == "interrupted":
            return None
        for i in range(len(found.diverged)):
            measured = experiment.report.measure(found.trained(i), experiment.parts)
            scores.append(measured.scores)
            failures += measured.failure is not None
    goal = RECIPES[name].goal
    numbers = [k for k, v in scores[0].items() if isinstance(v, float | int)]
    return {
        "recipe": name,
        "data": RECIPES[name].data,
        "metric": goal.metric if goal else numbers[0],
        "scores": {k: [float(each[k]) for each in scores] for k in numbers},
        "failures": failures,
        "parted": "by seed" if parted else "once",
        "goal": str(goal or ""),
        "parameters": count_parameters(found.trained(0).params),
        "steps": first.training.steps,
        "seconds": seconds if begun else None,  # not of what went on
        "probe": probe(first),
        "device": _device(),
        "versions": {each: importlib.metadata.version(each) for each in VERSIONS},
        "date": time.strftime("%Y-%m-%d"),
    }


def _same(a, b):
    """Whether the seed has no part in how the rows are parted."""
    same = jax.tree.map(np.array_equal, a.parts.train, b.parts.train)
    return all(jax.tree.leaves(same))
