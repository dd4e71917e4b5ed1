"""Adversarial networks: each game's formulas and optimum, who learns from what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax
from scipy.stats import wasserstein_distance

from train import loop
from train.source import full
from zoo import gan
from zoo.base import UsageError
from zoo.mlp import MLP

EACH_GAME = pytest.mark.parametrize("name", gan.GAMES)
SHAPE, LATENT, CLASSES = (2, 3), 4, 3


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def jitted(task, train=True):
    return jax.jit(functools.partial(task.loss, train=train))


def values(aux):
    return {name: float(mean.value()) for name, mean in aux.metrics.items()}


def noise(key, n):
    """What a task draws for its generator."""
    return jax.random.normal(jax.random.split(key)[0], (n, LATENT))


# The papers' losses of probabilities or scores; the discriminator's real, fake, and the
# generator's.
FORMULAS = {
    "minimax": (
        lambda d: -np.log(expit(d)),
        lambda d: -np.log(1 - expit(d)),
        lambda d: np.log(1 - expit(d)),
    ),
    "non_saturating": (
        lambda d: -np.log(expit(d)),
        lambda d: -np.log(1 - expit(d)),
        lambda d: -np.log(expit(d)),
    ),
    "least_squares": (
        lambda d: (d - 1) ** 2 / 2,
        lambda d: d**2 / 2,
        lambda d: (d - 1) ** 2 / 2,
    ),
    "hinge": (
        lambda d: np.maximum(0, 1 - d),
        lambda d: np.maximum(0, 1 + d),
        lambda d: -d,
    ),
    "wasserstein": (lambda d: -d, lambda d: d, lambda d: -d),
}


def test_every_game_has_a_formula_here():
    assert FORMULAS.keys() == gan.GAMES.keys()


@EACH_GAME
def test_a_game_is_its_papers_formulas(name):
    d = np.linspace(-5, 5, 41)
    for found, exact in zip(gan.GAMES[name], FORMULAS[name], strict=True):
        np.testing.assert_allclose(found(jnp.asarray(d)), exact(d), atol=1e-5)


@EACH_GAME
def test_a_game_is_finite_far_out(name):
    d = jnp.array([-1e4, 1e4])
    for loss in gan.GAMES[name]:
        assert jnp.isfinite(loss(d)).all()
        assert jnp.isfinite(jax.vmap(jax.grad(loss))(d)).all()


def best_answer(name, p, q):
    """The discriminator's best logits against densities p, q, and what it then pays."""
    game = gan.GAMES[name]

    def paid(d):
        return jnp.sum(p * game.real(d) + q * game.fake(d))

    found = minimize(jax.jit(jax.value_and_grad(paid)), jnp.zeros(len(p)), jac=True)
    return found.x, found.fun


def test_the_best_discriminator_knows_the_odds():
    """Goodfellow et al. 2014: proposition 1 and theorem 1; Mao et al. 2017, 3.2."""
    p, q = np.random.default_rng(0).dirichlet(np.ones(6), 2)
    with jax.enable_x64(True):
        for name in ("minimax", "non_saturating"):
            d, paid = best_answer(name, p, q)
            np.testing.assert_allclose(expit(d), p / (p + q), atol=1e-4)
            m = (p + q) / 2
            jensen_shannon = (p @ np.log(p / m) + q @ np.log(q / m)) / 2
            assert -paid == pytest.approx(-np.log(4) + 2 * jensen_shannon, abs=1e-6)
            assert -best_answer(name, p, p)[1] == pytest.approx(-np.log(4))
        d, paid = best_answer("least_squares", p, q)
        np.testing.assert_allclose(d, p / (p + q), atol=1e-4)
        assert paid == pytest.approx((p * q / (p + q)).sum() / 2)


def own_losses(players, name, params, key, x, y=None):
    """Each player's loss as a function of its own parameters alone."""
    real_loss, fake_loss, maker_loss = gan.GAMES[name]
    z = noise(key, len(x))
    rows = jnp.arange(len(x))

    def made(weights):
        return players.generator.apply({"params": weights}, z, y)

    def judged(weights, images):
        logits = players.discriminator.apply({"params": weights}, images)
        return logits[rows, 0 if y is None else y]

    def discriminator(weights):
        fake = made(params["generator"])
        return jnp.mean(
            real_loss(judged(weights, x)) + fake_loss(judged(weights, fake))
        )

    def generator(weights):
        return jnp.mean(maker_loss(judged(params["discriminator"], made(weights))))

    return {"discriminator": discriminator, "generator": generator}


