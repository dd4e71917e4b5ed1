"""What is wrong in test_planted.py: most of it a function of what is right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.lax import stop_gradient

from tests.golden import generative
from tests.planting import judged, other
from tests.test_golden import Case
from zoo import attention, gan, supervised

# -- Losses and optimizers -------------------------------------------------------------


def queries_for_keys(params):
    """Each attention of a graph with its two vectors swapped."""
    turn = {"query": "key", "key": "query"}

    def of(path):
        layer, _, name = path.rpartition("/")
        return params[f"{layer}/{turn.get(name, name)}"]

    return {path: of(path) for path in params}


def times(by):
    """values(outputs, y), each times a number."""

    def make(values):
        return lambda *args: {k: by * v for k, v in values(*args).items()}

    return make


def smoothed(values):
    """Labels that are a hundredth less sure."""

    def wrong(logits, y):
        spread = -nn.log_softmax(logits).mean(-1)
        return {"loss": 0.99 * values(logits, y)["loss"] + 0.01 * spread}

    return wrong


def guarded(values):
    """log(p + 1e-7), against a logarithm of 0."""

    def wrong(logits, y):
        p = jnp.take_along_axis(nn.softmax(logits), y[:, None], -1)[:, 0]
        return {"loss": -jnp.log(p + 1e-7)}

    return wrong


def reversed_classes(case):
    mean = supervised.binary.mean
    measure = supervised.binary._replace(mean=lambda logits: mean(logits)[..., ::-1])
    return judged(case, measure)


def rates_exchanged(golden):
    """The generator's rate for the discriminator."""
    key = "players/rate"
    return lambda name: golden(name) | {key: golden(name)[key][::-1]}


def uncorrected_adam():
    """Moments that begin at zero, and are not corrected for it."""
    first, second = optax.ema(0.9, debias=False), optax.ema(0.999, debias=False)

    def init(params):
        return first.init(params), second.init(params)

    def update(updates, state, params=None):
        squares = jax.tree.map(jnp.square, updates)
        m, one = first.update(updates, state[0])
        v, two = second.update(squares, state[1])
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-8), m, v), (one, two)

    return optax.GradientTransformation(init, update)


# -- Activations and precision ---------------------------------------------------------


def sloped(function, derivative):
    """An activation with a derivative of its own."""
    wrong = jax.custom_jvp(function)
    wrong.defjvp(lambda x, dx: (function(*x), derivative(*x) * dx[0]))
    return wrong


def exact_gelu(x):
    return nn.gelu(x, approximate=False)


def rough_gelu(x):
    """0.044715, a little more."""
    inner = jnp.asarray(np.sqrt(2 / np.pi), x.dtype) * (x + 0.0447151 * x**3)
    return 0.5 * x * (1 + jnp.tanh(inner))


def in_float32(function):
    """What a function gives is known to float32 alone."""

    @functools.wraps(function)
    def wrong(*args, **how):
        outputs = function(*args, **how)
        return jax.tree.map(lambda x: x.astype(jnp.float32).astype(x.dtype), outputs)

    return wrong


def half(array):
    """Its gradient is halved."""
    return 0.5 * array + stop_gradient(0.5 * array)


# -- Convolutions and norms ------------------------------------------------------------


def same_padding(module):
    """ "SAME", which pads one end less where the stride is 2."""
    return other(module, {"padding": "SAME"})


def same_pool(pool):
    return lambda x, window, strides, padding: pool(x, window, strides, "SAME")


def mean_pool(pool):
    return lambda x, window: nn.avg_pool(x, window, window)


def channels_first(kernel):
    """The dense layer after 3 positions of 6 channels sees them channel by channel."""
    return kernel.reshape(3, 6, -1).swapaxes(0, 1).reshape(kernel.shape)


def at_the_end(pad):
    """The channels that a shortcut adds, all behind those that it has."""
    return lambda x, widths: pad(x, (*widths[:-1], (0, sum(widths[-1]))))


def unbiased(call):
    """A running variance of n - 1."""

    def wrong(self, x, *args, **how):
        old = self.momentum * self.get_variable("batch_stats", "var")
        y = call(self, x, *args, **how)
        if self.is_mutable_collection("batch_stats"):
            new = self.get_variable("batch_stats", "var") - old
            n = x.size // x.shape[-1]
            self.put_variable("batch_stats", "var", old + new * n / (n - 1))
        return y

    return wrong


# -- Recurrence ------------------------------------------------------------------------


def transposed(step):
    """h R^T for h R."""
    return lambda w, *rest: step(w | {"recurrent": w["recurrent"].T}, *rest)


def truncated(step):
    """No gradient through time."""
    return lambda w, carry, x: step(w, stop_gradient(carry), x)


def turned_update(step):
    """h' = z n + (1 - z) h: the gate's sigmoid is one of minus the sum."""

    def minus(name, array):
        axis = 0 if name == "recurrent_bias" else -1
        r, z, n = jnp.split(array, 3, axis)
        return jnp.concatenate([r, -z, n], axis)

    return lambda w, *rest: step({k: minus(k, v) for k, v in w.items()}, *rest)


