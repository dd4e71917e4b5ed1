"""Several tasks of a digit, learned by one network."""

from typing import Literal, get_args

from train import evaluate
from train.data import Data, Schema, views
from train.recipes.base import Built, Goal, Recipe, Training, expect_classes
from train.report import Measured, Report
from train.report.measure import predictions, tested
from train.step import Trained
from zoo import mlp as mlps
from zoo import multitask as multitasks
from zoo.base import Number, UsageError, check_choice, concrete

Name = Literal["digit", "parity", "loops", "noise"]


def multitask(
    schema: Schema,
    *,
    tasks: tuple[Name, ...] = ("digit", "parity", "loops"),
    weighting: multitasks.Weighting = "sum",
    weight: Number = 1.0,
    widths: tuple[int, ...] = (512,),
    dropout: Number = 0.3,
) -> Built:
    """Hidden layers that all tasks share, and a dense one for each."""
    if expect_classes(schema) != 10 or schema.classes != tuple(map(str, range(10))):
        raise UsageError(f"expected the digits 0 to 9, found {schema.name}")
    for name in tasks:
        check_choice("task", name, get_args(Name))
    if len(set(tasks)) < len(tasks):
        raise UsageError(f"expected each task once, found {', '.join(tasks)}")
    if not widths or min(widths) < 1:
        raise UsageError(f"expected one width or more, of 1 or more, found {widths}")
    if concrete(dropout) and not 0 <= dropout < 1:
        raise UsageError(f"expected dropout in [0, 1), found {dropout}")
    check_choice("weighting", weighting, multitasks.WEIGHTINGS)
    heads: dict[str, multitasks.Head] = {
        name: multitasks.DIGITS[name] for name in tasks
    }
    body = mlps.MLP(widths[-1], widths[:-1], dropout=dropout)
    outputs = tuple((name, head.outputs) for name, head in heads.items())
    network = multitasks.Shared(body, outputs, dropout=dropout)
    task = multitasks.task(
        network, heads, weighting=weighting, weight=weight, labels=10
    )
    plain = predictions(task, schema)
    if tasks[0] != "digit":  # what is predicted is none of the data's classes
        task = task._replace(predict=None)

    def measure(trained: Trained, data: Data) -> Measured:
        """Scores of each task; of digits, where they come first, all there are."""
        scores = evaluate.evaluate(task, trained, tested(data))
        found = Measured({}) if task.predict is None else plain.measure(trained, data)
        return found._replace(scores=scores | found.scores)

    return Built(task, network, Report(measure))


RECIPES = {
    "multitask": Recipe(
        multitask,
        views.table,
        "mnist5k",
        Training(2500, 64, "adamw", 1e-3, "cosine"),
        Goal("digit_accuracy", 0.94),
        "Which digit it is, whether it is odd, how many closed loops it has, of one "
        "network whose hidden layers are shared. --tasks parity is a single one, "
        "--weighting uncertainty learns a weight of each, pcgrad keeps gradients from "
        "going against each other, and --tasks digit noise is a task that costs.",
        "ten seconds",
        'Caruana, "Multitask learning", 1997',
    ),
}
