"""Writing with a sequence model: sampling, greedy and beam search, in one program.

Top-k: Fan, Lewis & Dauphin, "Hierarchical neural story generation", 2018,
arXiv:1805.04833. Top-p (nucleus): Holtzman et al., "The curious case of neural text
degeneration", 2020, arXiv:1904.09751. Beam search as in Sutskever, Vinyals & Le,
"Sequence to sequence learning with neural networks", 2014, arXiv:1409.3215.

A model here has `empty(batch, length) -> cache` and
`extend(tokens [B, t], cache) -> (logits [B, t, V], cache)`; a cache is a tree whose
leaves have the batch first, but for scalars.
Shapes: B batch, P prompt, T time, V vocabulary, W beams.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, PRNGKeyArray

from zoo.base import UsageError, concrete, is_zero
from zoo.checks import check_int, check_tokens, understood
from zoo.types import Array, Number, Raw, Size, Tree

Extend = Callable[[Array, Any], tuple[Array, Any]]


@runtime_checkable
class Writer(Protocol):
    """What a language model has to have to write."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """As in Linen; called with method="extend"."""

    def empty(self, batch: Size, length: Size) -> Any:
        """The cache before the first of up to `length` tokens."""


def sample(
    logits: Float[Array, "B V"],
    key: PRNGKeyArray,
    *,
    temperature: Number = 1.0,
    top_k: int | None = None,
    top_p: Number | None = None,
) -> Int[Array, "B"]:
    """Tokens drawn from softmax(logits / temperature).

    Temperature 0 takes the likeliest. `top_k` keeps the k likeliest, `top_p` the fewest
    of them that have that much probability together. Raises UsageError for numbers out
    of range.
    """
    check_options(logits.shape[-1], temperature, top_k, top_p)
    likeliest = jnp.argmax(logits, -1)
    if is_zero(temperature):
        return likeliest
    greedy = jnp.asarray(temperature == 0)
    logits = logits / jnp.where(greedy, 1, jnp.asarray(temperature, logits.dtype))
    if top_k is not None:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        down = -jnp.sort(-logits, -1)
        p = nn.softmax(down)
        before = jnp.cumsum(p, -1) - p  # of those that are likelier
        least = jnp.min(jnp.where(before < top_p, down, jnp.inf), -1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jnp.where(greedy, likeliest, jax.random.categorical(key, logits))


def check_options(
    vocabulary: int,
    temperature: Number = 1.0,
    top_k: int | None = None,
    top_p: Number | None = None,
) -> None:
    """Raise UsageError for what `sample` cannot draw by; a traced number passes."""
    if concrete(temperature) and not temperature >= 0:
        raise UsageError(f"expected a temperature of at least 0, found {temperature}")
    if top_k is not None and not 1 <= top_k <= vocabulary:
        raise UsageError(f"expected top_k in 1..{vocabulary}, found {top_k}")
    if top_p is not None and concrete(top_p) and not 0 < top_p <= 1:
        raise UsageError(f"expected top_p in (0, 1], found {top_p}")


def generate(
    model: Writer,
    variables: Tree,
    key: PRNGKeyArray,
    prompt: Raw,
    length: Size,
    *,
    prompt_length: Any = None,
    stop: int | None = None,
    **options: Any,
) -> Int[Array, "B T"]:
    """The `length` tokens that follow each prompt, drawn as by `sample`.

    `prompt_length` says how much of each prompt counts, where they differ. After
    the token `stop` a row is `stop` to its end. Deterministic in (variables, key); row
    i of a batch depends on i. One loop of P + length - 1 single tokens, each in time
    linear in what stands before; the last one drawn is not read. Raises UsageError for
    an empty prompt, and for tokens and lengths that cannot be right.
    """
    batch, width = check_tokens(prompt).shape
    if not width:
        raise UsageError("expected a prompt of at least one token, found none")
    check_count("length", length)
    if prompt_length is not None:
        prompt_length = jnp.asarray(prompt_length)
    _check_prompt(model, variables, prompt, prompt_length, stop)
    prompt = jnp.asarray(prompt)
    ends = jnp.full(batch, width) if prompt_length is None else prompt_length
    total = width + length

    def step(carry, t):
        token, done, cache = carry
        logits, cache = model.apply(variables, token[:, None], cache, method="extend")
        drawn = sample(logits[:, 0], jax.random.fold_in(key, t), **options)
        given = prompt[:, jnp.minimum(t + 1, width - 1)]
        prompted = t + 1 < ends
        if stop is not None:
            drawn = jnp.where(done, stop, drawn)
            done = done | (~prompted & (drawn == stop))
        token = jnp.where(prompted, given, drawn).astype(prompt.dtype)
        return (token, done, cache), token

    carry = prompt[:, 0], jnp.zeros(batch, bool), model.empty(batch, total - 1)
    _, tokens = jax.lax.scan(step, carry, jnp.arange(total - 1))
    at = (ends - 1).reshape(-1, 1) + jnp.arange(length).reshape(1, -1)
    return jnp.take_along_axis(tokens.T, at, 1)


def check_count(name: str, value: Any) -> None:
    """Raise UsageError unless a number, but for the symbol of an export, is 1 or more,
    and whole."""
    if isinstance(value, Real):
        check_int(name, value, 1)


def check_vocabulary(what: str, tokens: Raw, size: int) -> None:
    """Raise UsageError unless tokens are in [0, size); traced ones are."""
    if not concrete(tokens):
        return
    wrong = np.asarray(tokens)
    wrong = wrong[(wrong < 0) | (wrong >= size)]
    if wrong.size:
        raise UsageError(f"expected {what} of tokens 0 to {size - 1}, found {wrong[0]}")


def _check_prompt(model, variables, prompt, lengths, stop):
    """Raise UsageError for tokens that the model has not, and lengths of no prompt."""

    def logits(variables, token):
        cache = model.empty(token.shape[0], 1)
        return model.apply(variables, token, cache, method="extend")[0]

    with understood("prompt", {"prompt": prompt}):
        vocabulary = jax.eval_shape(logits, variables, prompt[:, :1]).shape[-1]
    if stop is not None:
        check_int("stop", stop, 0, vocabulary - 1)
    check_vocabulary("a prompt", prompt, vocabulary)
    if lengths is None:
        return
    batch, width = prompt.shape
    if lengths.shape != (batch,) or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise UsageError(
            f"expected a whole number prompt_length for each of {batch} prompts, found "
            f"{lengths.dtype} {lengths.shape}"
        )
    if concrete(lengths) and ((lengths < 1) | (lengths > width)).any():
        wrong = lengths[(lengths < 1) | (lengths > width)]
        raise UsageError(f"expected prompt_length from 1 to {width}, found {wrong[0]}")


def search(
    extend: Extend,
    cache: Any,
    start: Int[Array, "B"],
    length: Size,
    *,
    beams: int,
    stop: int,
) -> tuple[Int[Array, "B W T"], Float[Array, "B W"]]:
    """The W likeliest continuations found, tokens and their log p.

    Begins with the tokens `start` and a cache of B rows; keeps the W likeliest
    beginnings at each step, best first; 1 beam is the greedy choice. After `stop` a row
    is `stop` and its log p, in nats and without a bonus for length, stands still.
    Raises UsageError for no beam, or no token.
    """
    batch = start.shape[0]
    if beams < 1 or length < 1:
        raise UsageError(f"expected 1 beam, 1 token or more, found {beams}, {length}")

    def each(function, tree):
        return jax.tree.map(lambda a: function(a) if a.ndim else a, tree)

    cache = each(lambda a: jnp.repeat(a, beams, 0), cache)
    # all beams of a row begin alike: only the first may go on
    score = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    score = jnp.broadcast_to(score.reshape(1, -1), (batch, beams))
    token = jnp.repeat(start, beams).reshape(batch, beams)
    written = jnp.full((batch, beams, length), stop, start.dtype)
    done = jnp.zeros((batch, beams), bool)

    def step(carry, t):
        token, done, score, written, cache = carry
        logits, cache = extend(token.reshape(-1, 1), cache)
        p = nn.log_softmax(logits[:, 0]).reshape(batch, beams, -1)
        vocabulary = p.shape[-1]
        halted = jnp.where(jnp.arange(vocabulary) == stop, 0.0, -jnp.inf)
        p = jnp.where(done[..., None], halted.reshape(1, 1, -1), p)
        total = (score[..., None] + p).reshape(batch, -1)
        score, best = jax.lax.top_k(total, beams)
        parent, token = best // vocabulary, (best % vocabulary).astype(start.dtype)
        rows = (jnp.arange(batch).reshape(-1, 1) * beams + parent).reshape(-1)
        cache = each(lambda a: a[rows], cache)
        done = jnp.take_along_axis(done, parent, 1) | (token == stop)
        written = jnp.take_along_axis(written, parent[..., None], 1)
        written = written.at[:, :, t].set(token)
        return (token, done, score, written, cache), None

    carry = (token, done, score, written, cache)
    (_, _, score, written, _), _ = jax.lax.scan(step, carry, jnp.arange(length))
    return written, score
