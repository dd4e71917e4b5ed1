"""`zoo sweep | cross-validate | tune`: many trainings of a recipe as one program.

DIR/search.json      recipe, flags, axes, metric, the best setting
DIR/members/         the states of a sweep's members, to go on from
DIR/members.csv      a line for each member: its settings and scores
DIR/settings.csv     a line for each setting, the best first: mean and deviation
DIR/curves.png       the loss of the training by step, a colour for each setting
DIR/returns.png      the return of the episodes played, where there are any
DIR/map.png          the score at each pair of two axes, where there are two
Members are judged on a tenth of the training rows that is set aside, or by folds of
them: never on the test rows. Those of one setting, where nothing is chosen, are then
measured on the test rows, too.
"""

import csv
import time
from typing import Any

import numpy as np

from train import many
from train import source as sources
from train.checkpoint import whole, write_json
from train.cli.asked import asked, flag, judged_by, judged_in_batches, searched, seconds
from train.cli.tables import spread, table
from train.recipes.members import members
from zoo.base import UsageError

SHOWN = 20  # settings in the terminal
MAPPED = 12  # values of an axis in a map


def sweep(argv: list[str]) -> int:
    """`zoo sweep RECIPE --learning-rate 1e-4,1e-3 --seeds 8`."""
    own = ("seeds", "samples", "patience", "eval_every", "seed", "out", "resume")
    wanted, experiment = asked("sweep", argv, own)
    metric, greatest = judged_by(experiment)
    found = many.sweep(
        members(wanted.recipe, experiment.schema, **wanted.given),
        experiment.source(),
        experiment.training.steps,
        seeds=wanted.own["seeds"],
        axes=wanted.axes,
        samples=wanted.own["samples"],
        draw=wanted.own["seed"],
        evaluation=experiment.parts.watched,
        patience=wanted.own["patience"],
        eval_every=wanted.own["eval_every"],
        checkpoints=wanted.out / "members",
        resume=wanted.own["resume"],
    )
    if found.ended == "interrupted":
        print(f"stopped at step {found.state.step}, saved; --resume goes on")
        return 130
    scores = found.scores.get(metric)
    if scores is None:  # not what a batch has
        scores = _measured(experiment, found, experiment.parts.watched).get(metric)
    columns = found.table | {
        metric: np.where(found.diverged, np.nan, scores).astype(float)
    }
    tests = {}
    if {*found.settings} == {"seed"} and experiment.parts.test is not None:
        tests = _measured(experiment, found, experiment.parts.test)
    named = {f"test_{name}": values for name, values in tests.items()}
    _write(wanted.out / "members.csv", columns | named)
    _curves(wanted.out, found)
    status = _told(wanted, found.settings, columns[metric], metric, greatest)
    some = {name: values[np.isfinite(values)] for name, values in tests.items()}
    each = [f"{k} {spread(v.tolist())}" for k, v in some.items() if len(v)]
    if each:
        print("of the test data: " + ", ".join(each))
    return status


def cross_validate(argv: list[str]) -> int:
    """`zoo cross-validate RECIPE --folds 5 --alpha 0.1,1,10`."""
    own = ("folds", "repeats", "simpler", "seeds", "samples", "seed", "out")
    wanted, experiment = asked("cross-validate", argv, own, watched=0.0)
    if experiment.batches is not sources.examples:
        raise UsageError("expected a recipe that learns from rows, each by itself")
    schema, rows = experiment.schema, experiment.weighed(experiment.parts.train)
    if shared := _shared(schema):
        raise UsageError(f"expected rows that share nothing, found {shared}")
    metric, greatest = judged_in_batches(experiment, wanted.axes)
    flags, training = wanted.own, experiment.training
    size = training.batch_size
    if size is None and (training.microbatch or training.accumulate > 1):
        raise UsageError(
            "expected a batch size beside microbatch or accumulate: all rows of a fold "
            "need not divide so"
        )
    which = many.folds(
        rows, flags["folds"], repeats=flags["repeats"], seed=flags["seed"]
    )
    found = many.cross_validate(
        members(wanted.recipe, schema, **wanted.given),
        *(rows, training.steps),
        which=which,
        axes=wanted.axes,
        samples=flags["samples"],
        draw=flags["seed"],
        seeds=flags["seeds"],
        size=size and size * training.accumulate,
        standardize=not schema.image and not schema.integer and len(schema.shape) == 1,
        metric=metric,
        greatest=greatest,
        simpler=flags["simpler"],
    )
    _write(wanted.out / "members.csv", found.sweep.table)
    _curves(wanted.out, found.sweep)
    chosen = None if flags["simpler"] is None else found.simplest
    each = {
        name: np.repeat(values, found.scores.shape[1])
        for name, values in found.settings.items()
    }
    return _told(wanted, each, found.scores.ravel(), metric, greatest, chosen=chosen)


def _shared(schema):
    """What rows share with those that others are tested on; "" where it is nothing."""
    if schema.forecast:
        return "windows of a series"
    if schema.edges:
        return "the nodes of a graph"
    by_id = bool(schema.ids) and not schema.regression  # ratings are each of their own
    return "words beside each other, or a fact asked from both ends" * by_id