@pytest.mark.parametrize(
    ("name", "classes"), [*((name, 0) for name in gan.GAMES), ("hinge", CLASSES)]
)
def test_the_gradient_of_the_sum_is_each_players_own(name, classes):
    players = gan.dense(SHAPE, LATENT, (5,), classes=classes)
    batch = {"x": normal(0, 6, *SHAPE), "y": jnp.arange(6) % CLASSES}
    task, key = gan.task(players, gan.GAMES[name]), jax.random.key(1)
    params, state = task.init(jax.random.key(0), batch)
    assert state == {}

    @jax.jit
    def both(params):
        loss = functools.partial(task.loss, train=True)
        game = jax.value_and_grad(loss, has_aux=True)(params, {}, batch, key)
        y = batch["y"] if classes else None
        own = own_losses(players, name, params, key, batch["x"], y)
        return game, {k: jax.value_and_grad(own[k])(params[k]) for k in params}

    ((value, aux), grad), own = both(params)
    found = values(aux)
    for player, (loss, slope) in own.items():
        np.testing.assert_allclose(found[player], loss, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            grad[player],
            slope,
        )
        assert optax.tree.norm(slope) > 1e-3
    np.testing.assert_allclose(value, sum(loss for loss, _ in own.values()), rtol=1e-5)


@pytest.fixture(scope="module")
def images():
    """A tiny convolutional game with batch norm."""
    players = gan.dcgan((4, 4, 1), LATENT, (3, 2))
    batch = {"x": jnp.tanh(normal(0, 6, 4, 4, 1))}
    made = jax.jit(gan.task(players, gan.GAMES["hinge"]).init)
    params, state = made(jax.random.key(0), batch)
    # larger weights than at first: N(0, 0.02) leaves gradients near rounding
    return players, batch, jax.tree.map(lambda p: 10 * p, params), state


@pytest.mark.parametrize("idle", ["generator", "discriminator"])
def test_a_player_learns_nothing_from_the_others_loss(images, idle):
    players, batch, params, state = images
    game = gan.GAMES["hinge"]
    if idle == "generator":
        game = game._replace(generator=lambda d: 0 * d)
    else:
        game = game._replace(real=lambda d: 0 * d, fake=lambda d: 0 * d)
    task = gan.task(players, game)

    @jax.jit
    def grad(params):
        def loss(params):
            return task.loss(params, state, batch, jax.random.key(0), train=True)[0]

        return jax.tree.map(lambda g: abs(g).max(), jax.grad(loss)(params))

    found = grad(params)
    (other,) = {"generator", "discriminator"} - {idle}
    assert max(jax.tree.leaves(found[idle])) == 0
    assert min(jax.tree.leaves(found[other])) > 0


def test_statistics_are_of_the_real_then_of_the_generated_batch(images):
    players, batch, params, state = images
    key = jax.random.key(1)
    task = gan.task(players, gan.GAMES["non_saturating"])
    _, aux = jitted(task)(params, state, batch, key)

    @jax.jit
    def by_hand(params):
        def run(player, name, stats, x):
            variables = {"params": params[name], **stats}
            how = {"train": True, "mutable": ["batch_stats"]}
            return player.apply(variables, x, **how)

        z = noise(key, len(batch["x"]))
        fake, made = run(players.generator, "generator", state["generator"], z)
        stats = state["discriminator"]
        for x in (batch["x"], fake):
            _, stats = run(players.discriminator, "discriminator", stats, x)
        return {"generator": made, "discriminator": stats}

    exact = by_hand(params)
    assert jax.tree.structure(aux.state) == jax.tree.structure(exact)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), aux.state, exact
    )
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), aux.state, state)
    assert min(jax.tree.leaves(moved)) > 1e-4
    _, aux = jitted(task, train=False)(params, state, batch, key)
    jax.tree.map(np.testing.assert_array_equal, aux.state, state)


def test_noise_is_drawn_from_the_key(images):
    players, batch, params, state = images
    for train in (False, True):
        loss = jitted(gan.task(players, gan.GAMES["hinge"]), train=train)
        found = [loss(params, state, batch, jax.random.key(s))[0] for s in (0, 1, 0)]
        assert found[0] == found[2] != found[1]


class Masks(nn.Module):
    """Logits that say which of its units a discriminator dropped, of any image."""

    @nn.compact
    def __call__(self, x, *, train=False):
        one = self.param("one", nn.initializers.ones, (1,))
        units = jnp.arange(1.0, x.shape[0] + 1).reshape(-1, 1) * one[None]
        return nn.Dropout(0.5, deterministic=not train)(units)


