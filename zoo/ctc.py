"""Connectionist temporal classification: what was said, without when it was said.

Graves, Fernández, Gomez & Schmidhuber, "Connectionist temporal classification:
labelling unsegmented sequence data with recurrent neural networks", 2006. At each step
a network says a token or a blank, token 0; a path of these means the text that is left
without repetitions, and then without blanks. The search of beams: Hannun et al.,
"First-pass large vocabulary continuous speech recognition using bi-directional
recurrent DNNs", 2014, arXiv:1408.2873, without a language model.
Shapes: B batch, T steps, K tokens with the blank, L longest text, W beams.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int
from optax import losses

from zoo.base import Model, Task, UsageError, apply, entries, judged, masked, parted
from zoo.checks import check_int
from zoo.types import Array, Lengths, Raw

BLANK = 0
NEVER = -1e5  # the logarithm of no probability, whose gradient is finite


def task(model: Model, *, inputs: tuple[str, ...] = ("x", "length")) -> Task:
    """Fits model(x, length) -> (logits [B, T, K], lengths [B]) to texts "y" [B, L].

    The loss is -log of the probability of all paths that mean y (nats a text), whose
    end is filled with blanks. "accuracy" is the share of texts that the likeliest path
    means. `predict` gives the tokens' log-probabilities [B, T, K], of blanks past the
    end. Raises UsageError for texts that are no integers [B, L].
    """

    def run(params, state, batch, **more):
        values = [batch[name] for name in inputs]
        (logits, length), state = apply(model, params, state, *values, **more)
        return ended(logits, length), state

    def init(key, batch):
        return parted(model.init(key, *(batch[name] for name in inputs)))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        found, state = run(params, state, batch, key=key, train=train)
        values = {"loss": nats(found, batch["y"])}
        size = batch["y"].shape[1]
        wanted = jnp.pad(batch["y"], ((0, 0), (0, 1)))  # one token more is wrong too
        said = jnp.pad(greedy(found), ((0, 0), (0, size)))[:, : size + 1]
        values["accuracy"] = (said == wanted).all(1).astype(found.dtype)
        return judged(values, batch.get("mask"), state)

    def predict(params, state, batch):
        return run(params, state, batch)[0]

    return Task(init, loss, predict)


def ended(logits: Float[Array, "B T K"], length: Lengths) -> Float[Array, "B T K"]:
    """Log-probabilities, past the end of each sequence those of a certain blank.

    Such steps change the probability of no text: nothing else need know the lengths.
    """
    blank = jnp.where(jnp.arange(logits.shape[-1]) == BLANK, 0.0, NEVER)
    real = entries(length, logits)[..., None]
    return jnp.where(real, nn.log_softmax(logits), blank.reshape(1, 1, -1))


def nats(log_p: Float[Array, "B T K"], y: Raw) -> Float[Array, "B"]:
    """-log of the probability of texts y [B, L], whose end is filled with blanks.

    About 1e5 where a text has no path, as it is too long. Raises UsageError for texts
    that are no integers [B, L].
    """
    if y.ndim != 2 or not jnp.issubdtype(y.dtype, jnp.integer):
        raise UsageError(f"expected texts [B, L] of tokens, found {y.dtype} {y.shape}")
    none, filled = jnp.zeros(log_p.shape[:2]), (y == BLANK).astype(log_p.dtype)
    return losses.ctc_loss(log_p, none, y, filled, blank_id=BLANK, log_epsilon=NEVER)


def collapse(path: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """What paths mean: texts, their ends filled with blanks."""
    before = jnp.pad(path, ((0, 0), (1, 0)))[:, :-1]
    said = (path != BLANK) & (path != before)
    order = jnp.argsort(~said, axis=1, stable=True)
    return jnp.take_along_axis(jnp.where(said, path, BLANK), order, 1)


def greedy(log_p: Float[Array, "B T K"]) -> Int[Array, "B T"]:
    """The texts that the likeliest paths mean, their ends filled with blanks.

    Not always the likeliest texts: those may have many paths.
    """
    return collapse(jnp.argmax(log_p, -1))


def search(
    log_p: Float[Array, "B T K"], longest: int, *, beams: int = 8
) -> tuple[Int[Array, "B {longest}"], Float[Array, "B"]]:
    """The likeliest texts of at most `longest` tokens that are found, and log p.

    After each step the `beams` likeliest beginnings are kept, each with the probability
    of its paths that end in a blank, and of those that do not: of as many as there are,
    the search is exact. Raises UsageError for numbers below 1.
    """
    longest = check_int("longest", longest, 1)
    beams = check_int("beams", beams, 1, 1000)
    return jax.vmap(lambda one: _search(one, longest, beams))(log_p)


def _search(log_p, longest, beams):
    """Of one sequence [T, K] -> (text [L], log p)."""
    tokens = jnp.zeros((beams, longest), jnp.int32)
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    none = jnp.full(beams, -jnp.inf)
    begin = tokens, jnp.zeros(beams, jnp.int32), first, none

    def step(kept, now):
        tokens, size, blank, token = kept
        return _extended(tokens, size, blank, token, now), None

    (tokens, _, blank, token), _ = jax.lax.scan(step, begin, log_p)
    score = jnp.logaddexp(blank, token)
    best = jnp.argmax(score)
    return tokens[best], score[best]


def _extended(tokens, size, blank, token, now):
    """The likeliest beginnings a step later, of those kept: [W, L], [W], [W], [W].

    `blank` and `token` are the log p of their paths by how these end; now [K].
    """
    beams, longest = tokens.shape
    number = jnp.arange(now.shape[0]).reshape(1, -1)
    last = jnp.where(size > 0, tokens[jnp.arange(beams), size - 1], BLANK)
    both = jnp.logaddexp(blank, token)
    # a token after itself is a new one behind a blank alone
    twice = number == last.reshape(-1, 1)
    more = jnp.where(twice, blank[:, None], both[:, None]) + now.reshape(1, -1)
    full = (size == longest).reshape(-1, 1)
    more = jnp.where((number == BLANK) | full, -jnp.inf, more)  # [W, K]
    # a beginning that is longer than another by its last token is reached of it too
    place = jnp.arange(longest).reshape(1, -1) < (size - 1).reshape(-1, 1)
    cut = jnp.where(place, tokens, BLANK)
    parent = (cut[:, None] == tokens[None]).all(-1) & (size > 0)[:, None]
    parent &= size[:, None] == size[None] + 1
    alive = jnp.isfinite(both)  # there may be fewer beginnings than beams
    parent &= alive[:, None] & alive[None]
    reached = jnp.where(parent, more[:, last].T, -jnp.inf)  # [W, W]: of j to i
    stays = now[last] + token
    staying = jnp.logaddexp(stays, jax.nn.logsumexp(reached, 1))
    known = (parent[:, :, None] & twice[:, None, :]).any(0)  # [W, K]
    more = jnp.where(known, -jnp.inf, more)
    scores = jnp.concatenate([jnp.logaddexp(both + now[BLANK], staying), more.ravel()])
    _, best = jax.lax.top_k(scores, beams)
    new = best >= beams
    old = jnp.where(new, (best - beams) // now.shape[0], best)
    added = (best - beams) % now.shape[0]
    at = jnp.arange(longest).reshape(1, -1) == size[old][:, None]
    texts = jnp.where(new[:, None] & at, added[:, None], tokens[old])
    ends = jnp.where(new, -jnp.inf, (both + now[BLANK])[old])
    goes = jnp.where(new, more.ravel()[jnp.maximum(best - beams, 0)], staying[old])
    return texts, size[old] + new, ends, goes


def align(log_p: Float[Array, "T K"], text: Int[Array, "L"]) -> Int[Array, "T"]:
    """The likeliest path that means a text of L tokens: a token or blank for each step.

    Viterbi's algorithm over the text with a blank before, between and after its tokens
    (section 4.1). Where the text has no path, as it is too long, the path means
    another.
    """
    size = text.shape[0]
    states = jnp.zeros(2 * size + 1, text.dtype).at[1::2].set(text)
    at = jnp.arange(2 * size + 1)
    before = jnp.roll(states, 2)
    skips = (states != BLANK) & (states != before) & (at >= 2)

    def step(score, now):
        one = jnp.where(at >= 1, jnp.roll(score, 1), -jnp.inf)
        two = jnp.where(skips, jnp.roll(score, 2), -jnp.inf)
        ways = jnp.stack([score, one, two])
        return ways.max(0) + now[states], ways.argmax(0)

    begin = jnp.where(at == 0, 0.0, -jnp.inf)  # before the first step
    # the first step may also be of the first token
    score, ways = jax.lax.scan(step, begin, log_p)
    last = jnp.where(at >= 2 * size - 1, score, -jnp.inf).argmax()

    def back(state, way):
        return state - way[state], states[state]

    return jax.lax.scan(back, last, ways, reverse=True)[1]


def probability(log_p: Any, text: Any) -> Float[Array, ""]:
    """log of the probability of one text [L] in one sequence [T, K]."""
    return -nats(jnp.asarray(log_p)[None], jnp.asarray(text)[None])[0]
