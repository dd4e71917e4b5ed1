"""What a notebook shows of a record: tables, with all that is a user's escaped."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

LONG = 200  # characters of a cell
LINES = 12  # of a training, and of layers four times as many


def as_html(title: str, rows: Mapping[str, Any]) -> str:
    """A table of names and values under a title; those that are empty are left out."""
    kept = [(n, v) for n, v in rows.items() if v not in ((), "", 0, None, False)]
    return _table(title, (_cell("th", name) + _cell("td", v) for name, v in kept))


def as_grid(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of rows of as many cells, under its heads and a title."""
    cells = ["".join(_cell("th", head) for head in heads)]
    cells += ["".join(_cell("td", value) for value in row) for row in rows]
    return _table(title, cells)


def _table(title, rows):
    caption = f"<caption>{html.escape(title)}</caption>"
    return f"<table>{caption}{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _cell(kind, value):
    text = str(value)
    text = text if len(text) <= LONG else text[: LONG - 1] + "…"
    return f"<{kind}>{html.escape(text)}</{kind}>"


def listed(names: tuple[str, ...], most: int = 8) -> str:
    """So many of some names, and how many there are if there are more."""
    some = ", ".join(map(str, names[:most]))
    return some if len(names) <= most else f"{some}, ... ({len(names):,})"


def state_as_html(state: Any) -> str:
    """The parameters of a `train.step.State` by layer: shapes, and how many numbers."""
    try:
        title = f"State after step {int(state.step):,}"
    except (TypeError, RuntimeError):  # of several seeds, or donated to a next step
        title = "State"
    rows = layers(state.params)
    whole = sum(count for _, _, count in rows)
    left = rows[4 * LINES :]
    told = [(name, arrays, f"{count:,}") for name, arrays, count in rows[: 4 * LINES]]
    if left:
        rest = sum(count for _, _, count in left)
        told.append((f"... {len(left):,} more", "", f"{rest:,}"))
    heads = "layer", "parameters", "numbers"
    return as_grid(title, heads, [*told, ("in all", "", f"{whole:,}")])


def layers(params: Any) -> list[tuple[str, str, int]]:
    """(its way, its arrays with their shapes, how many numbers) of each layer."""
    arrays: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        above, last = (
            jax.tree_util.keystr(keys, simple=True, separator="/")
            for keys in (path[:-1], path[-1:])
        )
        shape = " x ".join(map(str, leaf.shape)) or "one number"
        arrays.setdefault(above, []).append(f"{last} {shape}".strip())
        counts[above] = counts.get(above, 0) + math.prod(leaf.shape)
    return [(name, ", ".join(arrays[name]), counts[name]) for name in arrays]


def fit_as_html(fit: Any) -> str:
    """A `train.loop.Fit`: lines of its training, those evaluated first; its state."""
    losses = [sum(n.endswith("loss") for n in record) for record in fit.records]
    pairs = zip(fit.records, losses, strict=True)
    lines = [record for record, found in pairs if found == max(losses)]
    apart = max(1, -(-len(lines) // LINES))
    lines = lines[::-1][::apart][::-1]  # the last is among them
    names = dict.fromkeys(name for record in lines for name in record) or ["step"]
    names = sorted(names, key=_place)  # a stable sort
    rows = ([_number(name, record.get(name)) for name in names] for record in lines)
    return as_grid(f"Fit: {fit.ended}", names, rows) + state_as_html(fit.state)


def _place(name):
    """The step and the losses first; what says nothing of the model last."""
    last = ("grad_norm", "seconds", "examples_per_second")
    return (name in last, name != "step", not name.endswith("loss"))


def _number(name, value):
    if value is None:
        return ""
    return f"{value:,.0f}" if name == "step" or value >= 1000 else f"{value:.4g}"
