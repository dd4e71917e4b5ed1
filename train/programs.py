"""Compiled programs, kept by what they compute.

`jax.jit` keeps a program with the function it was given, and so all that the function
closes over, for ever; and an equal function is compiled anew. Here a program is known
by its text: what is equal is compiled once, and no model or data is kept alive.
"""

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax

KEPT = 64  # programs, the least recently used go first

_programs: OrderedDict[str, Any] = OrderedDict()
_seen: weakref.WeakKeyDictionary[Callable, dict] = weakref.WeakKeyDictionary()


def compiled(function: Callable, *args: Any, **options: Any) -> tuple[Any, str]:
    """The program of function(*args), and its hash; `options` as `jax.jit` has them."""
    lowered = jax.jit(function, **options).lower(*args)
    # the same operations may stand between other trees, or lie on other devices
    frame = (_kind(args), lowered.out_tree, sorted(options.items()))
    text = f"{lowered.as_text()}\n{frame}"
    name = hashlib.sha256(text.encode()).hexdigest()
    if name not in _programs:
        _programs[name] = lowered.compile()
    _programs.move_to_end(name)
    if len(_programs) > KEPT:
        _programs.popitem(last=False)
    return _programs[name], name


def call(owner: Callable, function: Callable, *args: Any) -> Any:
    """function(*args), compiled; traced once for each `owner` and kind of arguments.

    `function` must follow from `owner`, a function that lives as long as this is of
    use: its program is found again without tracing, and forgotten with it.
    """
    kind, known = _kind(args), _seen.setdefault(owner, {})
    if kind not in known:
        known[kind] = compiled(function, *args)[0]
    return known[kind](*args)


def _kind(args):
    """What a program depends on of its arguments: structure, shapes, types, places."""
    leaves, tree = jax.tree.flatten(args)
    places = [a.sharding if isinstance(a, jax.Array) else None for a in leaves]
    return tree, tuple(map(jax.typeof, leaves)), tuple(places)