def papers_gru(_):
    """The reset gate before the product."""

    def step(w, carry, x):
        (h,) = carry
        r, z, n = jnp.split(x @ w["kernel"] + w["bias"].reshape(1, -1), 3, -1)
        rr, rz, rn = jnp.split(w["recurrent"], 3, -1)
        br, bz, bn = (v.reshape(1, -1) for v in w["recurrent_bias"])
        r, z = nn.sigmoid(r + h @ rr + br), nn.sigmoid(z + h @ rz + bz)
        h = (1 - z) * jnp.tanh(n + (r * h) @ rn + bn) + z * h
        return (h,), h

    return step


def more_forget(step):
    """1 added to the forget gate at each step, beside what its bias has."""

    def wrong(w, carry, x):
        more = jnp.repeat(jnp.array([0, 1, 0, 0], x.dtype), w["bias"].size // 4)
        return step(w | {"bias": w["bias"] + more}, carry, x)

    return wrong


def old_peephole(w, carry, x):
    """The output gate sees c, not c'."""
    h, c = carry
    b = w["bias"].reshape(1, -1)
    i, f, g, o = jnp.split(x @ w["kernel"] + h @ w["recurrent"] + b, 4, -1)
    pi, pf, po = jnp.split(w["peephole"], 3)
    new = nn.sigmoid(f + pf * c) * c + nn.sigmoid(i + pi * c) * jnp.tanh(g)
    h = nn.sigmoid(o + po * c) * jnp.tanh(new)
    return (h, new), h


def forward_only(recur):
    return lambda *args, reverse=False, **how: recur(*args, **how)


def shifted(convert):
    """from_torch, the columns of each kernel one to the right."""

    def shift(array):
        return jnp.roll(array, 1, -1) if array.ndim == 2 else array

    return lambda arrays: jax.tree.map(shift, convert(arrays))


# -- Attention -------------------------------------------------------------------------


def unscaled(attend):
    return functools.partial(attend, score=attention.dot)


def scaled_by_width(attend):
    """1 / sqrt(W), not that of a head."""

    def score(q, k):
        width = q.shape[1] * q.shape[2] * q.shape[-1]
        return attention.dot(q, k) / np.sqrt(width).astype(q.dtype)

    return functools.partial(attend, score=score)


def over_queries(_):
    """A softmax over the other axis."""

    def wrong(q, k, v, mask=None):
        weights = nn.softmax(attention.scaled_dot(q, k), -2)
        return weights @ v, weights

    return wrong


def one_ahead(attend):
    """Each entry sees the next one, too."""

    def wrong(q, k, v, mask=None):
        return attend(q, k, v, mask=mask | jnp.roll(mask, -1, -2))

    return wrong


def interleaved(_):
    """[B, T, D heads] -> [B, heads, T, D]."""

    def wrong(self, x, heads):
        return x.reshape(*x.shape[:2], -1, heads).transpose(0, 3, 1, 2)

    return wrong


def alone(call):
    """No look at the memory."""
    return lambda self, x, memory=None, **how: call(self, x, **how)


# -- Generative models -----------------------------------------------------------------


def of_deviation(divergence):
    """The encoder's second half taken for the log of the standard deviation."""
    return lambda mean, logvar: divergence(mean, 2 * logvar)


def doubled(divergence):
    """The sum without its half."""
    return lambda mean, logvar: 2 * divergence(mean, logvar)


def without_constant(values, pixels):
    """A normal density without log(2 pi) / 2 for each pixel."""
    return values + np.asarray(0.5 * np.log(2 * np.pi) * pixels, values.dtype)


def rough_constant(values, pixels):
    """6.28319 for 2 pi."""
    more = 0.5 * np.log(2 * np.pi / 6.28319) * pixels
    return values + np.asarray(more, values.dtype)


def sampled(_):
    """A draw of z through which no gradient passes to the variance."""

    def wrong(self, x, noise, y=None, *, train=False):
        mean, logvar = self.encode(x, y, train=train)
        z = mean + stop_gradient(jnp.exp(0.5 * logvar) * noise)
        return self.log_likelihood(x, z, y, train=train), mean, logvar

    return wrong


def first_order(penalty):
    """No gradient through the critic's gradient."""
    return lambda *args: stop_gradient(penalty(*args))


def seeing(_):
    """The players are not blind to each other."""
    return lambda x: x


def traced(call):
    """The generator's look at the discriminator leaves a trace in its statistics."""

    def wrong(self, *args, frozen=False, **how):
        kept = self.params
        self.params = stop_gradient(kept) if frozen else kept
        outputs = call(self, *args, **how)
        self.params = kept
        return outputs

    return wrong


def saturating(_):
    """The generator minimises log(1 - D(G(z)))."""
    game = gan.GAMES["non_saturating"]
    game = game._replace(generator=gan.GAMES["minimax"].generator)
    players = gan.dcgan(generative.IMAGE, 3, (4, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gan.GAMES, "non_saturating", game)
        return Case(*generative.game(players, generative.IMAGE))
