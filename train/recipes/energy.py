"""Boltzmann machines, measured by their partition function; stacks of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from train import evaluate, loop, optim
from train.data import Data, Schema, Split, views
from train.recipes.base import Built, Goal, Recipe, Training, expect_images
from train.report import Measured, Report
from train.report.measure import labels_for, tested
from train.source import Arrays, examples
from train.step import Trained
from zoo import belief, hopfield
from zoo import energy as energies
from zoo.base import check_choice

TURNS = 200  # of the chains that a picture shows
SHOWN = 64  # filters of a picture


def visible(
    request: Split,
    *,
    holdout: float | None = None,
    size: int | None = None,
    grey: bool = False,
    likelihood: str = "bernoulli",
) -> Data:
    """Black and white images, at one half; for Gaussian units standardised ones."""
    check_choice("likelihood", likelihood, energies.LIKELIHOODS)
    if likelihood == "bernoulli":
        return views.pixels(request, holdout=holdout, size=size, grey=grey)
    return views.table(request, holdout=holdout, size=size, grey=grey)


def rbm(
    schema: Schema,
    *,
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    latent: int = 256,
    turns: int = 1,
    chains: int = 100,
) -> Built:
    """A restricted Boltzmann machine; with 0 chains, contrastive divergence."""
    expect_images(schema)
    check_choice("likelihood", likelihood, energies.LIKELIHOODS)
    size = int(np.prod(schema.shape))
    model = energies.RBM(size, latent, likelihood)
    task = energies.task(model, turns=turns, chains=chains)
    report = Report(
        partial(_measure, task, model, schema.shape),
        sample=partial(_sample, model, schema.shape),
    )
    return Built(task, model, report, mixed=False)


def _measure(task, model, shape, trained: Trained, data: Data) -> Measured:
    """Nats per test image: the pseudo-likelihood, and the likelihood by annealing."""
    test, variables = tested(data), {"params": trained.params}
    scores = evaluate.evaluate(task, trained, test)
    train = data.train["x"].reshape(len(data.train["x"]), -1)
    base = train.mean(0)
    if model.likelihood == "bernoulli":
        # of two examples more, black and white: no logit is infinite
        base = (train.sum(0) + 1) / (len(train) + 2)
        base = np.log(base) - np.log1p(-base)
    anneal: Callable = jax.jit(energies.annealed, static_argnums=0)
    key = jax.random.key(0)
    log_z, error = anneal(model, variables, key, base=jnp.asarray(base, "f4"))
    free: Callable = jax.jit(model.apply)
    likelihood = -np.asarray(free(variables, test["x"]), np.float64) - float(log_z)
    scores |= {"log_likelihood": float(likelihood.mean()), "log_z": float(log_z)}
    scores["log_z_error"] = float(error)
    files: dict[str, Callable[[], Any]] = {
        "filters.png": partial(_filters, shape, variables),
        "recall.png": partial(_recalled, data),
    }
    return Measured(scores, files=files)


def _filters(shape, variables):
    """What the hidden units look for: those of the largest weights, grey for 0."""
    from train.report import plot

    kernel = np.asarray(variables["params"]["kernel"]).T
    first = np.argsort(-np.square(kernel).sum(1), kind="stable")[:SHOWN]
    most = max(np.abs(kernel[first]).max(), 1e-12)
    return plot.tiles((0.5 + kernel[first] / (2 * most)).reshape(-1, *shape))


def _recalled(data):
    """Test images whose lower half is hidden, what a Hopfield network that has stored
    those of training recalls in one step, and the images themselves."""
    from train.report import plot

    train, true = data.train["x"], tested(data)["x"][:8]
    low, high = float(train.min()), float(train.max())
    train, true = (2 * (x - low) / (high - low) - 1 for x in (train, true))
    given = true.copy()
    given[:, true.shape[1] // 2 :] = 0
    memories, asked = (jnp.asarray(x.reshape(len(x), -1)) for x in (train, given))
    found = np.asarray(hopfield.retrieve(memories, asked)).reshape(true.shape)
    shown = np.concatenate([given, found, true]).clip(-1, 1)
    return plot.tiles(0.5 + shown / 2, len(true), ("given", "recalled", "true"))


def _sample(model, shape, trained, data, seed, n, label=None):
    """Fantasies: where chains are after a while, the training's own if it kept some."""
    labels_for(0, n, label)
    first, key = jax.random.split(jax.random.key(seed))
    begin = energies.draw(model.likelihood, first, jnp.zeros((n, model.visible)))
    if "chains" in trained.model:
        kept = jnp.asarray(trained.model["chains"], begin.dtype)
        begin = kept[jax.random.randint(first, (n,), 0, len(kept))]
    run: Callable = jax.jit(energies.fantasies, static_argnums=(0, 4))
    found = np.asarray(run(model, {"params": trained.params}, key, begin, TURNS))
    if model.likelihood == "gaussian":  # from black to white over the whole set
        found = (found - found.min()) / max(np.ptp(found), 1e-12)
    return found.reshape(n, *shape)


def pretrain(
    models: Sequence[energies.RBM],
    rows: Arrays,
    *,
    steps: int = 2000,
    batch_size: int = 100,
    learning_rate: float = 5e-3,
    turns: int = 1,
    chains: int = 0,
    seed: int = 0,
) -> list[Any]:
    """Train machines one on the other, on rows {"x": [N, ...]}: the parameters of each.

    Each is a training of its own, by the one step, on the features that the machine
    below gives to the rows. `zoo.belief.as_mlp` makes layers of a perceptron of them.
    Raises UsageError as `train.loop.fit` does.
    """
    x, layers = np.asarray(rows["x"]), []
    for i, model in enumerate(models):
        fit = loop.fit(
            energies.task(model, turns=turns, chains=chains),
            optim.optimizer("adam", optim.schedule("cosine", learning_rate, steps)),
            examples({"x": x}, min(batch_size, len(x))),
            steps=steps,
            seed=seed + i,
            progress=False,
        )
        layers.append(fit.trained.params)
        see: Callable = jax.jit(belief.features, static_argnums=0)
        x = np.asarray(see(model, {"params": layers[-1]}, x))
    return layers


RECIPES = {
    "rbm": Recipe(
        rbm,
        visible,
        "mnist5k",
        Training(5000, 100, "adam", 5e-3, "warmup_cosine"),
        Goal("log_likelihood", -110.0),
        "A restricted Boltzmann machine of black and white images, learned with "
        "persistent chains, in nats an image.",
        "half a minute",
        'Tieleman, "Training restricted Boltzmann machines using approximations to the '
        'likelihood gradient", 2008',
    ),
}
