"""`zoo results`: recipes over several seeds, and the table of them in a page.

DIR/RECIPE.json   scores by seed, goal, parameters, seconds, device, versions, and
                  settings and two numbers of a step: with others the scores are old
DIR/.members/     the states of a recipe that is under way, to go on from

The seeds of a recipe are one sweep, but where its data has no test part of its own:
there each seed also parts the rows anew.
"""

import importlib.metadata
import platform
import re
import shutil
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree

from train import many
from train import step as one
from train.checkpoint import read_json, whole, write_json
from train.cli.flags import parse
from train.cli.tables import spread, table
from train.data import Split
from train.recipes import RECIPES, Experiment, Training, prepare
from train.recipes.members import members
from zoo.base import UsageError, check_choice, check_int, count_parameters

BEGIN, END = "<!-- zoo results -->", "<!-- end of zoo results -->"
NEAR = 1e-4  # of a probe's numbers: rounding moves them by 1e-5, on other devices too
SHOWN = ("wer", "elbo", "kl", "frechet", "rarest")  # beside the score of the goal
HEADS = ("recipe", "data", "score", "goal", "parameters", "seconds", "measured")
OLDER = ", older than the code"
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

    Its settings are compared, and a step from fresh weights in numbers, which another
    device or version of JAX moves by their rounding alone.
    """
    experiment = _experiment(name, 0)
    then = found["training"]  # a field that came since had its default
    known = then.keys() <= {*Training._fields}
    if not known or Training(**then) != experiment.training:
        return True
    now, before = probe(experiment), found["probe"]
    return any(abs(now[k] - before[k]) > NEAR * abs(now[k]) for k in now)


def probe(experiment: Experiment) -> dict[str, float]:
    """Norms of the gradient and of the update of a step in the middle of a training:
    model, data, objective, optimizer and schedule are in them."""
    training, source = experiment.training, experiment.source()
    task, parts = experiment.task, training.accumulate
    step = one.make_step(task, experiment.optimizer, ema=training.ema, parts=parts)

    @jax.jit
    def run(arrays, seed, t):
        batch = source.batch(arrays, seed, t)
        average = training.ema is not None
        state = one.init(task, experiment.optimizer, seed, batch, average=average)
        # optimizers count by themselves: a schedule would be at its first rate, 0
        state = state._replace(
            step=t, optimizer=jax.tree.map(partial(_counted, t), state.optimizer)
        )
        moved, metrics = step(state, batch)
        change = jax.tree.map(jnp.subtract, moved.params, state.params)
        size = jnp.linalg.norm(ravel_pytree(change)[0])
        return {"gradient": metrics["grad_norm"].value(), "update": size}

    found = run(source.arrays, np.uint32(0), np.int32(training.steps // 2))
    return {name: float(value) for name, value in found.items()}


def _counted(t, leaf):
    count = jnp.ndim(leaf) == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)
    return t.astype(leaf.dtype) if count else leaf


def row(found: dict[str, Any], others: int = 0, old: bool = False) -> tuple[str, ...]:
    """A recipe's line of the table: the score that its goal is of, then some others."""
    shown = dict.fromkeys((found["metric"], *SHOWN))
    scores = [
        f"{k} {spread(found['scores'][k])}" for k in shown if k in found["scores"]
    ]
    failed = [f"{found['failures']} failed"] * bool(found["failures"])
    return (
        f"`{found['recipe']}`",
        found["data"],
        ", ".join(scores[: 1 + others] + failed),
        found["goal"],
        f"{found['parameters']:,}",
        f"{found['seconds']:,.0f}" if found["seconds"] else "",
        f"{found['date']}{OLDER * old}",
    )


def markdown(found: list[dict[str, Any]], older: Collection[str] = ()) -> str:
    """The table of all, as a page has it, and on what they were measured."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---|---|---|---|--:|--:|---|"]
    for each in found:
        line = row(each, 2, each["recipe"] in older)
        lines.append("| " + " | ".join(line) + " |")
    on: dict[str, list[str]] = {}
    for each in found:
        versions = ", ".join(f"{k} {v}" for k, v in each["versions"].items())
        on.setdefault(f"{each['device']}, {versions}", []).append(each["recipe"])
    most, *others = sorted(on, key=lambda key: -len(on[key]))
    lines += [f"\n{most}.", *(f"{', '.join(on[each])}: {each}." for each in others)]
    return "\n".join(lines)


def write(page: Path, found: list[dict[str, Any]]) -> None:
    """Put the table between the two marks of a page, and say which scores are old.

    Raises UsageError without the marks.
    """
    older = [each["recipe"] for each in found if old(each["recipe"], each)]
    put(page, BEGIN, END, markdown(found, older))


def put(page: Path, begin: str, end: str, table: str) -> None:
    """Write a table between two marks of a page. Raises UsageError without them."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise UsageError(f"expected {begin} and {end} in {page}, each once")
    middle = f"{begin}\n{table}\n{end}"
    text = re.sub(f"{begin}.*{end}", lambda _: middle, text, flags=re.S)
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
        "training": first.training._asdict(),
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
