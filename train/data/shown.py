"""What a notebook shows of a record: a table, with all that is a user's escaped."""

import html
from collections.abc import Mapping
from typing import Any

LONG = 200  # characters of a cell


def as_html(title: str, rows: Mapping[str, Any]) -> str:
    """A table of names and values under a title; those that are empty are left out."""
    cells = []
    for name, value in rows.items():
        text = str(value)
        if value not in ((), "", 0, None, False):
            text = text if len(text) <= LONG else text[: LONG - 1] + "…"
            left, right = html.escape(name), html.escape(text)
            cells.append(f"<tr><th>{left}</th><td>{right}</td></tr>")
    caption = f"<caption>{html.escape(title)}</caption>"
    return f"<table>{caption}{''.join(cells)}</table>"


def listed(names: tuple[str, ...], most: int = 8) -> str:
    """So many of some names, and how many there are if there are more."""
    some = ", ".join(map(str, names[:most]))
    return some if len(names) <= most else f"{some}, ... ({len(names):,})"