def test_each_application_of_a_player_draws_its_own_dropout():
    generator = gan.dense(SHAPE, LATENT, ()).generator
    task = gan.task(gan.Players(generator, Masks()), gan.GAMES["wasserstein"])
    batch = {"x": normal(0, 32, *SHAPE)}
    params, _ = task.init(jax.random.key(0), batch)

    def run(seed, train=True):
        return values(jitted(task, train)(params, {}, batch, jax.random.key(seed))[1])

    found = run(0)
    masks = {found["real"], found["fake"], -found["generator"]}
    assert len(masks) == 3 and found == run(0) != run(1)
    assert run(0, False)["real"] == run(0, False)["fake"] == 16.5


@pytest.mark.contract
@pytest.mark.parametrize("semi", [False, True])
def test_any_players_with_dropout_and_batch_norm_are_trained(semi):
    fields = {"dropout": 0.5, "batch_norm": True}
    generator = gan.Generator(MLP(6, (5,), **fields), LATENT)
    discriminator = MLP(CLASSES if semi else 1, (5,), **fields)
    players = gan.Players(generator, discriminator)
    batch = {"x": normal(0, 8, 6)}
    if semi:
        task = gan.semi_supervised(players)
        batch |= {"labelled": normal(1, 8, 6), "y": jnp.arange(8) % CLASSES}
    else:
        task = gan.task(players, gan.GAMES["hinge"], penalty=1.0)
    params, state = task.init(jax.random.key(0), batch)

    def run(seed, train=True):
        return jitted(task, train)(params, state, batch, jax.random.key(seed))

    (a, aux), (b, _), (again, _) = (run(seed) for seed in (0, 1, 0))
    assert a == again != b
    moved = jax.tree.map(lambda p, q: bool((p != q).any()), aux.state, state)
    assert jax.tree.all(moved)
    value, aux = run(0, False)
    jax.tree.map(np.testing.assert_array_equal, aux.state, state)
    assert jnp.isfinite(value)
    made = gan.generate(generator, params, state, jax.random.key(0), 3)
    assert made.shape == (3, 6)


def test_masked_examples_do_not_count():
    players = gan.dense(SHAPE, LATENT, (5,))
    task, x = gan.task(players, gan.GAMES["hinge"], penalty=10.0), normal(0, 6, *SHAPE)
    mask = jnp.array([1, 1, 1, 1, 0, 0])
    params, _ = task.init(jax.random.key(0), {"x": x})
    found = [
        jitted(task)(params, {}, {"x": x, "mask": mask}, jax.random.key(0))[0]
        for x in (x, x.at[4:].set(7.0))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 3.0])
def test_the_penalty_of_a_constant_slope(slope):
    way = normal(0, 3, 2)
    way = slope * way / jnp.linalg.norm(way)

    def critic(x):
        return jnp.sum(x * way[None]) + 7

    found = gan.gradient_penalty(critic, normal(1, 4, 3, 2))
    np.testing.assert_allclose(found, np.full(4, (slope - 1) ** 2), atol=1e-5)


def test_the_penalty_is_of_each_example_at_its_place():
    """Of |x|^2 / 2 the gradient is x; the slope where that is zero is finite."""
    x = normal(0, 5, 3).at[0].set(0)

    @jax.jit
    def penalty(x):
        return gan.gradient_penalty(lambda x: jnp.sum(jnp.square(x)) / 2, x)

    exact = (np.linalg.norm(x, axis=1) - 1) ** 2
    np.testing.assert_allclose(penalty(x), exact, atol=1e-5)
    mixed = jax.jit(jax.jacobian(penalty))(
        x
    )  # [B, B, D]: of example i by the entries of j
    assert jnp.isfinite(mixed).all()
    apart = ~np.eye(5, dtype=bool)
    assert (mixed[apart] == 0).all()
    assert (abs(mixed[1:, 1:].max(-1))[np.eye(4, dtype=bool)] > 0).all()


def test_the_penalty_holds_what_belongs_to_an_example():
    scales = jnp.array([1.0, 2.0, 4.0])

    def critic(x, scale):
        return scale * x[0, 0]

    found = gan.gradient_penalty(critic, normal(0, 3, 2), scales)
    np.testing.assert_allclose(found, [0, 1, 9], atol=1e-5)


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_the_critic_pays_the_penalty_in_training_alone(classes):
    """A linear critic has one slope everywhere, for each class its own."""
    players = gan.dense(SHAPE, LATENT, (), classes=classes)
    batch = {"x": normal(0, 5, *SHAPE), "y": jnp.array([0, 2, 2, 1, 0])}
    game = gan.GAMES["wasserstein"]
    params, _ = gan.task(players, game).init(jax.random.key(0), batch)
    kernel = params["discriminator"]["Dense_0"]["kernel"]
    slopes = np.linalg.norm(kernel, axis=0)
    slopes = slopes[batch["y"]] if classes else slopes

    def paid(penalty, train):
        task = gan.task(players, game, penalty=penalty)
        aux = jitted(task, train)(params, {}, batch, jax.random.key(0))[1]
        found = values(aux)
        np.testing.assert_allclose(
            found["loss"], found["discriminator"] + found["generator"], rtol=1e-5
        )
        return found["discriminator"]

    extra = paid(10.0, True) - paid(0.0, True)
    assert extra == pytest.approx(10 * np.mean((slopes - 1) ** 2), rel=1e-4)
    assert paid(10.0, False) == paid(0.0, False)


