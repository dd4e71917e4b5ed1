"""Recipes as members of a sweep: which of their flags may be traced, and how."""

from collections.abc import Callable
from typing import Any, get_args

import jax

from train import optim
from train.data import Schema
from train.many import Member
from train.recipes.base import Recipe, build, parameters
from zoo.base import UsageError, check_choice


def numbers(recipe: Recipe) -> tuple[str, ...]:
    """The keywords of a recipe that one program may have different values of."""
    return tuple(
        name
        for name, parameter in parameters(recipe).items()
        if jax.Array in get_args(parameter.annotation)
    )


def members(recipe: Recipe, schema: Schema, **given: Any) -> Callable[..., Member]:
    """make(**numbers) for `train.many`: the recipe with these keywords and those.

    `rows`, of a fold, is how many the member trains on. `make` raises UsageError for a
    keyword that shapes the program.
    """

    def make(rows: Any = None, **own: Any) -> Member:
        for name in own:
            check_choice("keyword", name, tuple(parameters(recipe)))
            if name not in numbers(recipe):
                raise UsageError(
                    f"expected a number to sweep, one of {', '.join(numbers(recipe))}; "
                    f"{name} shapes the program: one sweep for each of its values"
                )
        whole = schema if rows is None else schema._replace(rows=rows)
        found = build(recipe, whole, **given | own)
        training = found.training
        parts = training.accumulate
        if training.microbatch is not None:
            size = (training.batch_size or schema.rows) * parts
            parts = optim.pieces(size, parts, training.microbatch)
        return Member(found.task, found.optimizer, training.ema, parts)

    return make