def tune(argv: list[str]) -> int:
    """`zoo tune RECIPE --budget 10m`: for who has no idea of the numbers."""
    wanted, experiment = asked("tune", argv, ("budget", "seed", "out"))
    ranges = wanted.axes or searched(wanted.recipe, wanted.given)
    metric, greatest = judged_in_batches(experiment, ranges)
    make = members(wanted.recipe, experiment.schema, **wanted.given)
    source, steps = experiment.source(), experiment.training.steps
    data = many.same(source, experiment.parts.watched)
    options: dict[str, Any] = {"metric": metric, "greatest": greatest}
    options["draw"] = wanted.own["seed"]
    samples = _affordable(make, data, steps, ranges, seconds(wanted.own["budget"]))
    print(f"{samples} settings of {', '.join(ranges)}")
    found = many.halving(make, data, steps, axes=ranges, samples=samples, **options)
    if found.ended == "interrupted":
        print("stopped: the settings that led are shown")
    _write(wanted.out / "members.csv", found.settings | {metric: found.scores})
    return _told(
        *(wanted, found.settings, found.scores, metric, greatest), reached=found.reached
    )


def _affordable(make, data, steps, ranges, budget):
    """How many settings a halving may begin with: by the pace of a few of them."""
    trial = many.settings(1, ranges, samples=8)
    members, began = many.Population(make, data, trial).begin(), time.perf_counter()
    while members.now < steps and time.perf_counter() - began < min(10, budget / 10):
        members.on(steps)
    pace = members.pace * len(trial["seed"])  # of the last chunk: without compiling
    # each of R rungs costs as much as half of the first at full length
    samples = 4
    while samples < 512 and _cost(2 * samples, steps) < pace * budget:
        samples *= 2
    return samples


def _cost(samples, steps):
    rungs = samples.bit_length()
    return samples * steps / 2 ** (rungs - 1) * (1 + (rungs - 1) / 2)


# What is told -------------------------------------------------------------------------


def _measured(experiment, found, rows):
    """Scores of each member that its report measures on rows; NaN where diverged."""
    parts = experiment.parts._replace(test=rows)
    scores: dict[str, Any] = {}
    for i in np.flatnonzero(~found.diverged):
        measured = experiment.report.measure(found.trained(i), parts).scores
        for name, value in measured.items():
            if isinstance(value, float | int):
                none = np.full(len(found.diverged), np.nan)
                scores.setdefault(name, none)[i] = value
    return scores


def _told(wanted, settings, scores, metric, greatest, *, chosen=None, reached=None):
    """Write and print the settings, the best first, and the command to train it.

    Who `reached` a later step is before who was dropped; `chosen` is a setting.
    """
    names = [name for name in settings if name != "seed"]
    each = [
        tuple(settings[name][i].item() for name in names) for i in range(len(scores))
    ]
    kinds = list(dict.fromkeys(each))
    rows: list[tuple] = []
    for values in kinds:
        at = [one == values for one in each]
        own, step = scores[at], () if reached is None else (int(reached[at][0]),)
        good = own[np.isfinite(own)]
        mean = good.mean() if len(good) == len(own) else np.nan
        sd = good.std(ddof=1) if len(good) > 1 else np.nan
        rows.append((*values, *step, mean, sd, len(own) - len(good)))
    sign, late = -1 if greatest else 1, -4 if reached is not None else -1
    order = [(np.isnan(r[-3]), -r[late] * (late == -4), sign * r[-3]) for r in rows]
    rows = [row for _, row in sorted(zip(order, rows, strict=True))]
    heads = (*names, *["step"] * (late == -4), metric, "deviation", "diverged")
    columns = dict(zip(heads, zip(*rows, strict=True), strict=True))
    _write(wanted.out / "settings.csv", columns)
    shown = [[f"{v:.6g}" if v == v else "-" for v in row] for row in rows[:SHOWN]]
    table(heads, list(map(tuple, shown)))
    if np.isnan(rows[0][-3]):
        raise UsageError("of every setting a training diverged: try smaller rates")
    best = rows[0] if chosen is None else kinds[chosen]
    flags = [flag(name, value) for name, value in zip(names, best, strict=False)]
    command = " ".join([wanted.command, *flags])
    print(f"\n{command}\n\nall in {wanted.out}")
    if len(names) >= 2 and all(len(set(settings[n])) <= MAPPED for n in names[:2]):
        from train.report import charts, plot

        drawn = charts.heat({**settings, metric: scores}, names[0], names[1], metric)
        plot.save(drawn, wanted.out / "map.png")
    about = {"given": wanted.given, "own": _plain(wanted), "metric": metric}
    write_json(wanted.out / "search.json", about | {"best": command})
    return 0


def _plain(wanted):
    return {k: v for k, v in wanted.own.items() if k not in ("out", "resume")}


def _write(path, columns):
    """Columns of one length as a .csv."""
    with whole(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _curves(out, found):
    from train.report import charts, plot

    names = [n for n in found.settings if n not in ("seed", "fold", "rows")]
    by = names[0] if names else "seed"
    steps, losses = found.history["step"], found.history["loss"]
    plot.save(charts.bands(steps, losses, found.settings[by], by), out / "curves.png")
    if "return" in found.history:  # a policy's, whose loss says nothing of it
        drawn = steps, found.history["return"], found.settings[by], by, "return"
        plot.save(charts.bands(*drawn), out / "returns.png")