def test_mixtures_lie_between_with_a_share_for_each_example():
    real, fake = normal(0, 50, 3, 2), normal(1, 50, 3, 2)
    mixed = gan.mix(real, fake, jax.random.key(0))
    share = np.asarray((mixed - fake) / (real - fake)).reshape(50, -1)
    np.testing.assert_allclose(share, np.tile(share[:, :1], 6), atol=1e-2)
    means = np.median(share, 1)
    assert 0 <= means.min() < 0.2
    assert 0.8 < means.max() <= 1


class Known(nn.Module):
    """Logits 10, 20, 30, whatever the image."""

    @nn.compact
    def __call__(self, x, *, train=False):
        none = self.param("none", nn.initializers.zeros, (1,))
        logits = jnp.tile(jnp.array([[10.0, 20.0, 30.0]]), (len(x), 1))
        return logits + none[None]


def test_a_conditional_discriminator_says_the_logit_of_the_label():
    generator = gan.dense(SHAPE, LATENT, (), classes=CLASSES).generator
    task = gan.task(gan.Players(generator, Known()), gan.GAMES["wasserstein"])
    batch = {"x": normal(0, 4, *SHAPE), "y": jnp.array([0, 2, 2, 1])}
    params, _ = task.init(jax.random.key(0), batch)
    _, aux = task.loss(params, {}, batch, jax.random.key(0), train=True)
    found = values(aux)
    # of a generated image the label is the one that it was made for
    assert found["real"] == found["fake"] == -found["generator"] == 22.5


def test_a_conditional_generator_wants_labels_and_uses_them():
    players = gan.dense(SHAPE, LATENT, (5,), classes=CLASSES)
    batch = {"x": normal(0, 4, *SHAPE), "y": jnp.arange(4) % CLASSES}
    task = gan.task(players, gan.GAMES["hinge"])
    params, _ = task.init(jax.random.key(0), batch)
    run = functools.partial(
        gan.generate, players.generator, params, {}, jax.random.key(0), 4
    )
    with pytest.raises(UsageError, match=r"expected labels y \[B\], one of 3 classes"):
        run()
    other = (batch["y"] + 1) % CLASSES
    assert (abs(run(batch["y"]) - run(other)).max((1, 2)) > 1e-4).all()


def test_images_are_a_function_of_the_key(images):
    players, _, params, state = images

    @jax.jit
    def run(seed):
        key = jax.random.key(seed)
        return gan.generate(players.generator, params, state, key, 5)

    assert run(0).shape == (5, 4, 4, 1)
    assert abs(run(0)).max() < 1
    np.testing.assert_array_equal(run(0), run(0))
    assert (abs(run(0) - run(1)).max((1, 2, 3)) > 1e-3).all()
    # from the running statistics: an image does not depend on those beside it
    z = jax.random.normal(jax.random.key(0), (5, LATENT))
    variables = {"params": params["generator"], **state["generator"]}
    one = jax.jit(players.generator.apply)(variables, z[:1])
    np.testing.assert_allclose(run(0)[:1], one, atol=1e-6)


NOISE = 0.3


@pytest.fixture(scope="module")
def few():
    """A tiny semi-supervised game."""
    players = gan.dcgan((4, 4, 1), LATENT, (3, 2), outputs=CLASSES, batch_norm=False)
    batch = {
        "x": jnp.tanh(normal(0, 6, 4, 4, 1)),
        "labelled": jnp.tanh(normal(1, 6, 4, 4, 1)),
        "y": jnp.arange(6) % CLASSES,
    }
    task = gan.semi_supervised(players, noise=NOISE)
    params, state = jax.jit(task.init)(jax.random.key(0), batch)
    assert list(state) == ["generator"]
    return players, task, batch, params, state


def test_semi_supervised_losses_are_of_one_class_more(few):
    """Salimans et al. 2016, section 5: a softmax over K + 1 logits, the last one 0."""
    players, task, batch, params, state = few
    key = jax.random.key(1)
    _, aux = jitted(task)(params, state, batch, key)
    keys = jax.random.split(key, 4)
    z = jax.random.normal(keys[1], (6, LATENT))

    @jax.jit
    def run(params):
        """Logits of each batch."""
        variables = {"params": params["generator"], **state["generator"]}
        how = {"train": True, "mutable": ["batch_stats"]}
        fake, _ = players.generator.apply(variables, z, **how)
        batches = (fake, keys[3]), (batch["x"], keys[2]), (batch["labelled"], keys[0])
        return [
            players.discriminator.apply(
                {"params": params["discriminator"]},
                x + NOISE * jax.random.normal(key, x.shape),
            )
            for x, key in batches
        ]

    fake, real, labelled = jax.tree.map(
        lambda v: np.asarray(v, np.float64), run(params)
    )

    def more(logits):
        return softmax(np.concatenate([logits, np.zeros((6, 1))], 1), 1)

    is_real, was_false = 1 - more(real)[:, -1], more(fake)[:, -1]
    critic = -0.5 * (np.log(is_real) + np.log(was_false)).mean()
    odds = np.exp(logsumexp(real, 1))
    np.testing.assert_allclose(is_real / (1 - is_real), odds, rtol=1e-5)
    p = softmax(labelled, 1)
    error = -np.log(p[np.arange(6), batch["y"]]).mean()
    maker = -np.log(1 - was_false).mean()
    found = values(aux)
    assert found["discriminator"] == pytest.approx(critic, rel=1e-5)
    assert found["generator"] == pytest.approx(maker, rel=1e-4)
    assert found["loss"] == pytest.approx(error + critic + maker, rel=1e-5)
    right = (p.argmax(1) == batch["y"]).mean()
    assert found["accuracy"] == pytest.approx(right)


@pytest.mark.contract
def test_semi_supervised_odds_teach_the_generator_alone(few):
    players, task, batch, params, state = few
    key = jax.random.key(1)

    names = ("generator", "discriminator", "loss")

    @jax.jit
    def sizes(params):
        def losses(params):
            _, aux = task.loss(params, state, batch, key, train=True)
            return jnp.stack([aux.metrics[name].value() for name in names])

        slopes = jax.jacrev(losses)(params)
        norm = jax.vmap(optax.tree.norm)
        return {player: norm(slope) for player, slope in slopes.items()}

    found = sizes(params)
    size = {
        name: {player: float(found[player][i]) for player in found}
        for i, name in enumerate(names)
    }
    assert size["generator"]["discriminator"] == 0 < size["generator"]["generator"]
    assert size["discriminator"]["generator"] == 0
    assert size["discriminator"]["discriminator"] > 0
    assert size["loss"]["generator"] == pytest.approx(size["generator"]["generator"])


def test_semi_supervised_evaluation_is_a_classifiers(few):
    _, task, batch, params, state = few
    test = {"x": batch["labelled"], "y": batch["y"]}
    p = task.predict(params, state, test)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    value, aux = jitted(task, train=False)(params, state, test, jax.random.key(0))
    error = -np.log(np.asarray(p)[np.arange(6), test["y"]]).mean()
    np.testing.assert_allclose(value, error, rtol=1e-5)
    assert sorted(aux.metrics) == ["accuracy", "loss"]


@pytest.mark.contract
def test_a_critic_measures_the_distance_to_move_the_mass():
    """Against a still generator, it approaches Wasserstein's distance."""
    generator = gan.dense((1,), LATENT, ()).generator
    players = gan.Players(generator, MLP(1, (24,), nn.tanh))
    task = gan.task(players, gan.GAMES["wasserstein"], penalty=10.0)
    x = np.random.default_rng(0).uniform(0, 1, (512, 1)).astype(np.float32)
    rules = {"discriminator": optax.adam(0.01), "generator": optax.set_to_zero()}
    opt = optax.partition(rules, {name: name for name in rules})
    fit = loop.fit(task, opt, full({"x": x}), steps=400, progress=False)
    params = fit.trained.params
    key = jax.random.key(1)
    fake = np.asarray(gan.generate(generator, params, {}, key, 5000))[:, 0]
    exact = wasserstein_distance(x[:, 0], fake)
    judged = [
        players.discriminator.apply({"params": params["discriminator"]}, values).mean()
        for values in (jnp.asarray(x), jnp.asarray(fake[:, None]))
    ]
    found = float(judged[0] - judged[1])
    # a slope of 1 + distance / 20 is what pays most beside a penalty of 10
    assert found == pytest.approx(exact, rel=0.1)
